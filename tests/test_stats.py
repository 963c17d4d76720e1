"""Scores and intervals: exact oracles, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from making import item_rows
from scipy import stats as reference

from iml_bench.protocols import score_items
from iml_bench.records import columns_of
from iml_bench.stats import compare_paired, estimate, holm, internalised, tiers


@pytest.mark.parametrize("iml", [0.0, 0.1, 0.3, 0.5])
def test_iml_is_the_difference_built_into_the_items(iml: float) -> None:
    scores = score_items(columns_of(item_rows(iml)))
    assert scores.iml == pytest.approx(iml)
    assert scores.iml_nats == pytest.approx(iml * 1.9)
    assert scores.lift_unreliable == pytest.approx(0.5)
    assert scores.lift_reliable == pytest.approx(0.5 + iml)
    assert scores.stage1_gap == 1.0


def test_exchanging_the_tags_changes_only_the_sign_of_iml() -> None:
    items = item_rows(0.3)
    swapped = items.with_columns(
        pl.when((pl.col("stage") == 2) & pl.col("tag").is_not_null())
        .then(pl.col("tag").replace({"reliable": "unreliable", "unreliable": "reliable"}))
        .otherwise(pl.col("tag"))
        .alias("tag")
    )
    assert score_items(columns_of(swapped)).iml == pytest.approx(-0.3)


def test_the_order_of_rows_does_not_matter() -> None:
    items = item_rows(0.3)
    assert score_items(columns_of(items.sample(fraction=1, shuffle=True, seed=3))) == score_items(columns_of(items))


def test_a_score_without_its_groups_is_null_with_a_reason() -> None:
    items = item_rows(0.3).filter(pl.col("group") != "new_undefined")
    scores = score_items(columns_of(items))
    assert scores.lift_reliable is None
    assert scores.lift_fresh is None
    assert "group" in scores.reasons["lift_reliable"]
    assert scores.iml == pytest.approx(0.3)


def test_item_error_is_clustered_by_entity() -> None:
    items = item_rows(0.3)
    often = pl.concat([items, items, items])  # three identical questions per entity are no more evidence
    once, thrice = (score_items(columns_of(table)).iml_se_items for table in (items, often))
    differences = [1.0] * 6 + [0.0] * 14
    assert once == pytest.approx(np.std(differences, ddof=1) / np.sqrt(20))
    assert thrice == pytest.approx(once)


def test_interval_is_students_t() -> None:
    values = [0.1, 0.4, 0.35, 0.2]
    found = estimate(values)
    low, high = reference.t.interval(0.95, 3, np.mean(values), reference.sem(values))
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))


def test_one_seed_has_no_interval_and_none_no_estimate() -> None:
    assert estimate([0.3]) == (0.3, None, None, 1)
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


def test_internalised_needs_a_lift_beyond_doubt() -> None:
    assert internalised([0.3, 0.4, 0.35], 0.1)
    assert not internalised([0.05, -0.04, 0.01], 0.1)
    assert internalised([0.3], 0.1)
    assert not internalised([0.1], 0.1)
    assert not internalised([], None)
