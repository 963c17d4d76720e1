"""What every executor is: something that carries out jobs and says how they get on."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from iml_bench.run.executors.slots import places
from iml_bench.run.job import Job
from iml_bench.run.sharing import run_shared
from iml_bench.runtime import Runtime, StageProgress, is_launched
from iml_bench.spec import model_key, task_key


class Event(NamedTuple):
    """What happened to a job: it began, got on, ended well, failed, or is run by another process."""

    kind: str
    """``start``, ``progress``, ``done``, ``failed`` or ``elsewhere``."""
    job: int
    """Its place among the jobs of all groups, in their order."""
    progress: StageProgress | None = None
    message: str | None = None
    """Of a failed job the first line of its error; of one that is elsewhere, where."""


Listener = Callable[[Event], None]
Groups = Sequence[Sequence[Job]]
"""Jobs in groups; those of one group may be packed, or kept together on one machine."""


class Detached(Exception):  # noqa: N818  (nothing is wrong)
    """Cells were handed over and go on without this process, as was asked: how many, and where."""


class Executor(Protocol):
    """Where cells run, and side by side with what. Another package adds one under ``iml_bench.executors``.

    What holds of every executor: each different pair of task and model is checked once before the first cell starts
    (``distinct``, ``check_job``), and a ``UsageError`` of that check ends the run with nothing written; a cell that
    another process runs is left to it and told of as ``elsewhere`` (``carry_out``, ``run_shared``); a cell that fails
    keeps its error in its record and stops no other (``run_job``); a cell whose process died gets the record of a
    failure (``record_failure``). An interrupt stops everything at once.
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
    """Run one job in this process, unless another has it, and tell of its start, its progress and its end."""
    listen(Event("start", index))
    outcome = run_shared(job, replace(runtime, report=reporter(index, listen)))
    listen(Event(outcome.kind, index, message=outcome.message))


def following(places: Sequence[int], listen: Listener) -> Listener:
    """A listener of some of the jobs, which are told of by their place among those."""
    return lambda event: listen(event._replace(job=places[event.job]))


def reporter(index: int, listen: Listener) -> Callable[[StageProgress], None]:
    """What ``Runtime.report`` is for a job whose progress is listened to."""
    return lambda progress: listen(Event("progress", index, progress))
