"""Whether submitted scores are higher than those of a reviewer by more than chance, and what would have been seen.

Two questions, each with one number for all cells: the same cells again, on a machine that rounds otherwise, and the
same task and model with seeds that the submitter could not choose. Plain numbers in, plain numbers out.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from iml_bench.spec import Spec

LEVEL: Final = 0.01
"""Share of honest submissions that each test fails."""
POWER: Final = 0.8
FIRST: Final = 300
LAST: Final = 1_000_000
"""Fresh seeds lie from the first to before the last: none that is reported (0 on), chosen on (100 on) or a control's
(200 on)."""
GRID: Final = 200
"""Points along each of two variances, over which the power of Welch's test is summed."""


class Inflation(Spec):
    """A one-sided t-test of whether submitted scores are too high.

    Nothing is tested towards worse: a score that is too low harms only its model, and a test of one side sees more.
    """

    mean: float
    """Submitted minus the reviewer's, mean over cells, towards better."""
    error: float
    """Its standard error."""
    df: float
    """Degrees of freedom of that error."""
    p: float
    """Probability of a mean at least as high in an honest submission."""
    level: float
    """Share of honest submissions that are taken for inflated."""
    least: float
    """The least inflation, the same in every submitted cell, that is found with the probability ``power``, if the
    spread is what it was found to be."""
    power: float
    found: bool
    """Whether the scores are too high: ``p`` is less than ``level``."""


class Rounding(NamedTuple):
    """How far rounding alone moves a cell's score."""

    sd: float
    """Of one run."""
    df: int


def rounding_of(runs: Sequence[Sequence[float]], step: float) -> Rounding | None:
    """The spread of runs of the same cells that differ in rounding only, pooled over cells.

    Args:
        runs: the scores of each cell's runs.
        step: what one answer more is worth. No spread is less: runs that happen to agree do not say that no answer can
            ever tip.

    Returns:
        None where no cell was run twice.
    """
    df = sum(len(own) - 1 for own in runs)
    if df < 1:
        return None
    return Rounding(max(step, math.sqrt(sum(float(np.var(own)) * len(own) for own in runs) / df)), df)


def against_same_cells(submitted: Sequence[float], runs: Sequence[Sequence[float]], rounding: Rounding) -> Inflation:
    """Test the same cells: the mean of their differences against the rounding measured within them.

    An honest submission is one more run of each cell. So its difference from the mean of k others has the variance
    ``sd² (1 + 1/k)``, and the mean difference over its standard error is Student's t, exactly.

    Args:
        submitted: the score of each cell, more being better.
        runs: the scores of each cell's runs here, one or more.
        rounding: of these runs.
    """
    n = len(submitted)
    mean = math.fsum(one - math.fsum(own) / len(own) for one, own in zip(submitted, runs, strict=True)) / n
    error = rounding.sd * math.sqrt(sum(1 + 1 / len(own) for own in runs)) / n
    return _tested(mean, error, rounding.df, error * noncentrality(rounding.df))


def against_fresh_seeds(submitted: Sequence[float], fresh: Sequence[float], step: float) -> Inflation:
    """Test other seeds of the same task and model, by Welch's t: it gives a submission nothing for a wide spread.

    ``least`` takes it that all seeds, here and there, are spread alike, as those of an honest submission are: three
    alone say little of their spread.

    Args:
        submitted: the score of each seed, two or more, more being better.
        fresh: those of other seeds, two or more.
        step: as for ``rounding_of``.
    """
    counts = (len(submitted), len(fresh))
    variances = [max(step**2, float(np.var(own, ddof=1))) for own in (submitted, fresh)]
    mean = float(np.mean(submitted) - np.mean(fresh))
    error, df = (float(part) for part in welch(variances, counts))
    common = sum(variance * (n - 1) for variance, n in zip(variances, counts, strict=True)) / (sum(counts) - 2)
    return _tested(mean, error, df, math.sqrt(common) * least_by_welch(counts))


def _tested(mean: float, error: float, df: float, least: float) -> Inflation:
    from scipy.special import stdtr

    p = float(stdtr(df, -mean / error))
    return Inflation(mean=mean, error=error, df=df, p=p, level=LEVEL, least=least, power=POWER, found=p < LEVEL)


@cache
def noncentrality(df: float) -> float:
    """By how many standard errors a mean must differ to be found with ``POWER`` at ``LEVEL``, with so many degrees."""
    from scipy.special import nctdtrinc, stdtrit

    return float(nctdtrinc(df, 1 - POWER, stdtrit(df, 1 - LEVEL)))


def welch(variances: Sequence[Any], counts: tuple[int, int]) -> tuple[Any, Any]:
    """Standard error of the difference of two means, and Satterthwaite's degrees of freedom; arrays go through."""
    parts = [variance / n for variance, n in zip(variances, counts, strict=True)]
    total = parts[0] + parts[1]
    return np.sqrt(total), total**2 / sum(part**2 / (n - 1) for part, n in zip(parts, counts, strict=True))


@cache
def least_by_welch(counts: tuple[int, int]) -> float:
    """The difference of two means that Welch's test finds with ``POWER`` at ``LEVEL``, in a seed's deviations.

    A noncentral t with Satterthwaite's degrees of freedom promises .80 where three seeds against eight find .74, since
    these degrees are estimated, too. So the power is summed up over what the two variances can be found to be.

    Args:
        counts: seeds on each side, two or more.
    """
    from scipy.optimize import brentq
    from scipy.special import chdtri, ndtr, stdtrit

    tails = (np.arange(GRID) + 0.5) / GRID
    errors, df = welch(np.meshgrid(*(chdtri(n - 1, tails) / (n - 1) for n in counts)), counts)
    needed = stdtrit(df, 1 - LEVEL) * errors
    error = math.sqrt(sum(1 / n for n in counts))

    def lacking(difference: float) -> float:
        return float(ndtr((difference - needed) / error).mean()) - POWER

    return float(brentq(lacking, 0, float(needed.max()) + 10 * error))


def fresh_seeds(cells: Iterable[tuple[str, str]], taken: Collection[int], number: int) -> tuple[int, ...]:
    """Seeds that follow from what was submitted: nobody can choose them, and every reviewer gets the same.

    Args:
        cells: of the task and model that were submitted, the key of each and the digest of its items.
        taken: seeds that it must not be, beside those below ``FIRST``.
        number: how many.
    """
    submission = hashlib.sha256("\n".join(sorted(" ".join(cell) for cell in cells)).encode()).hexdigest()
    found: list[int] = []
    for count in itertools.count():
        if len(found) == number:
            break
        drawn = int(hashlib.sha256(f"{submission} {count}".encode()).hexdigest(), 16)
        seed = FIRST + drawn % (LAST - FIRST)
        if seed not in taken and seed not in found:
            found.append(seed)
    return tuple(found)
