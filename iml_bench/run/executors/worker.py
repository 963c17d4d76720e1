"""What a machine of an engine does with a chunk: run its cells there, each unless another process has it."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from iml_bench.errors import UsageError, shown
from iml_bench.records import Store
from iml_bench.records.files import reason_of
from iml_bench.records.guard import join, leave
from iml_bench.records.store import files_of
from iml_bench.run.executors.base import Event
from iml_bench.run.executors.engine import Chunk, Delivered
from iml_bench.run.executors.local import LocalExecutor
from iml_bench.run.job import VARIABLES, Job
from iml_bench.spec import cell_key

PATIENCE: Final = 30.0
"""Seconds that a network file system has to show a folder that must be there."""


@cache
def versions() -> Mapping[str, str]:
    """Of what must be the same on every machine of a run."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for package in ("iml-bench", "torch", "numpy", "transformers", "timm", "accelerate"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found | {name: shown(os.environ.get(name, "unset")) for name in VARIABLES}


def work(chunk: Chunk) -> tuple[Delivered, ...]:
    """Run the cells of a chunk on this machine.

    The folder of records is known by the chunk's proof. Where it is not there and need not be, the records are made in
    a folder of this machine and handed over.

    Returns:
        What came of every cell.
    """
    try:
        _check_versions(chunk.versions)
        if _sees(chunk):
            return _run_there(chunk)
    except UsageError as error:
        return tuple(_refused(job, error) for job in chunk.jobs)
    with tempfile.TemporaryDirectory(prefix="iml-bench-") as folder:
        return _run_here(chunk, Path(folder))


def _sees(chunk: Chunk) -> bool:
    """Whether the folder of records is here.

    Raises:
        UsageError: when it is not and must be.
    """
    end = time.monotonic() + (PATIENCE if chunk.shared else 0)
    while not chunk.proof.is_file():
        if time.monotonic() > end:
            if chunk.shared:
                root = shown(str(chunk.jobs[0].out), 300)
                raise UsageError(f"{platform.node()} does not see {root}: it must be the same folder on every machine")
            return False
        time.sleep(0.5)
    return True


def _run_there(chunk: Chunk) -> tuple[Delivered, ...]:
    """Run the cells into the folder of records itself.

    Raises:
        UsageError: when it cannot be written from here.
    """
    root = chunk.jobs[0].out
    try:
        sign = join(root, chunk.name)
    except OSError as error:
        raise UsageError(f"{platform.node()} cannot write {shown(str(root), 300)}: {reason_of(error)}") from error
    try:
        return _run(chunk, [replace(job, sign=sign.text) for job in chunk.jobs])
    finally:
        leave(sign)


def _run_here(chunk: Chunk, folder: Path) -> tuple[Delivered, ...]:
    """Run the cells into a folder of this machine."""
    apart = UsageError(f"{platform.node()} does not see its record, which is done, and into which a probe is to look")
    jobs = [replace(job, out=folder, sign=None) for job in chunk.jobs if job.record is None]
    paths = {cell_key(job.cell): Store(folder).path_of(job.cell) for job in jobs}
    delivered = [_packed(paths[one.key], one) for one in (_run(chunk, jobs) if jobs else ())]
    return (*delivered, *(_refused(job, apart) for job in chunk.jobs if job.record is not None))


def _run(chunk: Chunk, jobs: Sequence[Job]) -> tuple[Delivered, ...]:
    ended: dict[str, Delivered] = {}

    def listen(event: Event) -> None:
        if event.kind in ("done", "failed", "elsewhere"):
            key = cell_key(jobs[event.job].cell)
            ended[key] = Delivered(key, event.kind, event.message)

    jobs = [replace(job, chunk=chunk.name) for job in jobs]
    try:
        LocalExecutor(chunk.side_by_side).run([[job] for job in jobs], chunk.runtime, listen)
    except UsageError as error:
        for job in jobs:
            ended.setdefault(cell_key(job.cell), _refused(job, error))
    return tuple(ended.values())


def _refused(job: Job, error: UsageError) -> Delivered:
    return Delivered(cell_key(job.cell), "refused", str(error))


def _packed(path: Path, delivered: Delivered) -> Delivered:
    """What came of a cell, with its record and what lies beside it."""
    found = Store(path.parent).standing(path)
    if found is None or isinstance(found, str):
        return delivered
    paths = [path, *(path.with_name(name) for name in sorted(files_of(found.record)))]
    return delivered._replace(files=tuple((one.name, one.read_bytes()) for one in paths))


def _check_versions(wanted: Mapping[str, str]) -> None:
    """See that this machine has what the driver has: other versions round otherwise.

    Raises:
        UsageError: when it has not.
    """
    differ = [f"{name} {found}, not {wanted[name]}" for name, found in versions().items() if found != wanted[name]]
    if differ:
        raise UsageError(f"{platform.node()} has {'; '.join(differ)}; give every machine the same environment")
