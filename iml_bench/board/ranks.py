"""Which ranks the rows of a task may have.

A board that asks for a task names its models (``benchmarks/leaderboard.yaml``): these are the registered ones, whose
sets hold together with 95 % confidence. Another model gets a set of its own against them and moves none of theirs. On a
task that no board asks for, all models are registered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from iml_bench.board.required import LeaderboardTask
from iml_bench.board.rows import Row
from iml_bench.spec import ModelEntry, same_model
from iml_bench.stats import CONFIDENCE, LEAST_RANKED, rank


def ranked(
    rows: Sequence[Row], models: Mapping[str, ModelEntry], required: Sequence[LeaderboardTask] = ()
) -> list[Row]:
    """The rows with their rank sets, in the same order.

    Args:
        rows: of all tasks.
        models: the model of each row, by ``Row.model_key``.
        required: what the board asks for.
    """
    found = {id(row): row for row in rows}
    for key in dict.fromkeys(row.task_key for row in rows):
        own = [row for row in rows if row.task_key == key]
        for row in own:
            if not row.reference:
                found[id(row)] = row.model_copy(update={"unranked": _why_not(row)})
        able = [row for row in own if not row.reference and _why_not(row) is None]
        for measure in (one for row in able[:1] for one in row.measures if one.ranked):
            _rank(found, able, measure.name, measure.direction, [_registered(row, models, required) for row in able])
    return list(found.values())


def _rank(found: dict[int, Row], able: Sequence[Row], name: str, direction: int, registered: Sequence[bool]) -> None:
    """Write the rank sets of one measure into ``found``; of rows in which it was measured."""
    measured = [place for place, row in enumerate(able) if len(row.by_seed(name)) >= LEAST_RANKED]
    rows = [able[place] for place in measured]
    scores = [{seed: direction * value for seed, value in row.by_seed(name).items()} for row in rows]
    known = [registered[place] for place in measured]
    if any(len(set(one) & set(other)) < 2 for one in scores for other in scores):
        return  # rows whose seeds are not shared cannot be paired
    ranking = rank(scores, known)
    apart: dict[int, set[str]] = {place: set() for place in range(len(rows))}
    for (first, second), p in ranking.p.items():
        if p < 1 - CONFIDENCE:
            apart[first].add(rows[second].model_key)
            apart[second].add(rows[first].model_key)
    for place, row in enumerate(rows):
        before = found[id(row)]
        ranks = {**before.ranks, name: ranking.sets[place]}
        told = {**before.apart, name: tuple(sorted(apart[place]))}
        found[id(row)] = before.model_copy(update={"ranks": ranks, "apart": told})


def _why_not(row: Row) -> str | None:
    """Why a trained row is not ranked, or None."""
    if row.score is None:
        return "its score was not measured"
    if len(row.by_seed()) < LEAST_RANKED:
        return f"ranks need {LEAST_RANKED} seeds"
    return None if row.internalised else "nothing internalised"


def _registered(row: Row, models: Mapping[str, ModelEntry], required: Iterable[LeaderboardTask]) -> bool:
    asked = [
        task
        for task in required
        if (row.task, row.task_version, row.changes) == (task.task, task.version, task.changes)
    ]
    return not asked or any(same_model(entry, models[row.model_key]) for task in asked for entry in task.models)
