"""``iml_bench.run``: what ``iml-bench run`` calls, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Unpack

from iml_bench.errors import UsageError
from iml_bench.library.options import (
    DEFAULT_OUT,
    DEFAULT_SEEDS,
    RunOptions,
    check_names,
    make_request,
    runtime_of,
    sharded,
    where_of,
)
from iml_bench.library.results import Results
from iml_bench.protocols.base import CURVE
from iml_bench.run.executors.choose import Where
from iml_bench.run.job import Job
from iml_bench.run.plan import Request, plan
from iml_bench.runtime import Runtime

if TYPE_CHECKING:
    from iml_bench.run.display import RunDisplay


class Work(NamedTuple):
    """Cells that were planned, and where and how they are to run."""

    jobs: tuple[Job, ...]
    runtime: Runtime
    out: Path
    where: Where = Where()
    request: Request | None = None
    """What they were planned from, where that is one request."""
    ruleset: str = "shared"
    """``tuned`` where any of them is of a tuned row."""

    def in_processes(self, processes: int) -> Work:
        """The same with every network trained by several processes of one machine, which an engine starts there."""
        if processes == 1:
            return self

        def shared(job: Job) -> Job:
            wanted = job.needs.model_copy(update={"processes": processes})
            return job if job.cell.model.is_reference else replace(job, needs=wanted)

        return self._replace(jobs=tuple(map(shared, self.jobs)))


def run(
    task: str,
    model: str | Sequence[str] | None = None,
    seeds: int | str | Sequence[int] = DEFAULT_SEEDS,
    **options: Unpack[RunOptions],
) -> Results:
    """Put models through both stages of a task and score them: ``iml-bench run`` as a function.

    ``iml_bench.run("vision", model=["mlp-m", "convnet-s"], seeds=3, alpha=0.5).cells`` is a table of the outcomes.
    Running it again runs nothing again: cells whose records are done in the folder ``out`` are read, those that
    failed or were interrupted are run.

    Args:
        task: a task's name, or the path of a task file.
        model: a model's name, source or file, or several; None: the task's own small network.
        seeds: how many (5: seeds 0 to 4), text such as ``"3-7"``, or the seeds themselves.
        options: see ``RunOptions``; they are named as the command line's.

    Returns:
        The records of all cells and of the reference rows, those done before among them. A cell that failed has a
        record that says why (``Results.cells``: ``status`` and ``error``) and stopped no other.

    Raises:
        UsageError: one sentence, when something that is asked for does not exist, is not valid or cannot be had
            here; nothing has been run or written then.
    """
    check_names(options)
    work = planned(task, model, seeds, options)
    return carry_out(work, display_of(work, quiet=not options.get("progress", True)))


def planned(
    task: str, model: str | Sequence[str] | None, seeds: int | str | Sequence[int], options: RunOptions
) -> Work:
    """The cells that ``run`` would run, with everything about them checked that needs no model."""
    request, runtime = make_request(task, model, seeds, options), runtime_of(options)
    where, out = where_of(options), Path(options.get("out", DEFAULT_OUT))
    jobs = sharded(plan([request], out), options.get("shard"))
    if request.probes:
        from iml_bench.run.probing import probes_of

        asked = probes_of(jobs[0].cell.task, request.probes)
        if not runtime.curve and any(moment == CURVE for _, moment in asked):
            raise UsageError("a probe at points of the curve needs some; give --curve N, too")
    return Work(tuple(jobs), runtime, out, where, request, request.ruleset)


def display_of(work: Work, *, quiet: bool = False) -> RunDisplay:
    """What shows how the work goes."""
    from iml_bench.run.display import RunDisplay

    return RunDisplay(work.jobs, quiet=quiet, data=work.runtime.data)


def carry_out(work: Work, display: RunDisplay) -> Results:
    """Run what of some work is not done, and return the records of all of it; failures are in the display.

    Raises:
        UsageError: see ``run``.
    """
    from iml_bench.run.session import Session

    session = Session(work.out, work.runtime, work.where)
    with display:
        results = Results(session.run(work.jobs, None, display, display.begin))
    display.detached = session.detached
    return results
