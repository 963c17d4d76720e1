"""Engines that the tests start, an engine whose chunks fare as they are told, and how records are compared."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from making import CPU, small_task
from outside.pool import PoolEngine

from iml_bench.errors import UsageError
from iml_bench.records import Store, Stored
from iml_bench.records.leases import FOLDER, Lease, Leases
from iml_bench.run.executors.base import Event
from iml_bench.run.executors.driver import Driver
from iml_bench.run.executors.engine import Chunk, Delivered, Engine, State
from iml_bench.run.executors.worker import work
from iml_bench.run.job import Job
from iml_bench.run.session import Session
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, Needs, cell_key

VARIABLE = "IML_BENCH_TEST_ENGINES"
"""Of the environment: names among ``CLUSTERS``, whose clusters are there for the tests to use."""
PAIR = {
    **{"name": "pair", "source": "ref:mlp?depth=2&hidden=8", "modality": "vision", "family": "mlp"},
    **{"architecture": "perceptron", "needs": {"processes": 2}},
}
"""The entry of a model whose cells two processes share."""
Fate = str | None
"""Of a chunk that is handed over: ``work``; ``lose`` it before it begins; ``die`` in its first cell; ``haunt``, which
leaves the lease of another machine there; ``wait`` for ever; ``break`` the whole engine; None: it is not taken."""


class ScriptedEngine:
    """Chunks in a thread of this process, one at a time; each fares as it is told, and works where nothing is."""

    name = "scripted"

    def __init__(self, *fates: Fate, shared: bool = True, detaches: bool = False) -> None:
        self.fates, self.shared, self.detaches = deque(fates), shared, detaches
        self.pool = ThreadPoolExecutor(1)
        self.chunks: dict[str, tuple[Fate, Chunk]] = {}
        self.tasks: dict[str, Future[tuple[Delivered, ...]]] = {}
        self.leases: dict[str, Lease] = {}
        self.said: list[str] = []
        """What the driver asked for, and of what was handed over how many cells there were."""
        self.change: Callable[[Chunk], Chunk] = lambda chunk: chunk
        """What becomes of a chunk on its way."""

    def open(self, folder: Path, needs: Sequence[Needs]) -> None:
        assert folder.is_dir()
        self.said.append("open")
        for need in needs:
            if need.cores > 8:
                raise UsageError(f"none of 8 cores can ever hold a cell that takes {need}")

    def submit(self, chunk: Chunk) -> str | None:
        fate = self.fates.popleft() if self.fates else "work"
        self.said.append(f"{fate} {len(chunk.jobs)}")
        if fate is None:
            return None
        self.chunks[chunk.name] = fate, chunk
        if fate == "die":
            lease = Leases(chunk.jobs[0].out).take(cell_key(chunk.jobs[0].cell), "a killing cell", chunk.name)
            assert lease is not None
            self.leases[chunk.name] = lease.__enter__()
        if fate == "work":
            self.work(chunk)
        return chunk.name

    def work(self, chunk: Chunk) -> None:
        """Have a chunk worked at."""
        self.chunks[chunk.name] = "work", chunk
        self.tasks[chunk.name] = self.pool.submit(work, self.change(chunk))

    def poll(self, handles: Sequence[str]) -> Mapping[str, State]:
        return {handle: self._state(handle) for handle in handles}

    def _state(self, handle: str) -> State:
        fate, chunk = self.chunks.get(handle, ("lose", None))
        if handle in self.leases:
            if "seen" not in self.said:
                self.said.append("seen")
                return State("running")
            self.said.remove("seen")
            self.leases.pop(handle)._over.set()  # the machine is gone, and its lease stays
        if fate == "break":
            raise UsageError("the cluster is gone")
        if fate == "haunt" and chunk is not None:
            path = chunk.jobs[0].out / FOLDER / f"{cell_key(chunk.jobs[0].cell)}.lease"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"cell": "a cell", "host": "n7", "pid": 7, "machine": "n7", "term": 0.3}))
        if fate in ("lose", "die", "haunt"):
            return State("lost", "the power failed on node n7")
        if fate == "wait":
            return State("waiting")
        if not self.tasks[handle].done():
            return State("running")
        return State("ended", "", self.tasks.pop(handle).result())

    def cancel(self, handles: Sequence[str]) -> None:
        self.said.append(f"cancel {len(handles)}")
        for handle in handles:
            if handle in self.tasks:
                self.tasks.pop(handle).result()
            self.chunks.pop(handle, None)

    def close(self, detach: bool) -> None:
        self.said.append("close and go on" if detach else "close")


def _ray() -> Engine:
    from iml_bench.run.executors.ray import RayEngine

    return RayEngine()


def _slurm() -> Engine:
    from iml_bench.run.executors.slurm import SlurmEngine

    return SlurmEngine()


HERE: dict[str, Callable[[], Engine]] = {"scripted": ScriptedEngine, "pool": PoolEngine}
"""Engines that need nothing but this machine."""
CLUSTERS: dict[str, Callable[[], Engine]] = {"ray": _ray, "slurm": _slurm}
"""Engines of clusters that somebody has to start before; see ``VARIABLE``."""


def engines() -> dict[str, Callable[[], Engine]]:
    """What the contract is held against in this process."""
    asked = [name for name in os.environ.get(VARIABLE, "").split(",") if name]
    return {name: CLUSTERS[name] for name in asked} or HERE


def job(out: Path, model: str = "oracle", seed: int = 0, **needs: Any) -> Job:
    """A cell at smoke size."""
    cell = CellSpec(task=small_task(), model=find_model(model), seed=seed)
    return Job(cell, {}, True, out, needs=Needs(**needs))


class Ran:
    """A session of an engine over: what was told, and what is there."""

    def __init__(self, engine: Engine, jobs: list[Job], workers: int = 1, **how: Any) -> None:
        """Args: engine, jobs: what runs them, and what; workers: chunks at a time; how: ``detach``, ``runtime``."""
        self.told: list[Event] = []
        self.driver = Driver(engine, workers, detach=how.get("detach", False))
        out = jobs[0].out
        session = Session(out, how.get("runtime", CPU))
        self.stored = session.run(jobs, self.driver, self.told.append)
        self.detached = session.detached
        self.left = sorted(path.name for path in out.glob(".*"))

    def kinds(self, place: int) -> list[str]:
        return [event.kind for event in self.told if event.job == place]

    @property
    def ends(self) -> list[str]:
        """How each job ended, as it was told last."""
        last = {event.job: event.kind for event in self.told}
        return [last[place] for place in sorted(last)]

    @property
    def messages(self) -> list[str]:
        return [event.message for event in self.told if event.message]

    @property
    def statuses(self) -> list[str]:
        return [one.record.status for one in self.stored]


def outcomes(out: Path) -> dict[str, tuple[Any, bytes]]:
    """Every record by its place, without its times and what made it, and the bytes of its items."""
    found = {}
    for path in sorted(out.rglob("*.json")):
        record = json.loads(path.read_text())
        rest = {name: value for name, value in record.items() if name not in ("timing", "provenance", "seal")}
        items = path.with_name(record["items"]["file"]).read_bytes() if record.get("items") else b""
        if record.get("error"):
            rest["error"] = {name: record["error"][name] for name in ("kind", "message")}
        found[str(path.relative_to(out))] = rest, items
    return found


def handed_over(made: Stored) -> tuple[tuple[str, bytes], ...]:
    """A record with its items, as a worker without the folder hands it over."""
    assert made.record.items is not None
    items = made.path.with_name(made.record.items.file)
    return (made.path.name, made.path.read_bytes()), (items.name, items.read_bytes())


def the_record(out: Path) -> Stored:
    (found,) = Store(out).scan()[0]
    return found
