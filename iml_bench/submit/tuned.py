"""What must hold of tuned rows: the learning rate is the one that the sweep beside them chooses, computed anew here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iml_bench.board.rulesets import SMALL, by_setting, said_of
from iml_bench.errors import UsageError, shown
from iml_bench.records import Record, Stored
from iml_bench.registry import MODELS, TASKS
from iml_bench.run.sweep import SEEDS, Choice, choose, counts, is_sweep, rates
from iml_bench.spec import (
    LEARNING_RATE,
    ModelEntry,
    TaskSpec,
    apply_overrides,
    model_key,
    same_model,
    setting_label,
)


class Sweep(NamedTuple):
    """All records of one model on one setting of a registered task."""

    setting: str
    """See ``setting_label``."""
    own: float
    """The task's own learning rate."""
    model: ModelEntry
    """As it was recorded."""
    new: tuple[Stored, ...]
    """Those that were handed in."""
    choice: Choice | None
    """What its cells choose; None where there are none."""

    @property
    def rate(self) -> float | None:
        """What was chosen; None where nothing can be."""
        return self.choice.lr if self.choice else None


def sweep_problems(
    new: Sequence[Stored], others: Sequence[Stored], entries: Sequence[Path]
) -> Iterator[tuple[Path | None, str]]:
    """What is wrong with sweeps, with the rows that they chose, and with what entries say of them.

    Args:
        new: the records that were handed in, failed ones among them.
        others: those that the leaderboard has.
        entries: files of entries that were handed in.
    """
    found = list(_sweeps([*new, *others], {one.path for one in new}))
    for sweep in found:
        yield from _record_problems(sweep)
    handed_in = dict(_readable(entries))
    for path, entry in handed_in.items():
        yield from ((path, problem) for problem in _entry_problems(entry, found))
    names = {entry.name for entry in handed_in.values()}
    for sweep in found:
        name = sweep.model.name
        if sweep.new and name in MODELS.origins and name not in names:
            names.add(name)
            try:
                entry = MODELS.get(name)
            except UsageError:
                continue  # the check of its label says why
            yield from ((None, problem) for problem in _entry_problems(entry, found))


def diverged(record: Record) -> bool:
    """Whether this is a cell of a sweep at whose learning rate training diverged: a failure, and evidence."""
    return record.status == "failed" and counts(record) and is_sweep(record.cell.task)


def _readable(entries: Sequence[Path]) -> Iterator[tuple[Path, ModelEntry]]:
    for path in entries:
        try:
            yield path, MODELS.get(str(path))
        except UsageError:
            continue  # the check of the entry says why


def _sweeps(stored: Sequence[Stored], new: set[Path]) -> Iterator[Sweep]:
    """Every model on every setting of a registered task; what changes more than the learning rate has no sweep."""
    for own in by_setting([one for one in stored if not one.record.smoke]).values():
        sample = own[0].record
        said = {path: value for path, value in said_of(sample).items() if path != LEARNING_RATE}
        task = _registered(sample, said)
        if task is None:
            continue
        models: dict[str, list[Stored]] = defaultdict(list)
        for one in own:
            if not one.record.cell.model.is_reference:
                models[model_key(one.record.cell)].append(one)
        for records in models.values():
            cells = [one.record for one in records if is_sweep(one.record.cell.task)]
            yield Sweep(
                setting=setting_label(task.name, task.version, small=said == SMALL),
                own=task.recipe.lr,
                model=records[0].record.cell.model,
                new=tuple(one for one in records if one.path in new),
                choice=choose(task.recipe.lr, cells) if cells else None,
            )


def _registered(record: Record, said: Mapping[str, Any]) -> TaskSpec | None:
    """The registered task that a record is of, in its size; None where it is of another version, or changed."""
    task = record.cell.task
    if said not in ({}, SMALL) or task.name not in TASKS.origins:
        return None
    known = TASKS.get(task.name)
    if known.version != task.version:
        return None
    return apply_overrides(known, known.small) if said == SMALL else known


def _record_problems(sweep: Sweep) -> Iterator[tuple[Path, str]]:
    what = f"{shown(sweep.model.name)} on {sweep.setting}"
    rows = [one for one in sweep.new if not is_sweep(one.record.cell.task)]
    for one in sweep.new:
        cell = one.record.cell
        if is_sweep(cell.task) and (cell.task.recipe.lr not in rates(sweep.own) or cell.seed not in SEEDS):
            yield one.path, f"it ends after stage 1 and is no cell of the sweep of {sweep.setting}"
    tuned = [one for one in rows if one.record.cell.task.recipe.lr != sweep.own]
    if sweep.choice is None:
        yield from (
            (one.path, f"its learning rate is not the task's own, and no sweep of {what} chose it (iml-bench tune)")
            for one in tuned
        )
    elif sweep.choice.missing:
        if sweep.new:
            cells = ", ".join(f"{lr:g} seed {seed}" for lr, seed in sweep.choice.missing)
            yield sweep.new[0].path, f"the sweep of {what} is not complete, it lacks {cells} (iml-bench tune)"
    else:
        chooses = "none" if sweep.rate is None else f"{sweep.rate!r}"
        yield from (
            (one.path, f"it was run at {one.record.cell.task.recipe.lr!r}, and the sweep of {what} chooses {chooses}")
            for one in tuned
            if one.record.cell.task.recipe.lr != sweep.rate
        )


def _entry_problems(entry: ModelEntry, sweeps: Sequence[Sweep]) -> Iterator[str]:
    """What an entry says of learning rates against what its sweeps choose."""
    own = [sweep for sweep in sweeps if same_model(entry, sweep.model)]
    chosen = {sweep.setting: sweep.rate for sweep in own if sweep.choice is not None}
    known = {sweep.setting for sweep in own}
    for setting in dict.fromkeys((*entry.tuned, *chosen)):
        says = entry.tuned.get(setting, {}).get(LEARNING_RATE)
        if setting in chosen and says != chosen[setting]:
            yield (
                f"the entry {entry.name!r} says {_rate(says)} for {setting}, and its sweep chooses "
                f"{_rate(chosen[setting])}"
            )
        elif setting not in chosen and setting in known:
            yield f"the entry {entry.name!r} says {_rate(says)} for {setting}, and no sweep is there that chose it"


def _rate(lr: float | None) -> str:
    return "no learning rate" if lr is None else f"{LEARNING_RATE} {lr!r}"
