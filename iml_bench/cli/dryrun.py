"""``--dry-run``: which cells there are, how many are done, and how long the rest will take.

Times are those of recorded cells. Of tasks that nobody has recorded, GPU-hours are estimated for language models whose
size their entries say (``run/cost.py``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iml_bench.board import task_label
from iml_bench.paths import data_root
from iml_bench.records import Store
from iml_bench.run.cost import TERAFLOPS, gpu_hours
from iml_bench.run.job import Job
from iml_bench.run.session import status_of
from iml_bench.run.walltime import UNKNOWN, WallTimes, total_seconds
from iml_bench.spec import Spec, cell_key, show_seeds, task_key


class DryRow(Spec):
    """The cells of one task and model."""

    task: str
    task_version: int
    changes: dict[str, Any]
    model: str
    reference: bool
    seeds: tuple[int, ...]
    done: int
    failed: int
    """Tried again, so they are among those to do."""
    to_do: int
    seconds: float | None
    """Wall time of the cells to do, one after another; null where ``basis`` is unknown."""
    basis: str | None
    """What the time is told from (``Estimate.basis``); null where nothing is to do."""
    gpu_hours: float | None = None
    """Of the cells to do, where the basis is unknown and they can be estimated."""


class DryRun(Spec):
    """What a run would do."""

    out: str
    workers: int
    cells: int
    done: int
    failed: int
    to_do: int
    seconds: float | None
    """Wall time with these workers, without the cells of unknown time; null where all are."""
    unknown: int
    """Cells of trained models to do whose time is unknown: no record is of their task, and nothing can be estimated."""
    gpu_hours: float
    """Of the cells to do whose GPU-hours are estimated."""
    teraflops: float
    """What a GPU is taken to do in effect, in 10^12 operations a second."""
    rows: tuple[DryRow, ...]


def dry_run(jobs: Sequence[Job], workers: int, teraflops: float = TERAFLOPS) -> DryRun:
    """Count cells and estimate times from the records beside which the jobs would write and the shipped ones."""
    out: Path = jobs[0].out
    own = Store(out).scan()[0]
    times = WallTimes(own, Store(data_root() / "leaderboard" / "results").scan()[0])
    status = status_of(jobs, own)
    groups: dict[tuple[str, str], list[Job]] = defaultdict(list)
    for job in jobs:
        groups[task_key(job.cell), job.cell.model.name].append(job)
    rows, estimates = [], []
    for group in groups.values():
        cell = group[0].cell
        found = [status.get(cell_key(job.cell)) for job in group]
        to_do = len(found) - found.count("done")
        estimate = times.estimate(cell)
        estimates += [estimate] * to_do
        seconds = None if estimate.seconds is None else round(estimate.seconds * to_do, 1)
        of_one = gpu_hours(cell, teraflops) if estimate.seconds is None else None
        hours = None if of_one is None else of_one * to_do
        rows.append(
            DryRow(
                task=cell.task.name,
                task_version=cell.task.version,
                changes=group[0].changes,
                model=cell.model.name,
                reference=cell.model.is_reference,
                seeds=tuple(job.cell.seed for job in group),
                done=found.count("done"),
                failed=found.count("failed"),
                to_do=to_do,
                seconds=seconds if to_do else 0.0,
                basis=estimate.basis if to_do else None,
                gpu_hours=hours if to_do else None,
            )
        )
    total = total_seconds(estimates, workers) if estimates else 0.0
    return DryRun(
        out=str(out),
        workers=workers,
        cells=len(jobs),
        done=sum(row.done for row in rows),
        failed=sum(row.failed for row in rows),
        to_do=len(estimates),
        seconds=None if total is None else round(total, 1),
        unknown=sum(row.to_do for row in rows if not row.reference and _is_unknown(row)),
        gpu_hours=math.fsum(row.gpu_hours or 0 for row in rows),
        teraflops=teraflops,
        rows=tuple(rows),
    )


def _is_unknown(row: DryRow) -> bool:
    """Whether nobody knows how long a row takes; reference learners take no time beside it."""
    return row.basis == UNKNOWN and row.gpu_hours is None


def print_dry_run(dry: DryRun, console: Console) -> None:
    """A table of tasks and models, and a line on the whole."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("task", "model", "seeds"):
        table.add_column(name, overflow="fold")
    for name in ("done", "failed", "to do", "time, one after another"):
        table.add_column(name, justify="right" if name != "time, one after another" else "left")
    for row in dry.rows:
        label = task_label(row.task, row.task_version, row.changes)
        counts = (str(row.done), str(row.failed), str(row.to_do))
        style = "dim" if row.reference else None
        table.add_row(escape(label), escape(row.model), show_seeds(row.seeds), *counts, _time(row), style=style)
    console.print(table)
    failed = f", {dry.failed} of them failed before" if dry.failed else ""
    console.print(
        f"{dry.cells} cells: {dry.done} done already in {dry.out}, {dry.to_do} to run{failed}; {_whole(dry)}",
        markup=False,
        soft_wrap=True,
    )


def _time(row: DryRow) -> str:
    if row.basis is None:
        return "-"
    if row.gpu_hours is not None:
        return f"{row.gpu_hours:.2g} GPU-hours (parameters and tokens)"
    return UNKNOWN if row.seconds is None else f"{duration(row.seconds)} ({row.basis})"


def _whole(dry: DryRun) -> str:
    if not dry.to_do:
        return "nothing to wait for"
    gpu = ""
    if dry.gpu_hours:
        gpu = f"about {dry.gpu_hours:.2g} GPU-hours at {dry.teraflops:g} TFLOP/s in effect"
    if dry.seconds is None:
        rest = f", and {dry.unknown} cells of unknown time" if dry.unknown else ""
        return gpu + rest if gpu else "time unknown: no record is of these tasks"
    workers = f"{dry.workers} worker{'s' if dry.workers > 1 else ''}"
    unknown = f", without {dry.unknown} cells of unknown time" if dry.unknown else ""
    more = f", and {gpu}" if gpu else ""
    return f"about {duration(dry.seconds)} with {workers}{unknown}, as long as recorded cells took{more}"


def duration(seconds: float) -> str:
    """``3 s``, ``12 min``, ``2 h 05 min``; less than a second counts as one."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
