"""Cells side by side in worker processes of one thread each, and each on one GPU where there are any."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing.context import BaseContext
from multiprocessing.managers import SyncManager
from typing import TYPE_CHECKING, Any, Final

from pebble import ProcessExpired, ProcessPool

from iml_bench.errors import CellError, UsageError
from iml_bench.run.executors.base import Event, Groups, Listener, default_workers, distinct, reporter
from iml_bench.run.executors.slots import Places, check_width, places, take_place
from iml_bench.run.job import Job, check_job, first_line, record_failure
from iml_bench.run.sharing import Outcome, run_shared
from iml_bench.runtime import Runtime, silent
from iml_bench.system import follow_parent, make_streams_last, script_left_out

STARTS: Final = 3
"""Times that worker processes are started, where they are killed before they have a cell."""


class ProcessExecutor:
    """Runs cells in worker processes of this machine; models are checked in them too, side by side."""

    def __init__(self, workers: int | None = None) -> None:
        """Args: workers: processes; None: ``default_workers``."""
        self.workers = workers

    def width(self, runtime: Runtime) -> int:
        """The number of processes, of which no more are started than there are jobs.

        Raises:
            UsageError: when the GPUs have no place for so many.
        """
        width = self.workers or default_workers(runtime)
        check_width(width, runtime)
        return width

    def run(self, groups: Groups, runtime: Runtime, listen: Listener) -> None:
        """See ``Executor.run``."""
        jobs = dict(enumerate(job for group in groups for job in group))
        width, checks = self.width(runtime), distinct(groups)

        def heard(event: Event) -> None:
            if event.kind not in ("start", "progress"):
                del jobs[event.job]
            listen(event)

        reason = ""
        for _ in range(STARTS):
            try:
                _run_all(dict(jobs), checks, width, runtime, heard)
            except _LOST as error:
                reason = first_line(error)
                checks = []  # what was checked has been found right, and what was not will fail in its cell
            if not jobs:
                return
        for index in [*jobs]:
            heard(Event("failed", index, message=f"it left no record: its worker processes ended at once: {reason}"))


_LOST: Final = (BrokenProcessPool, EOFError, OSError)
"""What is raised where a process is killed that others cannot do without: the one that holds the events, or a worker
while none has anything to do. What those left undone is handed to new ones."""


def _run_all(jobs: Mapping[int, Job], checks: Sequence[Job], width: int, runtime: Runtime, listen: Listener) -> None:
    """Run some jobs, by their place, in processes that are started for them."""
    there, context = places(runtime), multiprocessing.get_context("spawn")
    with _environment(_ONE_THREAD), script_left_out(), _manager(context) as manager:
        events: Any = manager.Queue()
        given = (events, manager.Places(there) if there else None)
        workers = max(1, min(width, len(jobs)))
        pool = ProcessPool(max_workers=workers, context=context, initializer=_start_worker, initargs=given)
        # Not "with pool": that would let every scheduled cell run to its end before an interrupt is heard.
        try:
            _check_all(pool, checks, runtime)
            _schedule_all(pool, jobs, replace(runtime, report=silent), events, listen)
        except BaseException:
            pool.stop()
            raise
        else:
            pool.close()
        finally:
            pool.join()


class _Manager(SyncManager):
    if TYPE_CHECKING:  # it is registered below
        Places: Callable[[Sequence[str]], Places]


_Manager.register("Places", Places)


def _manager(context: BaseContext) -> _Manager:
    """What holds the events and the places, in a process of its own: a worker that is killed leaves neither locked."""
    manager = _Manager(ctx=context)
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


def _check_all(pool: ProcessPool, jobs: Sequence[Job], runtime: Runtime) -> None:
    checks = [(job, pool.schedule(check_job, args=[job, replace(runtime, report=silent)])) for job in jobs]
    for job, check in checks:
        try:
            check.result()
        except ProcessExpired as error:
            raise UsageError(
                f"model {job.cell.model.name!r} cannot be prepared: the worker process died with exit code "
                f"{error.exitcode} (killed, or out of memory); try --workers 1"
            ) from error


def _schedule_all(pool: ProcessPool, jobs: Mapping[int, Job], runtime: Runtime, events: Any, listen: Listener) -> None:
    started = datetime.now(UTC)
    futures = {pool.schedule(_run_in_worker, args=[index, job, runtime]): index for index, job in jobs.items()}
    for future, index in futures.items():
        future.add_done_callback(lambda _, index=index: _tell(events, Event("ended", index)))
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


def _tell(events: Any, event: Event) -> None:
    """Report, as long as there is somebody to report to: no cell fails for want of a listener."""
    with suppress(OSError, EOFError):
        events.put(event)


_events: Any = None
"""In a worker: where it reports to."""


def _start_worker(events: Any, kept: Any) -> None:
    global _events
    _events = events
    follow_parent()
    if kept is not None:
        take_place(kept)
    sys.stdout = sys.stderr  # which is for what was asked of the parent
    make_streams_last()  # a library's progress bar must not fail a cell because nobody reads it
    import iml_bench.run.cell  # noqa: F401  (slow to import; workers do it side by side)


def _run_in_worker(index: int, job: Job, runtime: Runtime) -> Outcome:
    _tell(_events, Event("start", index))
    return run_shared(job, replace(runtime, report=reporter(index, partial(_tell, _events))))
