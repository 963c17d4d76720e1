"""Which ranks the rows of a task may have.

A board that asks for a task names its models (``benchmarks/leaderboard.yaml``): these are the registered ones, whose
sets hold together with 95 % confidence. Another model gets a set of its own against them and moves none of theirs. On a
task that no board asks for, and where none of the registered models has a row, all models are set against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from iml_bench.board.required import LeaderboardTask, fits
from iml_bench.board.rows import Row
from iml_bench.protocols import Measure
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
        own = [row for row in rows if row.task_key == key and not row.reference]
        able = [row for row in own if _why_not(row) is None]
        for row in own:
            why = _why_not(row) or ("there is no other model to set it against" if len(able) == 1 else None)
            told = {"unranked": why, "registered": _registered(row, models, required)}
            found[id(row)] = row.model_copy(update=told)
        for measure in (one for row in able[:1] for one in row.measures if one.ranked):
            _rank(found, able, measure)
    return list(found.values())


def _rank(found: dict[int, Row], able: Sequence[Row], measure: Measure) -> None:
    """Write the rank sets of one measure into ``found``; of rows in which it was measured."""
    name = measure.name
    rows = [row for row in able if len(row.by_seed(name)) >= LEAST_RANKED]
    if len(rows) < 2:
        return
    scores = [{seed: measure.direction * value for seed, value in row.by_seed(name).items()} for row in rows]
    known = [found[id(row)].registered for row in rows]
    ranking = rank(scores, known if any(known) else [True] * len(rows))
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
    return "nothing internalised" if row.internalised is False else None


def _registered(row: Row, models: Mapping[str, ModelEntry], required: Iterable[LeaderboardTask]) -> bool:
    asked = [task for task in required if fits(row, task)]
    return not asked or any(same_model(entry, models[row.model_key]) for task in asked for entry in task.models)
