"""What the seeds of one model say: intervals, equivalence, heaps, and how a score grows with size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np

from iml_bench.spec import Spec

CONFIDENCE: Final = 0.95


class Interval(Spec):
    """A mean over seeds, or a quotient of two, with its 95 % interval, which is null for a single seed."""

    mean: float
    low: float | None
    high: float | None
    n: int
    """Seeds."""


def spread(values: Sequence[float], mean: float) -> float:
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
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * spread(values, mean) / math.sqrt(n)
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


def quotient(upper: Sequence[float], lower: Sequence[float]) -> Interval | None:
    """The quotient of two means over the same seeds with Fieller's 95 % interval (Fieller 1954).

    All ``r`` for which ``mean(upper - r * lower)`` is not significantly different from zero: an interval as long as
    the lower mean is significantly different from zero.

    Args:
        upper: ``[n]``, by seed.
        lower: ``[n]``, of the same seeds.

    Returns:
        None where there are no seeds or the lower mean is 0; without bounds for one seed, and where there are none.
    """
    n = len(upper)
    if not n or not (below := math.fsum(lower) / n):
        return None
    over = math.fsum(upper) / n
    ratio = over / below
    if n == 1:
        return Interval(mean=ratio, low=None, high=None, n=1)
    from scipy.special import stdtrit

    covariance = np.cov(upper, lower) * float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) ** 2 / n
    a, b, c = below**2 - covariance[1, 1], over * below - covariance[0, 1], over**2 - covariance[0, 0]
    if a <= 0:
        return Interval(mean=ratio, low=None, high=None, n=n)
    half = math.sqrt(max(0.0, b**2 - a * c)) / a
    return Interval(mean=ratio, low=float(b / a - half), high=float(b / a + half), n=n)


def linearised(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    """``[n]``: what each seed adds to a quotient of means, to first order; their mean is the quotient."""
    n = len(upper)
    below = math.fsum(lower) / n
    ratio = math.fsum(upper) / n / below
    return [ratio + (one - ratio * other) / below for one, other in zip(upper, lower, strict=True)]


class Equivalence(Spec):
    """Whether a mean is within a margin around 0: two one-sided tests at 5 % each."""

    mean: float
    low: float
    """Of the 90 % interval, which lies within the margin just where both tests say so."""
    high: float
    margin: float
    n: int
    verdict: Literal["within", "outside", "undecided"]
    """``outside``: the whole interval lies beyond the margin."""


def equivalence(values: Sequence[float], margin: float) -> Equivalence | None:
    """Test a mean over seeds against a margin that was stated beforehand (Schuirmann 1987); None below two seeds."""
    n = len(values)
    if n < 2:
        return None
    from scipy.special import stdtrit

    mean = math.fsum(values) / n
    half = float(stdtrit(n - 1, 0.95)) * spread(values, mean) / math.sqrt(n)
    low, high = mean - half, mean + half
    verdict: Literal["within", "outside", "undecided"] = "undecided"
    if -margin <= low and high <= margin:
        verdict = "within"
    elif low > margin or high < -margin:
        verdict = "outside"
    return Equivalence(mean=mean, low=low, high=high, margin=margin, n=n, verdict=verdict)


MOST_SEEDS: Final = 10_000
"""More than anybody will run."""


def seeds_to_decide(values: Sequence[float], margin: float) -> int | None:
    """At how many seeds a test of equivalence would be decided if mean and spread stayed as they are.

    None where that is more than ``MOST_SEEDS``, as where the mean lies on the margin, and below two seeds.
    """
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    mean = math.fsum(values) / len(values)
    n = np.arange(2, MOST_SEEDS + 1)
    decided = stdtrit(n - 1, 0.95) * spread(values, mean) / np.sqrt(n) < abs(margin - abs(mean))
    return int(n[np.argmax(decided)]) if decided.any() else None


def above(values: Sequence[float], least: float) -> bool | None:
    """Whether a mean over seeds exceeds a least size, one-sided at 2.5 %; None below two seeds."""
    found = estimate(values)
    return None if found is None or found.low is None else found.low > least


HEAPS: Final = {5: 0.0180, 6: 0.0327, 8: 0.0645, 10: 0.0912, 12: 0.1131, 16: 0.1471, 20: 0.1695, 32: 0.2111}
"""By number of seeds, the share of their variance that lies within two heaps in 1 % of normal samples (200,000 drawn);
in between it is interpolated."""


def two_heaps(values: Sequence[float]) -> bool:
    """Whether seeds fall into two heaps, with an error of 1 % where they are normal; never below five.

    Of all ways to cut the sorted seeds in two with two or more on each side, the best leaves a share of the variance
    within the parts: a share as small as it is in 1 % of normal samples makes two heaps.
    """
    n = len(values)
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    whole = float(((ordered - ordered.mean()) ** 2).sum()) if n else 0.0
    if n < min(HEAPS) or whole == 0:
        return False
    parts = ((ordered[:cut], ordered[cut:]) for cut in range(2, n - 1))
    within = min(sum(float(((part - part.mean()) ** 2).sum()) for part in both) for both in parts)
    return within / whole < float(np.interp(n, list(HEAPS), list(HEAPS.values())))


def slopes(sizes: Sequence[tuple[int, Mapping[int, float]]]) -> dict[int, float]:
    """The growth of a score per tenfold parameters, for each seed that all sizes of a family share.

    Least squares of the score on log10(parameters), within the seed; the spread over seeds is then that of
    the slope itself. Empty for fewer than three sizes.

    Args:
        sizes: for each model its parameters (> 0) and its score by seed.
    """
    if len({parameters for parameters, _ in sizes}) < 3:
        return {}
    return within_seeds([math.log10(parameters) for parameters, _ in sizes], [by_seed for _, by_seed in sizes])


def within_seeds(x: Sequence[float], points: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The least-squares slope of a score on ``x`` within each seed that all points share.

    Args:
        x: ``[k]``, not all the same.
        points: ``[k]``, the score by seed at each.
    """
    centred = np.asarray(x, dtype=np.float64) - np.mean(x)
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in points)))
    return {seed: float(centred @ [one[seed] for one in points] / (centred @ centred)) for seed in seeds}
