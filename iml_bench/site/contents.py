"""What the pages are about: variants of tasks, models and their cells, in the order they are shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from iml_bench.board import Board, LeaderboardTask, Row, Versus, fits, versus, view
from iml_bench.records import Stored, latest_by_key
from iml_bench.registry import TASKS
from iml_bench.site.names import unique_slugs
from iml_bench.spec import ModelEntry, TaskSpec, model_key, same_model, task_key


class Variant(NamedTuple):
    """One task as it was run, with its rows as the board orders them."""

    key: str
    slug: str
    label: str
    task: str
    ranked: tuple[Row, ...]
    """Trained models: those whose score can be read first, then those without an uptake or a score."""
    references: tuple[Row, ...]
    wanted: tuple[int, ...]
    """The seeds of a complete row: those that the board asks for, else all that any trained model has."""


class Model(NamedTuple):
    """One model, over all it was run on; two models may carry one name."""

    key: str
    slug: str
    entry: ModelEntry
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """As the board's rows have it."""
        return self.rows[0].model


class Task(NamedTuple):
    """One task, registered or only among the records."""

    slug: str
    spec: TaskSpec
    registered: bool
    variants: tuple[Variant, ...]

    @property
    def name(self) -> str:
        """Its name, without the version."""
        return self.spec.name


class Pair(NamedTuple):
    """Two rows of a variant, by position among its trained models."""

    first: int
    second: int
    versus: Versus


class Contents(NamedTuple):
    """All of it."""

    board: Board
    variants: tuple[Variant, ...]
    models: Mapping[str, Model]
    """By model key."""
    tasks: Mapping[str, Task]
    """By name."""
    cells: Mapping[tuple[str, str], tuple[Stored, ...]]
    """One record per cell, by task key and model key, in order of seed."""


def arrange(
    board: Board, stored: Sequence[Stored], entries: Sequence[ModelEntry], required: Sequence[LeaderboardTask]
) -> Contents:
    """Everything that is shown, from what the board was built from."""
    cells = _cells(view([one for one in stored if not one.record.smoke], board.ruleset, required).stored)
    variants = _variants(board.rows, required)
    return Contents(
        board=board,
        variants=variants,
        models=_models(board.rows, cells, entries),
        tasks=_tasks(variants, cells),
        cells=cells,
    )


def pairs(variant: Variant) -> list[Pair]:
    """Every two trained models of a variant that share a seed.

    Each has its own p, of a question about the two that was chosen beforehand, and the board's answer.
    """
    found = []
    for (i, first), (j, second) in combinations(enumerate(variant.ranked), 2):
        compared = versus(first, second)
        if compared is not None:
            found.append(Pair(i, j, compared))
    return found


def _cells(stored: Sequence[Stored]) -> dict[tuple[str, str], tuple[Stored, ...]]:
    found: dict[tuple[str, str], list[Stored]] = defaultdict(list)
    for entry in latest_by_key(stored).values():
        found[task_key(entry.record.cell), model_key(entry.record.cell)].append(entry)
    return {key: tuple(sorted(own, key=lambda entry: entry.record.cell.seed)) for key, own in found.items()}


def _variants(rows: Iterable[Row], required: Sequence[LeaderboardTask]) -> tuple[Variant, ...]:
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_task[row.task_key].append(row)
    slugs = unique_slugs({key: own[0].label for key, own in by_task.items()})
    found = []
    for key, own in by_task.items():
        sample = own[0]
        place = next((index for index, task in enumerate(required) if fits(sample, task)), None)
        trained = [row for row in own if not row.reference]
        readable = [row for row in trained if row.internalised is not False and row.score is not None]
        variant = Variant(
            key=key,
            slug=slugs[key],
            label=sample.label,
            task=sample.task,
            ranked=(*readable, *(row for row in trained if row not in readable)),
            references=tuple(row for row in own if row.reference),
            wanted=required[place].seeds
            if place is not None
            else tuple(sorted({s for row in trained for s in row.seeds})),
        )
        # The board's own tasks first, then tasks as they stand, then what was changed in them.
        found.append(((place is None, place or 0, len(sample.changes), -len(trained), variant.label, key), variant))
    return tuple(variant for _, variant in sorted(found, key=lambda pair: pair[0]))


def _models(
    rows: Iterable[Row], cells: Mapping[tuple[str, str], tuple[Stored, ...]], entries: Sequence[ModelEntry]
) -> dict[str, Model]:
    by_model: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_model[row.model_key].append(row)
    slugs = unique_slugs({key: own[0].model for key, own in by_model.items()})
    found = {}
    for key, own in by_model.items():
        recorded = cells[own[0].task_key, key][0].record.cell.model
        # The registered entry says more (licence, notes) than one that was recorded long ago.
        same = [entry for entry in entries if same_model(entry, recorded)]
        entry = next((entry for entry in same if entry.name == own[0].model), same[0] if same else recorded)
        found[key] = Model(key=key, slug=slugs[key], entry=entry, rows=tuple(own))
    return found


def _tasks(variants: Sequence[Variant], cells: Mapping[tuple[str, str], tuple[Stored, ...]]) -> dict[str, Task]:
    specs: dict[str, TaskSpec] = {}
    for own in cells.values():
        spec = own[0].record.cell.task
        if spec.name not in specs or spec.version > specs[spec.name].version:
            specs[spec.name] = spec
    registered = {listed.name: listed.spec for listed in TASKS.list() if listed.spec is not None}
    known = {**specs, **registered}
    slugs = unique_slugs({name: name for name in known})
    names = dict.fromkeys([*(variant.task for variant in variants), *sorted(known)])
    return {
        name: Task(
            slug=slugs[name],
            spec=known[name],
            registered=name in registered,
            variants=tuple(variant for variant in variants if variant.task == name),
        )
        for name in names
    }
