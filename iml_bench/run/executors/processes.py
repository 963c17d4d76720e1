"""Run jobs, one after another in this process or side by side in worker processes of one thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from pebble import ProcessExpired, ProcessPool

from iml_bench.errors import CellError, UsageError
from iml_bench.run.job import Job, check_job, first_line, record_failure, run_job
from iml_bench.runtime import Progress, Runtime
from iml_bench.spec import model_key, task_key


class Event(NamedTuple):
    """What happened to a job: it began, got on, ended well or failed."""

    kind: str
    """``start``, ``progress``, ``done`` or ``failed``."""
    job: int
    """Index of the job."""
    progress: Progress | None = None
    message: str | None = None


Listener = Callable[[Event], None]


def default_workers(runtime: Runtime) -> int:
    """One process where there is an accelerator or Accelerate launched several, else one per core."""
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = runtime.device in ("cuda", "mps") or (
        runtime.device == "auto" and (Path("/dev/nvidia0").exists() or os.uname().sysname == "Darwin")
    )
    if launched or accelerator:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(jobs: Sequence[Job], runtime: Runtime, workers: int, listen: Listener) -> None:
    """Run all jobs; one that fails keeps its error in its record and stops no other.

    Before the first of them starts, every different pair of task and model is prepared once.

    Args:
        jobs: what to run.
        runtime: hardware and folders.
        workers: processes; 1 runs the jobs in this one.
        listen: is told of every event, in this process.

    Raises:
        UsageError: when a model, the data or the device cannot be had; nothing has been run then.
    """
    if workers > 1 and len(jobs) > 1:
        _in_workers(jobs, runtime, min(workers, len(jobs)), listen)
        return
    for job in _distinct(jobs):
        check_job(job, runtime)
    for index, job in enumerate(jobs):
        listen(Event("start", index))
        reporting = replace(runtime, report=_reporter(index, listen))
        message = run_job(job, reporting)
        listen(Event("failed" if message else "done", index, message=message))


def _reporter(index: int, send: Callable[[Event], None]) -> Callable[[Progress], None]:
    return lambda progress: send(Event("progress", index, progress))


def _distinct(jobs: Sequence[Job]) -> list[Job]:
    """One job for every different pair of task and model."""
    return list({(task_key(job.cell), model_key(job.cell)): job for job in reversed(jobs)}.values())


def _in_workers(jobs: Sequence[Job], runtime: Runtime, workers: int, listen: Listener) -> None:
    context = multiprocessing.get_context("spawn")
    # Read when a worker's libraries are loaded: two processes with two threads each on two cores
    # would wait for one another most of the time.
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    os.environ.update(environment | {"TOKENIZERS_PARALLELISM": "false"})
    with context.Manager() as manager:
        events: Any = manager.Queue()
        pool = ProcessPool(max_workers=workers, context=context, initializer=_start_worker, initargs=(events,))
        # Not "with pool": that would let every scheduled cell run to its end before an interrupt is heard.
        try:
            _check_all(pool, _distinct(jobs), runtime)
            _schedule_all(pool, jobs, runtime, events, listen)
        except BaseException:
            pool.stop()
            raise
        else:
            pool.close()
        finally:
            pool.join()


def _check_all(pool: ProcessPool, jobs: Sequence[Job], runtime: Runtime) -> None:
    checks = [(job, pool.schedule(check_job, args=[job, runtime])) for job in jobs]
    for job, check in checks:
        try:
            check.result()
        except ProcessExpired as error:
            raise UsageError(
                f"model {job.cell.model.name!r} cannot be prepared: the worker process died with exit code "
                f"{error.exitcode} (killed, or out of memory); try --workers 1"
            ) from error


def _schedule_all(pool: ProcessPool, jobs: Sequence[Job], runtime: Runtime, events: Any, listen: Listener) -> None:
    started = datetime.now(UTC)
    futures = {pool.schedule(_run_in_worker, args=[index, job, runtime]): index for index, job in enumerate(jobs)}
    for future, index in futures.items():
        future.add_done_callback(lambda _, index=index: events.put(Event("ended", index)))
    by_index = {index: future for future, index in futures.items()}
    for _ in jobs:
        while (event := events.get()).kind != "ended":
            listen(event)
        try:
            message = by_index[event.job].result()
        except ProcessExpired as error:
            died = CellError(f"the worker process died with exit code {error.exitcode} (killed, or out of memory)")
            record_failure(jobs[event.job], started, died)
            message = first_line(died)
        listen(Event("failed" if message else "done", event.job, message=message))


_events: Any = None
"""In a worker: where it reports to."""


def _start_worker(events: Any) -> None:
    global _events
    _events = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers itself
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()
    import iml_bench.run.cell  # noqa: F401  (slow to import; workers do it side by side)


def _run_in_worker(index: int, job: Job, runtime: Runtime) -> str | None:
    _events.put(Event("start", index))
    return run_job(job, replace(runtime, report=_reporter(index, _events.put)))
