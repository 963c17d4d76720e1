"""A suite's grids as requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from iml_bench.errors import UsageError, unknown
from iml_bench.protocols import measure_of
from iml_bench.registry import TASKS
from iml_bench.run.plan import Request
from iml_bench.sources import find_model
from iml_bench.spec import MODEL, Grid, SuiteSpec, TaskSpec


def suite_requests(
    suite: SuiteSpec,
    *,
    smoke: bool = False,
    data: Path | None = None,
    models: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[Request]:
    """A suite's grids as requests, one for every combination of what varies in a grid.

    Args:
        suite: the grids.
        smoke: shrink every task; how long its stages are is then not for the suite to say, and nothing is tuned.
        data: the file of a world that is read from one; for the grids of such a task.
        models: put in place of the grids' own, each in the grids of a task that it can read; a grid of which
            none can read the task is left out.
        seeds: put in place of the grids' own.

    Raises:
        UsageError: when a task or a model does not exist, or a model can read no grid's task.
    """
    tasks = [_task_of(suite, index) for index in range(len(suite.grids))]
    fitting = [tuple(name for name in models if find_model(name).modality in ("any", task.modality)) for task in tasks]
    for name in models:
        if not any(name in names for names in fitting):
            reads = find_model(name).modality
            raise UsageError(f"suite {suite.name!r} has no task for model {name!r}, which reads {reads}")
    if data is not None and not any(task.world.reads_file for task in tasks):
        raise UsageError(f"no task of suite {suite.name!r} reads a file; leave --data out")
    requests: list[Request] = []
    beside: set[tuple[str, bool, str | None]] = set()
    for index, (grid, task) in enumerate(zip(suite.grids, tasks, strict=True)):
        for point in grid.points if not models or fitting[index] else []:
            fields = {**grid.set, **point}
            left_out = {path for path in fields if path.startswith(MODEL) or (smoke and path in _LENGTHS)}
            requests.append(
                Request(
                    task=grid.task,
                    models=fitting[index] or grid.models,
                    seeds=tuple(seeds) or grid.seeds,
                    overrides={path: value for path, value in fields.items() if path not in left_out},
                    model_fields={path.removeprefix(MODEL): fields[path] for path in fields if path.startswith(MODEL)},
                    ruleset="shared" if smoke else grid.ruleset,
                    references=_first(beside, grid),
                    small=grid.small and not smoke,
                    smoke=smoke,
                    variant=grid.variant,
                    probes=grid.probes,
                    data=data if task.world.reads_file else None,
                    where=suite.where(index),
                )
            )
    return requests


def widened(suite: SuiteSpec, requests: Sequence[Request], most: int) -> list[Request]:
    """The requests with as many seeds as the stopping rule may take, in grids that a claim is about.

    A grid's own seeds come first, and after them the numbers that follow its last.
    """
    claimed = {suite.where(index) for index, grid in enumerate(suite.grids) if grid.name in suite.claimed}
    found = []
    for request in requests:
        last = max(request.seeds)
        more = tuple(range(last + 1, last + 1 + max(0, most - len(request.seeds))))
        seeds = (*request.seeds, *more)[:most]
        found.append(replace(request, seeds=seeds) if request.where in claimed else request)
    return found


def _first(seen: set[tuple[str, bool, str | None]], grid: Grid) -> bool:
    """Whether reference learners are run at this point: at the first of each task, and beside no control.

    What they read follows from the task; elsewhere they would only take time.
    """
    setting = (grid.task, grid.small, grid.variant)
    if grid.control is not None or setting in seen:
        return False
    seen.add(setting)
    return True


_LENGTHS = {f"recipe.{stage}.{unit}" for stage in ("stage1", "stage2") for unit in ("steps", "epochs")}


def _task_of(suite: SuiteSpec, index: int) -> TaskSpec:
    grid = suite.grids[index]
    try:
        task = TASKS.get(grid.task)
    except UsageError as error:
        raise UsageError(f"{suite.where(index)}: {error}") from error
    if grid.small and not task.small:
        raise UsageError(f"{suite.where(index)}: task {task.name!r} has no small setting; leave small out")
    named = [] if grid.control is None else [(f"{suite.where(index)}: control.measure", grid.control.measure)]
    claims = [claim for claim in suite.claims if claim.grid == grid.name]
    for place, measure in (*named, *((f"{suite.where_claimed(claim)}: measure", claim.measure) for claim in claims)):
        try:
            check_measure(task, measure, grid.probed)
        except UsageError as error:
            raise UsageError(f"{place}: {error}") from error
    return task


def check_measure(task: TaskSpec, name: str, probes: Sequence[str]) -> None:
    """Whether cells have a measure, or one of their probes a score: ``PROBE.SCORE`` or ``PROBE.SCORE@MOMENT``.

    Which scores a probe has is known when it has looked; here it must be one of the grid's.

    Raises:
        UsageError: when they have not.
    """
    probe, dot, _ = name.partition(".")
    if not dot:
        measure_of(task, name)
        return
    if probe not in probes:
        raise unknown("probe of this grid", probe, probes, "iml-bench suite show")
