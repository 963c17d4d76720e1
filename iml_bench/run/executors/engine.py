"""What can carry cells to other machines: five methods, of which a scheduler or a cluster has its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from iml_bench.run.job import Job
from iml_bench.run.walltime import WallTimes
from iml_bench.runtime import Runtime
from iml_bench.spec import Needs

WORTH: Final = 600.0
"""Seconds of work that a chunk holds, where there is enough of it for all: starting one takes many seconds."""
LEAST: Final = 30.0
"""Seconds of work below which no chunk is made only because more of them could be under way."""
UNKNOWN: Final = 60.0
"""Seconds that a cell counts for where nobody knows how long it takes."""
UNTRAINED: Final = 1.0
"""Of a reference learner."""


@dataclass(frozen=True)
class Chunk:
    """Cells of equal needs that one worker runs, one after another or a few side by side."""

    name: str
    """Of this chunk alone."""
    jobs: tuple[Job, ...]
    needs: Needs
    runtime: Runtime
    versions: Mapping[str, str]
    """Of the driver; a worker with others would give other answers."""
    proof: Path
    """A file that lies in the folder of records while the chunk is under way: where it is, it is the same folder."""
    shared: bool
    """Whether the folder must be there; else a worker that does not find it hands its records to the driver."""
    side_by_side: int = 1
    """Cells at a time, on the same GPU where it has one."""


class Delivered(NamedTuple):
    """What came of one cell of a chunk, as its worker says."""

    key: str
    """Of the cell."""
    kind: str
    """See ``sharing.Outcome``; or ``refused``: its worker would not run it, and nothing is known of the cell."""
    message: str | None = None
    files: tuple[tuple[str, bytes], ...] = ()
    """The record and what lies beside it, by name, the record first; only where the driver is to write it."""


class State(NamedTuple):
    """How a chunk is."""

    kind: str
    """``waiting``, ``running``, ``ended``, or ``lost``: it left nothing behind."""
    reason: str = ""
    """Of one that is lost: why, with the machine where that is known."""
    delivered: tuple[Delivered, ...] = ()
    """Of one that has ended: what came of its cells."""


class Engine(Protocol):
    """Carries chunks to wherever they run. Another package adds one under ``iml_bench.executors``.

    An engine says nothing about cells: what is done, records say, and how far it is, leases. It may lose a chunk and
    may run one twice. One that is constructed with ``options`` takes those of its own, as ``--slurm`` has them.
    """

    name: str
    shared: bool
    """Whether its workers must have the folder of records under the same path."""
    detaches: bool
    """Whether its chunks go on without this process."""

    def open(self, folder: Path, needs: Sequence[Needs]) -> None:
        """Get ready.

        Args:
            folder: of this engine, beside the records; it exists, and is removed in the end where it is empty.
            needs: what there will be to run.

        Raises:
            UsageError: when it cannot be reached, or no machine of it can ever hold one of the needs;
                it is closed then.
        """

    def submit(self, chunk: Chunk) -> str | None:
        """Hand a chunk over (``executors.worker.work`` is to be called with it).

        Returns:
            A handle that means this chunk alone; None: no more are taken for now.

        Raises:
            UsageError: when it takes none at all, or is gone; so ``poll``.
        """

    def poll(self, handles: Sequence[str]) -> Mapping[str, State]:
        """How chunks are, also those of an earlier process of the same engine: those that it does not know are lost.

        One that has ended, or was lost, may be asked about once more. Those of which nobody can say anything for now
        are left out.
        """

    def cancel(self, handles: Sequence[str]) -> None:
        """End chunks; what they have recorded stays. It raises nothing."""

    def close(self, detach: bool) -> None:
        """Let go of the engine; with ``detach``, its chunks go on. It raises nothing, and may be opened again."""


def chunked(jobs: Iterable[tuple[int, Job]], times: WallTimes, width: int) -> list[list[int]]:
    """Put jobs of equal needs together, in their order, so that each chunk is worth its start.

    Args:
        jobs: each with its place.
        times: what is known of how long cells take.
        width: chunks that are to be under way at a time; there are as many, where there are cells enough and these
            take long enough.

    Returns:
        Places, chunk by chunk.
    """

    def seconds_of(job: Job) -> float:
        return times.estimate(job.cell).seconds or (UNTRAINED if job.cell.model.is_reference else UNKNOWN)

    timed = [(job.needs, place, seconds_of(job)) for place, job in jobs]
    timed.sort(key=lambda one: one[0].model_dump_json())
    whole = sum(seconds for *_, seconds in timed)
    worth = max(LEAST, min(WORTH, whole / width), whole / (4 * width))
    chunks: list[list[int]] = []
    for _, alike in groupby(timed, key=lambda one: one[0]):
        held = float("inf")
        for _, place, seconds in alike:
            if held + seconds / 2 > worth:
                chunks.append([])
                held = 0.0
            chunks[-1].append(place)
            held += seconds
    return chunks
