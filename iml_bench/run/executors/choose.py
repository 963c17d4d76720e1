"""From what a user names to an executor."""

from __future__ import annotations

from typing import Final, NamedTuple

from iml_bench.errors import UsageError, nearest, shown
from iml_bench.extensions import EXECUTORS
from iml_bench.run.executors.base import Executor, default_workers
from iml_bench.run.executors.slots import check_cells_per_gpu
from iml_bench.runtime import Runtime, is_launched

LOCAL: Final = "local"
HERE: Final = (LOCAL, "inline", "processes")
"""Executors of this machine."""


class Where(NamedTuple):
    """Where cells are to run, as it was asked for."""

    executor: str | None = None
    """One of ``extensions.EXECUTORS``; None: the one that ``slurm`` asks for, else this machine."""
    workers: int | None = None
    """Cells, or for an engine jobs, at a time; None: as many as is right."""
    slurm: str | None = None
    """Options of sbatch, see ``slurm_options.parse_options``."""
    detach: bool = False
    """Hand everything over to the engine and leave it to it."""

    @property
    def name(self) -> str | None:
        """The executor that is meant; None: none was named.

        Raises:
            UsageError: when two are.
        """
        if self.slurm is not None and self.executor not in (None, "slurm"):
            raise UsageError(f"--slurm has options for executor 'slurm', not for {shown(repr(self.executor))}")
        return "slurm" if self.slurm is not None else self.executor


def choose_executor(where: Where, runtime: Runtime, jobs: int) -> Executor:
    """The executor that was asked for; by default this machine.

    Args:
        where: what was asked for.
        runtime: hardware; on an accelerator one worker is right.
        jobs: how many there are to run.

    Raises:
        UsageError: when there is no such executor, or it cannot run so many cells side by side.
    """
    name, workers = where.name, where.workers
    if is_launched() and (workers or 1) > 1:
        raise UsageError("--workers: processes that share every batch run one cell at a time; leave it out")
    if name is None:
        name, workers = LOCAL, max(1, min(workers or default_workers(runtime), jobs))
    if name not in EXECUTORS.origins:
        near = nearest(name, EXECUTORS.origins)
        hint = f": did you mean {near!r}?" if near else ""
        raise UsageError(f"unknown executor {shown(repr(name))}{hint} (there are {', '.join(EXECUTORS.origins)})")
    kind = EXECUTORS.get(name)
    if hasattr(kind, "submit"):
        from iml_bench.run.executors.driver import Driver

        if is_launched():
            raise UsageError(
                f"--executor {name}: it starts the processes that share a batch itself; give --processes N"
            )
        engine = kind(options=where.slurm) if where.slurm is not None else kind()
        return Driver(engine, workers, detach=where.detach)
    check_cells_per_gpu(runtime)
    if where.detach:
        raise UsageError(f"--detach: executor {name!r} cannot go on without this process; leave it out")
    chosen: Executor = kind(workers=workers)
    if is_launched() and chosen.width(runtime) > 1:
        raise UsageError(f"--executor {name}: processes that share every batch run one cell at a time; leave it out")
    return chosen
