"""What is drawn along a field of a suite, as claims whose points are those of the drawing."""

from __future__ import annotations

from collections.abc import Sequence

from iml_bench.errors import UsageError, unknown
from iml_bench.protocols import headline_of, measures_of
from iml_bench.records import Stored
from iml_bench.registry import TASKS
from iml_bench.spec import PARAMETERS, Claim, SuiteSpec


def sweep_claims(
    suite: SuiteSpec, x: str, y: Sequence[str], grid: str | None, stored: Sequence[Stored]
) -> tuple[Claim, ...]:
    """A trend of every measure along a field, in every grid where it varies; nothing is claimed of it.

    Args:
        suite: its grids; those without a name are left out.
        x: the field, or ``parameters`` for the models by size.
        y: measures, or slices of exact match that any of the records has; none: the headline.
        grid: only this one.
        stored: where slices are looked up.

    Raises:
        UsageError: when the field varies nowhere, or there is no such grid or measure.
    """
    named = [suite.named(grid)] if grid is not None else [one for one in suite.grids if one.name is not None]
    varying = {path for one in named for path in (*one.axes, *one.zip)} | {PARAMETERS}
    if x not in varying:
        raise unknown("field that varies", x, varying, f"iml-bench suite show {suite.name}")
    found = [one for one in named if x in (*one.axes, *one.zip) or (x == PARAMETERS and len(one.models) > 1)]
    if not found:
        raise UsageError(f"no grid of suite {suite.name!r} has several models; give a field that varies as --x")
    slices = {name for one in stored if one.record.scores for name in one.record.scores.exact_match}
    claims = []
    for one in found:
        task = TASKS.get(one.task)
        known = {measure.name for measure in measures_of(task)} | slices
        for measure in y or [headline_of(task).name]:
            if measure not in known:
                raise unknown("measure", measure, known, "iml-bench leaderboard --groups")
            claims.append(
                Claim(
                    name="drawn",
                    says="Nothing is claimed.",
                    grid=one.name or "",
                    measure=measure,
                    estimand="trend",
                    along=x,
                    direction="up",
                    delta=1,
                )
            )
    return tuple(claims)
