"""Whether a submission is inflated: exact oracles, and simulated submissions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from iml_bench.submit.pooled import (
    FIRST,
    LAST,
    LEVEL,
    POWER,
    against_fresh_seeds,
    against_same_cells,
    fresh_seeds,
    least_by_welch,
    noncentrality,
    rounding_of,
)

SUBMISSIONS = 2_000
MARGIN = 0.03
"""More than three standard errors of a share of .8 of so many."""


def test_the_same_cells_by_hand() -> None:
    """Student's t with two degrees of freedom has a distribution that can be written down."""
    runs = [[0.4, 0.5], [0.6, 0.5]]
    rounding = rounding_of(runs, step=0.001)
    assert rounding is not None and rounding.df == 2 and rounding.sd == pytest.approx(math.sqrt(0.005))
    found = against_same_cells([0.5, 0.7], runs, rounding)
    assert found.mean == pytest.approx(0.1) and found.error == pytest.approx(math.sqrt(0.005 * 3) / 2)
    t = found.mean / found.error
    assert found.p == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t))) and not found.found
    assert stats.nct.sf(stats.t.isf(LEVEL, 2), 2, found.least / found.error) == pytest.approx(POWER, abs=1e-3)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.lists(st.floats(-1, 1), min_size=2, max_size=4))
def test_the_fresh_seeds_are_tested_as_scipy_tests(submitted: list[float], fresh: list[float]) -> None:
    if min(np.std(submitted), np.std(fresh)) < 0.01:
        return
    found = against_fresh_seeds(submitted, fresh, step=0.001)
    expected = stats.ttest_ind(submitted, fresh, equal_var=False, alternative="greater")
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert found.df == pytest.approx(expected.df) and found.found == (found.p < LEVEL)


@pytest.mark.parametrize("df", [1, 2, 5, 8, 40])
def test_the_noncentrality_is_that_of_scipy(df: int) -> None:
    assert stats.nct.sf(stats.t.isf(LEVEL, df), df, noncentrality(df)) == pytest.approx(POWER, abs=1e-3)


@pytest.mark.parametrize(("cells", "nudges"), [(1, 8), (5, 2), (8, 1)])
def test_the_least_inflation_of_the_same_cells_is_found_four_times_in_five(cells: int, nudges: int) -> None:
    """Cells differ by far more than rounding moves them; every run, the submitted one too, has the same rounding."""
    rng, sd = np.random.default_rng(cells), 0.03
    error = sd * math.sqrt((1 + 1 / (1 + nudges)) / cells)
    least = error * noncentrality(cells * nudges)

    def share(inflation: float) -> float:
        found = 0
        for _ in range(SUBMISSIONS):
            truth = rng.normal(0.4, 0.2, (cells, 1))
            runs = (truth + rng.normal(0, sd, (cells, 1 + nudges))).tolist()
            submitted = (truth[:, 0] + rng.normal(0, sd, cells) + inflation).tolist()
            rounding = rounding_of(runs, step=1e-6)
            assert rounding is not None
            found += against_same_cells(submitted, runs, rounding).found
        return found / SUBMISSIONS

    assert share(least) == pytest.approx(POWER, abs=MARGIN)
    assert share(0.0) == pytest.approx(LEVEL, abs=0.008)


@pytest.mark.parametrize(("seeds", "level"), [(5, 0.009), (8, 0.014)])
def test_the_least_inflation_of_other_seeds_is_found_four_times_in_five(seeds: int, level: float) -> None:
    """Welch's level is not exact with three fresh seeds; it is what 200,000 submissions gave."""
    rng, sd = np.random.default_rng(seeds), 0.04
    least, printed = sd * least_by_welch((seeds, 3)), []

    def share(inflation: float) -> float:
        found = 0
        for _ in range(SUBMISSIONS):
            submitted, fresh = rng.normal(0.4 + inflation, sd, seeds), rng.normal(0.4, sd, 3)
            result = against_fresh_seeds(submitted.tolist(), fresh.tolist(), step=1e-6)
            found += result.found
            printed.append(result.least)
        return found / SUBMISSIONS

    assert share(least) == pytest.approx(POWER, abs=MARGIN)
    assert share(0.0) == pytest.approx(level, abs=0.008)
    assert np.median(printed) == pytest.approx(least, rel=0.08), "what is printed is what it would be were the sd known"


def test_the_least_inflation_falls_with_more_seeds() -> None:
    assert least_by_welch((8, 8)) < least_by_welch((8, 3)) < least_by_welch((2, 3))


def test_runs_that_agree_do_not_make_one_answer_a_lie() -> None:
    runs = [[0.25] * 3] * 4
    rounding = rounding_of(runs, step=0.01)
    assert rounding is not None and rounding.sd == 0.01
    assert not against_same_cells([0.26, 0.25, 0.25, 0.26], runs, rounding).found
    assert against_same_cells([0.31] * 4, runs, rounding).found
    assert not against_fresh_seeds([0.26, 0.25], [0.25, 0.25, 0.25], step=0.01).found
    assert rounding_of([[0.25], [0.3]], step=0.01) is None, "nothing was run twice"


KEYS = st.lists(st.tuples(st.text("0123456789abcdef", min_size=4), st.text("0123456789abcdef", min_size=4)), max_size=6)


@given(KEYS, st.sets(st.integers(0, LAST), max_size=20), st.integers(1, 5), st.randoms())
def test_fresh_seeds_follow_from_the_cells_alone(
    cells: list[tuple[str, str]], taken: set[int], number: int, shuffling: object
) -> None:
    found = fresh_seeds(cells, taken, number)
    assert len({*found}) == number and not {*found} & taken
    assert all(FIRST <= seed < LAST for seed in found), "outside of reported, tuning's and controls' seeds"
    shuffled = list(cells)
    shuffling.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fresh_seeds(shuffled, taken, number) == found
    assert fresh_seeds([*cells, ("one", "more")], taken, number) != found


def test_a_seed_that_was_submitted_is_passed_over() -> None:
    first, second, third = fresh_seeds([("a", "b")], (), 3)
    assert fresh_seeds([("a", "b")], {first}, 2) == (second, third)
