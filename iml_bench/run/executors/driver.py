"""The one loop that drives every engine: hand out chunks, look at leases and records, hand out again what was lost."""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from iml_bench.errors import CellError, UsageError
from iml_bench.paths import data_root
from iml_bench.records import Store, WriteError
from iml_bench.records.files import Temporary, clear_dead, reason_of
from iml_bench.records.guard import Sign, leave
from iml_bench.records.leases import About, Leases
from iml_bench.run.executors.base import Detached, Event, Groups, Listener, distinct
from iml_bench.run.executors.engine import Chunk, Delivered, Engine, State, chunked
from iml_bench.run.executors.worker import versions
from iml_bench.run.job import Job, check_job, record_failure
from iml_bench.run.sharing import progress_of, settled
from iml_bench.run.walltime import WallTimes
from iml_bench.runtime import Runtime
from iml_bench.spec import cell_key
from iml_bench.system import SIGHUP, Ended

AT_A_TIME: Final = 64
"""Chunks that an engine is given at a time, where nobody asked for another number."""
RETRIES: Final = 2
"""Times that a cell whose machine was lost is run again, before it gets the record of a failure."""
LOOK: Final = 0.5
"""Seconds to the next look at an engine where something has just happened."""
SLOWER: Final = 1.5
"""How much longer it is to the next look, each time that nothing has."""
SLOWEST: Final = 10.0
"""Seconds between looks at most: a scheduler is asked for every one of them."""
UNSAID: Final = 60.0
"""Seconds after which a chunk whose handle was never noted is of a driver that was killed as it handed it over."""


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
                self._drive(drive, runtime)
            except Detached:
                raise
            except BaseException as error:
                # A terminal that is lost takes the command along, and what goes on without it is not to be lost.
                leave = self.engine.detaches and isinstance(error, Ended) and error.args == (SIGHUP,)
                if not leave:
                    self.engine.cancel([*drive.flights])
                    drive.forget()
                self.engine.close(detach=leave)
                raise
            self.engine.close(detach=False)

    def _drive(self, drive: _Drive, runtime: Runtime) -> None:
        drive.adopt()
        drive.plan(self.width(runtime))
        while drive.waiting or drive.flights:
            drive.submit(self.width(runtime) if not self.detach else len(drive.jobs) + len(drive.flights))
            if self.detach and not drive.waiting:
                self.engine.close(detach=True)
                raise Detached(f"{len(drive.flights)} jobs of {self.engine.name}")
            drive.look()
            if drive.waiting or drive.flights:
                time.sleep(drive.pause())

    def tidy(self, root: Path) -> None:
        """Take away what chunks have left beside records that are all done, as those of a driver that was killed.

        Raises:
            UsageError: when the engine cannot be had.
        """
        if not _path(root, self.engine).is_dir():
            return
        with _folder(root, self.engine) as folder:
            self.engine.open(folder, [])
            drive = _Drive([], Runtime(), folder, self.engine, _unheard)
            deadline = time.monotonic() + SLOWEST
            # Their last cell is done; the jobs themselves may be about to end.
            while drive.adopt() and time.monotonic() < deadline:
                time.sleep(LOOK)
            self.engine.close(detach=False)


def _placed(job: Job, runtime: Runtime) -> Job:
    """A job with a GPU among its needs, where the run is for GPUs and its entry says nothing."""
    wants = runtime.device == "cuda" and job.needs.gpus == 0
    return replace(job, needs=job.needs.model_copy(update={"gpus": job.needs.processes})) if wants else job


def _path(root: Path, engine: Engine) -> Path:
    return root / f".iml-bench-{engine.name}"


@contextmanager
def _folder(root: Path, engine: Engine) -> Iterator[Path]:
    """The engine's own folder beside the records, removed in the end where nothing is left in it."""
    folder = _path(root, engine)
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
    """Its stem is the chunk's name."""
    places: list[int]
    """Of those of its cells that are among this run's and not settled."""
    given: int
    """How many those were at first."""


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
    kinds: dict[str, str] = field(default_factory=dict)
    """Of the states of flights, as they were at the last look."""
    lost: dict[int, int] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)
    pulses: dict[int, tuple[str, int]] = field(default_factory=dict)
    wait: float = LOOK

    def __post_init__(self) -> None:
        self.root = self.folder.parent
        self.leases = Leases(self.root)
        self.began = datetime.now(UTC)

    def adopt(self) -> int:
        """Take over the chunks that an earlier process of this grid has handed out and that are still under way.

        What is left of others that are over is taken away. A chunk may have another driver that lives: both look after
        it then, and who takes its proof away is the one that hands out again what it left undone.

        Returns:
            How many chunks there are that are not over, of whatever grid.
        """
        said = self._said()
        places = {cell_key(job.cell): place for place, job in enumerate(self.jobs)}
        states = self.engine.poll([*said])
        for handle, (proof, keys) in said.items():
            state = states.get(handle)
            if state is not None and state.kind in ("ended", "lost"):
                self._bury(proof.stem, self.leases.all())
                self._clear(proof)
            elif found := [places[key] for key in keys if key in places]:
                self.flights[handle] = _Flight(proof, found, len(found))
        return sum(proof.exists() for proof, _ in said.values())

    def _said(self) -> dict[str, tuple[Path, list[str]]]:
        """What lies in the folder of chunks that were handed out, by handle: the proof, and the keys of the cells."""
        found = {}
        for proof in sorted(self.folder.glob("*.chunk")):
            with suppress(OSError, ValueError, KeyError, TypeError):
                said = json.loads(proof.read_text(encoding="utf-8"))
                if said["handle"]:
                    found[str(said["handle"])] = proof, list(said["keys"])
                elif time.time() - proof.stat().st_mtime > UNSAID:
                    proof.unlink()
        return found

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
                _take_away(proof)
                raise
            if handle is None:
                _take_away(proof)
                return
            self.flights[handle] = _Flight(proof, list(places), len(places))
            self.waiting.popleft()
            self._say(proof, handle, jobs)

    def _say(self, proof: Path, handle: str, jobs: Sequence[Job]) -> None:
        said = {"handle": handle, "keys": [cell_key(job.cell) for job in jobs]}
        self.folder.mkdir(exist_ok=True)  # a driver that ended just now may have found it empty
        with Temporary(self.folder) as file:
            file.write(json.dumps(said).encode())
            file.path.replace(proof)

    def pause(self) -> float:
        """Seconds until the next look, more of them the longer nothing has happened."""
        now, self.wait = self.wait, min(SLOWEST, self.wait * SLOWER)
        return now

    def look(self) -> None:
        """See how every chunk is, and tell of it."""
        held = self.leases.all()  # before the engine is asked: who has a cell now, of a chunk that waits then, is dead
        for handle, state in self.engine.poll([*self.flights]).items():
            flight = self.flights[handle]
            if self.kinds.get(handle) != state.kind:
                self.kinds[handle], self.wait = state.kind, LOOK
            over = state.kind in ("ended", "lost")
            if state.kind == "ended":
                self._deliver(flight, state.delivered)
            died = self._bury(flight.proof.stem, self.leases.all() if over else held) if state.kind != "running" else {}
            if state.kind != "waiting" or died:
                for place in [*flight.places]:
                    self._look_at(place, flight, held)
            at_fault = [place for place in flight.places if cell_key(self.jobs[place].cell) in died]
            if over:
                self._land(handle, flight, at_fault, state)
            elif state.kind == "waiting":
                # The engine has queued it again by itself, after the machine under it had gone.
                self._give_up(flight, at_fault, "; ".join(f"{about.where} has gone" for about in died.values()))
                if not flight.places:
                    self.engine.cancel([handle])
                    self._clear(flight.proof)
                    del self.flights[handle]

    def _bury(self, name: str, held: Mapping[str, About]) -> dict[str, About]:
        """Take away the leases of a chunk that nobody carries out any more: what it died at, by the key of the cell."""
        died = {key: about for key, about in held.items() if about.chunk == name}
        for key, about in died.items():
            self.leases.end(key, about)
        return died

    def _look_at(self, place: int, flight: _Flight, held: Mapping[str, About]) -> None:
        """Tell of a cell that began, got on, or has been settled."""
        job = self.jobs[place]
        outcome = settled(job)
        if outcome is not None:
            self._end(place, flight, Event(outcome.kind, place, message=outcome.message))
            return
        about = held.get(cell_key(job.cell))
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

    def _land(self, handle: str, flight: _Flight, at_fault: list[int], state: State) -> None:
        """Let go of a chunk that is over, and hand out again what it left undone."""
        del self.flights[handle]
        if not self._clear(flight.proof):
            # Another driver has seen it before and looks after its cells.
            for place in [*flight.places]:
                self._end(place, flight, Event("elsewhere", place))
            return
        reason = state.reason or "it ended without a record"
        if at_fault or len(flight.places) == flight.given:  # else it has got on, and what was lost began nothing
            self._give_up(flight, at_fault or flight.places, reason)
        again = [place for place in flight.places if place in at_fault]
        # Those at which a machine has died wait for no other, and no other for them.
        for places in (again, [place for place in flight.places if place not in at_fault]):
            if places:
                self.waiting.append(places)

    def _give_up(self, flight: _Flight, places: Sequence[int], reason: str) -> None:
        """Count a loss of some cells of a chunk; one that was lost too often gets the record of a failure."""
        for place in [*places]:
            self.lost[place] = self.lost.get(place, 0) + 1
            if self.lost[place] > RETRIES:
                error = CellError(f"{self.engine.name} lost it {self.lost[place]} times; at last: {reason}")
                message = record_failure(self.jobs[place], self.began, error)
                self._end(place, flight, Event("failed" if message else "done", place, message=message))

    def _start(self, place: int) -> None:
        if place not in self.started:
            self.started.add(place)
            self.listen(Event("start", place))

    def _end(self, place: int, flight: _Flight, event: Event) -> None:
        self._start(place)
        self.wait = LOOK
        flight.places.remove(place)
        self.listen(event)

    def forget(self) -> None:
        """Take the proofs of all chunks away."""
        for flight in self.flights.values():
            self._clear(flight.proof)

    def _clear(self, proof: Path) -> bool:
        """Take away what is left of a chunk that is over; whether it was there, which is so for one driver only."""
        leave(Sign(self.root, proof.stem, ()))  # that of a worker that was killed
        return _take_away(proof)


def _take_away(proof: Path) -> bool:
    """Remove a file; whether it was there."""
    try:
        proof.unlink()
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def _unheard(progress: object) -> None:
    """In place of a listener of this process."""
