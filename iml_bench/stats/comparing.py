"""Models set against each other: paired tests, their correction, and confidence sets of ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np

from iml_bench.spec import Spec
from iml_bench.stats.intervals import CONFIDENCE, Interval, estimate, spread

BySeed = Mapping[int, float]
"""A score of one model by seed."""
LEAST_RANKED: Final = 8
"""Seeds that a model must have to be ranked."""


class Comparison(NamedTuple):
    """Two models paired on the seeds that both have."""

    difference: Interval
    """First minus second."""
    p: float | None
    """Two-sided, of the paired t-test; None for a single shared seed."""
    seeds: tuple[int, ...]


def compare_paired(first: BySeed, second: BySeed) -> Comparison | None:
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
    sd = spread(differences, found.mean)
    return Comparison(found, _p(found.mean, sd / math.sqrt(found.n), found.n - 1), seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p-values in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


class RankSet(Spec):
    """The ranks that a model may have among some models, 1 being the best."""

    low: int
    """1 and the number of models that are significantly better."""
    high: int
    """The number of models that are not significantly worse, itself among them."""
    of: int
    """Models, itself among them."""

    @property
    def may_be_best(self) -> bool:
        """Whether no model is significantly better."""
        return self.low == 1


class Ranking(NamedTuple):
    """Rank sets, and what they follow from."""

    sets: tuple[RankSet, ...]
    """In the order of the models."""
    p: Mapping[tuple[int, int], float]
    """Adjusted p of every pair that was tested, by the models' places, the smaller first."""


def rank(models: Sequence[BySeed], registered: Sequence[bool]) -> Ranking:
    """Confidence sets of ranks by moderated paired tests with Holm's correction.

    For each pair of models the differences over their shared seeds have a variance, which few seeds tell badly. As in
    limma (Smyth 2004) the variances of all pairs are taken to be draws from one distribution, to which each is shrunk;
    the pairs of k models on n seeds tell no more about it than their (k - 1)(n - 1) degrees of freedom. Holm's
    correction over all pairs of registered models makes the chance of a single wrong "significantly better" among them
    at most 5 %.

    A model that is not registered is set against the registered ones, with Holm's correction over its own pairs:
    whoever brings a model moves no other's set.

    Args:
        models: a score by seed of each, where more is better. Two that share fewer than two seeds are not separated.
        registered: which of them are the release's own.
    """
    places = range(len(models))
    own = [place for place in places if registered[place]]
    p = _adjusted(models, list(combinations(own, 2)), prior := _prior(models, list(combinations(own, 2))))
    for stranger in (place for place in places if not registered[place]):
        pairs = [(min(stranger, place), max(stranger, place)) for place in own]
        p |= _adjusted(models, pairs, prior)
    sets = []
    for place in places:
        others = [other for other in own if other != place]
        told = [other for other in others if p[min(place, other), max(place, other)] < 1 - CONFIDENCE]
        better = sum(math.fsum(_differences(models, (other, place))) > 0 for other in told)
        sets.append(RankSet(low=1 + better, high=1 + len(others) - (len(told) - better), of=1 + len(others)))
    return Ranking(tuple(sets), p)


class _Prior(NamedTuple):
    """What variances are shrunk to: a scaled inverse chi-squared distribution."""

    variance: float
    freedom: float
    """Degrees of freedom; 0: nothing is shrunk, infinite: all variances are one."""
    most: float
    """Degrees of freedom that a shrunk variance has at most: those of all scores that the prior was fitted to. Every
    model is in many pairs, and without this bound three equal models are told apart in 7 % of boards."""


def _differences(models: Sequence[BySeed], pair: tuple[int, int]) -> list[float]:
    first, second = (models[place] for place in pair)
    return [first[seed] - second[seed] for seed in sorted(set(first) & set(second))]


def _prior(models: Sequence[BySeed], pairs: Sequence[tuple[int, int]]) -> _Prior:
    """Fit the prior to the pairs' variances by the moments of their logarithms (Smyth 2004, section 6.2)."""
    from scipy.special import digamma, polygamma

    columns = [column for pair in pairs if len(column := _differences(models, pair)) > 1]
    freedom = np.array([len(column) - 1 for column in columns], dtype=np.float64)
    variances = np.array([np.var(column, ddof=1) for column in columns])
    if len(columns) < 3 or not variances.any():
        return _Prior(0.0, 0.0, 0.0)
    most = float(freedom.mean()) * (len({place for pair in pairs for place in pair}) - 1)
    variances = np.maximum(variances, 1e-5 * np.median(variances[variances > 0]))
    logs = np.log(variances) - digamma(freedom / 2) + np.log(freedom / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, freedom / 2).mean())
    if excess <= 0:
        return _Prior(float(np.exp(logs.mean())), math.inf, most)
    half = _trigamma_inverse(excess)
    return _Prior(float(np.exp(logs.mean() + digamma(half) - np.log(half))), 2 * half, most)


def _trigamma_inverse(value: float) -> float:
    """The number whose trigamma is ``value``, by Newton's method (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    found = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, found))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, found))
        found += step
        if -step / found < 1e-8:
            break
    return found


def _adjusted(
    models: Sequence[BySeed], pairs: Sequence[tuple[int, int]], prior: _Prior
) -> dict[tuple[int, int], float]:
    """Holm's adjusted p of the moderated tests of some pairs."""
    return dict(zip(pairs, holm([_moderated(_differences(models, pair), prior) for pair in pairs]), strict=True))


def _moderated(differences: Sequence[float], prior: _Prior) -> float:
    """Two-sided p of a mean against 0, with its variance shrunk to the prior."""
    n = len(differences)
    if n < 2:
        return 1.0
    mean, freedom = math.fsum(differences) / n, n - 1
    variance = spread(differences, mean) ** 2
    if math.isinf(prior.freedom):
        variance = prior.variance
    else:
        variance = (prior.freedom * prior.variance + freedom * variance) / (prior.freedom + freedom)
    return _p(mean, math.sqrt(variance / n), max(freedom, min(prior.freedom + freedom, prior.most)))


def _p(mean: float, error: float, freedom: float) -> float:
    """Two-sided p of a mean with a standard error."""
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    from scipy.special import ndtr, stdtr

    t = -abs(mean / error)
    return 2 * float(ndtr(t) if math.isinf(freedom) else stdtr(freedom, t))
