"""From single cells to statements over seeds: intervals, paired comparisons, tiers, slopes.

What a cell's own scores are is its protocol's matter (``protocols``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from iml_bench.spec import Spec

CONFIDENCE: Final = 0.95


class Interval(Spec):
    """A mean over seeds with its 95 % Student-t interval, which is null for a single seed."""

    mean: float
    low: float | None
    high: float | None
    n: int
    """Seeds."""


def _spread(values: Sequence[float], mean: float) -> float:
    """Standard deviation over seeds, with n - 1; numpy takes longer to begin than to compute it."""
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def estimate(values: Sequence[float]) -> Interval | None:
    """Mean and interval over seeds; None when there are no values."""
    if not values:
        return None
    from scipy.special import stdtrit  # slow to import, and listings need none of it

    mean, n = math.fsum(values) / len(values), len(values)
    if n == 1:
        return Interval(mean=mean, low=None, high=None, n=1)
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * _spread(values, mean) / math.sqrt(n)
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


class Comparison(NamedTuple):
    """Two models paired on the seeds that both have."""

    difference: Interval
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

    A tier begins with the best model (by mean) that is not yet in one, and holds those that follow
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


def internalised(uptake: Sequence[float], item_error: float | None) -> bool:
    """Whether a model's uptake is above zero beyond doubt.

    Args:
        uptake: of each seed.
        item_error: the standard error over items, which stands in where there is a single seed.
    """
    found = estimate(uptake)
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
