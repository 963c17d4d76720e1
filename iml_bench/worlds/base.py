"""What every source of entities gives: their attributes, and the words for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iml_bench.errors import UsageError


@dataclass(frozen=True)
class World:
    """Entities with attributes. ``N`` entities, ``Q`` attributes."""

    attributes: tuple[str, ...]
    """Name of each attribute, ``Q`` of them."""
    vocabulary: tuple[tuple[str, ...], ...]
    """For each attribute the values it can take."""
    values: NDArray[np.int64]
    """``[N, Q]``: the value of each attribute, an index into its vocabulary."""

    @property
    def chance(self) -> float:
        """Expected exact match of a guess among an attribute's values, averaged over attributes."""
        return float(np.mean([1 / len(words) for words in self.vocabulary]))

    def answer(self, entity: int, attribute: int) -> str:
        """The value of one attribute, as a word."""
        return self.vocabulary[attribute][int(self.values[entity, attribute])]


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
