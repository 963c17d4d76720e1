"""What the leaderboard asks of every model: the tasks and seeds of the suite ``leaderboard``."""

from __future__ import annotations

from typing import Any, NamedTuple

from iml_bench.board.rows import Row
from iml_bench.registry import SUITES, TASKS, changes_of
from iml_bench.run.plan import resized
from iml_bench.run.suites import suite_requests
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, ModelEntry, canonical_json, task_key


class LeaderboardTask(NamedTuple):
    """What a complete row of the leaderboard holds of one task."""

    task: str
    version: int
    modality: str
    changes: dict[str, Any]
    """As ``Record.changes`` has it."""
    task_key: str | None
    """As of every cell of the task; null where the data come from elsewhere, so that it is known when it is run."""
    seeds: tuple[int, ...]
    ruleset: str = "shared"
    """One of ``RULESETS``: a tuned row is complete with its sweep, without which there is none."""
    models: tuple[ModelEntry, ...] = ()
    """The registered ones, whose ranks hold together."""


def fits(row: Row, task: LeaderboardTask) -> bool:
    """Whether a row is of a task that the board asks for, as it asks for it."""
    if task.task_key is not None and row.task_key != task.task_key:
        return False
    return (row.task, row.task_version, row.changes) == (task.task, task.version, task.changes)


def leaderboard_tasks() -> list[LeaderboardTask]:
    """The tasks of the suite ``leaderboard``, in its order: what a row needs to be complete."""
    found: dict[tuple[str, str], LeaderboardTask] = {}
    for request in suite_requests(SUITES.get("leaderboard")):
        base = TASKS.get(request.task)
        task = resized(base, request)
        said = changes_of(task, base)
        label = (base.label, canonical_json(said))
        seeds = dict.fromkeys((*(found[label].seeds if label in found else ()), *request.seeds))
        key = None
        if task.world.is_identified:
            key = task_key(CellSpec(task=task, model=find_model(base.model), seed=0))
        before = found[label].models if label in found else ()
        models = (*before, *(find_model(name, task) for name in request.models))
        what = (base.name, base.version, base.modality, said, key)
        found[label] = LeaderboardTask(*what, tuple(seeds), request.ruleset, models)
    return list(found.values())
