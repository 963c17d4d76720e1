"""The small reference networks for pictures: large enough to show the effect, small enough for a CPU."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def mlp(height: int, width: int, outputs: int, *, hidden: int = 128, depth: int = 2) -> nn.Module:
    """A multilayer perceptron on pixels, with layer normalisation.

    Args:
        height: of an image ``[b, 1, height, width]``.
        width: of an image.
        outputs: size of the output ``[b, outputs]``.
        hidden: units of each hidden layer.
        depth: hidden layers.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = height * width
    for _ in range(depth):
        layers += [nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU()]
        inputs = hidden
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


def convnet(height: int, width: int, outputs: int, *, channels: int = 16, hidden: int = 128) -> nn.Module:
    """Two strided convolutions, pooled to 4x4, and one hidden layer.

    Args:
        height: of an image ``[b, 1, height, width]``.
        width: of an image.
        outputs: size of the output ``[b, outputs]``.
        channels: of the first convolution; the second has twice as many.
        hidden: units of the hidden layer.
    """
    return nn.Sequential(
        nn.Conv2d(1, channels, kernel_size=4, stride=4),
        nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),  # does nothing at 32x32; keeps the head the same at other sizes
        nn.Flatten(),
        nn.Linear(2 * channels * 16, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


NETWORKS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "convnet": convnet}
