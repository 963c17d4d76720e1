"""A number on a page: how it is written, and its exact value in an attribute, which sorting and tests read."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from iml_bench.board import Row, words
from iml_bench.protocols import Measure
from iml_bench.stats import Interval


class Number(NamedTuple):
    """What one cell of a table says."""

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


def measured(row: Row, measure: Measure) -> Number:
    """A measure of a row with its interval, where it has one."""
    return _with_interval(measure.name, row.scores.get(measure.name), signed=measure.low < 0)


def interval(column: str, value: Interval | None) -> Number:
    """A number that can be negative, with its interval."""
    return _with_interval(column, value, signed=True)


def headline(row: Row) -> Number:
    """The headline, or what stands in its place, which is sorted last."""
    number = measured(row, row.headline)
    why = words.why_no_score(row)
    return number if why is None else number._replace(text=words.score(row), after="", order="")


def _with_interval(column: str, value: Interval | None, *, signed: bool) -> Number:
    if value is None:
        return Number(column, words.NOT_MEASURED, None, order="")
    text, after = words.signed(value.mean), words.interval(value)
    if not signed:
        text, after = text.replace("+", ""), after.replace("+", "")
    return Number(column, text, value.mean, after, value.low, value.high, _order(value.mean))


def rank(row: Row, measure: Measure) -> Number:
    """The ranks that a row may have by a measure; none where it is not ranked."""
    found = row.ranks.get(measure.name)
    column = f"{measure.name}_rank"
    if found is None:
        return Number(column, words.NOT_MEASURED, None, order="")
    order = _order(found.low + found.high / 1000)
    return Number(column, words.ranks(row, measure), [found.low, found.high], order=order)


def seeds(row: Row, wanted: int | None = None) -> Number:
    """How many seeds, of how many."""
    return Number("n_seeds", words.seeds(row, wanted), row.n_seeds, order=_order(row.n_seeds))


def parameters(row: Row) -> Number:
    """Trainable parameters."""
    text = words.NOT_MEASURED if row.reference else words.count(row.parameters)
    return Number("parameters", text, row.parameters, order=_order(row.parameters))


def chance(row: Row) -> Number:
    """Chance of the task, as this row measured it."""
    return Number("chance", words.share(row.chance), row.chance, order=_order(row.chance))


def error(row: Row) -> Number:
    """The headline's standard error over items, which has no sign."""
    name = row.headline.error or ""
    value = row.mean(name)
    return Number(name, words.NOT_MEASURED if value is None else f"{value:.3f}", value)


def group(name: str, value: Interval) -> Number:
    """Exact match of a group."""
    return _with_interval(f"exact_match.{name}", value, signed=False)


def single(measure: Measure, value: float | None) -> Number:
    """A measure of one cell."""
    return Number(measure.name, words.amount(value, measure), value, order=_order(value))


def _order(value: float | None) -> str:
    return "" if value is None else json.dumps(value)
