"""The one loop that drives every engine: hand out chunks, look at leases and records, hand out again what was lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from iml_bench.errors import UsageError
from iml_bench.records import WriteError
from iml_bench.records.files import clear_dead, reason_of
from iml_bench.records.names import OWN
from iml_bench.run.executors.base import Detached, Groups, Listener, distinct
from iml_bench.run.executors.engine import Engine
from iml_bench.run.executors.flights import LOOK, SLOWEST, Drive
from iml_bench.run.job import Job, check_job
from iml_bench.runtime import Runtime, silent
from iml_bench.system import SIGHUP, Ended

AT_A_TIME: Final = 64
"""Chunks that an engine is given at a time, where nobody asked for another number."""


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
            drive = Drive(jobs, runtime, folder, self.engine, listen, self.lost)
            try:
                self.engine.open(folder, list(dict.fromkeys(job.needs for job in jobs)))
                detached = self._drive(drive)
            except BaseException as error:
                # A terminal that is lost takes the command along, and what goes on without it is not to be lost.
                leave = self.engine.detaches and isinstance(error, Ended) and error.args == (SIGHUP,)
                if not leave:
                    drive.cancel()
                self.engine.close(detach=leave)
                raise
            self.engine.close(detach=detached)
            if detached:
                raise Detached(f"{len(drive.flights)} jobs of {self.engine.name}")

    def _drive(self, drive: Drive) -> bool:
        """Have everything run; whether it goes on by itself, as was asked for."""
        width = self.width(drive.runtime)
        try:
            drive.adopt()
            drive.plan(width)
            while drive.waiting or drive.flights:
                drive.submit(len(drive.jobs) + len(drive.flights) if self.detach else width)
                if self.detach and not drive.waiting:
                    return True
                drive.look()
                if drive.waiting or drive.flights:
                    time.sleep(drive.pause())
        except UsageError as error:
            if not drive.flights:
                raise
            drive.give_up(error)
        return False

    def tidy(self, root: Path) -> None:
        """Take away what chunks have left beside records that are all done, as those of a driver that was killed.

        Raises:
            UsageError: when the engine cannot be had.
        """
        if not _path(root, self.engine).is_dir():
            return
        with _folder(root, self.engine) as folder:
            self.engine.open(folder, [])
            drive = Drive([], Runtime(), folder, self.engine, silent, {})
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
    return root / f"{OWN}{engine.name}"


@contextmanager
def _folder(root: Path, engine: Engine) -> Iterator[Path]:
    """The engine's own folder beside the records, removed in the end where nothing is left in it."""
    folder = _path(root, engine)
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
