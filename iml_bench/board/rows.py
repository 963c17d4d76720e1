"""Rows of the leaderboard, from records alone: one model on one task, over its seeds.

Cells are averaged over seeds only where everything but the seed is the same: ``task_key`` and ``model_key``.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from iml_bench.records import Record, Stored, in_order, iterate_done
from iml_bench.spec import Spec, model_key, task_key
from iml_bench.stats import SCORES, estimate, internalised, tiers

CEILING = 1.0
"""Exact match of a learner that believes what is true."""


class Interval(Spec):
    """A mean over seeds with its 95 % Student-t interval, null for one seed."""

    mean: float
    low: float | None
    high: float | None


class Row(Spec):
    """One model on one task, over its seeds. Intervals are 95 % Student-t, null for one seed."""

    task: str
    task_version: int
    modality: str
    """Of the task: vision or text."""
    changes: dict[str, Any]
    """Fields in which the task was changed; empty for the task as it stands."""
    task_key: str
    """Hash of all that is asked of every model; rows are set against each other only where it is the same."""
    model: str
    model_key: str
    """Hash of what is loaded; names are labels, and two models may carry one."""
    source: str
    family: str
    architecture: str
    reference: bool
    """Whether this is a reference row and not a trained model."""
    parameters: int | None
    n_seeds: int
    seeds: tuple[int, ...]
    failed_seeds: tuple[int, ...]
    smoke: bool
    tier: int | None
    """Models that the paired test with Holm's correction cannot separate share one; null where not ranked."""
    internalised: bool
    """False: nothing was taken in, so ``iml`` is near zero for a dull reason."""
    iml: float | None
    iml_low: float | None
    iml_high: float | None
    iml_nats: float | None
    iml_nats_low: float | None
    iml_nats_high: float | None
    lift_reliable: float | None
    lift_reliable_low: float | None
    lift_reliable_high: float | None
    lift_unreliable: float | None
    lift_unreliable_low: float | None
    lift_unreliable_high: float | None
    lift_fresh: float | None
    lift_fresh_low: float | None
    lift_fresh_high: float | None
    stage1_gap: float | None
    stage1_gap_low: float | None
    stage1_gap_high: float | None
    iml_attribution: float | None
    """IML of the questions which entity an alias stands for; null where the task does not ask them."""
    iml_attribution_low: float | None
    iml_attribution_high: float | None
    exact_match: dict[str, Interval]
    """Exact match by what was shown, see ``Scores.exact_match``."""
    chance: float | None
    normalised: float | None
    """``normalise(iml, chance)``; null for reference rows."""
    iml_se_items: float | None
    """Standard error over entities within a cell, averaged over seeds: not the spread over training runs."""
    per_seed: tuple[dict[str, float | int | None], ...]
    reasons: dict[str, str]
    """Why a score is null."""

    @property
    def label(self) -> str:
        """The task as it was run, see ``task_label``."""
        return task_label(self.task, self.task_version, self.changes)

    def by_seed(self, score: str = "iml") -> dict[int, float]:
        """One score of every seed in which it was measured."""
        return {int(seed["seed"]): seed[score] for seed in self.per_seed if seed[score] is not None}  # type: ignore[arg-type,misc]


def task_label(task: str, version: int, changes: Mapping[str, Any]) -> str:
    """``vision@1 alpha=0.5``: the task with the fields in which it was changed."""

    def show(value: Any) -> str:
        return value if isinstance(value, str) and value.isprintable() else json.dumps(value)

    return " ".join([f"{task}@{version}", *(f"{path}={show(value)}" for path, value in changes.items())])


def normalise(iml: float, chance: float) -> float:
    """``iml / (ceiling - chance)``, so that tasks with more and fewer answers are on one scale."""
    return iml / (CEILING - chance)


def build_rows(stored: Sequence[Stored]) -> list[Row]:
    """One row for every model and task among the records, trained models by score, references last."""
    stored = in_order(stored)
    cells: dict[tuple[str, str], list[Record]] = defaultdict(list)
    failed: dict[tuple[str, str], list[int]] = defaultdict(list)
    for entry in iterate_done(stored):
        cells[_group(entry.record)].append(entry.record)
    done = {record.key for records in cells.values() for record in records}
    for entry in stored:
        if entry.record.key not in done:
            failed[_group(entry.record)].append(entry.record.cell.seed)
            cells.setdefault(_group(entry.record), [])
    sample = {_group(entry.record): entry.record for entry in stored}
    tier = _tiers(cells)
    rows = [
        _row(sample[group], sorted(records, key=lambda record: record.cell.seed), failed[group], tier.get(group))
        for group, records in cells.items()
    ]
    return sorted(rows, key=_order)


def _group(record: Record) -> tuple[str, str]:
    return task_key(record.cell), model_key(record.cell)


def _order(row: Row) -> tuple[Any, ...]:
    score = -math.inf if row.iml is None else row.iml
    return row.task, row.task_version, row.smoke, str(row.changes), row.reference, -score, row.model


def _tiers(cells: dict[tuple[str, str], list[Record]]) -> dict[tuple[str, str], int]:
    """Tiers within each task, among trained models that took in something and have two seeds or more."""
    result: dict[tuple[str, str], int] = {}
    for task in {task for task, _ in cells}:
        ranked = [
            group
            for group, records in cells.items()
            if group[0] == task and len(records) > 1 and not records[0].cell.model.is_reference
        ]
        ranked = [group for group in ranked if _took_in(cells[group])]
        scores = [_by_seed(cells[group], "iml") for group in ranked]
        result |= dict(zip(ranked, tiers(scores), strict=True))
    return result


def _took_in(records: Sequence[Record]) -> bool:
    lifts, errors = [], []
    for record in records:
        assert record.scores is not None
        known = [lift for lift in (record.scores.lift_reliable, record.scores.lift_unreliable) if lift is not None]
        lifts += [max(known)] if known else []
        errors.append(record.scores.iml_se_items or 0.0)
    return internalised(lifts, max(errors, default=None))


def _by_seed(records: Iterable[Record], score: str) -> dict[int, float]:
    found = {record.cell.seed: getattr(record.scores, score) for record in records}
    return {seed: value for seed, value in found.items() if value is not None}


def _row(sample: Record, records: list[Record], failed: list[int], tier: int | None) -> Row:
    cell = sample.cell
    measured: dict[str, float | None] = {}
    for score in (*SCORES, "iml_se_items"):
        found = estimate(list(_by_seed(records, score).values()))
        measured[score] = found.mean if found else None
        if score in SCORES:
            measured |= {f"{score}_low": found.low if found else None, f"{score}_high": found.high if found else None}
    reasons = {} if records else {"iml": f"all cells failed: {sample.error.message if sample.error else ''}"}
    for record in records:
        reasons |= record.scores.reasons if record.scores else {}
    if len(records) == 1:
        reasons["iml_low"] = reasons["iml_high"] = "one seed has no interval"
    chance = records[0].chance if records else None
    scaled = None
    if measured["iml"] is not None and chance is not None and not cell.model.is_reference:
        scaled = normalise(measured["iml"], chance)
    return Row(
        task=cell.task.name,
        task_version=cell.task.version,
        modality=cell.task.modality,
        changes=sample.changes,
        task_key=task_key(cell),
        model=cell.model.name,
        model_key=model_key(cell),
        source=cell.model.source,
        family=cell.model.family,
        architecture=cell.model.architecture,
        reference=cell.model.is_reference,
        parameters=records[0].parameters if records else None,
        n_seeds=len(records),
        seeds=tuple(record.cell.seed for record in records),
        failed_seeds=tuple(sorted(failed)),
        smoke=sample.smoke,
        tier=tier,
        internalised=_took_in(records),
        exact_match=_exact_match(records),
        chance=chance,
        normalised=scaled,
        per_seed=tuple(
            {"seed": record.cell.seed} | {score: getattr(record.scores, score) for score in SCORES}
            for record in records
        ),
        reasons=reasons,
        **measured,
    )


def _exact_match(records: Sequence[Record]) -> dict[str, Interval]:
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for name, value in (record.scores.exact_match if record.scores else {}).items():
            values[name].append(value)
    found = ((name, estimate(column)) for name, column in values.items())
    return {name: Interval(mean=e.mean, low=e.low, high=e.high) for name, e in found if e is not None}
