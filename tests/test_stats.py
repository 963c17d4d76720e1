"""Intervals, comparisons and ranks: exact oracles, and coverage and error by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as reference

from iml_bench.stats import (
    Interval,
    RankSet,
    above,
    compare_paired,
    equivalence,
    estimate,
    holm,
    linearised,
    quotient,
    rank,
    two_heaps,
)


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


def test_a_quotients_interval_is_what_no_test_rejects() -> None:
    """Fieller: at its ends the mean of ``upper - r * lower`` is just significantly different from zero."""
    upper, lower = [0.30, 0.35, 0.28, 0.41], [0.50, 0.55, 0.46, 0.60]
    found = quotient(upper, lower)
    assert found is not None and found.low is not None and found.high is not None
    assert found.mean == pytest.approx(np.mean(upper) / np.mean(lower))
    for end in (found.low, found.high):
        rest = np.array(upper) - end * np.array(lower)
        assert reference.ttest_1samp(rest, 0.0).pvalue == pytest.approx(0.05)


def test_a_quotient_of_noise_has_no_bounds() -> None:
    found = quotient([0.1, 0.2, 0.1], [0.1, -0.2, 0.15])
    assert found is not None and found.low is None and found.high is None
    assert quotient([0.1], [0.2]) == Interval(mean=0.5, low=None, high=None, n=1)
    assert quotient([], []) is None and quotient([0.1], [0.0]) is None


def test_linearised_values_have_the_quotient_as_their_mean() -> None:
    upper, lower = [0.30, 0.35, 0.28], [0.50, 0.55, 0.46]
    assert np.mean(linearised(upper, lower)) == pytest.approx(np.mean(upper) / np.mean(lower))
    assert linearised([0.2, 0.2], [0.4, 0.4]) == pytest.approx([0.5, 0.5])


def test_equivalence_is_two_one_sided_tests() -> None:
    values = [0.02, -0.01, 0.03, 0.0, 0.01]
    found = equivalence(values, 0.05)
    assert found is not None and found.verdict == "within"
    sides = [
        reference.ttest_1samp(values, end, alternative=way).pvalue for end, way in ((-0.05, "greater"), (0.05, "less"))
    ]
    assert max(sides) < 0.05
    edge = max(abs(found.low), abs(found.high))
    assert [equivalence(values, edge * by).verdict for by in (1.01, 0.99)] == ["within", "undecided"]  # type: ignore[union-attr]
    assert equivalence([0.2, 0.21, 0.19], 0.05).verdict == "outside"  # type: ignore[union-attr]
    assert equivalence([0.0], 0.05) is None


def test_ranks_part_only_what_the_test_separates() -> None:
    noise = np.random.default_rng(1).normal(0, 0.01, size=(3, 8))
    far = [dict(enumerate((level + row).tolist())) for level, row in zip((0.2, 0.9, 0.5), noise, strict=True)]
    assert rank(far, [True] * 3).sets == tuple(RankSet(low=place, high=place, of=3) for place in (3, 1, 2))
    wide = np.random.default_rng(2).normal(0.5, 0.3, size=(3, 8))
    alike = rank([dict(enumerate(row.tolist())) for row in wide], [True] * 3)
    assert alike.sets == (RankSet(low=1, high=3, of=3),) * 3
    assert alike.sets[0].may_be_best


def boards(repeats: int, means: list[float], seed: int) -> list[list[dict[int, float]]]:
    drawn = np.random.default_rng(seed).normal(means, 0.06, size=(repeats, 8, len(means)))
    return [[dict(enumerate(column)) for column in board.T.tolist()] for board in drawn]


def test_a_wrong_verdict_on_a_board_is_as_rare_as_it_is_said() -> None:
    wrong = [min(rank(board, [True] * 10).p.values()) < 0.05 for board in boards(300, [0.3] * 10, 5)]
    assert np.mean(wrong) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    few = [min(rank(board, [True] * 3).p.values()) < 0.05 for board in boards(3000, [0.3] * 3, 8)]
    assert np.mean(few) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 3000)


def test_moderation_finds_more_than_plain_tests() -> None:
    means = [0.3, 0.3, 0.38, 0.46, 0.54, 0.7]
    moderated = plain = 0
    for board in boards(60, means, 6):
        moderated += sum(p < 0.05 for p in rank(board, [True] * len(means)).p.values())
        compared = [compare_paired(one, other) for place, one in enumerate(board) for other in board[place + 1 :]]
        plain += sum(p < 0.05 for p in holm([one.p for one in compared if one and one.p is not None]))
    assert moderated > plain


def test_a_stranger_moves_no_other_models_ranks() -> None:
    for board in boards(20, [0.3, 0.35, 0.4, 0.5, 0.45, 0.2], 7):
        own = rank(board[:4], [True] * 4).sets
        together = rank(board, [True] * 4 + [False] * 2).sets
        assert together[:4] == own
        assert all(one.of == 5 for one in together[4:])


def test_a_model_that_shares_no_seed_is_told_from_none_and_leaves_the_others_as_they_are() -> None:
    near = [dict(enumerate(row)) for row in ([0.1, 0.12, 0.11], [0.5, 0.51, 0.5])]
    elsewhere = {seed + 10: value for seed, value in near[1].items()}
    found = rank([*near, elsewhere], [True, True, False]).sets
    assert [(one.low, one.high) for one in found] == [(2, 2), (1, 1), (1, 3)]


def test_the_better_is_who_is_better_on_shared_seeds() -> None:
    first = {0: 0.50, 1: 0.51, 2: 0.52, 3: 0.50, 9: -9.0}
    second = {0: 0.30, 1: 0.32, 2: 0.31, 3: 0.30}
    assert [one.low for one in rank([first, second], [True, True]).sets] == [1, 2]


def test_equal_seeds_are_no_difference_and_constant_ones_a_sure_one() -> None:
    same = dict(enumerate([0.1, 0.2, 0.3]))
    assert rank([same, same, same], [True] * 3).sets == (RankSet(low=1, high=3, of=3),) * 3
    one, other = dict.fromkeys(range(3), 0.5), dict.fromkeys(range(3), 0.2)
    assert [found.low for found in rank([one, other], [True] * 2).sets] == [1, 2]
    assert rank([], []).sets == () and rank([same], [True]).sets == (RankSet(low=1, high=1, of=1),)


def test_two_heaps_are_seen_and_one_is_not() -> None:
    assert two_heaps([0.1, 0.11, 0.12, 0.1, 0.52, 0.5, 0.51, 0.5])
    assert not two_heaps([0.1, 0.5, 0.1, 0.5])
    assert not two_heaps([0.3] * 8)
    drawn = np.random.default_rng(3).normal(size=(2000, 8)).tolist()
    assert np.mean([two_heaps(row) for row in drawn]) < 0.01 + 3 * np.sqrt(0.01 * 0.99 / 2000)


def test_above_is_one_sided_at_its_least() -> None:
    values = [0.05, 0.06, 0.04, 0.05]
    p = reference.ttest_1samp(values, 0.02, alternative="greater").pvalue
    assert above(values, 0.02) is bool(p < 0.025)
    assert above([0.021, 0.019, 0.02, 0.022], 0.02) is False
    assert above([0.3], 0.02) is None and above([], 0.02) is None
