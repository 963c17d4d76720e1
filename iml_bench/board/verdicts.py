"""The verdict on every control of a suite: is what must be zero within the margin that was stated beforehand?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from iml_bench.board.by_seed import BySeed, measured
from iml_bench.board.rows import task_label
from iml_bench.records import Stored, latest_by_key
from iml_bench.run.plan import Request, cells_of
from iml_bench.spec import CellSpec, Control, Spec, SuiteSpec
from iml_bench.stats import equivalence, seeds_to_decide


class Verdict(Spec):
    """One control of one model."""

    control: str
    """Name of the grid."""
    task: str
    """As it was run, see ``task_label``."""
    model: str
    measure: str
    mirror_of: str | None
    """The grid whose values were added, seed by seed."""
    margin: float
    verdict: Literal["pass", "fail", "undecided"]
    reason: str
    """Why, in a sentence."""
    n_seeds: int
    """Seeds in which it was measured."""
    wanted: int
    """Seeds that the suite asks for."""
    mean: float | None
    low: float | None
    """Of the 90 % interval over seeds; null below two seeds."""
    high: float | None
    seeds_needed: int | None
    """Of an undecided one: at how many seeds it would be decided if mean and spread stayed; null where nobody knows."""
    per_seed: dict[int, float]


def verdicts_of(suite: SuiteSpec, requests: Sequence[Request], stored: Sequence[Stored]) -> list[Verdict]:
    """The verdict on each control of a suite, for every model at every point of its grid.

    Args:
        suite: says what is controlled.
        requests: its grids, as ``suite_requests`` gives them; grids that were left out have no verdict.
        stored: records, of which those of the suite's cells are looked up.

    Raises:
        UsageError: when the cells cannot be planned.
    """
    known = latest_by_key(stored)
    cells = {
        suite.where(index): [_cells(request) for request in requests if request.where == suite.where(index)]
        for index in range(len(suite.grids))
    }
    places = {grid.name: suite.where(index) for index, grid in enumerate(suite.grids)}
    found = []
    for grid in suite.grids:
        if grid.control is None or grid.name is None:
            continue
        own = cells[places[grid.name]]
        mirrors = cells[places[grid.control.mirror_of]] if grid.control.mirror_of else [{} for _ in own]
        for models, opposite in zip(own, mirrors, strict=True):
            for name, part in models.items():
                values = measured(part.cells, grid.control.measure, known)
                if opposite:
                    values = _added(values, measured(opposite[name].cells, grid.control.measure, known))
                found.append(_verdict(grid.name, grid.control, part, values))
    return found


class _Cells(NamedTuple):
    """The cells of one model at one point of a grid."""

    cells: list[CellSpec]
    changes: dict[str, Any]


def _cells(request: Request) -> dict[str, _Cells]:
    """The cells of a request by model."""
    found: dict[str, _Cells] = {}
    for cell, changes in cells_of(replace(request, references=False)):
        found.setdefault(cell.model.name, _Cells([], changes)).cells.append(cell)
    return found


def _added(values: BySeed, mirror: BySeed) -> BySeed:
    both = {seed: value + mirror.values[seed] for seed, value in values.values.items() if seed in mirror.values}
    return BySeed(both, {**mirror.lacking, **values.lacking})


def _verdict(name: str, control: Control, part: _Cells, values: BySeed) -> Verdict:
    cell, by_seed = part.cells[0], list(values.values.values())
    tested = equivalence(by_seed, control.margin)
    verdict, reason, needed = _decision(control, values)
    return Verdict(
        control=name,
        task=task_label(cell.task.name, cell.task.version, part.changes),
        model=cell.model.name,
        measure=control.measure,
        mirror_of=control.mirror_of,
        margin=control.margin,
        verdict=verdict,
        reason=reason,
        n_seeds=len(by_seed),
        wanted=len(part.cells),
        mean=math.fsum(by_seed) / len(by_seed) if by_seed else None,
        low=tested.low if tested else None,
        high=tested.high if tested else None,
        seeds_needed=needed,
        per_seed=values.values,
    )


def _decision(control: Control, values: BySeed) -> tuple[Literal["pass", "fail", "undecided"], str, int | None]:
    """The verdict, why, and how many seeds would decide; there is none before all seeds are there."""
    by_seed = list(values.values.values())
    if control.margin == 0 and any(by_seed):
        seed, value = next((seed, value) for seed, value in values.values.items() if value)
        return "fail", f"it must be exactly 0 in every seed, and seed {seed} has {value:+.3g}", None
    if values.lacking:
        return "undecided", values.missing, None
    if control.margin == 0:
        return "pass", "exactly 0 in every seed", None
    tested = equivalence(by_seed, control.margin)
    if tested is None:
        return "undecided", "one seed has no interval", None
    if tested.verdict == "within":
        return "pass", "the 90 % interval lies within the margin", None
    if tested.verdict == "outside":
        return "fail", "the 90 % interval lies wholly outside the margin", None
    needed = seeds_to_decide(by_seed, control.margin)
    more = (
        f"{needed} seeds would decide, if mean and spread stay" if needed else "no number of seeds is known to decide"
    )
    return "undecided", more, needed
