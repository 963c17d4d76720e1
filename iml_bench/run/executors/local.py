"""Cells on this machine: in this process where there is one at a time, else in worker processes."""

from __future__ import annotations

from iml_bench.run.executors.base import Groups, Listener, following
from iml_bench.run.executors.inline import InlineExecutor
from iml_bench.run.executors.processes import ProcessExecutor
from iml_bench.runtime import Runtime


class LocalExecutor:
    """Runs cells on this machine; those that several processes share come last, one at a time, with all of it."""

    def __init__(self, workers: int | None = None) -> None:
        """Args: workers: cells side by side; None: ``default_workers``."""
        self.workers = workers

    def width(self, runtime: Runtime) -> int:
        """As many as was asked for, or as is right here.

        Raises:
            UsageError: when the GPUs have no place for so many.
        """
        return ProcessExecutor(self.workers).width(runtime)

    def run(self, groups: Groups, runtime: Runtime, listen: Listener) -> None:
        """See ``Executor.run``."""
        jobs = [job for group in groups for job in group]
        alone = [place for place, job in enumerate(jobs) if job.needs.processes == 1]
        shared = [place for place, job in enumerate(jobs) if job.needs.processes > 1]
        width = min(self.width(runtime), len(alone))
        for places, executor in (
            (alone, ProcessExecutor(width) if width > 1 else InlineExecutor()),
            (shared, InlineExecutor()),
        ):
            if places:
                executor.run([[jobs[place]] for place in places], runtime, following(places, listen))
