"""A folder of records, and the way from what is asked for to records in it: skip, retry, resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from iml_bench.errors import UsageError
from iml_bench.records import Store, Stored, damage_of, latest_by_key
from iml_bench.records.files import reason_of
from iml_bench.records.guard import join, leave, sweep
from iml_bench.records.leases import About, Leases
from iml_bench.run.executors.base import Detached, Event, Executor, Listener
from iml_bench.run.executors.choose import Where, choose_executor
from iml_bench.run.job import Job
from iml_bench.run.plan import Request, plan
from iml_bench.run.sharing import progress_of, settled
from iml_bench.runtime import Runtime, check_launch, is_first
from iml_bench.spec import cell_key

NO_RECORD = "it left no record"
GONE = "its record is not there any more"
LOOK: Final = 1.0
"""Seconds between looks at the cells that other processes have."""


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
    broken: tuple[str, ...] = ()
    """A sentence for every record among those to do that cannot be used; it is set aside when its cell is done."""

    def __str__(self) -> str:
        """One line on all of it."""
        retried = f", {self.failed} failed before and tried again" if self.failed else ""
        return (
            f"{self.jobs} cells: {self.jobs - len(self.to_do)} done already, {len(self.to_do)} to run{retried}; "
            f"{self.width} worker{'s' if self.width > 1 else ''}; records in {self.out}"
        )


class Session:
    """A folder of records and the hardware on which more are made.

    A cell whose record is done, whatever command wrote it, is never run again; one that failed or was cut is, and one
    that some probe is yet to look into is trained again for that probe alone. Every cell runs in one thread, so that
    its outcome does not depend on how many run side by side.

    Any number of sessions, on one machine or several, share the cells of one folder: a cell that another has is left to
    it and waited for, and run here where the other dies (``records/leases.py``).
    """

    def __init__(self, out: Path, runtime: Runtime, where: Where | None = None) -> None:
        """Args:
        out: folder of the records; it need not exist yet.
        runtime: hardware and folders of data.
        where: what carries cells out where ``run`` is given no executor; None: this machine.
        """
        self.out, self.runtime, self.where = out, runtime, where or Where()
        self.detached: str | None = None
        """What goes on without this process, in words, once ``run`` has handed cells over."""
        self.store = Store(out.absolute())  # wherever the process may be when a record is written

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
            executor: where cells run; None: the one of this session.
            listen: is told of every event; ``Event.job`` is the place among the jobs. A job that has no done record
                in the end is told of as failed, whatever its executor said.
            begin: is told first, before anything runs, how much there is to do.

        Returns:
            The records of all jobs, in their order: those made now, those done before, and those of cells that
            failed. A job that left no record has none here.

        Raises:
            UsageError: when something asked for does not exist, cannot be had here, or the folder cannot be
                written; nothing has been run or written then. Also when a newer version wrote a record of these.
        """
        check_launch()
        requests = [item for item in work if isinstance(item, Request)]
        jobs = [*(item for item in work if isinstance(item, Job)), *(plan(requests, self.out) if requests else [])]
        for job in jobs:
            if job.out.absolute() != self.store.root:
                raise UsageError(f"a job for {job.out} cannot run in a session of {self.out}")
        stored = self.store.scan()[0]
        known = _known(jobs, stored)
        jobs = [_with_record(job, known.get(cell_key(job.cell))) for job in jobs]
        places = [place for place, job in enumerate(jobs) if job.record or not _is_done(known.get(cell_key(job.cell)))]
        executor = executor or choose_executor(self.where, self.runtime, len(places))
        broken = self._broken([jobs[place] for place in places], stored)
        if begin is not None:
            width = min(executor.width(self.runtime), max(1, len(places)))
            failed = len(known) - sum(map(_is_done, known.values()))
            begin(Standing(len(jobs), tuple(places), failed, width, self.out, broken))
        heard: set[int] = set()
        left, leases = places, Leases(self.store.root)
        # Others may have made the records, and what handed their cells out may have been killed before it tidied up.
        if not places and (tidy := getattr(executor, "tidy", None)) is not None:
            tidy(self.store.root)
        if places:
            with self._signed() as sign:
                jobs = [replace(job, out=self.store.root, sign=sign) for job in jobs]
                while left:
                    placed = _Placed(left, listen, heard)
                    try:
                        executor.run([[jobs[place]] for place in left], self.runtime, placed)
                    except Detached as ended:
                        self.detached = str(ended)
                        return [one for one in known.values() if _is_done(one)]
                    left = self._wait({place: jobs[place] for place in placed.elsewhere}, leases, placed.tell)
        elif is_first():
            Leases(self.store.root).sweep()
            sweep(self.store.root)
        return self._collect(jobs, places, heard, listen)

    def _wait(self, away: dict[int, Job], leases: Leases, tell: Listener) -> list[int]:
        """Wait for cells that other processes have, until some of them are to be run here or all are settled.

        Args:
            away: jobs by their place.
            leases: of the folder, with what was seen of them before.
            tell: is told how they get on and what came of them.

        Returns:
            The places of those that nobody has and that have no record.
        """
        told: dict[int, About] = {}
        while away:
            left = []
            for place, job in [*away.items()]:
                about = leases.living(cell_key(job.cell))  # before the record is looked for, which comes before its end
                outcome = settled(job)
                if outcome is not None:
                    tell(Event(outcome.kind, place, message=outcome.message))
                    del away[place]
                elif about is None:
                    left.append(place)
                elif told.get(place) != about:
                    tell(Event("elsewhere", place, progress_of(about), about.where))
                    told[place] = about
            if left:
                return left
            if away:
                self.store.check()
                time.sleep(LOOK)
        return []

    @contextmanager
    def _signed(self) -> Iterator[str | None]:
        """Leave a sign in the folder while the block runs: a record is written only where it is found again."""
        if not is_first():
            yield None
            return
        try:
            sign = join(self.store.root)
        except OSError as error:
            raise UsageError(
                f"cannot write records into {self.out}: {reason_of(error)}; give another --out DIR"
            ) from error
        try:
            yield sign.text
        finally:
            Leases(self.store.root).sweep()
            leave(sign)

    def _broken(self, jobs: Sequence[Job], stored: Sequence[Stored]) -> tuple[str, ...]:
        """A sentence for each record of these jobs that cannot be used."""
        keys = {cell_key(job.cell) for job in jobs}
        damaged = [damage_of(one) for one in stored if one.record.cell_key in keys and one.record.status == "done"]
        standing = [self.store.standing(self.store.path_of(job.cell)) for job in jobs]
        return tuple(dict.fromkeys(found for found in (*damaged, *standing) if isinstance(found, str)))

    def _collect(
        self, jobs: Sequence[Job], places: Sequence[int], heard: set[int], listen: Listener | None
    ) -> list[Stored]:
        """The records of all jobs; those without a done one that were not heard of are told of as failed.

        Args:
            jobs: all of them.
            places: of those that were to be run.
            heard: places of those that were told of as failed.
            listen: is told.
        """
        known = latest_by_key(self.store.scan()[0])
        found = [known.get(cell_key(job.cell)) for job in jobs]
        lacking = [place for place in range(len(jobs)) if place not in heard and not _is_done(found[place])]
        # Of several processes that share every batch only the first writes: another may look before it has.
        for place in lacking if is_first() else ():
            entry = found[place]
            error = entry.record.error if entry else None
            missing = NO_RECORD if place in places else GONE
            if listen is not None:
                listen(Event("failed", place, message=f"{error.kind}: {error.message}" if error else missing))
        return [entry for entry in found if entry is not None]


def _is_done(entry: Stored | None) -> bool:
    return entry is not None and entry.record.status == "done"


def _with_record(job: Job, known: Stored | None) -> Job:
    """A job with the record that its cell has, where it failed, or where some of its probes have not looked into it."""
    if known is None:
        return job
    if not _is_done(known):
        return replace(job, failed=known.record.timing.ended)
    if job.probes:
        from iml_bench.run.probing import lacking_probes

        return replace(job, record=known.path) if lacking_probes(known.record, job.probes) else job
    return job


class _Placed:
    """Hands an executor's events on, with the place among all jobs, and keeps which jobs it said have failed."""

    def __init__(self, places: Sequence[int], listen: Listener | None, failed: set[int]) -> None:
        self.places, self.listen, self.failed = places, listen, failed
        self.elsewhere: list[int] = []

    def __call__(self, event: Event) -> None:
        place = self.places[event.job]
        if event.kind == "elsewhere":
            self.elsewhere.append(place)
        self.tell(event._replace(job=place))

    def tell(self, event: Event) -> None:
        """Hand on an event that has the place among all jobs."""
        if event.kind == "failed":
            self.failed.add(event.job)
        if self.listen is not None:
            self.listen(event)


def _known(jobs: Sequence[Job], stored: Sequence[Stored]) -> dict[str, Stored]:
    """The records that some of the jobs have, by cell key, whatever wrote them; a done one goes before a failed one.

    A done record whose items are missing, or are not those that it was made with, does not count.
    """
    wanted = {cell_key(job.cell) for job in jobs}
    usable = [one for one in stored if one.record.cell_key in wanted]
    return latest_by_key([one for one in usable if one.record.status == "failed" or damage_of(one) is None])


def status_of(jobs: Sequence[Job], stored: Sequence[Stored]) -> dict[str, str]:
    """``done`` or ``failed`` by cell key, for those of the jobs that have a record that can be used."""
    return {key: one.record.status for key, one in _known(jobs, stored).items()}
