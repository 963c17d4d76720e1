"""Intervals, comparisons and tiers: exact oracles, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as reference

from iml_bench.stats import Interval, compare_paired, estimate, holm, internalised, tiers


def test_interval_is_students_t() -> None:
    values = [0.1, 0.4, 0.35, 0.2]
    found = estimate(values)
    low, high = reference.t.interval(0.95, 3, np.mean(values), reference.sem(values))
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_one_seed_has_no_interval_and_none_no_estimate() -> None:
    assert estimate([0.3]) == Interval(mean=0.3, low=None, high=None, n=1)
    assert estimate([]) is None


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.4, 0.1, size=(4000, 5))
    covered = [found.low <= 0.4 <= found.high for found in map(estimate, draws.tolist())]  # type: ignore[union-attr,operator]
    assert np.mean(covered) == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 4000))


def test_paired_comparison_is_the_paired_t_test_on_shared_seeds() -> None:
    first = {0: 0.5, 1: 0.6, 2: 0.4, 9: 0.0}
    second = {0: 0.4, 1: 0.45, 2: 0.35, 5: 1.0}
    found = compare_paired(first, second)
    expected = reference.ttest_rel([0.5, 0.6, 0.4], [0.4, 0.45, 0.35])
    assert found is not None
    assert found.seeds == (0, 1, 2)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_pairing_sees_what_unpaired_cannot() -> None:
    worlds = [0.1, 0.5, 0.9, 0.3, 0.7]
    found = compare_paired(dict(enumerate(worlds)), {s: w - 0.05 - 0.001 * s for s, w in enumerate(worlds)})
    assert found is not None and found.p is not None and found.p < 0.001
    assert reference.ttest_ind(worlds, [w - 0.05 for w in worlds]).pvalue > 0.5


@pytest.mark.parametrize(
    ("first", "second", "p"), [({0: 0.1}, {0: 0.2}, None), ({0: 0.1, 1: 0.1}, {0: 0.1, 1: 0.1}, 1.0)]
)
def test_degenerate_comparisons(first: dict[int, float], second: dict[int, float], p: float | None) -> None:
    found = compare_paired(first, second)
    assert found is not None
    assert found.p == p


def test_nothing_shared_is_no_comparison() -> None:
    assert compare_paired({0: 0.1}, {1: 0.1}) is None


def test_holm_is_the_step_down_correction() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_tiers_part_only_what_the_test_separates() -> None:
    noise = np.random.default_rng(1).normal(0, 0.01, size=(3, 6))
    far = [dict(enumerate((level + row).tolist())) for level, row in zip((0.2, 0.9, 0.5), noise, strict=True)]
    assert tiers(far) == [3, 1, 2]
    wide = np.random.default_rng(2).normal(0.5, 0.3, size=(3, 6))
    assert tiers([dict(enumerate(row.tolist())) for row in wide]) == [1, 1, 1]


def test_internalised_needs_an_uptake_beyond_doubt() -> None:
    assert internalised([0.3, 0.4, 0.35], 0.1)
    assert not internalised([0.05, -0.04, 0.01], 0.1)
    assert internalised([0.3], 0.1)
    assert not internalised([0.1], 0.1)
    assert not internalised([], None)
