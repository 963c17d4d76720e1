"""A number on a page: how it is written, and its exact value in an attribute, which sorting and tests read."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from iml_bench.board import Interval, Row, words
from iml_bench.stats import SCORES


class Cell(NamedTuple):
    """What one table cell says."""

    column: str
    """The field of the board that it shows."""
    text: str
    value: Any
    after: str = ""
    """The interval, as text."""
    low: float | None = None
    high: float | None = None
    order: str | None = None
    """What it is sorted by; empty: always last."""

    @property
    def exact(self) -> str:
        """The value as JSON."""
        return json.dumps(self.value, allow_nan=False)

    @property
    def bounds(self) -> dict[str, str]:
        """The interval's exact bounds as attributes; none where there is no interval."""
        if self.low is None or self.high is None:
            return {}
        return {"data-low": json.dumps(self.low), "data-high": json.dumps(self.high)}


def measured(row: Any, column: str) -> Cell:
    """A score of a row (or of anything with such fields) with its interval, where it has one."""
    value = getattr(row, column)
    low, high = (getattr(row, f"{column}_{end}", None) for end in ("low", "high"))
    after = words.interval(value, low, high)
    return Cell(column, words.signed(value), value, after, low, high, _order(value))


def iml(row: Row) -> Cell:
    """IML, or what stands in its place, which is sorted last."""
    cell = measured(row, "iml")
    why = words.why_no_score(row)
    return cell if why is None else cell._replace(text=words.score(row), after="", order="")


def tier(row: Row) -> Cell:
    """The tier; none where the row is not ranked."""
    return Cell("tier", words.NOT_MEASURED if row.tier is None else str(row.tier), row.tier, order=_order(row.tier))


def seeds(row: Row, wanted: int | None = None) -> Cell:
    """How many seeds, of how many."""
    return Cell("n_seeds", words.seeds(row, wanted), row.n_seeds, order=_order(row.n_seeds))


def parameters(row: Row) -> Cell:
    """Trainable parameters."""
    text = words.NOT_MEASURED if row.reference else words.count(row.parameters)
    return Cell("parameters", text, row.parameters, order=_order(row.parameters))


def chance(row: Row) -> Cell:
    """Chance of the task, as this row measured it."""
    return Cell("chance", words.share(row.chance), row.chance, order=_order(row.chance))


def error(row: Row) -> Cell:
    """The standard error over entities, which has no sign."""
    value = row.iml_se_items
    return Cell("iml_se_items", words.NOT_MEASURED if value is None else f"{value:.3f}", value)


def group(name: str, value: Interval) -> Cell:
    """Exact match of a group."""
    after = words.interval(value.mean, value.low, value.high).replace("+", "")
    return Cell(f"exact_match.{name}", words.share(value.mean), value.mean, after, value.low, value.high)


def plain(column: str, value: float | None) -> Cell:
    """A single number of a record or a comparison, with its sign."""
    return Cell(column, words.signed(value), value, order=_order(value))


def _order(value: float | None) -> str:
    return "" if value is None else json.dumps(value)


SECONDARY = tuple(score for score in SCORES if score not in ("iml", "iml_attribution"))
"""The scores that have a column of their own beside IML."""

HEADINGS = {
    "iml_nats": "nats",
    "lift_reliable": "lift reliable",
    "lift_unreliable": "lift unreliable",
    "lift_fresh": "lift fresh",
    "stage1_gap": "stage-1 gap",
    "iml_attribution": "IML of attribution",
}
