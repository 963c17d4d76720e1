"""Probes of cells that are done: from the weights that were kept beside their records, or after training them again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iml_bench.errors import UsageError, shown
from iml_bench.probes.base import asked_of, look, parse_probe
from iml_bench.protocols import protocol_of
from iml_bench.protocols.base import CURVE, INITIAL
from iml_bench.records import Attachment, Attachments, Record, Store, Stored
from iml_bench.run.cell import prepare, train_until
from iml_bench.runtime import THREADS, Runtime
from iml_bench.spec import TaskSpec


def probes_of(task: TaskSpec, asked: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """``NAME[?OPTION=VALUE&...][@MOMENT]`` as pairs of a probe with its options and a moment of a task's schedule.

    Raises:
        UsageError: when there is no such probe or option, or the schedule has no such moment.
    """
    schedule = protocol_of(task).schedule(task)
    return tuple(dict.fromkeys(parse_probe(text, schedule) for text in asked))


def lacking_probes(record: Record, asked: Sequence[str]) -> list[tuple[str, str]]:
    """Those of some probes that have not looked into a cell yet, as ``probes_of`` gives them."""
    tables = [one for one in record.attachments if one.kind == "probe"]
    made = {(one.name, tuple(one.options.items()), CURVE if "+" in one.moment else one.moment) for one in tables}
    found = []
    for what, moment in probes_of(record.cell.task, asked):
        name, options, *_ = asked_of(what)
        found += [(what, moment)] if (name, tuple(options.items()), moment) not in made else []
    return found


def probe_record(stored: Stored, asked: str, runtime: Runtime, *, train: bool = False) -> Attachment:
    """Run a probe on a done cell and list its table in the record.

    Args:
        stored: the record.
        asked: ``NAME[?OPTION=VALUE&...][@MOMENT]``.
        runtime: device and data folders.
        train: where the weights of the moment were not kept, train the cell anew up to there. On the machine that
            made the record these are the same weights; on another they differ by rounding.

    Returns:
        What was filed: a table, or the reason why there is none.

    Raises:
        UsageError: when the probe or the moment does not exist, the weights were not kept or are not the recorded
            ones, or the cell's data or model cannot be had here.
        CellError: when training cannot go on.
        WriteError: when the record cannot be written.
    """
    import torch

    record = stored.record
    where = shown(str(stored.path), 300)
    if record.status != "done":
        raise UsageError(f"{where} is the record of a failed cell")
    ((what, moment),) = probes_of(record.cell.task, [asked])
    if moment == CURVE:
        raise UsageError(f"{where}: at points of the curve a probe looks while a cell is trained; give another --out")
    torch.set_num_threads(THREADS)
    trained = moment != INITIAL and not record.cell.model.is_reference
    anew = train and not any(one.moment == moment and one.file for one in record.attachments if one.kind == "weights")
    weights = _weights(stored, moment) if trained and not anew else None
    setting, learner, _ = prepare(record.cell, runtime)
    if setting.digest() != record.data_digest:
        raise UsageError(f"{where}: its data are not those that are generated here")
    if weights is not None:
        learner.restore(weights)
    elif trained:
        train_until(setting, learner, moment)
    attachments = Attachments(stored.path)
    try:
        look(what, setting, learner, moment, attachments)
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
        raise UsageError(f"{where} has no weights after {moment}{told}; give --train to train its cell again")
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
