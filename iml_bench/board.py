"""Rows of the leaderboard and comparisons of models, from records alone.

Cells are averaged over seeds, and models set against each other, only where everything but the model
and the seed is the same (``task_key``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from iml_bench.errors import UsageError, unknown
from iml_bench.records import Record, Stored, iterate_done
from iml_bench.spec import Spec, digest_of, identity, task_key
from iml_bench.stats import SCORES, compare_paired, estimate, holm, internalised, tiers

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
    changes: dict[str, Any]
    """Fields in which the task was changed; empty for the task as it stands."""
    model: str
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
    lift_unreliable: float | None
    lift_fresh: float | None
    stage1_gap: float | None
    iml_attribution: float | None
    """IML of the questions which entity an alias stands for; null where the task does not ask them."""
    iml_attribution_low: float | None
    iml_attribution_high: float | None
    exact_match: dict[str, Interval]
    """Exact match by what was shown, see ``Scores.exact_match``."""
    chance: float | None
    normalised: float | None
    """``iml / (ceiling - chance)``; null for reference rows."""
    iml_se_items: float | None
    """Standard error over entities within a cell, averaged over seeds: not the spread over training runs."""
    per_seed: tuple[dict[str, float | int | None], ...]
    reasons: dict[str, str]
    """Why a score is null."""


def build_rows(stored: Sequence[Stored]) -> list[Row]:
    """One row for every model and task among the records, trained models by score, references last."""
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
    return task_key(record.cell), digest_of(identity(record.cell)["model"])


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
    means = {score: estimate(list(_by_seed(records, score).values())) for score in (*SCORES, "iml_se_items")}
    mean = {score: found.mean if found else None for score, found in means.items()}
    iml, nats, attribution = means["iml"], means["iml_nats"], means["iml_attribution"]
    reasons = {} if records else {"iml": f"all cells failed: {sample.error.message if sample.error else ''}"}
    for record in records:
        reasons |= record.scores.reasons if record.scores else {}
    if len(records) == 1:
        reasons["iml_low"] = reasons["iml_high"] = "one seed has no interval"
    chance = records[0].chance if records else None
    scaled = None
    if mean["iml"] is not None and chance is not None and not cell.model.is_reference:
        scaled = mean["iml"] / (CEILING - chance)
    return Row(
        task=cell.task.name,
        task_version=cell.task.version,
        changes=sample.changes,
        model=cell.model.name,
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
        iml_low=iml.low if iml else None,
        iml_high=iml.high if iml else None,
        iml_nats_low=nats.low if nats else None,
        iml_nats_high=nats.high if nats else None,
        iml_attribution_low=attribution.low if attribution else None,
        iml_attribution_high=attribution.high if attribution else None,
        exact_match=_exact_match(records),
        chance=chance,
        normalised=scaled,
        per_seed=tuple(
            {"seed": record.cell.seed} | {score: getattr(record.scores, score) for score in SCORES}
            for record in records
        ),
        reasons=reasons,
        **mean,
    )


def _exact_match(records: Sequence[Record]) -> dict[str, Interval]:
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for name, value in (record.scores.exact_match if record.scores else {}).items():
            values[name].append(value)
    found = ((name, estimate(column)) for name, column in values.items())
    return {name: Interval(mean=e.mean, low=e.low, high=e.high) for name, e in found if e is not None}


class Versus(Spec):
    """Two models on one task, paired on the seeds that both have."""

    task: str
    task_version: int
    changes: dict[str, Any]
    first: str
    second: str
    n_seeds: int
    seeds: tuple[int, ...]
    iml_first: float
    """Mean over the shared seeds."""
    iml_second: float
    difference: float
    """First minus second."""
    low: float | None
    high: float | None
    p: float | None
    """Two-sided paired t-test; null for one shared seed."""
    p_holm: float | None
    """The same with Holm's correction over all the tasks compared."""


def compare_models(stored: Sequence[Stored], first: str, second: str) -> list[Versus]:
    """Compare two models on every task that both have been put through.

    Args:
        stored: the records to compare from.
        first: a model's name, as its records have it.
        second: another's.

    Raises:
        UsageError: when a model has no records, they share no seed of one task, or only other versions of it.
    """
    records = [entry.record for entry in iterate_done(stored)]
    names = {record.cell.model.name for record in records}
    for name in (first, second):
        if name not in names:
            raise unknown("model among the records", name, names, "iml-bench leaderboard")
    if first == second:
        raise UsageError(f"{first!r} cannot be compared with itself; name two models")
    sides: list[dict[str, list[Record]]] = []
    for name in (first, second):
        by_task: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record.cell.model.name == name:
                by_task[task_key(record.cell)].append(record)
        sides.append(by_task)
    found = [_versus(sides[0][key], sides[1][key], first, second) for key in sides[0] if key in sides[1]]
    known = [row for row in found if row is not None]
    if not known:
        raise UsageError(_why_not_comparable(sides, first, second))
    return _with_holm(sorted(known, key=lambda row: (row.task, str(row.changes))))


def _versus(ours: list[Record], theirs: list[Record], first: str, second: str) -> Versus | None:
    ours_by_seed, theirs_by_seed = _by_seed(ours, "iml"), _by_seed(theirs, "iml")
    found = compare_paired(ours_by_seed, theirs_by_seed)
    if found is None:
        return None
    means = [
        math.fsum(side[seed] for seed in found.seeds) / len(found.seeds) for side in (ours_by_seed, theirs_by_seed)
    ]
    return Versus(
        task=ours[0].cell.task.name,
        task_version=ours[0].cell.task.version,
        changes=ours[0].changes,
        first=first,
        second=second,
        n_seeds=found.difference.n,
        seeds=found.seeds,
        iml_first=means[0],
        iml_second=means[1],
        difference=found.difference.mean,
        low=found.difference.low,
        high=found.difference.high,
        p=found.p,
        p_holm=None,
    )


def _with_holm(rows: list[Versus]) -> list[Versus]:
    tested = [row for row in rows if row.p is not None]
    adjusted = dict(zip(map(id, tested), holm([row.p for row in tested if row.p is not None]), strict=True))
    return [row.model_copy(update={"p_holm": adjusted.get(id(row))}) for row in rows]


def _why_not_comparable(sides: list[dict[str, list[Record]]], first: str, second: str) -> str:
    labels = [
        {record.cell.task.name: record.cell.task.label for rows in side.values() for record in rows} for side in sides
    ]
    shared = sorted(set(labels[0]) & set(labels[1]))
    for name in shared:
        if labels[0][name] != labels[1][name]:
            return (
                f"{first!r} was run on {labels[0][name]} and {second!r} on {labels[1][name]}; "
                "scores of different task versions are not compared; run both on the same one"
            )
    if shared:
        return (
            f"{first!r} and {second!r} were both run on {', '.join(shared)}, but share no seed with the same "
            "settings; run both with the same --seeds and --set"
        )
    return f"{first!r} and {second!r} have been run on no task in common; run both on one"
