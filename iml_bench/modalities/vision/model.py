"""What a task with pictures asks of a model's shape, and the wrapper that gives every model the same face."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from iml_bench.generators import CPU
from iml_bench.modalities.trial import forward, wrong_shape
from iml_bench.spec import ModelEntry


class VisionShape(NamedTuple):
    """Images ``[b, channels, height, width]`` in; ``positions`` distributions over ``classes`` out."""

    height: int
    width: int
    channels: int
    positions: int
    classes: int

    def wrap(self, body: nn.Module) -> VisionModel:
        """See ``trial.Shape``."""
        return VisionModel(body, self)

    def check_output(self, entry: ModelEntry, model: nn.Module, device: torch.device = CPU) -> None:
        """See ``trial.Shape``."""
        what = f"images of {self.height}x{self.width}"
        pixels = torch.zeros(2, self.channels, self.height, self.width, device=device)
        logits = forward(entry, model, what, {"pixels": pixels})
        expected = (2 * self.positions, self.classes)
        if tuple(logits.shape) != expected:
            raise wrong_shape(entry, what, logits, expected)

    def try_out(self, entry: ModelEntry, model: nn.Module) -> None:
        """See ``trial.Shape``."""
        self.check_output(entry, model)


class VisionModel(nn.Module):
    """Any image classifier with ``positions * classes`` outputs, as logits ``[b * positions, classes]``."""

    def __init__(self, body: nn.Module, shape: VisionShape) -> None:
        """Args: body: images to ``[b, positions * classes]``; shape: the task's."""
        super().__init__()
        self.body, self.shape = body, shape

    def forward(self, pixels: Tensor) -> Tensor:
        """``[b, channels, height, width]`` to logits ``[b * positions, classes]``."""
        logits = self.body(pixels)
        if not isinstance(logits, Tensor):
            mode = "in training" if self.training else "when it is asked"
            raise TypeError(f"{mode} it returns {type(logits).__name__}, not a tensor of logits")
        expected = (len(pixels), self.shape.positions * self.shape.classes)
        if logits.numel() != expected[0] * expected[1]:
            mode = "in training" if self.training else "when it is asked"
            raise ValueError(f"{mode} it gave logits of shape {tuple(logits.shape)}, not {expected}")
        return logits.reshape(len(pixels) * self.shape.positions, self.shape.classes)
