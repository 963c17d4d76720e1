"""Cells side by side in worker processes of one thread each."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.context import BaseContext
from multiprocessing.managers import SyncManager
from typing import Any

from pebble import ProcessExpired, ProcessPool

from iml_bench.errors import CellError, UsageError
from iml_bench.run.executors.base import Event, Groups, Listener, default_workers, distinct, reporter
from iml_bench.run.job import Job, check_job, record_failure
from iml_bench.run.sharing import Outcome, run_shared
from iml_bench.runtime import Runtime
from iml_bench.system import follow_parent, make_streams_last, script_left_out


class ProcessExecutor:
    """Runs cells in worker processes of this machine; models are checked in them too, side by side."""

    def __init__(self, workers: int | None = None) -> None:
        """Args: workers: processes; None: ``default_workers``."""
        self.workers = workers

    def width(self, runtime: Runtime) -> int:
        """The number of processes, of which no more are started than there are jobs."""
        return self.workers or default_workers(runtime)

    def run(self, groups: Groups, runtime: Runtime, listen: Listener) -> None:
        """See ``Executor.run``."""
        jobs = [job for group in groups for job in group]
        context = multiprocessing.get_context("spawn")
        with _environment(_ONE_THREAD), script_left_out(), _manager(context) as manager:
            events: Any = manager.Queue()
            workers = max(1, min(self.width(runtime), len(jobs)))
            pool = ProcessPool(max_workers=workers, context=context, initializer=_start_worker, initargs=(events,))
            # Not "with pool": that would let every scheduled cell run to its end before an interrupt is heard.
            try:
                _check_all(pool, distinct(groups), runtime)
                _schedule_all(pool, jobs, replace(runtime, report=_unheard), events, listen)
            except BaseException:
                pool.stop()
                raise
            else:
                pool.close()
            finally:
                pool.join()


def _manager(context: BaseContext) -> SyncManager:
    """What holds the queue of events, in a process of its own: a worker that is killed cannot leave it locked."""
    manager = SyncManager(ctx=context)
    manager.start(follow_parent)
    return manager


_ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "false",
}
"""Read when a worker's libraries are loaded: two processes with two threads each on two cores would wait for one
another most of the time."""


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _unheard(progress: Any) -> None:
    """In place of a listener of this process, which need not be one that can be sent to a worker."""


def _check_all(pool: ProcessPool, jobs: Sequence[Job], runtime: Runtime) -> None:
    checks = [(job, pool.schedule(check_job, args=[job, replace(runtime, report=_unheard)])) for job in jobs]
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
            outcome = by_index[event.job].result()
        except ProcessExpired as error:
            died = CellError(f"the worker process died with exit code {error.exitcode} (killed, or out of memory)")
            message = record_failure(jobs[event.job], started, died)
            outcome = Outcome("failed" if message else "done", message)
        listen(Event(outcome.kind, event.job, message=outcome.message))


_events: Any = None
"""In a worker: where it reports to."""


def _start_worker(events: Any) -> None:
    global _events
    _events = events
    follow_parent()
    sys.stdout = sys.stderr  # which is for what was asked of the parent
    make_streams_last()  # a library's progress bar must not fail a cell because nobody reads it
    import iml_bench.run.cell  # noqa: F401  (slow to import; workers do it side by side)


def _run_in_worker(index: int, job: Job, runtime: Runtime) -> Outcome:
    _events.put(Event("start", index))
    return run_shared(job, replace(runtime, report=reporter(index, _events.put)))
