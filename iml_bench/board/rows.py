"""Rows of the leaderboard, from records alone: one model on one task, over its seeds.

Cells are averaged over seeds only where everything but the seed is the same: ``task_key`` and ``model_key``.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from iml_bench.protocols import Measure, Scores, headline_of, measures_of, protocol_of
from iml_bench.records import Record, Stored, in_order, iterate_done, scores_of
from iml_bench.spec import ModelEntry, Spec, model_key, task_key
from iml_bench.stats import Interval, RankSet, above, estimate, linearised, quotient, two_heaps

LEAST_UPTAKE: Final = 0.02
"""Exact match by which what was read must raise answers before a row says anything about whom a model believes."""


class Heaps(Spec):
    """What is said of seeds that fall into two heaps, of which a mean says little."""

    median: float
    low: float
    """The least of all seeds."""
    high: float


class Row(Spec):
    """One model on one task, over its seeds, with 95 % intervals (Student's t, of quotients Fieller's)."""

    task: str
    task_version: int
    modality: str
    """Of the task: vision or text."""
    changes: dict[str, Any]
    """Fields in which the task was changed; empty for the task as it stands."""
    ruleset: str = "shared"
    """``shared``: the task's learning rate; ``tuned``: the one that the model's sweep chose."""
    tuned: dict[str, float] = {}
    """What the sweep chose, beside ``changes``; empty for shared rows and reference learners."""
    protocol: str
    """Of the task: what it measures."""
    task_key: str
    """Hash of all that is asked of every model, for tuned rows but the learning rate that is tuned; rows are set
    against each other only where it is the same."""
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
    registered: bool = False
    """Whether it is of a model that the board names for this task, or of a task that no board asks for."""
    ranks: dict[str, RankSet] = {}
    """By measure, the ranks that it may have; without those by which it is not ranked, see ``ranks.ranked``."""
    apart: dict[str, tuple[str, ...]] = {}
    """By measure, the model keys of the ranked rows that are significantly better or worse."""
    unranked: str | None = None
    """Why it has no ranks."""
    internalised: bool | None
    """Whether the mean uptake under the taught tags is above ``LEAST_UPTAKE``, one-sided at 2.5 %; null for one seed.
    Where it is not, the headline is near zero for a dull reason."""
    heaps: Heaps | None = None
    """Where the seeds' headlines fall into two heaps, see ``two_heaps``; of a trained model that took something
    in, since scores that take only a few values near zero are no heaps."""
    scores: dict[str, Interval]
    """Every measure of the protocol by name, over the seeds in which it was measured; absent where in none."""
    exact_match: dict[str, Interval]
    """Exact match by what was shown, see ``Protocol.slices``."""
    chance: float | None
    per_seed: tuple[dict[str, float | int | None], ...]
    """``seed``, and every measure by name."""
    reasons: dict[str, str]
    """Why a score is absent."""

    @property
    def headline(self) -> Measure:
        """The measure that ranks the rows of this task."""
        return headline_of(self.protocol)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What the task's protocol measures, in the order in which it is shown."""
        return measures_of(self.protocol)

    @property
    def score(self) -> Interval | None:
        """The headline; None where it was not measured."""
        return self.scores.get(self.headline.name)

    def mean(self, measure: str) -> float | None:
        """A measure's mean over seeds; None where it was not measured."""
        found = self.scores.get(measure)
        return found.mean if found else None

    @property
    def label(self) -> str:
        """The task as it was run, see ``row_label``."""
        return row_label(self.task, self.task_version, self.changes, self.ruleset)

    def by_seed(self, measure: str | None = None) -> dict[int, float]:
        """One measure, or the headline, of every seed in which it was measured.

        Of a quotient it is what each seed adds to it (``linearised``), so that its mean is the row's.
        """
        name = measure or self.headline.name
        ratio = next((known.ratio for known in self.measures if known.name == name), None)
        if ratio is not None and name in self.scores:
            upper, lower = (self.by_seed(part) for part in ratio)
            return dict(zip(upper, linearised([*upper.values()], [*lower.values()]), strict=True))
        return {int(seed["seed"]): value for seed in self.per_seed if (value := seed.get(name)) is not None}  # type: ignore[arg-type]


def task_label(task: str, version: int, changes: Mapping[str, Any]) -> str:
    """``vision@1 alpha=0.5``: the task with the fields in which it was changed."""

    def show(value: Any) -> str:
        return value if isinstance(value, str) and value.isprintable() else json.dumps(value)

    return " ".join([f"{task}@{version}", *(f"{path}={show(value)}" for path, value in changes.items())])


def row_label(task: str, version: int, changes: Mapping[str, Any], ruleset: str) -> str:
    """``vision@2 tuned``: see ``task_label``, and ``tuned`` where each row has a learning rate of its own."""
    label = task_label(task, version, changes)
    return f"{label} tuned" if ruleset == "tuned" else label


class _Cell(NamedTuple):
    """A done cell: its record, and its scores with those that the protocol has gained since."""

    record: Record
    scores: Scores

    @property
    def seed(self) -> int:
        return self.record.cell.seed


def build_rows(stored: Sequence[Stored]) -> list[Row]:
    """One row for every model and task among the records, trained models by score, references last."""
    stored = in_order(stored)
    cells: dict[tuple[str, str], list[_Cell]] = defaultdict(list)
    failed: dict[tuple[str, str], list[int]] = defaultdict(list)
    for entry in iterate_done(stored):
        cells[_group(entry.record)].append(_Cell(entry.record, scores_of(entry)))
    done = {cell.record.cell_key for own in cells.values() for cell in own}
    for entry in stored:
        if entry.record.cell_key not in done:
            failed[_group(entry.record)].append(entry.record.cell.seed)
            cells.setdefault(_group(entry.record), [])
    sample = {_group(entry.record): entry.record for entry in stored}
    labels = first_labels(stored)
    rows = [
        _row(_labelled(sample[group], labels[group[1]]), sorted(own, key=lambda cell: cell.seed), failed[group])
        for group, own in cells.items()
    ]
    return sorted(rows, key=_order)


def first_labels(stored: Iterable[Stored]) -> dict[str, ModelEntry]:
    """By ``Row.model_key``, the model as it was first called; the same files may have been run under several names."""
    by_time = sorted(stored, key=lambda one: (one.record.timing.started, one.record.key), reverse=True)
    return {model_key(one.record.cell): one.record.cell.model for one in by_time}


def _labelled(record: Record, model: ModelEntry) -> Record:
    return record.model_copy(update={"cell": record.cell.model_copy(update={"model": model})})


def _group(record: Record) -> tuple[str, str]:
    return task_key(record.cell), model_key(record.cell)


def _order(row: Row) -> tuple[Any, ...]:
    score = -math.inf if row.score is None else row.headline.direction * row.score.mean
    return row.task, row.task_version, row.smoke, str(row.changes), row.reference, -score, row.model


def _took_up(cells: Sequence[_Cell]) -> bool | None:
    """Whether the uptake is above the least that counts; true where the protocol knows no uptake."""
    if not cells:
        return None
    uptake = protocol_of(cells[0].record.cell.task).uptake
    if uptake is None:
        return True
    return above([value for cell in cells if (value := uptake(cell.scores.values)) is not None], LEAST_UPTAKE)


def _by_seed(cells: Iterable[_Cell], measure: str) -> dict[int, float]:
    found = {cell.seed: cell.scores.get(measure) for cell in cells}
    return {seed: value for seed, value in found.items() if value is not None}


def _row(sample: Record, cells: list[_Cell], failed: list[int]) -> Row:
    cell, headline = sample.cell, headline_of(sample.cell.task)
    measures = measures_of(cell.task)
    scores, reasons = _scores(cells, measures)
    seeds, records = list(_by_seed(cells, headline.name).values()), [own.record for own in cells]
    took_up = _took_up(cells)
    heaped = not cell.model.is_reference and took_up is not False and two_heaps(seeds)
    return Row(
        task=cell.task.name,
        task_version=cell.task.version,
        modality=cell.task.modality,
        changes=sample.changes,
        protocol=cell.task.protocol,
        task_key=task_key(cell),
        model=cell.model.name,
        model_key=model_key(cell),
        source=cell.model.source,
        family=cell.model.family,
        architecture=cell.model.architecture,
        reference=cell.model.is_reference,
        parameters=records[0].parameters if records else None,
        n_seeds=len(cells),
        seeds=tuple(own.seed for own in cells),
        failed_seeds=tuple(sorted(failed)),
        smoke=sample.smoke,
        internalised=took_up,
        heaps=_heaps(seeds) if heaped else None,
        scores=scores,
        exact_match=_exact_match(cells),
        chance=records[0].chance if records else None,
        per_seed=tuple({"seed": own.seed} | {one.name: own.scores.get(one.name) for one in measures} for own in cells),
        reasons=_reasons(sample, cells, measures) | reasons,
    )


def _reasons(sample: Record, cells: Sequence[_Cell], measures: Sequence[Measure]) -> dict[str, str]:
    headline = headline_of(sample.cell.task)
    if not cells:
        return {headline.name: f"all cells failed: {sample.error.message if sample.error else ''}"}
    # Older records give a reason where our own measures need none; a quotient has the row's, see ``_scores``.
    needless = {one.name for one in measures if (one.protocol is None and not one.missing) or (one.ratio and cells[1:])}
    reasons = {name: why for cell in cells for name, why in cell.scores.reasons.items() if name not in needless}
    if len(cells) == 1:
        reasons |= {f"{headline.name}_{end}": "one seed has no interval" for end in ("low", "high")}
    return reasons


def _heaps(values: Sequence[float]) -> Heaps:
    return Heaps(median=median(values), low=min(values), high=max(values))


def _scores(cells: Sequence[_Cell], measures: Sequence[Measure]) -> tuple[dict[str, Interval], dict[str, str]]:
    """Every measure over the seeds, and why a quotient is absent."""
    columns = {measure.name: _by_seed(cells, measure.name) for measure in measures}
    scores = _intervals({name: list(column.values()) for name, column in columns.items()})
    reasons: dict[str, str] = {}
    for measure in measures:
        if measure.ratio is None or len(cells) < 2:  # of one seed it is that cell's own
            continue
        upper, lower = (columns[name] for name in measure.ratio)
        below = scores.get(measure.ratio[1])
        scores.pop(measure.name, None)
        if below is None or below.low is None or below.low <= measure.least or set(upper) != set(lower):
            reasons[measure.name] = measure.missing
        elif found := quotient([*upper.values()], [*lower.values()]):
            scores[measure.name] = found
    return scores, reasons


def _intervals(values: Mapping[str, Sequence[float]]) -> dict[str, Interval]:
    return {name: found for name, column in values.items() if (found := estimate(column)) is not None}


def _exact_match(cells: Sequence[_Cell]) -> dict[str, Interval]:
    values: dict[str, list[float]] = defaultdict(list)
    for cell in cells:
        for name, value in cell.scores.exact_match.items():
            values[name].append(value)
    return _intervals(values)
