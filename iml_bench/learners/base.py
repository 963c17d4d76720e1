"""What the protocol asks of whoever is put through it; networks and reference learners are both one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from iml_bench.learners.answers import Answering
from iml_bench.modalities.base import Feed, Indices
from iml_bench.spec import StageOutcome, StageRecipe


class Watch(NamedTuple):
    """Something to look at while a phase is trained."""

    points: int
    """How often, at even distances; the last is the phase's end."""
    look: Callable[[int], None]
    """Called with the number of steps done."""


class Learner(Answering, Protocol):
    """Trains on feeds and answers questions."""

    @property
    def parameters(self) -> int:
        """Trainable parameters; 0 for a reference learner."""
        ...

    def fit(self, feed: Feed, stage: StageRecipe, name: str, watch: Watch | None = None) -> StageOutcome:
        """Train a phase: on its feed, as long as its recipe says, with the streams of its name."""
        ...

    def snapshot(self) -> Any:
        """All that training changes."""
        ...

    def restore(self, state: Any) -> None:
        """Put a snapshot back."""
        ...


class Inspectable(Learner, Protocol):
    """A learner that a probe can look into; reference learners are none."""

    def losses(self, feed: Feed, rows: Indices, noise: Tensor) -> Tensor:
        """``[b]``: each example's own training loss over its own mass, with gradient, in evaluation mode."""
        ...

    def hidden(self, feed: Feed, rows: Indices, noise: Tensor) -> Mapping[str, Tensor]:
        """The output of every block by name, batch first, detached, in evaluation mode."""
        ...

    def trainable(self) -> Mapping[str, Tensor]:
        """The trained parameters by name, shared ones once."""
        ...

    def snapshot(self) -> dict[str, Tensor]:
        """Weights that are trained, and buffers, on the host."""
        ...
