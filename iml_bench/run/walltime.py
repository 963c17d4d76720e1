"""How long cells will take, told from the wall times that records have of others; never from a guess."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from iml_bench.records import Record, Stored, iterate_done
from iml_bench.spec import CellSpec, model_key, task_key

MEASURED, OTHERS, UNKNOWN = "measured", "from other models", "unknown"


class Estimate(NamedTuple):
    """The wall time of one cell, and what it is told from."""

    seconds: float | None
    """Null where no record is of the same task."""
    basis: str
    """``measured``: the same task and model; ``from other models``: only the same task; or ``unknown``."""


class _Timed(NamedTuple):
    """What the records of one model on one task say."""

    seconds: float
    """Median over seeds."""
    family: str
    reference: bool
    parameters: int | None


class WallTimes:
    """Wall times of done cells, by task and model."""

    def __init__(self, *sources: Iterable[Stored]) -> None:
        """Args: sources: records; where an earlier source knows a task and model, a later one is not asked about it."""
        self._known: dict[str, dict[str, _Timed]] = defaultdict(dict)
        self._parameters: dict[str, int] = {}
        for stored in sources:
            cells: dict[tuple[str, str], list[Record]] = defaultdict(list)
            for entry in iterate_done(list(stored)):
                record, model = entry.record, model_key(entry.record.cell)
                if record.timing.seconds:
                    cells[task_key(record.cell), model].append(record)
                if record.parameters is not None:
                    self._parameters.setdefault(model, record.parameters)
            for (task, model), records in cells.items():
                self._known[task].setdefault(model, _timed(records))

    def estimate(self, cell: CellSpec) -> Estimate:
        """How long a cell will take.

        Where its model has not been run on its task, models of the same family are asked if there are any, else
        all that are trained (or all reference learners, for one of those): the one with the most alike number
        of parameters where the model's is known from another task, else the median over models.
        """
        known, model = self._known.get(task_key(cell), {}), model_key(cell)
        if model in known:
            return Estimate(known[model].seconds, MEASURED)
        others = [other for other in known.values() if other.reference == cell.model.is_reference]
        others = [other for other in others if other.family == cell.model.family] or others
        if not others:
            return Estimate(None, UNKNOWN)
        size = self._parameters.get(model)
        sized = [other for other in others if other.parameters]
        if size and sized:
            nearest = min(sized, key=lambda other: abs(math.log((other.parameters or 1) / size)))
            return Estimate(nearest.seconds, OTHERS)
        return Estimate(median(other.seconds for other in others), OTHERS)


def total_seconds(estimates: Iterable[Estimate], workers: int) -> float | None:
    """The wall time of several cells that share some workers; null where that of none is known.

    No less than the longest of them takes; those of unknown time are not counted.
    """
    seconds = [estimate.seconds for estimate in estimates if estimate.seconds is not None]
    return max(sum(seconds) / workers, *seconds) if seconds else None


def _timed(records: list[Record]) -> _Timed:
    model = records[0].cell.model
    seconds = median(sum(record.timing.seconds.values()) for record in records)
    return _Timed(seconds, model.family, model.is_reference, records[0].parameters)
