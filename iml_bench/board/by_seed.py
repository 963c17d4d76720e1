"""What a measure is in the cells of a suite, by seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from iml_bench.records import Stored, scores_of
from iml_bench.spec import CellSpec, cell_key


class BySeed(NamedTuple):
    """What a measure is in some cells, one a seed."""

    values: dict[int, float]
    lacking: dict[int, str]
    """Why it is not known in the other seeds."""

    @property
    def missing(self) -> str:
        """The first seed that is lacking, in words; empty where none is."""
        if not self.lacking:
            return ""
        seed, why = min(self.lacking.items())
        return f"{len(self.values)} of {len(self.values) + len(self.lacking)} seeds: seed {seed} {why}"


def measured(cells: Iterable[CellSpec], measure: str, known: Mapping[str, Stored]) -> BySeed:
    """A measure of some cells, one a seed.

    Args:
        cells: of one model at one point.
        measure: one of the protocol's.
        known: records by the key of their cell.
    """
    found = BySeed({}, {})
    for cell in cells:
        seed, stored = cell.seed, known.get(cell_key(cell))
        if stored is None:
            found.lacking[seed] = "not run yet"
        elif stored.record.status == "failed":
            found.lacking[seed] = "failed"
        else:
            scores = scores_of(stored)
            value = scores.get(measure)
            if value is None:
                found.lacking[seed] = scores.reasons.get(measure, "not measured")
            else:
                found.values[seed] = value
    return found
