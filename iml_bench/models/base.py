"""What a task asks of a model's shape, and the wrapper that gives every model the same face."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn


class VisionShape(NamedTuple):
    """Images ``[b, channels, height, width]`` in; ``positions`` distributions over ``classes`` out."""

    height: int
    width: int
    channels: int
    positions: int
    classes: int


class TextShape(NamedTuple):
    """Token ids ``[b, T]`` in, ``T <= max_length``; a distribution over ``classes`` tokens at each out."""

    classes: int
    max_length: int
    pad: int
    line_end: int


class VisionModel(nn.Module):
    """Any image classifier with ``positions * classes`` outputs, as logits ``[b, positions, classes]``."""

    def __init__(self, body: nn.Module, shape: VisionShape) -> None:
        """Args: body: images to ``[b, positions * classes]``; shape: the task's."""
        super().__init__()
        self.body, self.shape = body, shape

    def forward(self, pixels: Tensor) -> Tensor:
        """``[b, channels, height, width]`` to logits ``[b, positions, classes]``."""
        return self.body(pixels).view(len(pixels), self.shape.positions, self.shape.classes)  # type: ignore[no-any-return]


class TextModel(nn.Module):
    """Any causal language model, as logits ``[b, T, classes]``."""

    def __init__(self, body: nn.Module) -> None:
        """Args: body: takes ``input_ids``; returns logits, or an object that has them as ``.logits``."""
        super().__init__()
        self.body = body

    def forward(self, input_ids: Tensor) -> Tensor:
        """``[b, T]`` token ids to logits ``[b, T, classes]``."""
        output: Any = self.body(input_ids=input_ids)
        return output if isinstance(output, Tensor) else output.logits


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
