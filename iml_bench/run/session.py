"""A folder of records, and the way from what is asked for to records in it: skip, retry, resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from iml_bench.errors import UsageError
from iml_bench.paths import probe_writable
from iml_bench.records import Store, Stored, latest_by_key
from iml_bench.run.executors.base import Event, Executor, Listener, choose_executor
from iml_bench.run.job import Job
from iml_bench.run.plan import Request, plan
from iml_bench.runtime import Runtime, check_launch, is_first
from iml_bench.spec import cell_key

NO_RECORD = "it left no record"


class Standing(NamedTuple):
    """What of a run is done already, and what is left to do."""

    jobs: int
    to_do: tuple[int, ...]
    """Places of the jobs that have no done record."""
    failed: int
    """Of those, how many have failed before; they are tried again."""
    width: int
    """Cells side by side."""
    out: Path

    def __str__(self) -> str:
        """One line on all of it."""
        retried = f", {self.failed} failed before and tried again" if self.failed else ""
        return (
            f"{self.jobs} cells: {self.jobs - len(self.to_do)} done already, {len(self.to_do)} to run{retried}; "
            f"{self.width} worker{'s' if self.width > 1 else ''}; records in {self.out}"
        )


class Session:
    """A folder of records and the hardware on which more are made.

    A cell whose record is done, whatever command wrote it, is never run again; one that failed or was cut is. Every
    cell runs in one thread, so that its outcome does not depend on how many run side by side.
    """

    def __init__(self, out: Path, runtime: Runtime, workers: int | None = None) -> None:
        """Args:
        out: folder of the records; it need not exist yet.
        runtime: hardware and folders of data.
        workers: cells side by side where no executor is named; None: as many as is right here.
        """
        self.out, self.runtime, self.workers = out, runtime, workers

    def run(
        self,
        work: Sequence[Request] | Sequence[Job],
        executor: Executor | None = None,
        listen: Listener | None = None,
        begin: Callable[[Standing], None] | None = None,
    ) -> list[Stored]:
        """Run the cells that are not done.

        Args:
            work: what is asked for, or jobs that were planned from it.
            executor: where cells run; None: in this process where one is to be run or one worker, else in processes.
            listen: is told of every event; ``Event.job`` is the place among the jobs. A job that has no done record
                in the end is told of as failed, whatever its executor said.
            begin: is told first, before anything runs, how much there is to do.

        Returns:
            The records of all jobs, in their order: those made now, those done before, and those of cells that
            failed. A job that left no record has none here.

        Raises:
            UsageError: when something asked for does not exist, cannot be had here, or the folder cannot be
                written; nothing has been run or written then.
        """
        check_launch()
        requests = [item for item in work if isinstance(item, Request)]
        jobs = [*(item for item in work if isinstance(item, Job)), *(plan(requests, self.out) if requests else [])]
        for job in jobs:
            if job.out != self.out:
                raise UsageError(f"a job for {job.out} cannot run in a session of {self.out}")
        known = status_of(jobs, Store(self.out).scan()[0])
        places = [index for index, job in enumerate(jobs) if known.get(cell_key(job.cell)) != "done"]
        executor = executor or choose_executor(None, self.workers, self.runtime, len(places))
        if begin is not None:
            width = min(executor.width(self.runtime), max(1, len(places)))
            begin(Standing(len(jobs), tuple(places), list(known.values()).count("failed"), width, self.out))
        heard: set[int] = set()
        if places:
            if is_first():
                probe_writable(self.out)
            executor.run([[jobs[place]] for place in places], self.runtime, _Placed(places, listen, heard))
        return self._collect(jobs, [place for place in places if place not in heard], listen)

    def _collect(self, jobs: Sequence[Job], unsaid: Sequence[int], listen: Listener | None) -> list[Stored]:
        """The records of all jobs; those of ``unsaid`` without a done one are told of as failed."""
        known = latest_by_key(Store(self.out).scan()[0])
        found = [known.get(cell_key(job.cell)) for job in jobs]
        # Of several processes that share every batch only the first writes: another may look before it has.
        for place in unsaid if is_first() else ():
            entry = found[place]
            if listen is not None and (entry is None or entry.record.status != "done"):
                error = entry.record.error if entry else None
                listen(Event("failed", place, message=f"{error.kind}: {error.message}" if error else NO_RECORD))
        return [entry for entry in found if entry is not None]


class _Placed:
    """Hands an executor's events on, with the place among all jobs, and keeps which jobs it said have failed."""

    def __init__(self, places: Sequence[int], listen: Listener | None, failed: set[int]) -> None:
        self.places, self.listen, self.failed = places, listen, failed

    def __call__(self, event: Event) -> None:
        place = self.places[event.job]
        if event.kind == "failed":
            self.failed.add(place)
        if self.listen is not None:
            self.listen(event._replace(job=place))


def status_of(jobs: Sequence[Job], stored: Sequence[Stored]) -> dict[str, str]:
    """``done`` or ``failed`` by cell key, for those of the jobs that have a record, whatever wrote it."""
    known = latest_by_key(stored)
    return {key: known[key].record.status for job in jobs if (key := cell_key(job.cell)) in known}
