"""The order in which a stage shows its examples."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iml_bench.learners.order import MOST_PIECES, global_batches, micro_batches
from iml_bench.protocols.base import NONE, Examples
from iml_bench.spec import StageRecipe

SIZES = st.integers(1, 40)


def examples(definitions: int, questions: int) -> Examples:
    n = definitions + questions
    asked = np.array([NONE] * definitions + [0] * questions, dtype=np.int64)
    return Examples(np.arange(n), np.arange(n), np.where(asked == NONE, 0, NONE), asked, np.full(n, NONE))


def batches(rows: Examples, stage: StageRecipe, batch_size: int, seed: int = 0) -> np.ndarray:
    return np.stack(list(global_batches(rows, stage, batch_size, np.random.default_rng(seed))))


def each_pass_is_whole(shown: np.ndarray, rows: list[int]) -> None:
    for start in range(0, len(shown), len(rows)):
        one_pass = shown[start : start + len(rows)].tolist()
        assert len(set(one_pass)) == len(one_pass)
        assert set(one_pass) <= set(rows)
        assert len(one_pass) < len(rows) or sorted(one_pass) == rows


@given(st.integers(0, 20), st.integers(1, 20), st.integers(1, 30), st.integers(1, 12))
def test_every_row_comes_once_per_pass(definitions: int, questions: int, batch_size: int, steps: int) -> None:
    rows = examples(definitions, questions)
    order = batches(rows, StageRecipe(steps=steps), batch_size)
    assert order.shape == (steps, batch_size)
    each_pass_is_whole(order.ravel(), list(range(len(rows))))


@given(SIZES, SIZES, st.integers(1, 30), st.integers(1, 8), st.floats(0, 1))
def test_a_definition_share_is_exact_in_every_batch(
    definitions: int, questions: int, batch_size: int, steps: int, share: float
) -> None:
    rows = examples(definitions, questions)
    order = batches(rows, StageRecipe(steps=steps, definition_share=share), batch_size)
    assert order.shape == (steps, batch_size)
    shown = rows.is_definition[order]
    assert set(shown.sum(axis=1)) == {round(share * batch_size)}
    each_pass_is_whole(order[shown], list(range(definitions)))
    each_pass_is_whole(order[~shown], list(range(definitions, definitions + questions)))


@pytest.mark.parametrize(("definitions", "questions"), [(9, 0), (0, 9)])
def test_a_share_of_one_kind_alone_changes_nothing(definitions: int, questions: int) -> None:
    rows = examples(definitions, questions)
    shared = batches(rows, StageRecipe(steps=5, definition_share=0.3), 4)
    assert (shared == batches(rows, StageRecipe(steps=5), 4)).all()


def test_epochs_show_every_row_that_often() -> None:
    order = batches(examples(4, 6), StageRecipe(epochs=3), 5)
    assert np.bincount(order.ravel()).tolist() == [3] * 10


@given(st.integers(0, 1000), st.sampled_from([None, 0.3]))
def test_the_same_seed_gives_the_same_order_and_another_seed_another(seed: int, share: float | None) -> None:
    rows, stage = examples(10, 30), StageRecipe(steps=6, definition_share=share)
    assert (batches(rows, stage, 8, seed) == batches(rows, stage, 8, seed)).all()
    assert (batches(rows, stage, 8, seed) != batches(rows, stage, 8, seed + 1)).any()


def test_a_longer_stage_begins_like_a_shorter_one() -> None:
    rows = examples(10, 30)
    short, long = (batches(rows, StageRecipe(steps=steps), 8) for steps in (5, 20))
    assert (long[:5] == short).all()


def test_passes_differ_from_each_other() -> None:
    order = batches(examples(0, 30), StageRecipe(epochs=2), 30)
    assert order[0].tolist() != order[1].tolist()


@given(st.lists(st.integers(1, 40), min_size=4, max_size=60), st.integers(1, 20), st.integers(1, 4), st.integers(1, 99))
def test_pieces_hold_every_row_once_and_leave_no_process_idle(
    lengths: list[int], largest: int, processes: int, worthwhile: int
) -> None:
    batch = np.random.default_rng(0).permutation(len(lengths))
    pieces = micro_batches(batch, np.array(lengths), largest, processes, worthwhile)
    assert sorted(np.concatenate(pieces).tolist()) == list(range(len(lengths)))
    assert all(len(piece) >= processes for piece in pieces)
    spare = int(processes > 1)  # rows too few for a piece of their own stay with the last one
    assert all(-(-len(piece) // processes) <= largest + spare for piece in pieces)
    by_piece = [np.array(lengths)[batch[piece]] for piece in pieces]
    assert all(first.max() <= second.min() for first, second in pairwise(by_piece))


def test_a_batch_that_fits_is_cut_only_where_that_spares_padding() -> None:
    batch, uneven = np.arange(64), np.repeat([10, 30], 32)
    assert len(micro_batches(batch, None, 64, 1, 100)) == 1
    assert len(micro_batches(batch, np.full(64, 10), 64, 1, 100)) == 1
    assert len(micro_batches(batch, uneven, 64, 1, 640)) == 2
    assert len(micro_batches(batch, uneven, 64, 1, 10_000)) == 1
    assert len(micro_batches(batch, uneven, 64, 1, 1)) == MOST_PIECES


def test_without_lengths_the_order_stays() -> None:
    pieces = micro_batches(np.arange(16), None, 5, 1, 1)
    assert np.concatenate(pieces).tolist() == list(range(16))
    assert max(len(piece) for piece in pieces) <= 5
