"""What runs where, how far it is and what is left: read from records and leases, so for every engine the same."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from iml_bench.paths import data_root
from iml_bench.records import Store, latest_by_key
from iml_bench.records.leases import Leases
from iml_bench.records.names import OWN
from iml_bench.run.job import Job
from iml_bench.run.session import status_of
from iml_bench.run.walltime import WallTimes, total_seconds
from iml_bench.spec import Spec, cell_key

PROOFS: Final = f"{OWN}*/*.chunk"
"""What an engine keeps beside the records of the cells that were handed over to it (``executors/driver.py``)."""


class RunningCell(Spec):
    """A cell that some process has, as its lease says."""

    cell: str
    host: str
    pid: int
    engine: str
    """What started the process, where it says so."""
    started: str
    """When, by the clock of that machine."""
    stage: str
    done: int
    """Steps of the whole cell so far."""
    total: int
    """Steps of the whole cell; 0 where they are not told."""
    silent: float
    """Seconds since its last sign of life, by the clock of the file system."""
    term: float
    """Seconds of silence after which another process takes the cell."""


class Status(Spec):
    """How a folder of records is."""

    out: str
    cells: int | None
    """That were asked for; null where no suite was named: then the records of the folder are counted."""
    done: int
    failed: int
    """Tried again by the next command."""
    running: tuple[RunningCell, ...]
    waiting: int
    """Cells that were handed over to an engine and that nobody has begun."""
    left: int | None
    """Cells that are asked for, not done and not running; null where no suite was named."""
    seconds: float | None
    """Wall time of what is left and of the rest of what runs, with as many processes as run now (one where none does);
    null where nobody knows."""


def status(out: Path, jobs: Sequence[Job] | None = None) -> Status:
    """Read a folder.

    Args:
        out: the folder of records.
        jobs: what is asked for; None: whatever is there.
    """
    stored, leases = Store(out).scan()[0], Leases(out)
    if jobs is None:
        known = {key: str(one.record.status) for key, one in latest_by_key(stored).items()}
    else:
        known = status_of(jobs, stored)
    wanted = None if jobs is None else {cell_key(job.cell) for job in jobs}
    held = {key: about for key, about in leases.all().items() if wanted is None or key in wanted}
    running = tuple(
        RunningCell(**{name: getattr(about, name) for name in RunningCell.model_fields if name != "silent"}, silent=age)
        for key, about in sorted(held.items(), key=lambda one: one[1].started)
        if (age := _silence(leases.path_of(key))) is not None
    )
    handed = {key for proof in out.glob(PROOFS) for key in _keys(proof) if wanted is None or key in wanted}
    done = {key for key, found in known.items() if found == "done"}
    seconds = left = None
    if jobs is not None:
        to_do = [job.cell for job in jobs if cell_key(job.cell) not in done]
        times = WallTimes(stored, Store(data_root() / "leaderboard" / "results").scan()[0])
        estimates = []
        for cell in to_do:
            estimate, about = times.estimate(cell), held.get(cell_key(cell))
            share = 1 - min(1.0, about.done / about.total) if about and about.total else 1.0
            known_time = None if estimate.seconds is None else estimate.seconds * share
            estimates.append(estimate._replace(seconds=known_time))
        seconds = total_seconds(estimates, max(1, len(held))) if estimates else 0.0
        left = sum(cell_key(cell) not in held for cell in to_do)
    return Status(
        out=str(out),
        cells=None if jobs is None else len(jobs),
        done=len(done),
        failed=sum(found == "failed" for found in known.values()),
        running=running,
        waiting=len(handed - done - {*held}),
        left=left,
        seconds=None if seconds is None else round(seconds, 1),
    )


def _silence(lease: Path) -> float | None:
    """Seconds since a lease was last written; None where it is gone."""
    with suppress(OSError):
        return round(max(0.0, time.time() - lease.stat().st_mtime), 1)
    return None


def _keys(proof: Path) -> list[str]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return [str(key) for key in json.loads(proof.read_text(encoding="utf-8"))["keys"]]
    return []
