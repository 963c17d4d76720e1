"""The chunks of one run of an engine: handed out, looked at, and handed out again where they were lost."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from iml_bench.errors import CellError, UsageError
from iml_bench.paths import data_root
from iml_bench.records import Store
from iml_bench.records.files import Temporary, writing
from iml_bench.records.guard import Sign, has_ended, leave, this_machine
from iml_bench.records.leases import About, Leases
from iml_bench.run.executors.base import Event, Listener
from iml_bench.run.executors.engine import Chunk, Delivered, Engine, State, chunked
from iml_bench.run.executors.worker import versions
from iml_bench.run.job import Job, record_failure
from iml_bench.run.sharing import Outcome, progress_of, settled
from iml_bench.run.walltime import WallTimes
from iml_bench.runtime import Runtime, silent
from iml_bench.spec import Needs, cell_key

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


@dataclass
class Flight:
    """A chunk that is under way."""

    proof: Path
    """Its stem is the chunk's name."""
    places: list[int]
    """Of those of its cells that are among this run's and not settled."""
    given: int
    """How many those were at first."""
    inherited: bool = False
    """Whether an earlier process handed it out."""


@dataclass
class Drive:
    """One run of an engine: what is under way, what waits, what was lost how often."""

    jobs: Sequence[Job]
    runtime: Runtime
    folder: Path
    engine: Engine
    listen: Listener
    lost: dict[str, int]
    waiting: deque[list[int]] = field(default_factory=deque)
    flights: dict[str, Flight] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    """Of the states of flights, as they were at the last look."""
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
        if not self.engine.detaches:
            return 0  # they end with their driver
        places = {cell_key(job.cell): place for place, job in enumerate(self.jobs)}
        states = self.engine.poll([*said])
        for handle, (proof, keys) in said.items():
            state = states.get(handle)
            if state is not None and state.kind in ("ended", "lost"):
                self._bury(proof.stem, self.leases.all())
                self._clear(proof)
            elif found := [places[key] for key in keys if key in places]:
                self.flights[handle] = Flight(proof, found, len(found), inherited=True)
        return sum(proof.exists() for proof, _ in said.values())

    def _said(self) -> dict[str, tuple[Path, list[str]]]:
        """What lies in the folder of chunks that were handed out, by handle: the proof, and the keys of the cells."""
        found = {}
        for proof in sorted(self.folder.glob("*.chunk")):
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                said = json.loads(proof.read_text(encoding="utf-8"))
                if said["handle"] and self.engine.detaches:
                    found[str(said["handle"])] = proof, list(said["keys"])
                elif _is_gone(said) or (self.engine.detaches and time.time() - proof.stat().st_mtime > UNSAID):
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
            needs = jobs[0].needs
            side = self.runtime.cells_per_gpu if needs.gpus == 1 else 1
            away, shared = _away(self.runtime, needs), self.engine.shared
            chunk = Chunk(name, jobs, needs, away, dict(versions()), proof, shared, side)
            try:
                handle = self.engine.submit(chunk)
            except BaseException:
                _take_away(proof)
                raise
            if handle is None:
                _take_away(proof)
                return
            self.flights[handle] = Flight(proof, list(places), len(places))
            self.waiting.popleft()
            self._say(proof, handle, jobs)

    def _say(self, proof: Path, handle: str, jobs: Sequence[Job]) -> None:
        keys = [cell_key(job.cell) for job in jobs]
        said = {"handle": handle, "keys": keys, "machine": this_machine(), "process": os.getpid()}
        with writing(proof), Temporary(self.folder) as file:
            self.folder.mkdir(exist_ok=True)  # a driver that ended just now may have found it empty
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

    def _look_at(self, place: int, flight: Flight, held: Mapping[str, About]) -> None:
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

    def _deliver(self, flight: Flight, delivered: Sequence[Delivered]) -> None:
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
                    self._end(place, flight, Event("failed", place, message=f"it left no record: {error}"))
                    continue
            elif one.kind == "refused":
                told = settled(job) or Outcome("failed", f"it was not run: {one.message}")  # another may have run it
                self._end(place, flight, Event(told.kind, place, message=told.message))
                continue
            # That a cell is done is believed of its record alone, unless it had that before.
            if one.files or one.kind != "done" or job.record is not None:
                self._end(place, flight, Event(one.kind, place, message=one.message))

    def _land(self, handle: str, flight: Flight, at_fault: list[int], state: State) -> None:
        """Let go of a chunk that is over, and hand out again what it left undone."""
        del self.flights[handle]
        if not self._clear(flight.proof):
            # Another driver has seen it before and looks after its cells.
            for place in [*flight.places]:
                self._end(place, flight, Event("elsewhere", place))
            return
        reason = state.reason or "it ended without a record"
        # Where it has got on and nobody died at a cell, what is left began nothing.
        unseen = not at_fault and not flight.inherited and len(flight.places) == flight.given
        if at_fault or unseen:
            self._give_up(flight, at_fault or flight.places, reason)
        self.started -= set(flight.places)
        if unseen and not self.engine.shared:
            # Without leases nobody saw which of them it was that cost the machine, so each has the next by itself.
            self.waiting.extend([place] for place in flight.places)
            return
        # Those at which a machine has died wait for no other, and no other for them.
        for places in ([*at_fault], [place for place in flight.places if place not in at_fault]):
            left = [place for place in places if place in flight.places]
            self.waiting.extend([left] if left else [])

    def _give_up(self, flight: Flight, places: Sequence[int], reason: str) -> None:
        """Count a loss of some cells of a chunk; one that was lost too often gets the record of a failure."""
        for place in [*places]:
            key = cell_key(self.jobs[place].cell)
            self.lost[key] = self.lost.get(key, 0) + 1
            if self.lost[key] > RETRIES:
                error = CellError(f"{self.engine.name} lost it {self.lost[key]} times; at last: {reason}")
                message = record_failure(self.jobs[place], self.began, error)
                self._end(place, flight, Event("failed" if message else "done", place, message=message))

    def _start(self, place: int) -> None:
        if place not in self.started:
            self.started.add(place)
            self.listen(Event("start", place))

    def _end(self, place: int, flight: Flight, event: Event) -> None:
        self._start(place)
        self.wait = LOOK
        flight.places.remove(place)
        self.listen(event)

    def give_up(self, error: UsageError) -> None:
        """Tell of everything that is left as failed: nothing more can be handed out, or be heard of."""
        places = [place for flight in self.flights.values() for place in flight.places]
        places += [place for some in self.waiting for place in some]
        self.cancel()
        for place in sorted(places):
            told = settled(self.jobs[place]) or Outcome("failed", f"it was not run to its end: {error}")
            self._start(place)
            self.listen(Event(told.kind, place, message=told.message))

    def cancel(self) -> None:
        """End all chunks, and take what they have left away."""
        if self.flights:
            self.engine.cancel([*self.flights])
        held = self.leases.all()
        for flight in self.flights.values():
            self._bury(flight.proof.stem, held)
            self._clear(flight.proof)
        self.flights.clear()

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


def _away(runtime: Runtime, needs: Needs) -> Runtime:
    """What a cell is run with on another machine.

    Where it asks for no GPU it takes none that happens to be there: its answer must not depend on where it runs.
    """
    device = "cpu" if runtime.device == "auto" and not needs.gpus else runtime.device
    track = runtime.track_dir.absolute() if runtime.track_dir else None
    return replace(runtime, device=device, track_dir=track, report=silent)


def _is_gone(said: dict[str, Any]) -> bool:
    """Whether a chunk's driver was a process of this machine and has ended."""
    return has_ended(said["machine"], said["process"])
