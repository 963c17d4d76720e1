"""What a measure is: one number that follows from a cell's per-item outcomes, with all that is said about it.

Every protocol has one list of them (``measures_of``), and whatever shows, sorts, exports, compares or checks scores
loops over that list: a new measure is one more entry, and every record ever made shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from iml_bench.protocols.items import Columns
from iml_bench.spec import TaskSpec


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a cell, from its items alone."""

    name: str
    """In records, exports and on the command line: a Python identifier."""
    label: str
    """In a sentence, on an axis, in a model's card."""
    heading: str
    """Above a column of a table: a word or two."""
    description: str
    """One sentence: what it is."""
    of: Callable[[Columns], float | None]
    """The value of some items; None where they hold nothing that it could be computed from."""
    unit: Literal["exact match", "ratio", "nats"] = "exact match"
    ratio: tuple[str, str] | None = None
    """Of a quotient of two measures, their names: over seeds it is the quotient of their means."""
    least: float = 0.0
    """What the second of them must exceed for the quotient to be measured."""
    ranked: bool = False
    """Whether models are ranked by it."""
    needs: tuple[str, ...] = ()
    """Optional item columns that it reads; older files do not have them, and it is null there."""
    of_task: Callable[[TaskSpec], bool] = lambda task: True
    """Whether cells of a task can have it; of others it is null, and no items are opened to see that."""
    direction: Literal[1, -1] = 1
    """1: more comes first in a table; -1: less does."""
    low: float = -1.0
    """No value lies below; a record that says so is refused."""
    high: float = 1.0
    shown: Literal["headline", "column", "record"] = "column"
    """``headline``: with its interval in every table; a protocol's first one ranks its models. ``column``: a column of
    every table. ``record``: in records and exports only."""
    error: str | None = None
    """Name of the measure that is its standard error over items."""
    protocol: str | None = None
    """Of a measure that another package adds (``extensions.MEASURES``): the protocol that it is added to."""
    missing: str = ""
    """Why it is null where ``of`` gives None, as one sentence; empty where null needs no reason at all."""

    def allows(self, value: float) -> bool:
        """Whether a value is finite and within the bounds."""
        return math.isfinite(value) and self.low <= value <= self.high


def evaluate(measure: Measure, columns: Columns) -> tuple[float | None, str]:
    """A measure's value on some items, and why it is null (empty where it is not, or needs no reason).

    Whatever a measure raises is its own null: a cell that was trained for hours keeps its record, and a strange but
    valid file of items stops no table.
    """
    lacking = [name for name in measure.needs if name not in columns]
    if lacking:
        return None, measure.missing and f"its items have no column {lacking[0]}: an older iml-bench wrote them"
    try:
        value = measure.of(columns)
    except Exception as error:
        return None, f"it cannot be computed from these items ({type(error).__name__})"
    if value is None:
        return None, measure.missing
    value = float(value)
    if not measure.allows(value):
        return None, f"it came out as {value:g}, which is not between {measure.low:g} and {measure.high:g}"
    return value, ""
