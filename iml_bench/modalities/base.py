"""What the trainer and the evaluation see of a task, the same for pictures and for text.

A model answers at positions with a distribution over ``C`` classes each: the cells of a grid and its
labels, or the tokens of a text and the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from iml_bench.protocols.two_stage.design import Examples, Ints
from iml_bench.worlds import World


def to_device(array: Ints, device: torch.device) -> Tensor:
    """Put a small array on a device without waiting for the work that is queued there."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Indices(NamedTuple):
    """Rows of a feed, ``[b]`` each: on the host, which decides shapes, and on the device."""

    host: Ints
    device: Tensor

    @classmethod
    def of(cls, host: Ints, device: torch.device) -> Indices:
        """Rows known on the host."""
        return cls(host, to_device(host, device))


class Batch(NamedTuple):
    """Some examples as tensors on the device; ``k`` scored positions among all of them."""

    inputs: dict[str, Tensor]
    """Keyword arguments of the model's forward pass, which returns logits ``[k, C]``."""
    targets: Tensor
    """``[k]`` int64: the right class at each position."""
    weights: Tensor
    """``[k]`` float32: how much each position's cross-entropy counts in the training loss."""


class Feed(Protocol):
    """The examples of one stage or evaluation, held on the device and rendered a batch at a time."""

    examples: Examples
    noise: int
    """Uniform random numbers that one look at an example uses up."""

    @property
    def mass(self) -> Tensor:
        """``[n]`` float32: the sum of each example's loss weights."""
        ...

    @property
    def lengths(self) -> Ints | None:
        """``[n]``: what each example costs, in tokens; None where all cost the same."""
        ...

    def batch(self, rows: Indices, noise: Tensor) -> Batch:
        """Render examples.

        Args:
            rows: ``[b]``, rows of ``examples``.
            noise: ``[b, noise]`` float32 in [0, 1) on the device; what is drawn anew at each look.
        """
        ...

    def answered(self, rows: Indices) -> tuple[Tensor, Tensor]:
        """The scored positions that belong to answers: ``[m]`` indices into the batch's ``k``, and ``[m]`` whose."""
        ...

    def fingerprint(self, rows: Tensor, noise: Tensor) -> bytes:
        """The rendered examples as bytes that no model or device changes; the data digest covers them."""
        ...


class Renderer(Protocol):
    """How a task's examples look."""

    world: World
    classes: int
    """``C``"""

    def feed(self, examples: Examples, *, evaluation: bool) -> Feed:
        """Put examples on the device.

        Args:
            examples: what to show.
            evaluation: draw from what is kept for evaluation (pictures never trained on).
        """
        ...

    def value_classes(self, asked: int, value: int) -> list[int]:
        """The classes of an answer, one per answer position: an index into ``world.words(asked)``."""
        ...

    def spell(self, classes: list[int]) -> str:
        """Classes at the answer positions as a person would read them."""
        ...


def draw_noise(rng: np.random.Generator, *shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Uniform float32 in [0, 1); drawn on the host, so that no device changes a picture."""
    return rng.random(shape, dtype=np.float32)
