"""Running some of what was submitted again, and other seeds beside it: are the scores what the code gives?"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeGuard

import numpy as np

from iml_bench.board import task_label
from iml_bench.errors import UsageError, shown
from iml_bench.protocols import Measure, headline_of
from iml_bench.records import Record, Stored, iterate_done, read_items
from iml_bench.run.executors.base import Executor, Listener
from iml_bench.run.job import Job
from iml_bench.run.session import Session
from iml_bench.run.walltime import WallTimes
from iml_bench.runtime import Runtime
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, Spec, cell_key, model_key, task_key
from iml_bench.submit.again import UNSTEADY, CellRerun, compare, differences, same_outcomes, way_of
from iml_bench.submit.generated import what_is_missing
from iml_bench.submit.pooled import (
    Inflation,
    against_fresh_seeds,
    against_same_cells,
    fresh_seeds,
    rounding_of,
)

FRESH: Final = 3
"""Seeds that the submitter could not choose, of every row."""
IDENTICAL: Final = "every outcome is the same bit for bit"
NOTHING: Final = "no cell is to be judged by its score, or could be run often enough"
ROUNDING_DF: Final = 8
"""Runs with other rounding that a row has at least: with fewer the spread is known too badly to find much."""


class RowPlan(NamedTuple):
    """What of one model on one task is to be run."""

    row: tuple[Stored, ...]
    """Every submitted cell, by seed."""
    chosen: tuple[Stored, ...]
    """Those that are run again."""
    fresh: tuple[int, ...]
    """Seeds that are run beside them."""
    seconds: float | None
    """Of one run, as the records have it; null where they do not say."""

    @property
    def label(self) -> str:
        """``mlp-m on vision@2``."""
        return _label(self.row[0].record)

    @property
    def runs(self) -> tuple[int, int]:
        """How many runs there are at least, and how many more where the records come from elsewhere."""
        return len(self.chosen) + len(self.fresh), len(self.chosen) * _nudges(len(self.chosen))


class RowRerun(Spec):
    """What running some cells of one model on one task again showed."""

    model: str
    task: str
    """With version and changes."""
    measure: str
    """Label of the headline."""
    seeds: tuple[int, ...]
    """That were submitted."""
    cells: tuple[CellRerun, ...]
    rounding: float | None
    """Standard deviation of a run's headline from rounding alone, as measured here; null where it was not needed."""
    rounding_df: int | None
    same_cells: Inflation | None
    """Those of the cells that were made elsewhere and came out otherwise, against runs here."""
    fresh_seeds: tuple[int, ...]
    fresh_scores: tuple[float | None, ...]
    other_seeds: Inflation | None
    """All submitted cells against the fresh seeds."""
    reasons: dict[str, str]
    """Why one of the two tests is null."""
    passed: bool


class _Run(NamedTuple):
    cell: CellSpec
    changes: dict[str, Any]
    runtime: Runtime


def plan_rerun(submitted: Sequence[Stored], number: int, seed: int, runtime: Runtime) -> list[RowPlan]:
    """Choose what to run again: some cells of every model and task, and seeds that follow from what was submitted.

    Args:
        submitted: the records to choose from.
        number: how many cells of each model and task.
        seed: of the choice.
        runtime: where data files are.

    Raises:
        UsageError: when there is no trained cell that can be run here.
    """
    trained = [stored for stored in iterate_done(submitted) if not stored.record.cell.model.is_reference]
    reasons = {stored.path: _why_not(stored, runtime) for stored in trained}
    rows: dict[tuple[str, str], list[Stored]] = defaultdict(list)
    for stored in trained:
        if reasons[stored.path] is None:
            rows[task_key(stored.record.cell), model_key(stored.record.cell)].append(stored)
    if not rows:
        why = next((f": {reason}" for reason in reasons.values() if reason), "")
        raise UsageError(f"--rerun: there is no trained cell that can be run here{why}")
    rng, times = np.random.default_rng(seed), WallTimes(submitted)
    return [_plan(rows[key], number, rng, times) for key in sorted(rows)]


def _plan(row: Sequence[Stored], number: int, rng: np.random.Generator, times: WallTimes) -> RowPlan:
    row = sorted(row, key=lambda stored: stored.record.cell.seed)
    chosen = [row[index] for index in sorted(rng.permutation(len(row))[:number].tolist())]
    cells = [(one.record.cell_key, one.record.items.sha256) for one in row if one.record.items is not None]
    fresh = fresh_seeds(cells, {one.record.cell.seed for one in row}, FRESH)
    seconds = times.estimate(row[0].record.cell).seconds
    return RowPlan(tuple(row), tuple(chosen), fresh, seconds)


def _why_not(stored: Stored, runtime: Runtime) -> str | None:
    """Why a cell is not run again here, or None."""
    cell, headline = stored.record.cell, headline_of(stored.record.cell.task)
    if stored.record.scores is None or stored.record.scores.get(headline.name) is None:
        return f"{_label(stored.record)} has no {headline.label}"
    if cell.model.trust_remote_code or cell.model.parsed.scheme == "python":
        return f"{cell.model.name} runs code of its own; run it yourself"
    if cell.model.digest is not None:
        try:
            here = find_model(cell.model.name).digest
        except UsageError as error:
            return str(error)
        if here != cell.model.digest:
            return f"the files of {cell.model.name} are others here"
    return what_is_missing(cell.task, runtime)


def rerun(
    plans: Iterable[RowPlan], runtime: Runtime, listen: Listener | None = None, executor: Executor | None = None
) -> list[RowRerun]:
    """Run what was planned, and compare.

    A cell is run in the way of its record: with its micro-batch, and on a CPU where it was made on one. Where code and
    machine are the record's, too, the outcomes must be equal bit for bit. Elsewhere rounding differs, of which training
    makes much. How much is measured here, by running each cell with weights that begin a unit in the last place away
    (``learners.rounding``), and the mean difference of all cells is held against that. In any case the submitted scores
    are held against those of fresh seeds.

    Args:
        plans: see ``plan_rerun``.
        runtime: where to run.
        listen: is told how it goes.
        executor: see ``Session.run``.
    """
    with tempfile.TemporaryDirectory() as folder:
        runner = _Runner(Path(folder), listen, executor)
        return [_row(plan, runtime, runner) for plan in plans]


class _Runner:
    """Runs cells, each way of running and each repetition in a folder of its own, since all have the same keys."""

    def __init__(self, root: Path, listen: Listener | None, executor: Executor | None) -> None:
        self.root, self.listen, self.executor = root, listen, executor
        self.folders = 0

    def __call__(self, runs: Sequence[_Run]) -> list[Stored | None]:
        """The record of each run; None where there is none."""
        found: dict[tuple[Runtime, str], Stored] = {}
        for runtime in dict.fromkeys(run.runtime for run in runs):
            self.folders += 1
            out = self.root / str(self.folders)
            jobs = [Job(run.cell, run.changes, smoke=False, out=out) for run in runs if run.runtime == runtime]
            for one in Session(out, runtime).run(jobs, self.executor, self.listen):
                found[runtime, one.record.cell_key] = one
        return [found.get((run.runtime, cell_key(run.cell))) for run in runs]


def _row(plan: RowPlan, runtime: Runtime, run: _Runner) -> RowRerun:
    first = plan.row[0].record
    headline = headline_of(first.cell.task)
    same = [_Run(one.record.cell, one.record.changes, way_of(one.record, runtime)) for one in plan.chosen]
    seeds = [first.cell.model_copy(update={"seed": seed}) for seed in plan.fresh]
    found = run([*same, *(_Run(cell, first.changes, same[0].runtime) for cell in seeds)])
    again, fresh = found[: len(same)], found[len(same) :]
    elsewhere = _elsewhere(plan.chosen, again, same, run)
    triples = zip(plan.chosen, again, elsewhere, strict=True)
    cells = [compare(one, other, headline, why) for one, other, why in triples]
    moved = [
        index
        for index, cell in enumerate(cells)
        if cell.elsewhere and not cell.identical and cell.score_after is not None
    ]
    runs = _with_nudges(moved, again, same, run)
    scores = _Scores(headline, plan.row[0])
    reasons, rounding, same_cells, other_seeds = {}, None, None, None
    if moved:
        rounding = rounding_of([scores(own) for own in runs], scores.step)
    if rounding is not None:
        same_cells = against_same_cells(
            scores([plan.chosen[i] for i in moved]), [scores(own) for own in runs], rounding
        )
    else:
        reasons["same_cells"] = IDENTICAL if all(cell.identical for cell in cells) else NOTHING
    if min(len(scores(plan.row)), len(scores(fresh))) < 2:
        reasons["other_seeds"] = "it takes two submitted and two fresh seeds to know their spread"
    else:
        other_seeds = against_fresh_seeds(scores(plan.row), scores(fresh), scores.step)
    tests = [test for test in (same_cells, other_seeds) if test is not None]
    return RowRerun(
        model=first.cell.model.name,
        task=_task_label(first),
        measure=headline.label,
        seeds=tuple(one.record.cell.seed for one in plan.row),
        cells=tuple(cells),
        rounding=rounding.sd if rounding else None,
        rounding_df=rounding.df if rounding else None,
        same_cells=same_cells,
        fresh_seeds=plan.fresh,
        fresh_scores=tuple(_score(one, headline) for one in fresh),
        other_seeds=other_seeds,
        reasons=reasons,
        passed=all(cell.passed for cell in cells) and not any(test.found for test in tests),
    )


def _with_nudges(
    moved: Sequence[int], again: Sequence[Stored | None], same: Sequence[_Run], run: _Runner
) -> list[list[Stored | None]]:
    """All runs of the cells that were made elsewhere: the plain one, and those with other rounding."""
    numbers = range(1, _nudges(len(moved)) + 1) if moved else ()
    nudged = [
        same[index]._replace(runtime=replace(same[index].runtime, nudge=number))
        for index in moved
        for number in numbers
    ]
    found = iter(run(nudged))
    return [[again[index], *itertools.islice(found, len(numbers))] for index in moved]


def _nudges(cells: int) -> int:
    """Runs with other rounding of each cell, where there are so many cells."""
    return math.ceil(ROUNDING_DF / cells)


def _elsewhere(
    chosen: Sequence[Stored], again: Sequence[Stored | None], same: Sequence[_Run], run: _Runner
) -> list[tuple[str, ...]]:
    """For each cell what can make it round otherwise than in its record.

    One that should be the same and is not is run once more: some devices add up in no fixed order, and then nobody's
    record can be held against them bit for bit.
    """
    found = [differences(one.record, other.record) if other else () for one, other in zip(chosen, again, strict=True)]
    doubted = [
        index
        for index, other in enumerate(again)
        if _is_done(other) and not found[index] and not same_outcomes(chosen[index], other)
    ]
    for index, third in zip(doubted, run([same[index] for index in doubted]), strict=True):
        other = again[index]
        if _is_done(other) and _is_done(third) and not same_outcomes(other, third):
            found[index] = (UNSTEADY,)
    return found


def _is_done(stored: Stored | None) -> TypeGuard[Stored]:
    return stored is not None and stored.record.status == "done"


class _Scores:
    """Headlines of records, more being better; those that have none are left out."""

    def __init__(self, headline: Measure, sample: Stored) -> None:
        """``sample`` is a cell of the row, whose items say what one answer is worth."""
        self.headline = headline
        items = read_items(sample)
        asked = items.filter((items["stage"] == items["stage"].max()) & items["tag"].is_not_null())
        counts = asked["tag"].value_counts()["count"] if len(asked) else [len(items)]
        self.step = 1 / min(counts)
        """What the headline changes by with one answer: it is a difference of shares of the questions under a tag."""

    def __call__(self, stored: Iterable[Stored | None]) -> list[float]:
        values = (_score(one, self.headline) for one in stored)
        return [self.headline.direction * value for value in values if value is not None]


def _score(stored: Stored | None, headline: Measure) -> float | None:
    return stored.record.scores.get(headline.name) if stored is not None and stored.record.scores is not None else None


def _label(record: Record) -> str:
    return f"{record.cell.model.name} on {_task_label(record)}"


def _task_label(record: Record) -> str:
    return shown(task_label(record.cell.task.name, record.cell.task.version, record.changes), 300)
