"""The points of a suite in a terminal: a table of each grid with what varies as columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iml_bench.board import PointRow
from iml_bench.board.words import NOT_MEASURED, amount, columns, headline, interval, score, seeds
from iml_bench.cli.tables import WIDE
from iml_bench.protocols import Measure


def print_points(points: Sequence[PointRow], console: Console) -> None:
    """One table for each grid and task as it was run."""
    for (grid, task), group in groupby(points, key=lambda point: (point.grid, point.task)):
        console.print(_table(f"{grid}: {task}", list(group), wide=console.width >= WIDE))
        console.print()


def _table(title: str, points: list[PointRow], *, wide: bool) -> Table:
    rows = [point.row for point in points if point.row is not None]
    measures = columns(rows) if wide else [one for one in columns(rows) if one.shown == "headline"]
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=None, header_style="bold")
    table.padding, table.pad_edge = (0, 2 if wide else 1, 0, 0), False
    table.add_column("model", overflow="fold")
    for path in points[0].fields:
        table.add_column(escape(_short(path, [*points[0].fields])), justify="right", overflow="fold")
    table.add_column("seeds", justify="right", no_wrap=True)
    table.add_column(f"{escape(headline(rows) or 'score')} [95 %]", min_width=20, overflow="fold")
    for measure in measures:
        table.add_column(escape(measure.heading), justify="right", no_wrap=True)
    for point in points:
        fields = [escape(shown_value(value)) for value in point.fields.values()]
        if point.row is None:
            table.add_row(escape(point.model), *fields, f"0 of {point.wanted}", "not run yet")
            continue
        cells = [seeds(point.row, point.wanted), escape(score(point.row)), *(_value(point, one) for one in measures)]
        table.add_row(escape(point.model), *fields, *cells)
    return table


def shown_value(value: Any) -> str:
    """A field's value in a column: numbers without needless digits, no value as a word."""
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short(path: str, paths: Sequence[str]) -> str:
    """The last word of a field's path, or as many as tell it from the others."""
    words = path.split(".")
    for n in range(1, len(words)):
        end = ".".join(words[-n:])
        if sum(other == end or other.endswith(f".{end}") for other in paths) == 1:
            return end
    return path


def _value(point: PointRow, measure: Measure) -> str:
    found = point.row.scores.get(measure.name) if point.row else None
    if found is None:
        return NOT_MEASURED
    return amount(found.mean, measure) + (interval(found) if measure.shown == "headline" else "")
