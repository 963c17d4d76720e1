"""Is a claim about a mean over seeds supported, contradicted, or is there no effect worth caring about?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iml_bench.spec import Direction, Spec
from iml_bench.stats.comparing import holm
from iml_bench.stats.intervals import MOST_SEEDS, Interval, estimate, spread, within_seeds

Decision = Literal["supported", "contradicted", "no effect", "undecided"]
LEVEL: Final = 0.05
FIRST_LOOK: Final = 4
"""Seeds before which no claim is judged where seeds are added until claims are decided."""
ROUNDING: Final = 1e-9
"""Of the largest score: what deviates less from a line is rounding."""
Floats = NDArray[np.float64]


class Contrast(NamedTuple):
    """A number of every seed, and what its mean is claimed to be."""

    values: Sequence[float]
    direction: Direction
    """``up``: above zero, ``down``: below, ``none``: within delta of zero."""
    delta: float
    """The smallest effect worth caring about."""


class Decided(Spec):
    """What the seeds say about one claim of a suite."""

    decision: Decision
    """``no effect``: none larger than delta, in either direction."""
    estimate: Interval | None
    """Mean and 95 % interval over seeds."""
    p_effect: float | None
    """Corrected p of the mean against 0, two-sided; where the claim is that there is no effect, against an effect of
    delta at most. Null below two seeds."""
    p_none: float | None
    """Corrected p of the mean against an effect of delta or more (two one-sided tests, the larger p)."""


def looks_until(most: int) -> tuple[int, ...]:
    """After how many seeds claims are judged where there are at most ``most``: 4, 8, 16, ..., and in the end all."""
    looks = []
    n = FIRST_LOOK
    while n < most:
        looks.append(n)
        n *= 2
    return (*looks, most)


def decide(contrasts: Sequence[Contrast], looks: int = 1, before: Sequence[Decided] | None = None) -> list[Decided]:
    """The decisions on all claims of a suite together, with two kinds of error at 5 % each for the whole suite.

    An effect is found where the mean is significantly different from zero, and none where it is significantly within
    delta (Schuirmann 1987); both p are corrected over the suite by Holm's method. Where both hold the effect is real
    and too small to care about, which is ``no effect``. A claim that there is none is supported just then, and
    contradicted where the mean is significantly beyond delta.

    Where seeds are added until claims are decided, every look has an equal share of both errors, so that they hold
    whenever it ends and however the looks depend on each other; what a look rejects leaves the correction of those
    that follow (Holm's method at every look: Ye, Li, Liu and Yao 2013, with Bonferroni's bound over the looks).

    Args:
        contrasts: one a claim, with the seeds of this look.
        looks: how many there are in all, said beforehand.
        before: what the look before came to; what it decided stays as it was.
    """
    past = [(one.p_effect, one.p_none) for one in before] if before else [(None, None)] * len(contrasts)
    effect = _corrected([_p(one, _effect) for one in contrasts], [p for p, _ in past], looks)
    none = _corrected([_p(one, _none) for one in contrasts], [p for _, p in past], looks)
    found = [_decided(one, p, q) for one, p, q in zip(contrasts, effect, none, strict=True)]
    if before is None:
        return found
    return [new if old.decision == "undecided" else old for old, new in zip(before, found, strict=True)]


def _corrected(p: Sequence[float | None], before: Sequence[float | None], looks: int) -> list[float | None]:
    """Holm's correction of a look's p among those that no look before has rejected.

    What has no p yet is a test that found nothing.
    """
    left = [place for place, old in enumerate(before) if old is None or old >= LEVEL]
    raw = [p[place] for place in left]
    adjusted = dict(zip(left, holm([1.0 if one is None else one for one in raw]), strict=True))
    found = list(before)
    for place in left:
        found[place] = None if p[place] is None else min(1.0, looks * adjusted[place])
    return found


def _decided(one: Contrast, effect: float | None, none: float | None) -> Decided:
    found = estimate(one.values)
    decision: Decision = "undecided"
    if found is not None and effect is not None and none is not None:
        if none < LEVEL:
            decision = "supported" if one.direction == "none" else "no effect"
        elif effect < LEVEL:
            as_claimed = one.direction == ("up" if found.mean > 0 else "down")
            decision = "supported" if as_claimed else "contradicted"
    return Decided(decision=decision, estimate=found, p_effect=effect, p_none=none)


def seeds_needed(one: Contrast, n_claims: int = 1) -> int | None:
    """At how many seeds a claim would be decided if mean and spread stayed, whatever the other claims come to.

    None where that is more than ``MOST_SEEDS``, and below two seeds.
    """
    if len(one.values) < 2:
        return None
    mean = math.fsum(one.values) / len(one.values)
    n = np.arange(2, MOST_SEEDS + 1, dtype=np.float64)
    error: Floats = spread(one.values, mean) / np.sqrt(n)
    p = np.minimum(_effect(one, mean, error, n - 1), _none(one, mean, error, n - 1))
    decided = p * n_claims < LEVEL
    return int(n[np.argmax(decided)]) if decided.any() else None


_Test = Callable[[Contrast, float, Floats, Floats], Floats]
"""p of a contrast with a mean, for standard errors and their degrees of freedom."""


def _p(one: Contrast, test: _Test) -> float | None:
    n = len(one.values)
    if n < 2:
        return None
    mean = math.fsum(one.values) / n
    return float(test(one, mean, np.array([spread(one.values, mean) / math.sqrt(n)]), np.array([n - 1.0]))[0])


def _effect(one: Contrast, mean: float, error: Floats, freedom: Floats) -> Floats:
    """Two-sided p against zero, or against delta where no effect is claimed."""
    beyond = abs(mean) - (one.delta if one.direction == "none" else 0.0)
    return np.minimum(1.0, 2.0 * _upper(beyond, error, freedom))


def _none(one: Contrast, mean: float, error: Floats, freedom: Floats) -> Floats:
    """The larger p of two one-sided tests against an effect of delta."""
    return _upper(one.delta - abs(mean), error, freedom)


def _upper(beyond: float, error: Floats, freedom: Floats) -> Floats:
    """One-sided p of a mean that lies ``beyond`` a bound, which is below 0 where it does not."""
    from scipy.special import stdtr  # slow to import, and listings need none of it

    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, beyond / error, math.inf if beyond > 0 else -math.inf)
    return np.asarray(stdtr(freedom, -t), dtype=np.float64)


def estimand(kind: str, x: Sequence[float], points: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The number of every seed that a claim is about; see ``Claim``.

    Args:
        kind: which.
        x: ``[k]``, of a slope: where the points lie, in its unit.
        points: ``[k]``, the score by seed at each; all have the same seeds. Those of a symmetry are in the order of a
            field that lies symmetrically.
    """
    if kind == "mean":
        return dict(points[0])
    if kind == "difference":
        return {seed: points[1][seed] - points[0][seed] for seed in points[0]}
    if kind == "slope":
        return within_seeds(x, points)
    steps = len(points) - 1
    if kind == "trend":
        return {seed: steps * slope for seed, slope in within_seeds(range(steps + 1), points).items()}
    # Of a symmetry, values of x and of 1 - x stand at the same distance from the ends.
    pairs = [(points[place], points[-1 - place]) for place in range(steps // 2 + 1)]
    return {seed: math.fsum(low[seed] + high[seed] for low, high in pairs) / len(pairs) for seed in points[0]}


def lack_of_fit(x: Sequence[float], points: Sequence[Mapping[int, float]]) -> float | None:
    """The p of a straight line within seeds: Hotelling's T-squared of all that a line leaves over, mean over seeds.

    Args:
        x: ``[k]``, three or more.
        points: ``[k]``, the score by seed at each.

    Returns:
        None where the shared seeds are no more than the k - 2 contrasts that a line leaves over, or all fit it exactly.
    """
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in points)))
    k, n = len(x), len(seeds)
    if k < 3 or n <= k - 2:
        return None
    from scipy.special import fdtrc

    design = np.stack([np.ones(k), np.asarray(x, dtype=np.float64)], axis=1)
    left = np.linalg.svd(design)[0][:, 2:]  # an orthonormal basis of what a line cannot follow
    values = np.array([[by_seed[seed] for by_seed in points] for seed in seeds])
    contrasts = values @ left
    mean = contrasts.mean(axis=0)
    covariance = np.atleast_2d(np.cov(contrasts, rowvar=False))
    if np.linalg.matrix_rank(covariance, tol=(ROUNDING * np.abs(values).max()) ** 2) < k - 2:
        return None
    squared = n * float(mean @ np.linalg.solve(covariance, mean))
    return float(fdtrc(k - 2, n - k + 2, squared * (n - k + 2) / ((k - 2) * (n - 1))))


def local_slopes(x: Sequence[float], points: Sequence[Mapping[int, float]]) -> list[Interval | None]:
    """``[k - 1]``: the slope between each two neighbours, over the seeds that both have."""
    found = []
    for place in range(len(x) - 1):
        both = within_seeds(x[place : place + 2], points[place : place + 2])
        found.append(estimate(list(both.values())))
    return found
