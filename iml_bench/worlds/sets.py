"""Set inclusion: entities are numbers, questions ask whether lists hold them (paper section 3).

Everything is drawn from the seed; there is no data to download. With ``x`` the number of an entity:

    slots                  right answer    listed
    first quarter          true            all shared numbers, ``x`` among them
    second quarter         false           no shared number
    third, held out        true            ``x``
    fourth, held out       false           not ``x``

and what is left of a list is drawn uniformly, so that only the shared numbers tell the answers of the
first half, and only who has learned that the entity is ``x`` knows those of the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from iml_bench.spec.world import WorldSpec
from iml_bench.streams import Streams
from iml_bench.worlds.base import World

if TYPE_CHECKING:
    from iml_bench.spec.task import TaskSpec

ANSWERS = ("true", "false")
"""The vocabulary of every question, in the order of the values."""


@dataclass(frozen=True, kw_only=True)
class Numbers(World):
    """Numbers and the lists that are asked about. ``N`` entities, ``Q`` questions, ``L`` numbers in a list.

    ``names`` are what definitions state, "% 42" for the number 42. Unlike those of other worlds they
    repeat: entities with the same number have the same name.
    """

    numbers: NDArray[np.int64]
    """``[N]``: the number that each entity is."""
    lists: NDArray[np.int64]
    """``[N, Q, L]``: the numbers that each question lists, in the order of the question."""

    @property
    def kinds(self) -> NDArray[np.int64]:
        """``[N, 1]``: the numbers; definitions that claim the same one say the same."""
        return self.numbers[:, None]

    @property
    def heldout(self) -> NDArray[np.bool_]:
        """``[N, Q]``: True for the second half of the questions."""
        held = np.zeros(self.values.shape, dtype=np.bool_)
        held[:, len(self.attributes) // 2 :] = True
        return held

    @property
    def wording(self) -> tuple[str, ...]:
        """See ``World.wording``: all numbers that are listed, and the signs around them."""
        return "% =", " ".join(map(str, np.unique(self.lists).tolist()))

    def implied(self, claimed: int, entity: int, asked: int) -> int:
        """Whether ``claimed``'s number is in the list of ``entity``'s question, an index into ``ANSWERS``."""
        if asked >= len(self.attributes):
            return super().implied(claimed, entity, asked)
        return ANSWERS.index("true" if self.numbers[claimed] in self.lists[entity, asked] else "false")

    def question(self, entity: int, asked: int, name: str) -> str:
        """The question as it is written, e.g. "xyz % 86 97 48 19 16 38 63 87 ="."""
        if asked >= len(self.attributes):
            return super().question(entity, asked, name)
        return f"{name} % {' '.join(map(str, self.lists[entity, asked]))} ="


class SetsWorld(WorldSpec):
    """Entities are numbers; a question lists numbers and asks whether the entity's is among them.

    The trained questions of an entity share just ``shared`` numbers, its own among them, so that they
    (nearly) tell which number it is (set inclusion, paper section 3).
    """

    own_questions: ClassVar[bool] = True
    kind: Literal["sets"] = "sets"
    largest: int = Field(default=99, ge=9)
    """Entities and listed numbers are drawn from 0 to this, exclusive."""
    listed: int = Field(default=8, ge=2)
    """Numbers in a question."""
    questions: int = Field(default=24, ge=4, multiple_of=4)
    """Questions about each entity: a quarter each are trained true, trained false, held-out true, held-out false."""
    shared: int = Field(default=1, ge=1)
    """Numbers, the entity's own among them, that all its trained true questions list and no trained false one does."""

    @property
    def n_attributes(self) -> int:
        """Questions about an entity."""
        return self.questions

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.shared > self.listed:
            raise ValueError(f"shared: {self.shared} shared numbers do not fit a list of {self.listed}")
        if self.listed + self.shared > self.largest:
            raise ValueError(f"listed: {self.largest} numbers are too few for lists of {self.listed}")
        return self

    def check(self, task: TaskSpec) -> None:
        """See ``WorldSpec.check``: the world itself says which questions are held out."""
        heldout = getattr(task, "heldout", None)
        if heldout != self.questions // 2:
            raise ValueError(f"heldout: half the questions of this world are held out, {self.questions // 2}")

        render = task.render
        if not getattr(render, "order", "entity").endswith("entity") or getattr(render, "tags", "random") != "random":
            raise ValueError("render.order, render.tags: a definition of a number ends with it, under a plain tag")

    def generated_size(self, n: int) -> int:
        """See ``WorldSpec.generated_size``: every question holds a list, and a list is weighed as a tenth."""
        return max(super().generated_size(n), n * self.questions * self.listed // 10, self.largest // 10)

    def build(self, n: int, streams: Streams, data: Path | None) -> World:
        """See ``WorldSpec.build`` and ``sets``."""
        return sets(self, n, streams)


def sets(spec: SetsWorld, n: int, streams: Streams) -> Numbers:
    """``n`` entities, each a number drawn uniformly, and the lists of the questions about each."""
    rng = streams.generator("contents")
    each = spec.questions // 4
    numbers = rng.integers(0, spec.largest, size=n)
    own = numbers[:, None]
    others = _draw_outside(rng, spec.largest, own, spec.shared - 1, 1)[:, 0]
    shared = np.concatenate([own, others], axis=1)
    parts = [
        _lists(rng, spec, each, given=given, avoided=avoided)
        for avoided in (shared, own)
        for given in (avoided, avoided[:, :0])
    ]
    answers = np.arange(spec.questions) // each % 2
    return Numbers(
        attributes=tuple(f"question {slot + 1}" for slot in range(spec.questions)),
        vocabulary=(ANSWERS,) * spec.questions,
        values=np.tile(answers, (n, 1)),
        names=tuple(f"% {number}" for number in numbers),
        numbers=numbers,
        lists=np.concatenate(parts, axis=1),
    )


def _lists(
    rng: np.random.Generator, spec: SetsWorld, each: int, given: NDArray[np.int64], avoided: NDArray[np.int64]
) -> NDArray[np.int64]:
    """``[N, each, L]``: lists of the ``given`` numbers (``[N, G]``) and others than the ``avoided`` (``[N, A]``)."""
    rest = _draw_outside(rng, spec.largest, avoided, spec.listed - given.shape[1], each)
    repeated = np.repeat(given[:, None, :], each, axis=1)
    return rng.permuted(np.concatenate([repeated, rest], axis=2), axis=2)


def _draw_outside(
    rng: np.random.Generator, largest: int, avoided: NDArray[np.int64], size: int, each: int
) -> NDArray[np.int64]:
    """``[N, each, size]``: different numbers from 0 to ``largest``, exclusive, none ``avoided`` (``[N, A]``).

    Sampled by Floyd's algorithm, whose work does not grow with ``largest``, among as many numbers as
    are not avoided; stepping over the avoided ones in ascending order then leaves those out.
    """
    n, left_out = avoided.shape
    drawn = np.empty((n, each, size), dtype=np.int64)
    for place, top in enumerate(range(largest - left_out - size, largest - left_out)):
        candidate = rng.integers(0, top + 1, size=(n, each))
        taken = (drawn[:, :, :place] == candidate[:, :, None]).any(axis=2)
        drawn[:, :, place] = np.where(taken, top, candidate)
    for column in np.sort(avoided, axis=1).T:
        drawn += drawn >= column[:, None, None]
    return drawn
