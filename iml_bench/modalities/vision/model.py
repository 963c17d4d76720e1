"""What a task with pictures asks of a model's shape, and the wrapper that gives every model the same face."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class VisionShape(NamedTuple):
    """Images ``[b, channels, height, width]`` in; ``positions`` distributions over ``classes`` out."""

    height: int
    width: int
    channels: int
    positions: int
    classes: int


class VisionModel(nn.Module):
    """Any image classifier with ``positions * classes`` outputs, as logits ``[b * positions, classes]``."""

    def __init__(self, body: nn.Module, shape: VisionShape) -> None:
        """Args: body: images to ``[b, positions * classes]``; shape: the task's."""
        super().__init__()
        self.body, self.shape = body, shape

    def forward(self, pixels: Tensor) -> Tensor:
        """``[b, channels, height, width]`` to logits ``[b * positions, classes]``."""
        return self.body(pixels).view(len(pixels) * self.shape.positions, self.shape.classes)  # type: ignore[no-any-return]
