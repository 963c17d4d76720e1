"""What every executor is: something that carries out jobs and says how they get on."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from iml_bench.errors import UsageError, nearest, shown
from iml_bench.extensions import EXECUTORS
from iml_bench.run.executors.slots import places
from iml_bench.run.job import Job, run_job
from iml_bench.runtime import Runtime, StageProgress, is_launched
from iml_bench.spec import model_key, task_key


class Event(NamedTuple):
    """What happened to a job: it began, got on, ended well or failed."""

    kind: str
    """``start``, ``progress``, ``done`` or ``failed``."""
    job: int
    """Its place among the jobs of all groups, in their order."""
    progress: StageProgress | None = None
    message: str | None = None
    """Of a failed job: the first line of its error."""


Listener = Callable[[Event], None]
Groups = Sequence[Sequence[Job]]
"""Jobs in groups; those of one group may be packed, or kept together on one machine."""


class Executor(Protocol):
    """Where cells run, and side by side with what. Another package adds one under ``iml_bench.executors``.

    What holds of every executor: each different pair of task and model is checked once before the first cell starts
    (``distinct``, ``check_job``), and a ``UsageError`` of that check ends the run with nothing written; a cell that
    fails keeps its error in its record and stops no other (``run_job``); a cell whose process died gets the record
    of a failure (``record_failure``). An interrupt stops everything at once.
    """

    def __init__(self, workers: int | None = None) -> None:
        """Args: workers: cells side by side, as the user asked; None: as many as is right here.

        Raises:
            UsageError: when it cannot run so many.
        """

    def width(self, runtime: Runtime) -> int:
        """Cells side by side, with this hardware."""

    def run(self, groups: Groups, runtime: Runtime, listen: Listener) -> None:
        """Run every job and write its record.

        Args:
            groups: what to run.
            runtime: hardware and folders.
            listen: is told of every event, in this process.

        Raises:
            UsageError: when a model, the data or the device cannot be had; nothing has been run then.
        """


def choose_executor(name: str | None, workers: int | None, runtime: Runtime, jobs: int) -> Executor:
    """The executor that was asked for; by default this process for one worker or one job, else worker processes.

    Args:
        name: one of ``extensions.EXECUTORS``; None: the default.
        workers: cells side by side; None: as many as is right here.
        runtime: hardware; on GPUs there are as many workers as places.
        jobs: how many there are to run.

    Raises:
        UsageError: when there is no such executor, or it cannot run so many cells side by side.
    """
    if is_launched() and (workers or 1) > 1:
        raise UsageError("--workers: processes that share every batch run one cell at a time; leave it out")
    if name is None:
        wanted = min(workers or default_workers(runtime), jobs)
        name, workers = ("processes", wanted) if wanted > 1 else ("inline", None)
    if name not in EXECUTORS.origins:
        near = nearest(name, EXECUTORS.origins)
        hint = f": did you mean {near!r}?" if near else ""
        raise UsageError(f"unknown executor {shown(repr(name))}{hint} (there are {', '.join(EXECUTORS.origins)})")
    chosen: Executor = EXECUTORS.get(name)(workers=workers)
    if is_launched() and chosen.width(runtime) > 1:
        raise UsageError(f"--executor {name}: processes that share every batch run one cell at a time; leave it out")
    return chosen


def default_workers(runtime: Runtime) -> int:
    """A process for each place on GPUs, one where Accelerate launched several or on Apple's GPU, else one per core."""
    if is_launched():
        return 1
    if there := places(runtime):
        return len(there)
    if runtime.device in ("cuda", "mps") or (runtime.device == "auto" and platform.system() == "Darwin"):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def distinct(groups: Groups) -> list[Job]:
    """One job for every different pair of task and model: what is checked before the first cell."""
    jobs = [job for group in groups for job in group]
    return list({(task_key(job.cell), model_key(job.cell)): job for job in reversed(jobs)}.values())


def carry_out(index: int, job: Job, runtime: Runtime, listen: Listener) -> None:
    """Run one job in this process, write its record, and tell of its start, its progress and its end."""
    listen(Event("start", index))
    message = run_job(job, replace(runtime, report=reporter(index, listen)))
    listen(Event("failed" if message else "done", index, message=message))


def reporter(index: int, listen: Listener) -> Callable[[StageProgress], None]:
    """What ``Runtime.report`` is for a job whose progress is listened to."""
    return lambda progress: listen(Event("progress", index, progress))
