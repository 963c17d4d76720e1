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

from iml_bench.errors import UsageError
from iml_bench.records import Store
from iml_bench.records.guard import join, leave
from iml_bench.records.leases import CHUNK
from iml_bench.records.store import files_of
from iml_bench.run.executors.base import Event
from iml_bench.run.executors.engine import Chunk, Delivered
from iml_bench.run.executors.local import LocalExecutor
from iml_bench.run.job import Job
from iml_bench.spec import cell_key

SHOWN: Final = 20.0
"""Seconds after which a network file system shows what was written elsewhere."""


@cache
def versions() -> Mapping[str, str]:
    """Of what must be the same on every machine of a run."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for package in ("iml-bench", "torch", "numpy", "transformers", "timm", "accelerate"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def work(chunk: Chunk) -> tuple[Delivered, ...]:
    """Run the cells of a chunk on this machine.

    The folder of records is known by the chunk's proof. Where it is not there and need not be, the records are made in
    a folder of this machine and handed over.

    Returns:
        What came of every cell.
    """
    try:
        _check_versions(chunk.versions)
        root = chunk.jobs[0].out
        if _sees(chunk):
            sign = join(root, chunk.name)
            try:
                return _run(chunk, [replace(job, sign=sign.text) for job in chunk.jobs])
            finally:
                leave(sign)
        if chunk.shared:
            raise UsageError(f"{platform.node()} does not see {root}: it must be the same folder on every machine")
        with tempfile.TemporaryDirectory(prefix="iml-bench-") as folder:
            jobs = [replace(job, out=Path(folder), sign=None) for job in chunk.jobs]
            delivered = _run(chunk, jobs)
            return tuple(map(_packed, [Store(Path(folder))] * len(delivered), delivered))
    except UsageError as error:
        return tuple(Delivered(cell_key(job.cell), "failed", str(error)) for job in chunk.jobs)


def _sees(chunk: Chunk) -> bool:
    """Whether the folder of records is here; a network file system may show late what was written elsewhere."""
    deadline = time.monotonic() + (SHOWN if chunk.shared else 0)
    while not (seen := chunk.proof.is_file()) and time.monotonic() < deadline:
        time.sleep(1)
    return seen


def _run(chunk: Chunk, jobs: Sequence[Job]) -> tuple[Delivered, ...]:
    ended: list[Delivered] = []

    def listen(event: Event) -> None:
        if event.kind in ("done", "failed", "elsewhere"):
            ended.append(Delivered(cell_key(jobs[event.job].cell), event.kind, event.message))

    os.environ[CHUNK] = chunk.name  # this process is for the chunk alone
    LocalExecutor(chunk.side_by_side).run([[job] for job in jobs], chunk.runtime, listen)
    return tuple(ended)


def _packed(store: Store, delivered: Delivered) -> Delivered:
    """What came of a cell, with its record and what lies beside it."""
    for stored in store.scan()[0]:
        if stored.record.cell_key == delivered.key:
            paths = [stored.path, *(stored.path.with_name(name) for name in sorted(files_of(stored.record)))]
            return delivered._replace(files=tuple((path.name, path.read_bytes()) for path in paths))
    return delivered


def _check_versions(wanted: Mapping[str, str]) -> None:
    """See that this machine has what the driver has: other versions round otherwise.

    Raises:
        UsageError: when it has not.
    """
    differ = [f"{name} {found}, not {wanted[name]}" for name, found in versions().items() if found != wanted.get(name)]
    if differ:
        raise UsageError(f"{platform.node()} has {'; '.join(differ)}; give every machine the same environment")
