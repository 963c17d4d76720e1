"""One cell as a job: run it, and turn whatever comes of it into a record."""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iml_bench.errors import UsageError
from iml_bench.records import CurveReport, StageReport, Store, Timing, this_provenance
from iml_bench.run.tracking import tracked
from iml_bench.runtime import Runtime
from iml_bench.spec import CellSpec, cell_key
from iml_bench.streams import Streams

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
        with tracked(job.cell, runtime) as tracker:
            outcome = run_cell(job.cell, replace(runtime, report=tracker.loss))
            tracker.scores(outcome.items)
    except Exception as error:
        record_failure(job, started, error)
        return first_line(error)
    if outcome.is_main:
        Store(job.out).write(_done_draft(job, started, outcome), outcome.items)
    return None


def check_job(job: Job, runtime: Runtime) -> None:
    """Do everything up to the first training step, so that bad input is found before hours of work.

    Raises:
        UsageError: when the model, the data or the device cannot be had.
    """
    import torch

    from iml_bench.run.cell import prepare

    torch.set_num_threads(THREADS)
    try:
        prepare(job.cell, runtime)
    except UsageError:
        raise
    except Exception:
        return  # not the user's words but the model's code: its own cells will fail with the traceback


def record_failure(job: Job, started: datetime, error: BaseException) -> None:
    """Write the record of a failed cell, with its traceback."""
    failure = {
        "kind": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    draft = _draft(job, started, {}) | {"provenance": this_provenance("unknown", 1, THREADS), "error": failure}
    Store(job.out).write(draft, None)


def first_line(error: BaseException) -> str:
    """``Kind: message``, one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _done_draft(job: Job, started: datetime, outcome: CellOutcome) -> dict[str, Any]:
    return _draft(job, started, outcome.seconds) | {
        "parameters": outcome.parameters,
        "chance": outcome.chance,
        "data_digest": outcome.data_digest,
        "stages": tuple(StageReport(**asdict(stage)) for stage in outcome.stages),
        "curve": tuple(CurveReport(**point._asdict()) for point in outcome.curve),
        "provenance": this_provenance(outcome.device, outcome.processes, THREADS),
    }


def _draft(job: Job, started: datetime, seconds: dict[str, float]) -> dict[str, Any]:
    timing = Timing(
        started=started.isoformat(timespec="seconds"),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds={part: round(value, 3) for part, value in seconds.items()},
    )
    return {
        "key": cell_key(job.cell),
        "cell": job.cell,
        "changes": job.changes,
        "smoke": job.smoke,
        "streams": Streams(job.cell.seed).as_dict(),
        "timing": timing,
    }
