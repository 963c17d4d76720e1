"""Cells one after another in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from iml_bench.errors import UsageError
from iml_bench.run.executors.base import Groups, Listener, carry_out, distinct
from iml_bench.run.job import check_job
from iml_bench.runtime import Runtime


class InlineExecutor:
    """Runs cells one after another in this process, as a debugger and a GPU like it."""

    def __init__(self, workers: int | None = None) -> None:
        """Args: workers: 1 or None.

        Raises:
            UsageError: when several are asked for.
        """
        if workers not in (None, 1):
            raise UsageError(f"--workers {workers}: executor 'inline' runs one cell at a time; leave it out")

    def width(self, runtime: Runtime) -> int:
        """One cell at a time."""
        return 1

    def run(self, groups: Groups, runtime: Runtime, listen: Listener) -> None:
        """See ``Executor.run``; torch's number of threads is afterwards what it was."""
        with _threads_kept():
            for job in distinct(groups):
                check_job(job, runtime)
            for index, job in enumerate(job for group in groups for job in group):
                carry_out(index, job, runtime, listen)


@contextmanager
def _threads_kept() -> Iterator[None]:
    """A cell sets torch's threads to one; who called from a notebook wants their own number back."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
