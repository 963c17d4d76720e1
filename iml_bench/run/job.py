"""One cell as a job: run it, and turn whatever comes of it into a record."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iml_bench.errors import UsageError
from iml_bench.protocols import streams_of
from iml_bench.records import Attachments, Draft, Failure, Store, Timing, this_provenance
from iml_bench.run.tracking import tracked
from iml_bench.runtime import Runtime, is_first, launched
from iml_bench.spec import SCHEMES, CellSpec, cell_key

if TYPE_CHECKING:
    from iml_bench.run.cell import CellOutcome

THREADS = 1
"""Threads of a cell on a CPU. One always, since the number of threads changes how sums are rounded."""


@dataclass(frozen=True)
class Job:
    """A cell to run, and what its record says beside its outcome."""

    cell: CellSpec
    changes: dict[str, Any]
    smoke: bool
    out: Path


def run_job(job: Job, runtime: Runtime) -> str | None:
    """Run a cell and write its record.

    Returns:
        None when it is done; the first line of the error when it failed. The traceback is in the record.
    """
    import torch

    from iml_bench.run.cell import run_cell

    torch.set_num_threads(THREADS)
    started = datetime.now(UTC)
    try:
        attachments = Attachments(Store(job.out).path_of(job.cell), writes=is_first())
        with tracked(job.cell, runtime) as tracker:
            outcome = run_cell(job.cell, replace(runtime, report=tracker.loss), attachments)
            tracker.scores(outcome.items)
    except Exception as error:
        if is_first():  # several processes that share a batch would write the same file
            record_failure(job, started, error)
        return first_line(error)
    if outcome.is_main:
        Store(job.out).write(_draft(job, started, outcome), outcome.items)
    return None


def check_job(job: Job, runtime: Runtime) -> None:
    """Find bad input before hours of work: draw the data, and look at the model without reading its weights.

    Raises:
        UsageError: when the model, the data or the device cannot be had.
    """
    import torch

    from iml_bench.learners.setup import enable_checkpointing, make_accelerator
    from iml_bench.models import check_model, load_form
    from iml_bench.run.cell import Setting

    torch.set_num_threads(THREADS)
    task, entry = job.cell.task, job.cell.model
    try:
        device = make_accelerator(task.recipe, runtime).device
        setting = Setting(task, job.cell.seed, device, runtime, load_form(entry))
        if not entry.is_reference and entry.parsed.scheme in SCHEMES:  # learners of other packages load their own
            also = enable_checkpointing if runtime.checkpointing else None
            check_model(entry, setting.shape(), optimizer=task.recipe.optimizer, device=device, also=also)
    except UsageError:
        raise
    except Exception:
        return  # not the user's words but the model's code: its own cells will fail with the traceback


def record_failure(job: Job, started: datetime, error: BaseException) -> None:
    """Write the record of a failed cell, with its traceback."""
    failure = Failure(
        kind=type(error).__name__, message=str(error), traceback="".join(traceback.format_exception(error))
    )
    draft = Draft(
        key=cell_key(job.cell),
        cell=job.cell,
        changes=job.changes,
        smoke=job.smoke,
        streams=streams_of(job.cell.task, job.cell.seed).as_dict(),
        provenance=this_provenance("unknown", launched().size, THREADS),
        timing=_timing(started, {}),
        error=failure,
    )
    Store(job.out).write(draft, None)


def first_line(error: BaseException) -> str:
    """``Kind: message``, one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _draft(job: Job, started: datetime, outcome: CellOutcome) -> Draft:
    return Draft(
        key=cell_key(job.cell),
        cell=job.cell,
        changes=job.changes,
        smoke=job.smoke,
        parameters=outcome.parameters,
        chance=outcome.chance,
        data_digest=outcome.data_digest,
        streams=streams_of(job.cell.task, job.cell.seed).as_dict(),
        stages=tuple(outcome.stages),
        curve=tuple(outcome.curve),
        attachments=tuple(outcome.attachments),
        provenance=this_provenance(outcome.device, outcome.processes, THREADS),
        timing=_timing(started, outcome.seconds),
    )


def _timing(started: datetime, seconds: dict[str, float]) -> Timing:
    return Timing(
        started=started.isoformat(timespec="seconds"),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds={part: round(value, 3) for part, value in seconds.items()},
    )
