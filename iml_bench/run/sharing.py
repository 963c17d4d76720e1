"""One cell among several processes that may want it: taken with a lease, or left to whoever has it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from iml_bench.errors import UsageError
from iml_bench.records import Stored
from iml_bench.records.leases import About, Leases
from iml_bench.run.job import Job, run_job
from iml_bench.run.members import run_in_processes
from iml_bench.runtime import Runtime, StageProgress, is_launched
from iml_bench.spec import CellSpec, cell_key


class Outcome(NamedTuple):
    """What came of a job."""

    kind: str
    """``done``, ``failed``, or ``elsewhere``: another process has the cell."""
    message: str | None = None
    """Of a failed job the first line of its error; of one that is elsewhere, where."""


def title_of(cell: CellSpec) -> str:
    """A cell in words, for whoever sees that it runs."""
    return f"{cell.task.label} {cell.model.name} seed {cell.seed}"


def run_shared(job: Job, runtime: Runtime) -> Outcome:
    """Run a cell and write its record (``run_job``), unless another process has it or has settled it.

    Of several processes that share every batch each runs it: they were started together for it.
    """
    if is_launched():
        return _outcome(run_job(job, runtime))
    lease = Leases(job.out).take(cell_key(job.cell), title_of(job.cell), job.chunk)
    if lease is None:
        return Outcome("elsewhere")
    with lease:
        # Not before: who had the lease may have written the record and let go of it in between.
        return settled(job) or _outcome(_run(job, replace(runtime, report=_both(lease.tell, runtime.report))))


def _run(job: Job, runtime: Runtime) -> str | None:
    return run_in_processes(job, runtime) if job.needs.processes > 1 else run_job(job, runtime)


def settled(job: Job) -> Outcome | None:
    """What another process has made of a cell since the run was planned; None where it is still to be run."""
    if job.record is not None:
        return None  # what it lacks is found out when it is looked into
    with suppress(UsageError):  # what cannot be used is set aside when the cell is done
        found = job.store.standing(job.store.path_of(job.cell))
        if isinstance(found, Stored):
            record = found.record
            if record.status == "done":
                return Outcome("done")
            if record.error is not None and record.timing.ended != job.failed:
                return Outcome("failed", f"{record.error.kind}: {record.error.message}")
    return None


def progress_of(about: About) -> StageProgress | None:
    """How far a cell is that another process runs; None where that is not told."""
    return StageProgress(about.stage, 0, 0, float("nan"), about.done, about.total) if about.total else None


def _outcome(message: str | None) -> Outcome:
    return Outcome("failed", message) if message else Outcome("done")


def _both(
    first: Callable[[StageProgress], None], second: Callable[[StageProgress], None]
) -> Callable[[StageProgress], None]:
    def tell(progress: StageProgress) -> None:
        first(progress)
        second(progress)

    return tell
