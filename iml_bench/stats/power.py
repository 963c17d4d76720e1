"""How many seeds a question needs: power and width of a t-test on a mean over seeds, before they are run."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from iml_bench.stats.intervals import CONFIDENCE

FEWEST: Final = 2
MOST: Final = 100_000
QUANTILES: Final = 2000
BOUND: Final = 0.8
"""Confidence with which a standard deviation of few seeds is no larger than its upper bound."""


def power_of(effect: float, sd: float, n: int) -> float:
    """The chance that a two-sided t-test at 5 % finds a mean of ``effect`` over ``n`` seeds.

    The non-central t-distribution as a mean over the distribution of the sample's deviation, which is exact to four
    digits also where the series of ``scipy.special.nctdtr`` gives nothing (few seeds, large effects).
    """
    from scipy.special import chdtri, ndtr, stdtrit

    if sd == 0:
        return float(effect != 0)
    bound, shift = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)), abs(effect) * math.sqrt(n) / sd
    deviation = np.sqrt(chdtri(n - 1, (np.arange(QUANTILES) + 0.5) / QUANTILES) / (n - 1))
    return float(np.mean(ndtr(shift - bound * deviation) + ndtr(-shift - bound * deviation)))


def seeds_for(effect: float, sd: float, power: float) -> int | None:
    """The fewest seeds with which the test finds the effect with this power; None where that is above ``MOST``."""
    low, high = FEWEST, FEWEST
    while power_of(effect, sd, high) < power:
        if high >= MOST:
            return None
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(effect, sd, middle) >= power else (middle + 1, high)
    return high


def half_width(sd: float, n: int) -> float:
    """The expected half-width of a 95 % interval over ``n`` seeds whose true standard deviation is ``sd``."""
    from scipy.special import gammaln, stdtrit

    expected = math.sqrt(2 / (n - 1)) * math.exp(gammaln(n / 2) - gammaln((n - 1) / 2))  # of the sample's, over sd
    return float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * sd * expected / math.sqrt(n)


def upper_sd(sd: float, n: int) -> float:
    """What the true standard deviation is at most, with confidence ``BOUND``, where ``n`` seeds have ``sd``."""
    from scipy.special import chdtri

    return sd * math.sqrt((n - 1) / float(chdtri(n - 1, BOUND)))
