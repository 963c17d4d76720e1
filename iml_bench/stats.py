"""From per-item outcomes to the scores of a cell, and from cells to intervals and comparisons.

The only place where a score is computed: the terminal, the leaderboard and every check call it.
Definitions of the scores: README, "What is measured".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from iml_bench.protocols.base import FACTS
from iml_bench.protocols.two_stage.design import ATTRIBUTIONS, CLAIMS, STAGE1_GROUPS
from iml_bench.spec import Spec
from iml_bench.spec.base import Gap, Line, Share

Columns = Mapping[str, NDArray[Any]]

SCORES: Final = (
    "iml",
    "iml_nats",
    "lift_reliable",
    "lift_unreliable",
    "lift_fresh",
    "stage1_gap",
    "iml_attribution",
)
"""The scores that are averaged over seeds."""

CONFIDENCE: Final = 0.95

ITEM_TYPES: Final = {
    "stage": "Int8",
    "fold": "Int8",
    "set": "String",
    "entity": "Int32",
    "group": "String",
    "tag": "String",
    "attribute": "String",
    "gold": "String",
    "predicted": "String",
    "exact_match": "Boolean",
    "log_likelihood": "Float64",
}
"""Columns of the per-item file and their types (of polars). ``fold`` is 0 after a stage 1 that both folds share;
``set`` is ``fact`` for questions about attributes, ``attribution`` for which entity an alias stands for, and
``claim`` for the same where the answer is what a false definition said; ``tag`` is the tag under which the entity
was defined in that fold, null where it was not."""


class Scores(Spec):
    """The scores of one cell; one that cannot be measured is null and ``reasons`` says why."""

    iml: Gap | None
    """Exact match under the reliable tag minus under the unreliable tag, mean over new entities."""
    iml_nats: float | None = Field(ge=-1e6, le=1e6)
    """The same difference of the gold answer's log-likelihood, in nats."""
    lift_reliable: Gap | None
    """Exact match of what was defined under the reliable tag minus that of ``new_undefined``."""
    lift_unreliable: Gap | None
    lift_fresh: Gap | None
    stage1_gap: Gap | None
    """Held-out exact match of ``reliable`` minus ``unreliable``, after stage 1."""
    iml_attribution: Gap | None = None
    """``iml`` of the questions which entity an alias stands for; null where the task does not ask that."""
    iml_se_items: float | None = Field(ge=0, le=1)
    """Standard error of ``iml`` over this cell's entities; says nothing about other seeds."""
    iml_se_items_one_fold: float | None = Field(ge=0, le=2)
    """What that standard error would be from fold 0 alone, without the crossover."""
    exact_match: dict[Line, Share] = Field(max_length=100)
    """Exact match by what was shown: stage-1 groups (held out), new entities by tag, ``new_undefined``;
    ``attribution/`` and ``claim/`` before it are those sets of questions."""
    reasons: dict[Line, Line] = Field(default={}, max_length=100)


def score_items(items: Columns) -> Scores:
    """The scores of one cell.

    Args:
        items: the columns of a per-item file, one row per asked question, fold and stage:
            ``stage``, ``fold``, ``set`` (older files have none: all are facts), ``entity``, ``group``,
            ``tag`` (or null), ``exact_match``, ``log_likelihood``.
    """
    match = exact_matches(items)
    facts, attributions = _of_set(items, FACTS), _of_set(items, ATTRIBUTIONS)
    asked = len(attributions["stage"]) > 0

    def difference(first: str, second: str) -> float | None:
        return match[first] - match[second] if first in match and second in match else None

    differences = _under_both_tags(facts, "exact_match")
    both = _crossed(facts)
    exact = facts["exact_match"].astype(np.float64)
    one_fold = [
        _by_entity(facts["entity"], exact, both & (facts["fold"] == 0) & (facts["tag"] == name))
        for name in ("reliable", "unreliable")
    ]
    values = {
        "iml": _mean(differences),
        "iml_nats": _mean(_under_both_tags(facts, "log_likelihood")),
        "lift_reliable": difference("new_reliable", "new_undefined"),
        "lift_unreliable": difference("new_unreliable", "new_undefined"),
        "lift_fresh": difference("new_fresh", "new_undefined"),
        "stage1_gap": difference("reliable", "unreliable"),
        "iml_se_items": _standard_error(differences),
        "iml_se_items_one_fold": _root_sum([_standard_error(part) for part in one_fold]),
    }
    missing = "the task has no entities in a group that it needs"
    reasons = {name: missing for name, value in values.items() if value is None}
    attribution = _mean(_under_both_tags(attributions, "exact_match")) if asked else None
    return Scores(**values, iml_attribution=attribution, exact_match=match, reasons=reasons)


def exact_matches(items: Columns) -> dict[str, float]:
    """Mean exact match by what was shown, see ``Scores.exact_match``."""
    found: dict[str, float] = {}
    for which, prefix in ((FACTS, ""), (ATTRIBUTIONS, "attribution/"), (CLAIMS, "claim/")):
        part = _of_set(items, which)
        stage, group, tag = (part[name] for name in ("stage", "group", "tag"))
        shown = {name: (stage == 1) & (group == name) for name in STAGE1_GROUPS}
        shown |= {f"new_{name}": (stage == 2) & (tag == name) for name in ("reliable", "unreliable", "fresh")}
        shown["new_undefined"] = (stage == 2) & (group == "new_undefined")
        exact = part["exact_match"].astype(np.float64)
        found |= {prefix + name: float(exact[rows].mean()) for name, rows in shown.items() if rows.any()}
    return found


def _of_set(items: Columns, which: str) -> Columns:
    if "set" not in items:
        return items if which == FACTS else {name: column[:0] for name, column in items.items()}
    rows = items["set"] == which
    return {name: column[rows] for name, column in items.items()}


def _crossed(items: Columns) -> NDArray[np.bool_]:
    """Rows about entities that are defined under the reliable tag in one fold and the unreliable in the other."""
    return np.asarray((items["stage"] == 2) & np.isin(items["group"], ["new_reliable", "new_unreliable"]))


def _under_both_tags(items: Columns, column: str) -> NDArray[np.float64]:
    """A column's mean under the reliable tag minus under the unreliable one, for each entity that has both."""
    both, values = _crossed(items), items[column].astype(np.float64)
    reliable, unreliable = (
        _by_entity(items["entity"], values, both & (items["tag"] == name)) for name in ("reliable", "unreliable")
    )
    return reliable - unreliable


def _by_entity(entity: NDArray[Any], column: NDArray[Any], rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of a column for each entity among the rows, in order of entity."""
    _, index = np.unique(entity[rows], return_inverse=True)
    sums, counts = np.bincount(index, weights=column[rows]), np.bincount(index)
    return sums / counts


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _standard_error(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _root_sum(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return math.sqrt(sum(error**2 for error in known)) if len(known) == len(errors) else None


class Estimate(NamedTuple):
    """A mean over seeds with its 95 % Student-t interval; no interval for a single seed."""

    mean: float
    low: float | None
    high: float | None
    n: int


def _spread(values: Sequence[float], mean: float) -> float:
    """Standard deviation over seeds, with n - 1; numpy takes longer to begin than to compute it."""
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and interval over seeds; None when there are no values."""
    if not values:
        return None
    from scipy.special import stdtrit  # slow to import, and listings need none of it

    mean, n = math.fsum(values) / len(values), len(values)
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * _spread(values, mean) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


class Comparison(NamedTuple):
    """Two models paired on the seeds that both have."""

    difference: Estimate
    """First minus second."""
    p: float | None
    """Two-sided, of the paired t-test; None for a single shared seed."""
    seeds: tuple[int, ...]


def compare_paired(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison | None:
    """Compare two models on shared seeds; None when they share none.

    Args:
        first: a score by seed.
        second: the same score of another model by seed.
    """
    seeds = tuple(sorted(set(first) & set(second)))
    differences = [first[seed] - second[seed] for seed in seeds]
    found = estimate(differences)
    if found is None:
        return None
    if found.n == 1:
        return Comparison(found, None, seeds)
    spread = _spread(differences, found.mean)
    if spread == 0:
        return Comparison(found, 1.0 if found.mean == 0 else 0.0, seeds)
    from scipy.special import stdtr

    t = found.mean / (spread / math.sqrt(found.n))
    return Comparison(found, 2 * float(stdtr(found.n - 1, -abs(t))), seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p-values in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def tiers(scores: Sequence[Mapping[int, float]]) -> list[int]:
    """The tier of each model, from 1: models that cannot be told apart from a tier's best share it.

    A tier begins with the best model (by mean) that is not yet in one, and takes in those that follow
    as long as the paired test with Holm's correction over all pairs cannot separate them from it.

    Args:
        scores: for each model its score by seed, in any order.
    """
    means = [math.fsum(by_seed.values()) / len(by_seed) for by_seed in scores]
    order = sorted(range(len(scores)), key=lambda index: -means[index])
    pairs = [(a, b) for position, a in enumerate(order) for b in order[position + 1 :]]
    found = {pair: compare_paired(scores[pair[0]], scores[pair[1]]) for pair in pairs}
    tested = [(pair, result.p) for pair, result in found.items() if result and result.p is not None]
    adjusted = dict(zip((pair for pair, _ in tested), holm([p for _, p in tested]), strict=True))
    tier, best, result = 0, -1, [0] * len(scores)
    for index in order:
        if tier == 0 or adjusted.get((best, index), 1.0) < 1 - CONFIDENCE:
            tier, best = tier + 1, index
        result[index] = tier
    return result


def internalised(lifts: Sequence[float], item_error: float | None) -> bool:
    """Whether a model took in anything of what it read: is its lift above zero beyond doubt?

    Args:
        lifts: for each seed the larger of the lifts under the reliable and the unreliable tag.
        item_error: the standard error over entities, which stands in where there is a single seed.
    """
    found = estimate(lifts)
    if found is None:
        return False
    if found.low is not None:
        return found.low > 0
    return found.mean > 2 * (item_error or 0.0)


def slopes(sizes: Sequence[tuple[int, Mapping[int, float]]]) -> dict[int, float]:
    """The growth of a score per tenfold parameters, for each seed that all sizes of a family share.

    Least squares of the score on log10(parameters), within the seed; the spread over seeds is then that of
    the slope itself. Empty for fewer than three sizes.

    Args:
        sizes: for each model its parameters (> 0) and its score by seed.
    """
    if len({parameters for parameters, _ in sizes}) < 3:
        return {}
    x = np.log10([float(parameters) for parameters, _ in sizes])
    x = x - x.mean()
    seeds = sorted(set.intersection(*(set(by_seed) for _, by_seed in sizes)))
    return {seed: float(x @ [by_seed[seed] for _, by_seed in sizes] / (x @ x)) for seed in seeds}
