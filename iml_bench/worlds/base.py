"""What every source of entities gives: their attributes, and the words for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from iml_bench.errors import UsageError

T = TypeVar("T")

ATTRIBUTION: Final = {
    "name": "What is the name of {name}?",
    "who": "Who is {name}?",
    "meaning": "What does {name} mean?",
    "stands for": "What does {name} stand for?",
}
"""Questions about which entity an alias stands for; they are never trained on (paper section 1)."""


@dataclass(frozen=True)
class World:
    """Entities with attributes. ``N`` entities, ``Q`` attributes.

    What is asked is an index: below ``Q`` an attribute, from ``Q`` on one of ``ATTRIBUTION``.
    """

    attributes: tuple[str, ...]
    """Name of each attribute, ``Q`` of them."""
    vocabulary: tuple[tuple[str, ...], ...]
    """For each attribute the different values it can take."""
    values: NDArray[np.int64]
    """``[N, Q]``: the value of each attribute, an index into its vocabulary; -1 where the entity has none."""
    names: tuple[str, ...] | None = None
    """Real name of each entity, all different; None where they have none."""
    templates: tuple[str, ...] = ()
    """For each attribute the question that asks for it, with ``{name}`` where the entity is named;
    empty where the renderer makes the question of the attribute's name."""
    also: Mapping[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)
    """Further right answers, by entity and attribute."""

    @property
    def chance(self) -> float:
        """Expected exact match of a guess among an attribute's values, averaged over attributes."""
        return float(np.mean([1 / len(words) for words in self.vocabulary]))

    @property
    def kinds(self) -> NDArray[np.int64]:
        """``[N, K]``: entities with equal rows cannot be told apart by any question."""
        return self.values

    @property
    def heldout(self) -> NDArray[np.bool_] | None:
        """``[N, Q]``: the questions that must not be trained on; None where any may be chosen."""
        return None

    @property
    def wording(self) -> tuple[str, ...]:
        """Texts that hold every word of every question, names aside."""
        asking = (*self.templates, *(ATTRIBUTION.values() if self.names else ()))
        return tuple(text.replace("{name}", " ") for text in asking)

    def words(self, asked: int) -> tuple[str, ...]:
        """The values that what is asked can take."""
        if asked < len(self.attributes):
            return self.vocabulary[asked]
        assert self.names is not None
        return self.names

    def value(self, entity: int, asked: int) -> int:
        """The right value of what is asked, an index into ``words(asked)``; -1 where there is none."""
        return int(self.values[entity, asked]) if asked < len(self.attributes) else entity

    def implied(self, claimed: int, entity: int, asked: int) -> int:
        """The value that the definition "``entity`` is ``claimed``" implies; -1 where it says nothing."""
        return self.value(claimed, asked)

    def answer(self, entity: int, asked: int) -> str:
        """The right answer to what is asked, in words."""
        return self.words(asked)[self.value(entity, asked)]

    def answers(self, entity: int, asked: int) -> tuple[str, ...]:
        """All right answers, the one that is trained first."""
        return (self.answer(entity, asked), *self.also.get((entity, asked), ()))

    def label(self, asked: int) -> str:
        """What is asked, in a word or two."""
        n = len(self.attributes)
        return self.attributes[asked] if asked < n else tuple(ATTRIBUTION)[asked - n]

    def question(self, entity: int, asked: int, name: str) -> str:
        """The question about an entity that is called ``name``, for worlds with templates."""
        n = len(self.attributes)
        template = self.templates[asked] if asked < n else tuple(ATTRIBUTION.values())[asked - n]
        return template.replace("{name}", name)


def read_once(read: Callable[[Path, int, int], T], path: Path) -> T:
    """What ``read``, a cached function, makes of a file; it is told time and size, so as to see a change.

    Raises:
        UsageError: when the file cannot be read.
    """
    try:
        stat = path.stat()
        return read(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def draw_distinct(rng: np.random.Generator, n: int, sizes: list[int], what: str) -> NDArray[np.int64]:
    """``n`` different rows of digits, row digit ``i`` in ``[0, sizes[i])``, uniform among all such sets.

    Returns:
        ``[n, len(sizes)]``

    Raises:
        UsageError: when fewer than ``n`` different rows exist.
    """
    space = 1
    for size in sizes:
        space *= size
    if n > space:
        raise UsageError(f"{n} different {what} were asked for, but only {space} exist; use smaller groups")
    if space <= 1 << 20:
        chosen = np.unravel_index(rng.permutation(space)[:n], sizes)
        return np.stack(chosen, axis=1).astype(np.int64)
    rows = np.empty((0, len(sizes)), dtype=np.int64)
    while len(rows) < n:  # a space this large has few repeats among n rows that fit in memory
        merged = np.concatenate([rows, rng.integers(0, sizes, size=(n, len(sizes)))])
        _, first = np.unique(merged, axis=0, return_index=True)
        rows = merged[np.sort(first)]
    return rows[:n]
