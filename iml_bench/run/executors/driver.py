"""The one loop that drives every engine: hand out chunks, look at leases and records, hand out again what was lost."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from iml_bench.errors import CellError, UsageError
from iml_bench.paths import data_root
from iml_bench.records import Store, WriteError
from iml_bench.records.files import Temporary, clear_dead, reason_of, writing
from iml_bench.records.guard import this_machine
from iml_bench.records.leases import Leases
from iml_bench.run.executors.base import Detached, Event, Groups, Listener, distinct
from iml_bench.run.executors.engine import Chunk, Delivered, Engine, State, chunked
from iml_bench.run.executors.worker import versions
from iml_bench.run.job import Job, check_job, record_failure
from iml_bench.run.sharing import progress_of, settled
from iml_bench.run.walltime import WallTimes
from iml_bench.runtime import Runtime
from iml_bench.spec import Needs, cell_key

AT_A_TIME: Final = 64
"""Chunks that an engine is given at a time, where nobody asked for another number."""
RETRIES: Final = 2
"""Times that a cell whose machine was lost is run again, before it gets the record of a failure."""
LOOK: Final = 1.0
"""Seconds between looks at an engine."""
SOON: Final = 0.05
"""Seconds until the first look, and again after each at which something had happened; then twice as many each time."""


class Driver:
    """An executor that has its cells carried out by an engine."""

    def __init__(self, engine: Engine, workers: int | None = None, *, detach: bool = False) -> None:
        """Args:
        engine: what carries them out.
        workers: chunks at a time; None: ``AT_A_TIME``.
        detach: hand all chunks over and leave them to the engine.

        Raises:
            UsageError: when the engine's chunks end with this process.
        """
        if detach and not engine.detaches:
            raise UsageError(f"--detach: executor {engine.name!r} cannot go on without this process; leave it out")
        self.engine, self.workers, self.detach = engine, workers, detach
        self.lost: dict[str, int] = {}
        """How often each cell was lost, by its key: also over the runs of a session that waits for others."""

    def width(self, runtime: Runtime) -> int:
        """Chunks at a time."""
        return self.workers or AT_A_TIME

    def run(self, groups: Groups, runtime: Runtime, listen: Listener) -> None:
        """See ``Executor.run``.

        Raises:
            UsageError: also when the engine cannot be had, or none of its machines can hold a cell.
            Detached: when that was asked for and everything has been handed over.
        """
        jobs = [_placed(job, runtime) for group in groups for job in group]
        for job in distinct([jobs]):
            # Where a cell runs there may be a GPU; here there need not be.
            check_job(job, replace(runtime, device="cpu" if runtime.device == "cuda" else runtime.device))
        with _folder(jobs[0].out, self.engine) as folder:
            drive = _Drive(jobs, runtime, folder, self.engine, listen, self.lost)
            try:
                self.engine.open(folder, list(dict.fromkeys(job.needs for job in jobs)))
                detached = self._drive(drive)
            except BaseException:
                drive.cancel()
                self.engine.close(detach=False)
                drive.take_leases_away()
                raise
            self.engine.close(detach=detached)
            drive.take_leases_away()
            if detached:
                raise Detached(f"{len(drive.flights)} jobs of {self.engine.name}")

    def _drive(self, drive: _Drive) -> bool:
        """Have everything run; whether it goes on by itself, as was asked for."""
        width, pause = self.width(drive.runtime), SOON
        try:
            drive.adopt()
            drive.plan(width)
            while drive.waiting or drive.flights:
                drive.submit(len(drive.jobs) + len(drive.flights) if self.detach else width)
                if self.detach and not drive.waiting:
                    return True
                pause = SOON if drive.look() else min(LOOK, 2 * pause)
                time.sleep(pause)
        except UsageError as error:
            if not drive.handed_out:
                raise
            drive.give_up(error)
        return False


def _placed(job: Job, runtime: Runtime) -> Job:
    """A job with a GPU among its needs, where the run is for GPUs and its entry says nothing."""
    wants = runtime.device == "cuda" and job.needs.gpus == 0
    return replace(job, needs=job.needs.model_copy(update={"gpus": job.needs.processes})) if wants else job


def _away(runtime: Runtime, needs: Needs) -> Runtime:
    """What a cell is run with on another machine.

    Where it asks for no GPU it takes none that happens to be there: its answer must not depend on where it runs.
    """
    device = "cpu" if runtime.device == "auto" and not needs.gpus else runtime.device
    track = runtime.track_dir.absolute() if runtime.track_dir else None
    return replace(runtime, device=device, track_dir=track, report=_unheard)


@contextmanager
def _folder(root: Path, engine: Engine) -> Iterator[Path]:
    """The engine's own folder beside the records, removed in the end where nothing is left in it."""
    folder = root / f".iml-bench-{engine.name}"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise WriteError(f"{folder} cannot be written: {reason_of(error)}") from error
    try:
        yield folder
    finally:
        with suppress(OSError):
            clear_dead(folder, time.time())
            folder.rmdir()


@dataclass
class _Flight:
    """A chunk that is under way."""

    proof: Path
    places: list[int]
    """Of those of its cells that are among this run's and not settled."""
    inherited: bool = False
    """Whether an earlier process handed it out."""


@dataclass
class _Drive:
    """One run of an engine: what is under way, what waits, what was lost how often."""

    jobs: Sequence[Job]
    runtime: Runtime
    folder: Path
    engine: Engine
    listen: Listener
    lost: dict[str, int]
    waiting: deque[list[int]] = field(default_factory=deque)
    flights: dict[str, _Flight] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)
    pulses: dict[int, tuple[str, int]] = field(default_factory=dict)
    handed_out: bool = False
    moved: bool = False
    """Whether the last look saw anything that the one before had not."""

    def __post_init__(self) -> None:
        self.root = self.jobs[0].out
        self.leases = Leases(self.root)
        self.began = datetime.now(UTC)

    def adopt(self) -> None:
        """Take over what an earlier process of this grid has handed out, and take the proofs of what is over away."""
        places = {cell_key(job.cell): place for place, job in enumerate(self.jobs)}
        strange: dict[str, Path] = {}
        for proof in sorted(self.folder.glob("*.chunk")):
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                said = json.loads(proof.read_text(encoding="utf-8"))
                handle, found = str(said["handle"]), [places[key] for key in said["keys"] if key in places]
                if not handle or not self.engine.detaches:
                    # It ends with its driver, or its driver was about to hand it out.
                    if _is_gone(said):
                        proof.unlink()
                elif found:
                    self.flights[handle] = _Flight(proof, found, inherited=True)
                    self.handed_out = True
                elif _is_gone(said):
                    strange[handle] = proof
        for handle, state in self.engine.poll([*strange]).items() if strange else ():
            if state.kind in ("ended", "lost"):
                with suppress(OSError):
                    strange[handle].unlink()

    def plan(self, width: int) -> None:
        """Put what is not under way into chunks."""
        taken = {place for flight in self.flights.values() for place in flight.places}
        left = [(place, job) for place, job in enumerate(self.jobs) if place not in taken]
        times = WallTimes(Store(self.root).scan()[0], Store(data_root() / "leaderboard" / "results").scan()[0])
        self.waiting.extend(chunked(left, times, width))

    def submit(self, most: int) -> None:
        """Hand chunks out until ``most`` are under way or the engine takes no more."""
        while self.waiting and len(self.flights) < most:
            places = self.waiting[0]
            name = secrets.token_hex(8)
            proof = self.folder / f"{name}.chunk"
            jobs = tuple(self.jobs[place] for place in places)
            self._say(proof, "", jobs)
            needs = jobs[0].needs
            chunk = Chunk(name, jobs, needs, _away(self.runtime, needs), versions(), proof, self.engine.shared)
            try:
                handle = self.engine.submit(chunk)
            except BaseException:
                proof.unlink(missing_ok=True)
                raise
            if handle is None:
                proof.unlink(missing_ok=True)
                return
            self.flights[handle] = _Flight(proof, list(places))
            self.waiting.popleft()
            self.handed_out = True
            self._say(proof, handle, jobs)

    def _say(self, proof: Path, handle: str, jobs: Sequence[Job]) -> None:
        keys = [cell_key(job.cell) for job in jobs]
        said = {"handle": handle, "keys": keys, "machine": this_machine(), "process": os.getpid()}
        with writing(proof), Temporary(self.folder) as file:
            file.write(json.dumps(said).encode())
            file.path.replace(proof)

    def look(self) -> bool:
        """See how every chunk is, and tell of it; whether anything had happened."""
        self.moved = False
        for handle, state in self.engine.poll([*self.flights]).items() if self.flights else ():
            flight = self.flights[handle]
            if state.kind == "ended":
                self._deliver(flight, state.delivered)
            for place in [*flight.places] if state.kind != "waiting" else ():
                self._look_at(place, flight)
            if state.kind in ("ended", "lost"):
                self._hand_out_again(flight, state)
                del self.flights[handle]
                flight.proof.unlink(missing_ok=True)
                self.moved = True
        return self.moved

    def _look_at(self, place: int, flight: _Flight) -> None:
        """Tell of a cell that began, got on, or has been settled."""
        job = self.jobs[place]
        outcome = settled(job)
        if outcome is not None:
            self._end(flight, Event(outcome.kind, place, message=outcome.message))
            return
        about = self.leases.living(cell_key(job.cell))
        if about is None or self.pulses.get(place) == (about.token, about.pulse):
            return
        self.pulses[place], self.moved = (about.token, about.pulse), True
        self._start(place)
        if (progress := progress_of(about)) is not None:
            self.listen(Event("progress", place, progress))

    def _deliver(self, flight: _Flight, delivered: Sequence[Delivered]) -> None:
        """Take what a chunk's worker says of its cells, and write what it could not write itself."""
        places = {cell_key(self.jobs[place].cell): place for place in flight.places}
        for one in delivered:
            place = places.pop(one.key, None)
            if place is None:
                continue
            job = self.jobs[place]
            if one.files:
                try:
                    job.store.adopt(job.cell, one.files)
                except UsageError as error:
                    self._end(flight, Event("failed", place, message=f"it left no record: {error}"))
                    continue
            elif one.kind == "refused":
                told = settled(job)  # another may have run it
                event = Event(told.kind, place, message=told.message) if told else None
                self._end(flight, event or Event("failed", place, message=f"it was not run: {one.message}"))
                continue
            # That a cell is done is believed of its record alone, unless it had that before.
            if one.files or one.kind != "done" or job.record is not None:
                self._end(flight, Event(one.kind, place, message=one.message))

    def _hand_out_again(self, flight: _Flight, state: State) -> None:
        """Run again what a chunk left undone; a cell that was lost too often gets the record of a failure."""
        again = []
        began = self.started.intersection(flight.places)
        for place in flight.places:
            key = cell_key(self.jobs[place].cell)
            if not flight.inherited and (place in began or not began):
                self.lost[key] = self.lost.get(key, 0) + 1
            if self.lost.get(key, 0) <= RETRIES:
                again.append(place)
                continue
            reason = state.reason or "it ended without a record"
            error = CellError(f"{self.engine.name} lost it {self.lost[key]} times; at last: {reason}")
            message = record_failure(self.jobs[place], self.began, error)
            self._start(place)
            self.listen(Event("failed" if message else "done", place, message=message))
        self.started -= set(again)
        # Where nobody saw which of them it was that cost the machine, each has the next by itself.
        self.waiting.extend(([again] if again else []) if began else [[place] for place in again])

    def _start(self, place: int) -> None:
        if place not in self.started:
            self.started.add(place)
            self.listen(Event("start", place))

    def _end(self, flight: _Flight, event: Event) -> None:
        self._start(event.job)
        flight.places.remove(event.job)
        self.listen(event)

    def give_up(self, error: UsageError) -> None:
        """Tell of everything that is left as failed: nothing more can be handed out, or be heard of."""
        places = [*(place for flight in self.flights.values() for place in flight.places)]
        places += [place for some in self.waiting for place in some]
        self.cancel()
        for place in sorted(places):
            told = settled(self.jobs[place])
            self._start(place)
            kind, message = told or ("failed", f"it was not run to its end: {error}")
            self.listen(Event(kind, place, message=message))

    def cancel(self) -> None:
        """End all chunks and take their proofs away."""
        if self.flights:
            self.engine.cancel([*self.flights])
        for flight in self.flights.values():
            with suppress(OSError):
                flight.proof.unlink(missing_ok=True)
        self.flights.clear()

    def take_leases_away(self) -> None:
        """Leave no lease of a process of this machine that was ended before it could let go of its cell."""
        if self.leases.folder.is_dir():
            for job in self.jobs:
                self.leases.living(cell_key(job.cell))
            with suppress(OSError):
                self.leases.folder.rmdir()  # only where no other lease is there


def _is_gone(said: dict[str, Any]) -> bool:
    """Whether a chunk's driver was a process of this machine and has ended."""
    return bool(said["machine"] == this_machine() and not psutil.pid_exists(said["process"]))


def _unheard(progress: object) -> None:
    """In place of a listener of this process."""
