"""The rulesets of a board, as views of its records: which are its rows, and under which task they stand.

Records are facts, and no ruleset is part of one. *Shared* rows are of the task as it stands. A *tuned* row is of the
same setting but for the learning rate, which is the one that the model's sweep chooses (``run/sweep.py``), computed
anew from the records that are shown; it is filed under the setting, so that all tuned rows of one are ranked together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iml_bench.errors import UsageError, shown
from iml_bench.protocols import protocol_of
from iml_bench.records import Record, Stored
from iml_bench.run.plan import RULESETS
from iml_bench.run.sweep import Choice, choose, is_sweep
from iml_bench.spec import (
    LEARNING_RATE,
    CellSpec,
    ModelEntry,
    TaskSpec,
    digest_of,
    identity,
    model_key,
    same_model,
    task_key,
)

if TYPE_CHECKING:
    from iml_bench.board.required import LeaderboardTask
    from iml_bench.board.rows import Row

UNTUNED: Final = "its learning rate has not been chosen yet (iml-bench tune)"
SMALL: Final = {"setting": "small"}
"""``Record.changes`` of a task's small setting; those of the task as it stands are empty."""


class Setting(NamedTuple):
    """What a learning rate is chosen for: a task as it stands, or its small setting, with all records of it."""

    task: TaskSpec
    """At its own learning rate."""
    changes: dict[str, Any]
    key: str
    """The task key of its cells."""
    choices: Mapping[str, Choice]
    """By model key: what each sweep comes to; of every trained model that has one."""

    @property
    def lr(self) -> float:
        """The task's own."""
        return self.task.recipe.lr

    @property
    def asked(self) -> tuple[str, int, dict[str, Any]]:
        """As the board asks for it: name, version and changes."""
        return self.task.name, self.task.version, self.changes

    def chosen(self, record: Record) -> float | None:
        """The learning rate of a model's tuned row; reference learners, which are not trained, have the task's own."""
        if record.cell.model.is_reference:
            return self.lr
        choice = self.choices.get(model_key(record.cell))
        return choice.lr if choice else None


class Lacking(NamedTuple):
    """A model that has records of a setting and no tuned row."""

    setting: Setting
    model: ModelEntry
    """As it was recorded."""
    reason: str


class View(NamedTuple):
    """The records that make the rows of a board."""

    stored: tuple[Stored, ...]
    """Of tuned rows under the setting: with its task and changes, and with the learning rate in ``tuned`` only."""
    settings: Mapping[str, Setting]
    """Those that are shown by the tuned ruleset, by task key."""
    tuned: Mapping[tuple[str, str], float]
    """The learning rate of every tuned row, by task key and model key."""
    lacking: tuple[Lacking, ...]

    def marked(self, rows: Iterable[Row]) -> list[Row]:
        """Rows that were built from ``stored``, each with its ruleset and with what was tuned."""
        return [self._mark(row) if row.task_key in self.settings else row for row in rows]

    def _mark(self, row: Row) -> Row:
        lr = self.tuned.get((row.task_key, row.model_key))
        return row.model_copy(update={"ruleset": "tuned", "tuned": {} if lr is None else {LEARNING_RATE: lr}})

    def reason(self, entry: ModelEntry, task: LeaderboardTask) -> str | None:
        """Why a model has no tuned row of a task that is shown by the tuned ruleset; None where the task is not."""
        wanted = (task.task, task.version, task.changes)
        if wanted not in [setting.asked for setting in self.settings.values()]:
            return None
        own = (one for one in self.lacking if one.setting.asked == wanted and same_model(entry, one.model))
        return next((one.reason for one in own), UNTUNED)


def view(stored: Sequence[Stored], ruleset: str | None = None, required: Sequence[LeaderboardTask] = ()) -> View:
    """The records that make a board's rows.

    Args:
        stored: all records that are shown.
        ruleset: ``shared``: rows of tasks as they were run, but for those that only the tuned ruleset shows;
            ``tuned``: tuned rows alone; None: tuned rows of every setting that the board asks for so and of which
            there are any, and otherwise rows as they were run.
        required: what the board asks for.

    Raises:
        UsageError: when there is no such ruleset.
    """
    check_ruleset(ruleset)
    asked = [(task.task, task.version, task.changes) for task in required if task.ruleset == "tuned"]
    kept: list[Stored] = []
    by_key: dict[str, Setting] = {}
    tuned: dict[tuple[str, str], float] = {}
    lacking: list[Lacking] = []
    for own in by_setting(stored).values():
        setting = _setting(own)
        rows = [one for one in own if not is_sweep(one.record.cell.task)]
        if setting is None:
            kept += rows if ruleset != "tuned" else []
            continue
        chosen = [one for one in rows if one.record.cell.task.recipe.lr == setting.chosen(one.record)]
        trained = {model_key(one.record.cell): _lr(one) for one in chosen if not one.record.cell.model.is_reference}
        if ruleset == "tuned" or (ruleset is None and bool(trained) and setting.asked in asked):
            by_key[setting.key] = setting
            kept += [_filed(one, setting) for one in chosen]
            tuned |= {(setting.key, model): lr for model, lr in trained.items()}
            lacking += _lacking(setting, own, trained)
        else:
            only_tuned = {one.path for one in chosen if _lr(one) != setting.lr and ruleset == "shared"}
            kept += [one for one in rows if one.path not in only_tuned]
    return View(tuple(kept), by_key, tuned, tuple(lacking))


def check_ruleset(ruleset: str | None) -> None:
    """See that there is a ruleset of this name, or that none is named.

    Raises:
        UsageError: when there is none.
    """
    if ruleset is not None and ruleset not in RULESETS:
        raise UsageError(f"--ruleset {shown(repr(ruleset))} is none of {', '.join(RULESETS)}")


def by_setting(stored: Iterable[Stored]) -> dict[str, list[Stored]]:
    """Records by all that is asked but the learning rate and where a cell ends."""
    found: dict[str, list[Stored]] = defaultdict(list)
    stored = tuple(stored)
    names: dict[tuple[int, int], str] = {}
    for one in stored:
        cell = one.record.cell
        asked = id(cell.task), cell.protocol  # records that were read together share their tasks
        if asked not in names:
            names[asked] = _setting_key(cell)
        found[names[asked]].append(one)
    return found


def _setting_key(cell: CellSpec) -> str:
    data, ends = identity(cell), protocol_of(cell.task).sweep
    task = {name: value for name, value in data["task"].items() if name not in ends}
    task["recipe"] = {name: value for name, value in task["recipe"].items() if name != "lr"}
    return digest_of({"task": task, "protocol": data["protocol"]})


def _setting(own: Sequence[Stored]) -> Setting | None:
    """The setting of some records that differ in learning rate and end only.

    None where none of them has the learning rate of a task as it stands or of its small setting: nobody knows then
    which values its sweep has.
    """
    sample = next((one.record for one in own if said_of(one.record) in ({}, SMALL)), None)
    if sample is None:
        return None
    task = sample.cell.task
    ends = {name: type(task).model_fields[name].default for name in protocol_of(task).sweep}
    cell = sample.cell.model_copy(update={"task": task.model_copy(update=ends)})
    sweeps: dict[str, list[Record]] = defaultdict(list)
    for _, record in own:
        if is_sweep(record.cell.task) and not record.cell.model.is_reference:
            sweeps[model_key(record.cell)].append(record)
    choices = {model: choose(task.recipe.lr, records) for model, records in sweeps.items()}
    return Setting(cell.task, said_of(sample), task_key(cell), choices)


def said_of(record: Record) -> dict[str, Any]:
    """How a record's task differs from the registered one, but for where its cells end."""
    ends = protocol_of(record.cell.task).sweep
    return {path: value for path, value in record.changes.items() if path not in ends}


def _lr(one: Stored) -> float:
    return one.record.cell.task.recipe.lr


def _filed(one: Stored, setting: Setting) -> Stored:
    """A record as it stands under a setting: for rows only, since its key is that of the cell that ran."""
    cell = one.record.cell.model_copy(update={"task": setting.task})
    return one._replace(record=one.record.model_copy(update={"cell": cell, "changes": setting.changes}))


def _lacking(setting: Setting, own: Sequence[Stored], trained: Mapping[str, float]) -> Iterator[Lacking]:
    """The trained models among the records of a setting that have no tuned row, each with the reason."""
    models = {model_key(record.cell): record.cell.model for _, record in own}
    for key, model in models.items():
        if model.is_reference or key in trained:
            continue
        choice = setting.choices.get(key)
        if choice is None:
            reason = UNTUNED
        elif choice.missing:
            reason = f"its sweep has {len(choice.trials)} of {len(choice.trials) + len(choice.missing)} cells"
        elif choice.lr is None:
            reason = "training diverged at every learning rate of its sweep"
        else:
            reason = f"not run yet at the learning rate that its sweep chose, {choice.lr:g}"
        yield Lacking(setting, model, reason)
