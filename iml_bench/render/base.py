"""What the trainer and the evaluation see of a task, the same for pictures and for text.

A model answers at ``P`` positions with a distribution over ``C`` classes: the cells of a grid and its
labels, or the tokens of a text and the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from iml_bench.design import Examples
from iml_bench.worlds import World


class Batch(NamedTuple):
    """Some examples as tensors on the device; ``b`` examples, ``P`` positions."""

    inputs: dict[str, Tensor]
    """Keyword arguments of the model's forward pass."""
    targets: Tensor
    """``[b, P]`` int64: the right class at each position."""
    weights: Tensor
    """``[b, P]`` float32: how much each position's cross-entropy counts in the training loss."""
    answer: Tensor
    """``[b, P]`` bool: the positions of a question's answer."""


class Feed(Protocol):
    """The examples of one stage or evaluation, held on the device and rendered a batch at a time."""

    examples: Examples
    noise: int
    """Uniform random numbers that one look at an example uses up."""
    weights: Tensor
    """``[n, P]`` float32, see ``Batch.weights``."""
    mass: Tensor
    """``[n]`` float32: the sum of each example's loss weights."""

    def batch(self, rows: Tensor, noise: Tensor) -> Batch:
        """Render examples.

        Args:
            rows: ``[b]`` int64 on the device, rows of ``examples``.
            noise: ``[b, noise]`` float32 in [0, 1) on the device; what is drawn anew at each look.
        """
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

    def value_classes(self, attribute: int, value: int) -> list[int]:
        """The classes of an answer, one per answer position: a value of the attribute's vocabulary."""
        ...

    def spell(self, classes: list[int]) -> str:
        """Classes at the answer positions as a person would read them."""
        ...


def draw_noise(rng: np.random.Generator, *shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Uniform float32 in [0, 1); drawn on the host, so that no device changes a picture."""
    return rng.random(shape, dtype=np.float32)
