"""What the trainer and the evaluation see of a task, the same for pictures and for text.

A model answers at positions with a distribution over ``C`` classes each: the cells of a grid and its
labels, or the tokens of a text and the vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iml_bench.protocols.base import Design, Examples, Ints
from iml_bench.spec import Audit, TaskSpec
from iml_bench.streams import Streams
from iml_bench.worlds import World

if TYPE_CHECKING:
    from PIL import Image


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

    def owners(self, rows: Indices) -> Tensor:
        """``[k]``: to which of the rows each scored position belongs."""
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


class Answers(NamedTuple):
    """What was answered to the questions of a feed: one row per question, shape ``[n]`` each."""

    exact_match: NDArray[np.bool_]
    """Whether every token or label of the answer is the most likely one; or see ``Modality.generated``."""
    log_likelihood: NDArray[np.float64]
    """Natural logarithm of the gold answer's probability, in nats."""
    gold: list[str]
    predicted: list[str]


class Scene(NamedTuple):
    """All that a renderer is made from."""

    task: TaskSpec
    world: World
    design: Design
    streams: Streams
    device: torch.device
    data_dir: Path | None = None
    """Folder of data sets that are not embedded."""
    form: Any = None
    """How the model reads (``models.load_form``); None: as the task's own small networks do."""


class Modality(ABC):
    """Everything that only one way to show examples knows."""

    name: str

    @abstractmethod
    def renderer(self, scene: Scene) -> Renderer:
        """The renderer of a cell.

        Raises:
            UsageError: when the data are not there, or aliases or tags cannot be drawn.
        """

    @abstractmethod
    def shape(self, renderer: Renderer, feeds: Sequence[Feed]) -> Any:
        """What a model must take and give, for all feeds of a cell: a ``trial.Shape``, which wraps a model's body."""

    def places(self, renderer: Renderer) -> Ints | None:
        """``[N, Q]``: at which place, from 0, an entity's definition states each attribute; None where it has none."""
        return None

    def audit(self, renderer: Renderer) -> Audit | None:
        """How the model reads the cell's examples; None where no reading of its own can go wrong.

        Raises:
            UsageError: when it takes two things for one that the task tells apart, or loses what it must know.
        """
        return None

    def generated(self, learner: Any, feed: Feed, renderer: Renderer, answers: Answers) -> Answers:
        """The same questions with generated answers, compared after normalisation (``exact_match: normalised``)."""
        return answers

    @abstractmethod
    def least_log_likelihood(self, task: TaskSpec, gold: Sequence[str]) -> NDArray[np.float64]:
        """``[n]``: no exact match has a smaller log-likelihood, ``-k ln C`` for ``k`` words of ``C``."""

    def spells_uniquely(self) -> bool:
        """Whether the right answer in words is always an exact match; not where many tokens spell one text."""
        return False

    @abstractmethod
    def drawn(self, setting: Any, panels: list[tuple[str, Examples]]) -> Image.Image | list[str]:
        """Titled single examples as a picture, or as lines of text."""
