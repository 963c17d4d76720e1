"""The one loop that drives every engine: hand out chunks, look at leases and records, hand out again what was lost."""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from iml_bench.errors import CellError, UsageError
from iml_bench.paths import data_root
from iml_bench.records import Store, WriteError
from iml_bench.records.files import Temporary, clear_dead, reason_of
from iml_bench.records.leases import Leases
from iml_bench.run.executors.base import Detached, Event, Groups, Listener, distinct
from iml_bench.run.executors.engine import Chunk, Delivered, Engine, State, chunked
from iml_bench.run.executors.worker import versions
from iml_bench.run.job import Job, check_job, record_failure
from iml_bench.run.sharing import progress_of, settled
from iml_bench.run.walltime import WallTimes
from iml_bench.runtime import Runtime
from iml_bench.spec import cell_key

AT_A_TIME: Final = 64
"""Chunks that an engine is given at a time, where nobody asked for another number."""
RETRIES: Final = 2
"""Times that a cell whose machine was lost is run again, before it gets the record of a failure."""
LOOK: Final = 1.0
"""Seconds between looks at an engine."""


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
            self.engine.open(folder, list(dict.fromkeys(job.needs for job in jobs)))
            drive = _Drive(jobs, runtime, folder, self.engine, listen)
            try:
                drive.adopt()
                drive.plan(self.width(runtime))
                while drive.waiting or drive.flights:
                    drive.submit(self.width(runtime) if not self.detach else len(jobs) + len(drive.flights))
                    if self.detach and not drive.waiting:
                        self.engine.close(detach=True)
                        raise Detached(f"{len(drive.flights)} jobs of {self.engine.name}")
                    drive.look()
                    time.sleep(LOOK if drive.flights else 0)
            except Detached:
                raise
            except BaseException:
                self.engine.cancel([*drive.flights])
                drive.forget()
                self.engine.close(detach=False)
                raise
            self.engine.close(detach=False)


def _placed(job: Job, runtime: Runtime) -> Job:
    """A job with a GPU among its needs, where the run is for GPUs and its entry says nothing."""
    wants = runtime.device == "cuda" and job.needs.gpus == 0
    return replace(job, needs=job.needs.model_copy(update={"gpus": job.needs.processes})) if wants else job


@contextmanager
def _folder(root: Path, engine: Engine) -> Iterator[Path]:
    """The engine's own folder beside the records, removed in the end where nothing is left in it."""
    folder = root / f".iml-bench-{engine.name}"
    try:
        folder.mkdir(exist_ok=True)
        yield folder
    except OSError as error:
        raise WriteError(f"{folder} cannot be written: {reason_of(error)}") from error
    finally:
        with suppress(OSError):
            clear_dead(folder, time.time())
            folder.rmdir()


class _Flight(NamedTuple):
    """A chunk that is under way."""

    proof: Path
    places: list[int]
    """Of those of its cells that are among this run's and not settled."""


@dataclass
class _Drive:
    """One run of an engine: what is under way, what waits, what was lost how often."""

    jobs: Sequence[Job]
    runtime: Runtime
    folder: Path
    engine: Engine
    listen: Listener
    waiting: deque[list[int]] = field(default_factory=deque)
    flights: dict[str, _Flight] = field(default_factory=dict)
    lost: dict[int, int] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)
    pulses: dict[int, tuple[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = self.jobs[0].out
        self.leases = Leases(self.root)
        self.began = datetime.now(UTC)

    def adopt(self) -> None:
        """Take over the chunks that an earlier process of this grid has handed out and that are still under way."""
        places = {cell_key(job.cell): place for place, job in enumerate(self.jobs)}
        for proof in sorted(self.folder.glob("*.chunk")):
            with suppress(OSError, ValueError, KeyError, TypeError):
                said = json.loads(proof.read_text(encoding="utf-8"))
                state = self.engine.poll([said["handle"]])[said["handle"]]
                if state.kind in ("waiting", "running"):
                    found = [places[key] for key in said["keys"] if key in places]
                    if found:
                        self.flights[said["handle"]] = _Flight(proof, found)
                else:
                    proof.unlink()

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
            runtime = replace(self.runtime, report=_unheard)
            side = self.runtime.cells_per_gpu if jobs[0].needs.gpus == 1 else 1
            chunk = Chunk(name, jobs, jobs[0].needs, runtime, dict(versions()), proof, self.engine.shared, side)
            try:
                handle = self.engine.submit(chunk)
            except BaseException:
                proof.unlink(missing_ok=True)
                raise
            if handle is None:
                proof.unlink(missing_ok=True)
                return
            self._say(proof, handle, jobs)
            self.waiting.popleft()
            self.flights[handle] = _Flight(proof, list(places))

    def _say(self, proof: Path, handle: str, jobs: Sequence[Job]) -> None:
        said = {"handle": handle, "keys": [cell_key(job.cell) for job in jobs]}
        with Temporary(self.folder) as file:
            file.write(json.dumps(said).encode())
            file.path.replace(proof)

    def look(self) -> None:
        """See how every chunk is, and tell of it."""
        for handle, state in self.engine.poll([*self.flights]).items():
            flight = self.flights[handle]
            if state.kind == "waiting":
                continue
            if state.kind == "running":
                for place in [*flight.places]:
                    self._look_at(place, flight)
                if flight.places:
                    continue
            if state.kind == "ended":
                self._deliver(flight, state.delivered)
            for place in [*flight.places]:
                self._look_at(place, flight)
            if state.kind in ("ended", "lost"):
                self._hand_out_again(flight.places, state)
                del self.flights[handle]
                flight.proof.unlink(missing_ok=True)

    def _look_at(self, place: int, flight: _Flight) -> None:
        """Tell of a cell that began, got on, or has been settled."""
        job = self.jobs[place]
        outcome = settled(job)
        if outcome is not None:
            self._end(place, flight, Event(outcome.kind, place, message=outcome.message))
            return
        about = self.leases.living(cell_key(job.cell))
        if about is None or self.pulses.get(place) == (about.token, about.pulse):
            return
        self.pulses[place] = about.token, about.pulse
        self._start(place)
        if (progress := progress_of(about)) is not None:
            self.listen(Event("progress", place, progress))

    def _deliver(self, flight: _Flight, delivered: Sequence[Delivered]) -> None:
        """Take what a chunk's worker says of its cells, and write what it could not write itself."""
        places = {cell_key(self.jobs[place].cell): place for place in flight.places}
        for one in delivered:
            place = places.get(one.key)
            if place is None:
                continue
            if one.files:
                try:
                    self.jobs[place].store.adopt(self.jobs[place].cell, one.files)
                except UsageError as error:
                    self._end(place, flight, Event("failed", place, message=f"it left no record: {error}"))
                    continue
            if one.files or one.kind != "done":
                self._end(place, flight, Event(one.kind, place, message=one.message))

    def _hand_out_again(self, places: Sequence[int], state: State) -> None:
        """Run again what a chunk left undone; a cell that was lost too often gets the record of a failure."""
        again = []
        began = [place for place in places if place in self.started] or list(places)
        for place in places:
            self.lost[place] = self.lost.get(place, 0) + (place in began)
            if self.lost[place] <= RETRIES:
                again.append(place)
                continue
            reason = state.reason or "it ended without a record"
            error = CellError(f"{self.engine.name} lost it {self.lost[place]} times; at last: {reason}")
            message = record_failure(self.jobs[place], self.began, error)
            self._start(place)
            self.listen(Event("failed" if message else "done", place, message=message))
        self.started -= set(again)
        if again:
            self.waiting.append(again)

    def _start(self, place: int) -> None:
        if place not in self.started:
            self.started.add(place)
            self.listen(Event("start", place))

    def _end(self, place: int, flight: _Flight, event: Event) -> None:
        self._start(place)
        flight.places.remove(place)
        self.listen(event)

    def forget(self) -> None:
        """Take the proofs of all chunks away."""
        for flight in self.flights.values():
            with suppress(OSError):
                flight.proof.unlink(missing_ok=True)


def _unheard(progress: object) -> None:
    """In place of a listener of this process."""
