"""What must hold of records taken together, with those that the leaderboard has already."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iml_bench.board import leaderboard_tasks
from iml_bench.errors import shown
from iml_bench.records import Record, Stored
from iml_bench.run.sweep import is_sweep
from iml_bench.spec import asked_for, digest_of, model_key, task_key
from iml_bench.submit.generated import vocabulary_varies

if TYPE_CHECKING:
    import polars as pl

Values = np.ndarray[Any, np.dtype[np.float64]]
UNSURE: Final = -0.01
"""Log-likelihoods above it are so few different numbers that trainings share them by chance."""
ENOUGH: Final = 50
"""Different log-likelihoods below ``UNSURE`` of which a share says something."""
BY_CHANCE: Final = 0.05
"""Share of log-likelihoods that two trainings may have in common; of the shipped ones no two have more than .008."""


def likelihoods(items: pl.DataFrame) -> Values:
    """The log-likelihoods that a training is known by, each once: it shares hardly any with another.

    Where it has too few of them one number above 0 stands for all, so that only the very same outcomes have it.
    """
    every = np.sort(items["log_likelihood"].to_numpy())
    telling = np.unique(every[every < UNSURE])
    if len(telling) >= ENOUGH:
        return telling
    return np.array([1.0 + int(hashlib.sha256(every.tobytes()).hexdigest()[:12], 16)])


def copied(
    new: Mapping[Path, Stored], trained: Mapping[Path, Values], others: Mapping[Path, Stored]
) -> Iterator[tuple[Path, str]]:
    """Trained records whose outcomes, or a part of them, or whose cell, another record has, too.

    Reference learners are left out: where they guess nothing, seeds may well agree.

    Args:
        new: the records that were handed in.
        trained: what ``likelihoods`` says of each record.
        others: the records that the leaderboard has.
    """
    keys: dict[str, Path] = {}
    for path, stored in new.items():
        if stored.record.cell_key in keys:
            yield path, f"the same cell stands in {shown(str(keys[stored.record.cell_key]), 300)}, too"
        keys.setdefault(stored.record.cell_key, path)
    every = {path: stored for path, stored in others.items() if stored.record.cell_key not in keys} | dict(new)
    known = [path for path in every if path in trained and not every[path].record.cell.model.is_reference]
    for path, twin, share in _alike(known, trained, new):
        if every[twin].record.cell_key != every[path].record.cell_key:
            yield (
                path,
                f"{share:.0%} of its outcomes are those of {shown(str(twin), 300)}: one is a copy of the other",
            )


def _alike(
    known: Sequence[Path], trained: Mapping[Path, Values], new: Mapping[Path, Stored]
) -> Iterator[tuple[Path, Path, float]]:
    """For each new record the earlier one with which it shares most, where that is more than chance would have it."""
    if not known:
        return
    sizes = np.array([len(trained[path]) for path in known])
    values, owners = np.concatenate([trained[path] for path in known]), np.repeat(np.arange(len(known)), sizes)
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]
    for index, path in enumerate(known):
        if path not in new:
            continue
        first, last = (np.searchsorted(values, trained[path], side) for side in ("left", "right"))
        several = np.flatnonzero(last - first > 1)
        having = np.concatenate([np.zeros(0, int), *(owners[first[row] : last[row]] for row in several)])
        shares = np.bincount(having, minlength=len(known))[:index] / np.minimum(sizes[:index], sizes[index])
        if shares.max(initial=0.0) > BY_CHANCE:
            yield path, known[int(shares.argmax())], float(shares.max())


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
            if record.parameters != first.parameters and not vocabulary_varies(record.cell):
                yield (
                    path,
                    (
                        f"it has {record.parameters} parameters, and seed {first.cell.seed} of the same row has "
                        f"{first.parameters}"
                    ),
                )


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
