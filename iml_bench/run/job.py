"""One cell as a job: run it, and turn whatever comes of it into a record."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iml_bench.errors import UsageError, shown
from iml_bench.protocols import streams_of
from iml_bench.records import (
    CHECKPOINTING,
    Draft,
    Failure,
    Store,
    Stored,
    Timing,
    WriteError,
    read_record,
    this_provenance,
)
from iml_bench.run.tracking import tracked
from iml_bench.runtime import THREADS, Runtime, is_first, launched
from iml_bench.sources import digest_files
from iml_bench.spec import CellSpec, Needs, cell_key

if TYPE_CHECKING:
    from iml_bench.records import Provenance
    from iml_bench.run.cell import CellOutcome

VARIABLES = (
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
    *("OPENBLAS_CORETYPE", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG"),
)
"""Of the environment: with another value libraries round otherwise."""


@dataclass(frozen=True)
class Job:
    """A cell to run, and what its record says beside its outcome."""

    cell: CellSpec
    changes: dict[str, Any]
    smoke: bool
    out: Path
    sign: str | None = None
    """What the session left in the folder ``out``, by which it is known again; None: it may be any folder."""
    probes: tuple[str, ...] = ()
    """What looks into this cell, as ``--probe`` takes it, beside what ``Runtime.probes`` has look into all."""
    record: Path | None = None
    """Of a cell that is done, and whose probes are all that is missing."""
    failed: str | None = None
    """When the cell failed before, as its record says: it is tried again. A later failure is another process's."""
    needs: Needs = field(default_factory=Needs)
    """What it takes of a machine."""
    chunk: str = ""
    """The name of the engine's chunk that it is of; its lease says it."""

    @property
    def store(self) -> Store:
        """The folder of records."""
        return Store(self.out, self.sign)


def run_job(job: Job, runtime: Runtime) -> str | None:
    """Run a cell and write its record. Whatever goes wrong, in the cell or with its files, raises nothing.

    Returns:
        None when it is done; the first line of the error when it failed. The traceback is in the record. Where not even
        that could be written, or tables and weights beside the record could not, that is said.
    """
    import torch

    from iml_bench.run.cell import run_cell

    torch.set_num_threads(THREADS)
    if job.record is not None:
        return _look_again(job, runtime)
    if job.probes:
        from iml_bench.run.probing import probes_of

        own = probes_of(job.cell.task, job.probes)
        runtime = replace(runtime, probes=tuple(dict.fromkeys((*runtime.probes, *own))))
    started = datetime.now(UTC)
    attachments = job.store.attachments(job.cell, writes=is_first())
    try:
        job.store.check()
        check_unchanged(job.cell, runtime)
        with tracked(job.cell, runtime) as tracker:
            outcome = run_cell(job.cell, replace(runtime, report=tracker.loss), attachments)
            tracker.scores(outcome.items)
        if outcome.is_main:
            made = this_provenance(outcome.device, outcome.processes, THREADS, _arithmetic(runtime))
            job.store.write(_draft(job, started, outcome, made), outcome.items, attachments.waiting)
    except WriteError as error:
        return f"it left no record: {error}"
    except Exception as error:
        # Of several processes that share a batch the others would write the same file.
        return record_failure(job, started, error) if is_first() else first_line(error)
    finally:
        attachments.clear()
    return f"it is done, but {'; '.join(attachments.lost)}" if attachments.lost else None


def _look_again(job: Job, runtime: Runtime) -> str | None:
    """Look into a cell that is done, with the probes that its record lacks; why that failed, None where it did not."""
    from iml_bench.run.probing import lacking_probes, probe_record

    try:
        assert job.record is not None
        stored = Stored(job.record, read_record(job.record))
        for what, moment in lacking_probes(stored.record, job.probes):
            probe_record(stored, f"{what}@{moment}", runtime, train=True)
    except Exception as error:
        return f"its record is done, but it cannot be probed: {first_line(error)}"
    return None


def check_unchanged(cell: CellSpec, runtime: Runtime) -> None:
    """See that the local files of a cell are still those that it was planned with, which are part of its key.

    Raises:
        UsageError: when they are not.
    """
    entry, world = cell.model, cell.task.world
    if entry.digest is not None:
        try:
            found = digest_files(entry)
        except OSError as error:
            raise UsageError(f"the files of model {entry.name!r} cannot be read: {error.strerror}") from error
        if found != entry.digest:
            raise UsageError(
                f"the files of model {entry.name!r} have changed since the run was planned; give the command again"
            )
    if world.reads_file and runtime.data is not None:
        try:
            world.identified(cell.task.name, runtime.data)
        except OSError as error:
            raise UsageError(f"{shown(str(runtime.data), 300)} cannot be read: {error.strerror}") from error
        except UsageError as error:
            raise UsageError(
                f"{shown(str(runtime.data), 300)} has changed since the run was planned; give the command again"
            ) from error


def check_job(job: Job, runtime: Runtime) -> None:
    """Find bad input before hours of work, see ``rehearse``.

    Raises:
        UsageError: when the model, the data or the device cannot be had, or a step of training fails.
    """
    import torch

    from iml_bench.run.rehearsal import rehearse

    torch.set_num_threads(THREADS)
    try:
        rehearse(job.cell, runtime)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"model {job.cell.model.name!r} cannot be prepared for task {job.cell.task.name!r}: {first_line(error)}"
        ) from error


def record_failure(job: Job, started: datetime, error: BaseException) -> str | None:
    """Write the record of a failed cell, with its traceback; raises nothing.

    Returns:
        The first line of the error, and why it could not be recorded where it could not; None where a record of the
        cell stands that is done: another process has made it.
    """
    try:
        path = job.store.write(_failed(job, started, error), None)
        return None if read_record(path).status == "done" else first_line(error)
    except Exception as problem:
        return f"{first_line(error)}; it left no record: {first_line(problem)}"


def _failed(job: Job, started: datetime, error: BaseException) -> Draft:
    failure = Failure(
        kind=type(error).__name__, message=str(error), traceback="".join(traceback.format_exception(error))
    )
    return Draft(
        key=cell_key(job.cell),
        cell=job.cell,
        changes=job.changes,
        smoke=job.smoke,
        streams=streams_of(job.cell.task, job.cell.seed).as_dict(),
        provenance=this_provenance("unknown", launched().size, THREADS),
        timing=_timing(started, {}),
        error=failure,
    )


def first_line(error: BaseException) -> str:
    """``Kind: message``, one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _arithmetic(runtime: Runtime) -> dict[str, str]:
    """See ``Provenance.arithmetic``."""
    import torch

    found = {name: shown(os.environ[name]) for name in VARIABLES if name in os.environ}
    if runtime.checkpointing:
        found[CHECKPOINTING] = "on"
    return found | {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "matrix products": torch.get_float32_matmul_precision(),
    }


def _draft(job: Job, started: datetime, outcome: CellOutcome, made: Provenance) -> Draft:
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
        audit=outcome.audit,
        provenance=made,
        timing=_timing(started, outcome.seconds),
    )


def _timing(started: datetime, seconds: dict[str, float]) -> Timing:
    return Timing(
        started=started.isoformat(timespec="seconds"),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds={part: round(value, 3) for part, value in seconds.items()},
    )
