"""What must hold of records taken together, with those that the leaderboard has already."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iml_bench.board import leaderboard_tasks
from iml_bench.errors import shown
from iml_bench.records import Record, Stored
from iml_bench.run.sweep import is_sweep
from iml_bench.spec import asked_for, digest_of, model_key, task_key

if TYPE_CHECKING:
    import polars as pl


def fingerprint(items: pl.DataFrame) -> str:
    """A hash of all log-likelihoods, whatever their order; no two trainings share it."""
    return hashlib.sha256(np.sort(items["log_likelihood"].to_numpy()).tobytes()).hexdigest()


def copied(
    new: Mapping[Path, Stored], prints: Mapping[Path, str], others: Mapping[Path, Stored]
) -> Iterator[tuple[Path, str]]:
    """Trained records whose outcomes, or whose cell, another record has, too.

    Reference learners are left out: where they guess nothing, seeds may well agree.

    Args:
        new: the records that were handed in.
        prints: the fingerprint of each record.
        others: the records that the leaderboard has.
    """
    keys: dict[str, Path] = {}
    for path, stored in new.items():
        if stored.record.cell_key in keys:
            yield path, f"the same cell stands in {shown(str(keys[stored.record.cell_key]), 300)}, too"
        keys.setdefault(stored.record.cell_key, path)
    known = {
        prints[path]: path
        for path, stored in others.items()
        if path in prints and stored.record.cell_key not in keys and not stored.record.cell.model.is_reference
    }
    for path, stored in new.items():
        if path not in prints or stored.record.cell.model.is_reference:
            continue
        twin = known.setdefault(prints[path], path)
        if twin != path and (twin not in new or new[twin].record.cell_key != stored.record.cell_key):
            yield path, f"its outcomes are those of {shown(str(twin), 300)}: one is a copy of the other"


def uneven(new: Sequence[Stored]) -> Iterator[tuple[Path, str]]:
    """Records whose model is not the one of the other seeds: another number of parameters, or other files."""
    rows: dict[tuple[str, str], list[Stored]] = defaultdict(list)
    for stored in new:
        rows[task_key(stored.record.cell), digest_of(asked_for(stored.record.cell.model))].append(stored)
    for row in rows.values():
        first = row[0].record
        for path, record in row[1:]:
            if record.cell.model.digest != first.cell.model.digest:
                yield path, f"its model's files are not those of seed {first.cell.seed}: the digests differ"
            if record.cell.model.commit != first.cell.model.commit:
                yield path, f"its model's commit is not that of seed {first.cell.seed}"
            if record.parameters != first.parameters and not _vocabulary_varies(record):
                yield (
                    path,
                    (
                        f"it has {record.parameters} parameters, and seed {first.cell.seed} of the same row has "
                        f"{first.parameters}"
                    ),
                )


def _vocabulary_varies(record: Record) -> bool:
    """Whether the task's own tokenizer knows other words for another seed."""
    return record.cell.model.tokenizer == "task" and record.cell.task.world.named


def coverage(new: Sequence[Stored], others: Sequence[Stored]) -> Iterator[tuple[Path | None, str]]:
    """Rows with seeds missing; with the file where none of the leaderboard's seeds is there, which is a failure."""
    wanted = sorted({seed for task in leaderboard_tasks() for seed in task.seeds})
    seeds: dict[tuple[str, str], set[int]] = defaultdict(set)
    sample: dict[tuple[str, str], Stored] = {}
    for stored in (*new, *others):
        seeds[_row(stored.record)].add(stored.record.cell.seed)
    for stored in new:
        if is_sweep(stored.record.cell.task):
            continue  # what a sweep must have, ``tuned`` says
        sample.setdefault(_row(stored.record), stored)
    for row, stored in sample.items():
        record = stored.record
        if record.cell.model.is_reference:
            continue
        missing = [seed for seed in wanted if seed not in seeds[row]]
        changed = f" {record.changes}" if record.changes else ""
        what = f"{shown(record.cell.model.name)} on {record.cell.task.label}{shown(changed)}"
        if len(missing) == len(wanted):
            yield stored.path, f"{what} has none of the leaderboard's seeds {wanted[0]} to {wanted[-1]}"
        elif missing:
            yield None, f"{what}: seed {', '.join(map(str, missing))} of {wanted[0]} to {wanted[-1]} is missing"


def _row(record: Record) -> tuple[str, str]:
    return task_key(record.cell), model_key(record.cell)
