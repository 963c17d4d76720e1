"""Probes of cells that are done, from the weights that were kept beside their records: nothing is trained again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from iml_bench.errors import UsageError, shown
from iml_bench.probes.base import INITIAL, look, parse_probe
from iml_bench.protocols import protocol_of
from iml_bench.records import Attachment, Attachments, Store, Stored
from iml_bench.run.cell import prepare
from iml_bench.run.job import THREADS
from iml_bench.runtime import Runtime
from iml_bench.spec import TaskSpec


def probes_of(task: TaskSpec, asked: list[str]) -> tuple[tuple[str, str], ...]:
    """``NAME`` or ``NAME@MOMENT`` as pairs of name and moment of a task's schedule.

    Raises:
        UsageError: when there is no such probe, or the schedule has no such moment.
    """
    schedule = protocol_of(task).schedule(task)
    return tuple(dict.fromkeys(parse_probe(text, schedule) for text in asked))


def probe_record(stored: Stored, asked: str, runtime: Runtime) -> Attachment:
    """Run a probe on the weights of a done cell and list its table in the record.

    Args:
        stored: the record; ``--keep`` wrote the weights beside it, unless the moment is ``initial``.
        asked: ``NAME`` or ``NAME@MOMENT``.
        runtime: device and data folders.

    Returns:
        What was filed: a table, or the reason why there is none.

    Raises:
        UsageError: when the probe or the moment does not exist, the weights were not kept or are not the recorded
            ones, or the cell's data or model cannot be had here.
        WriteError: when the record cannot be written.
    """
    import torch

    record = stored.record
    where = shown(str(stored.path), 300)
    if record.status != "done":
        raise UsageError(f"{where} is the record of a failed cell")
    ((name, moment),) = probes_of(record.cell.task, [asked])
    torch.set_num_threads(THREADS)
    weights = None
    if moment != INITIAL and not record.cell.model.is_reference:
        weights = _weights(stored, moment)
    setting, learner, _ = prepare(record.cell, runtime)
    if setting.digest() != record.data_digest:
        raise UsageError(f"{where}: its data are not those that are generated here")
    if weights is not None:
        learner.restore(weights)
    attachments = Attachments(stored.path)
    try:
        look(name, setting, learner, moment, attachments)
        Store(stored.path.parent).attach(stored, attachments)
    finally:
        attachments.clear()
    return attachments.made[-1]


def _weights(stored: Stored, moment: str) -> Any:
    """The weights that were kept at a moment, on the host."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    kept = {one.moment: one for one in stored.record.attachments if one.kind == "weights"}
    where = shown(str(stored.path), 300)
    if moment not in kept:
        told = f"; kept are {', '.join(kept)}" if kept else ""
        raise UsageError(f"{where} has no weights after {moment}{told}; run its cell with --keep in a new folder")
    file = kept[moment].file
    assert file is not None
    path = Path(stored.path.with_name(file))
    try:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != kept[moment].sha256:
            raise UsageError(f"{path.name} is not the file that {where} was made with")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path.name} beside {where} cannot be read: {str(error).splitlines()[0]}") from error
