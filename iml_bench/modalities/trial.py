"""What a task's shape must be able to do with a model, and how a model is tried on a few examples."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from iml_bench.errors import UsageError
from iml_bench.generators import CPU, kept
from iml_bench.spec import ModelEntry


class Shape(Protocol):
    """What a model must take and give; each modality has its own."""

    def wrap(self, body: nn.Module) -> nn.Module:
        """Give a body the face that learners see."""

    def check_output(self, entry: ModelEntry, model: nn.Module, device: torch.device = CPU) -> None:
        """One forward pass of a wrapped model, which needs no weights: it may be on the meta device.

        Raises:
            UsageError: when the model cannot take the task's input, or gives something of another shape.
        """

    def try_out(self, entry: ModelEntry, model: nn.Module) -> None:
        """All that can be known of a wrapped model with its weights, before hours of work; may adapt the wrapper.

        Raises:
            UsageError: as ``check_output``, or when what the model computes rules it out.
        """


def forward(entry: ModelEntry, model: nn.Module, what: str, inputs: dict[str, Tensor]) -> Tensor:
    """A forward pass in evaluation mode; the global generators are left as they were.

    Args:
        entry: the model's.
        model: a wrapped model.
        what: the inputs, in words: "images of 32x32".
        inputs: by the names of ``model.forward``.

    Raises:
        UsageError: when the model's code raises anything.
    """
    model.eval()
    try:
        with torch.no_grad(), kept(device_of(model)):
            logits: Tensor = model(**inputs)
    except Exception as error:
        raise UsageError(f"model {entry.name!r} cannot take {what}: {first_line(error)}") from error
    if not logits.is_floating_point():
        raise UsageError(f"model {entry.name!r} gives {logits.dtype} for {what}; logits are real numbers")
    return logits


def device_of(model: nn.Module) -> torch.device:
    """Where a model is; the host where it has no parameters."""
    return next((parameter.device for parameter in model.parameters()), CPU)


def wrong_shape(entry: ModelEntry, what: str, logits: Tensor, expected: tuple[int, ...]) -> UsageError:
    """The sentence about logits of another shape than ``expected``."""
    return UsageError(f"model {entry.name!r} gave logits of shape {tuple(logits.shape)} for {what}, not {expected}")


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
