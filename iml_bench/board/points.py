"""The points of a suite's grids: what varies as columns, and two points set against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from iml_bench.board.compare import Versus, paired, with_holm
from iml_bench.board.rows import Row, build_rows, task_label
from iml_bench.errors import UsageError, shown, unknown
from iml_bench.protocols import measure_of
from iml_bench.records import Stored, latest_by_key
from iml_bench.run.plan import KnownModels, Request, cells_by_model
from iml_bench.spec import Grid, Spec, SuiteSpec, cell_key


class PointRow(Spec):
    """One model at one point of a grid."""

    grid: str
    """Its name, or its number where it has none."""
    task: str
    """As it was run, but for what varies in the grid, see ``task_label``."""
    fields: dict[str, Any]
    """The value here of everything that varies in the grid, where it is the task's own, too."""
    model: str
    wanted: int
    """Seeds that the suite asks for."""
    row: Row | None
    """Null where no cell has a record."""


def points_of(suite: SuiteSpec, requests: Sequence[Request], stored: Sequence[Stored]) -> list[PointRow]:
    """Every model at every point of the grids in which something varies, in the order of the suite.

    Args:
        suite: its grids.
        requests: the same, as ``suite_requests`` gives them; grids that were left out have no points.
        stored: records, of which those of the suite's cells are looked up.

    Raises:
        UsageError: when the cells cannot be planned.
    """
    known, models = latest_by_key(stored), KnownModels()
    found = []
    for index, grid in enumerate(suite.grids):
        own = [request for request in requests if request.where == suite.where(index)]
        if not own or not (grid.axes or grid.zip):
            continue
        for request, fields in zip(own, grid.points, strict=True):
            by_model = cells_by_model(request, models)
            for name in request.models:
                cells = by_model[name]
                records = [known[key] for cell, _ in cells if (key := cell_key(cell)) in known]
                first, changes = cells[0]
                rest = {path: value for path, value in changes.items() if path not in fields}
                found.append(
                    PointRow(
                        grid=grid.name or str(index + 1),
                        task=task_label(first.task.name, first.task.version, rest),
                        fields=fields,
                        model=first.model.name,
                        wanted=len(cells),
                        row=next(iter(build_rows(records)), None),
                    )
                )
    return found


def compare_points(
    suite: SuiteSpec,
    points: Sequence[PointRow],
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    measure: str | None,
) -> list[Versus]:
    """Two points of every grid that has both, for each of its models, paired on shared seeds.

    In a grid of several axes they are compared at each value of those that neither names.

    Args:
        suite: whose points they are.
        points: see ``points_of``.
        first: values of fields that vary.
        second: other values of the same.
        measure: what is compared; the headline without.

    Raises:
        UsageError: when no grid has both, or they share no seed.
    """
    fields = {path for point in points for path in point.fields}
    for path in (*first, *second):
        if path not in fields:
            raise unknown("field that varies", path, fields, f"iml-bench suite show {suite.name}")
    if {*first} != {*second} or first == second:
        raise UsageError(
            "two points are two values of the same fields, as in recipe.batch_size=16 recipe.batch_size=256"
        )
    by_name = {grid.name or str(index + 1): grid for index, grid in enumerate(suite.grids)}
    found = []
    for one, other in product(_at(points, first), _at(points, second)):
        if (one.grid, one.model) == (other.grid, other.model) and _rest(by_name[one.grid], one, first) == _rest(
            by_name[one.grid], other, second
        ):
            found.append((one, other))
    if not found:
        raise UsageError(f"no grid of suite {suite.name!r} has both {_said(first)} and {_said(second)}")
    rows = [row for one, other in found if (row := _versus(one, other, (_said(first), _said(second)), measure))]
    if not rows:
        raise UsageError(
            f"{_said(first)} and {_said(second)} share no seed in which it was measured; run them first "
            f"(iml-bench suite run {shown(suite.name)})"
        )
    return with_holm(rows)


def _at(points: Sequence[PointRow], fields: Mapping[str, Any]) -> list[PointRow]:
    return [point for point in points if all(point.fields.get(path) == value for path, value in fields.items())]


def _rest(grid: Grid, point: PointRow, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What else varies by itself; fields that vary together with a named one do not."""
    together = {other for path in fields for other in grid.along(path)}
    return {path: value for path, value in point.fields.items() if path not in together}


def _said(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{path}={value}" for path, value in fields.items())


def _versus(one: PointRow, other: PointRow, said: tuple[str, str], measure: str | None) -> Versus | None:
    if one.row is None or other.row is None:
        return None
    if measure is not None:
        measure_of(one.row.protocol, measure)
    found = paired(one.row, other.row, measure)
    names = {"first": f"{one.model} {said[0]}", "second": f"{other.model} {said[1]}"}
    return found and found.model_copy(update=names)
