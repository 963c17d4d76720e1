"""The whole board: rows, what they come to over tasks and families, and what is absent, with the reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from iml_bench.board.ranks import ranked
from iml_bench.board.required import LeaderboardTask, fits
from iml_bench.board.rows import Row, build_rows, first_labels, task_label
from iml_bench.board.rulesets import View, view
from iml_bench.board.twins import Twins, find_twins
from iml_bench.protocols import Measure
from iml_bench.records import Stored, iterate_done
from iml_bench.spec import ModelEntry, Spec, model_key, same_model, task_key
from iml_bench.stats import Interval, estimate, slopes


class Slope(Spec):
    """How a ranked measure grows with size within a family, on one task."""

    task: str
    task_version: int
    changes: dict[str, Any]
    measure: str
    """Its label."""
    family: str
    models: tuple[str, ...]
    parameters: tuple[int, ...]
    n_seeds: int
    slope: Interval
    """Per tenfold parameters: the least-squares line over sizes within a seed, then the mean over seeds."""

    @property
    def label(self) -> str:
        """The task as it was run, see ``task_label``."""
        return task_label(self.task, self.task_version, self.changes)


class Absent(Spec):
    """A registered model that has no complete row on a task of the board."""

    task: str
    model: str
    family: str
    reason: str


class Board(Spec):
    """Everything that the leaderboard shows; the terminal and the page print it, and compute nothing."""

    ruleset: str | None = None
    """That was asked for: ``shared``, ``tuned``, or null for that of each task, see ``rulesets.view``."""
    rows: tuple[Row, ...]
    families: tuple[Slope, ...]
    absent: tuple[Absent, ...]
    twins: tuple[Twins, ...] = ()
    """Rows of one task that are one model under several names."""


def build_board(
    stored: Sequence[Stored],
    entries: Iterable[ModelEntry],
    required: Sequence[LeaderboardTask],
    ruleset: str | None = None,
) -> Board:
    """The board of some records; those of smoke runs are no results and are left out.

    Args:
        stored: records, as read from folders.
        entries: the registered models, of which the absent ones are named.
        required: what a complete row has.
        ruleset: see ``rulesets.view``.

    Raises:
        UsageError: when there is no such ruleset.
    """
    seen = view([entry for entry in stored if not entry.record.smoke], ruleset, required)
    stored = seen.stored
    models = first_labels(stored)
    rows = ranked(seen.marked(build_rows(stored)), models, required)
    trained = [row for row in rows if not row.reference]
    return Board(
        ruleset=ruleset,
        rows=tuple(rows),
        families=tuple(_families(trained)),
        absent=tuple(_absent(trained, models, entries, required, seen)),
        twins=tuple(_twins(trained, stored)),
    )


def _label(task: LeaderboardTask) -> str:
    return task_label(task.task, task.version, task.changes)


def _twins(rows: Sequence[Row], stored: Sequence[Stored]) -> Iterator[Twins]:
    """The twins among the rows of each task, in the order of the rows."""
    done: dict[tuple[str, str], dict[int, Stored]] = defaultdict(dict)
    for one in iterate_done([entry for entry in stored if not entry.record.smoke]):
        cell = one.record.cell
        done[task_key(cell), model_key(cell)][cell.seed] = one
    for key in dict.fromkeys(row.task_key for row in rows):
        own = [row for row in rows if row.task_key == key]
        yield from find_twins(own[0].label, [(row.model, done[key, row.model_key]) for row in own])


def _lacks(row: Row | None, task: LeaderboardTask) -> str | None:
    """Why a row is not complete; None where it is."""
    if row is None:
        return "not run yet"
    missing = [seed for seed in task.seeds if seed not in row.seeds]
    failed = [seed for seed in missing if seed in row.failed_seeds]
    if not missing:
        return None
    if failed:
        return f"failed on seed{'s' * (len(failed) > 1)} {', '.join(map(str, failed))}"
    return f"{len(task.seeds) - len(missing)} of {len(task.seeds)} seeds"


def _families(rows: Sequence[Row]) -> list[Slope]:
    by_family: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.parameters:
            by_family[row.task_key, row.family].append(row)
    found = []
    for own in by_family.values():
        for measure in (one for one in own[0].measures if one.ranked):
            measured = [row for row in own if measure.name in row.scores]
            sizes = sorted(measured, key=lambda row: row.parameters or 0)
            by_seed = slopes([(row.parameters or 0, row.by_seed(measure.name)) for row in sizes])
            slope = estimate(list(by_seed.values()))
            if slope is not None:
                found.append(_slope(sizes, measure, slope))
    return sorted(found, key=lambda row: (row.label, row.family))


def _slope(sizes: Sequence[Row], measure: Measure, slope: Interval) -> Slope:
    return Slope(
        task=sizes[0].task,
        task_version=sizes[0].task_version,
        changes=sizes[0].changes,
        measure=measure.label,
        family=sizes[0].family,
        models=tuple(row.model for row in sizes),
        parameters=tuple(row.parameters or 0 for row in sizes),
        n_seeds=slope.n,
        slope=slope,
    )


def _absent(
    rows: Sequence[Row],
    models: Mapping[str, ModelEntry],
    entries: Iterable[ModelEntry],
    required: Sequence[LeaderboardTask],
    seen: View,
) -> list[Absent]:
    """What of the registered entries is not there yet; ``models`` are the recorded ones, by ``Row.model_key``."""
    found = []
    for entry in entries:
        if entry.is_reference:
            continue
        own = [row for row in rows if same_model(entry, models[row.model_key])]
        for task in required:
            if entry.modality not in ("any", task.modality):
                continue
            row = next((row for row in own if fits(row, task)), None)
            why = _lacks(row, task) if row else seen.reason(entry, task) or _lacks(None, task)
            if why is not None:
                found.append(
                    Absent(task=_label(task), model=entry.name, family=entry.family, reason=why + _needs(entry))
                )
    named = {(one.task, one.model) for one in found}
    return found + [
        Absent(task=label, model=one.model.name, family=one.model.family, reason=one.reason)
        for one in seen.lacking
        if ((label := task_label(*one.setting.asked)), one.model.name) not in named
    ]


def _needs(entry: ModelEntry) -> str:
    """What stands between an entry and its row, where that is more than the time it takes."""
    scheme = entry.parsed.scheme
    if scheme == "hf":
        return "; its weights come from a hub"
    return "; its weights come from a file" if scheme == "gguf" else ""
