"""The order in which a stage shows its examples."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iml_bench.learners.order import (
    MOST_PIECES,
    Part,
    global_batches,
    micro_batches,
    shares,
    sharing_problem,
    smallest_batch,
)
from iml_bench.protocols.base import NONE, Examples
from iml_bench.registry import TASKS
from iml_bench.spec import Recipe, StageRecipe

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


@given(st.integers(0, 20), st.integers(1, 20), st.integers(1, 30), st.sampled_from([1, 2, 2.5]))
def test_no_batch_reaches_from_one_epoch_into_the_next(
    definitions: int, questions: int, batch_size: int, epochs: float
) -> None:
    rows, stage = examples(definitions, questions), StageRecipe(epochs=epochs)
    order = list(global_batches(rows, stage, batch_size, np.random.default_rng(0)))
    per_epoch = -(-len(rows) // batch_size)
    assert len(order) == stage.total_steps(len(rows), batch_size) == math.ceil(epochs * per_epoch)
    for start in range(0, int(epochs) * per_epoch, per_epoch):
        one = order[start : start + per_epoch]
        assert sorted(np.concatenate(one).tolist()) == list(range(len(rows)))
        assert [len(batch) for batch in one[:-1]] == [batch_size] * (per_epoch - 1)
        assert len(one[-1]) == smallest_batch(rows, stage, batch_size)


@pytest.mark.parametrize(
    ("task", "stage", "n", "per_epoch", "steps"),
    [
        ("text-sets", "stage1", 83_200, 163, 16_300),
        ("text-sets", "stage2", 1600, 4, 160),
        ("text-cvdb", "stage1", 16_000, 63, 1260),
        ("text-cvdb", "stage2", 960, 4, 40),
    ],
)
def test_the_papers_numbers_of_steps(task: str, stage: str, n: int, per_epoch: int, steps: int) -> None:
    recipe = TASKS.get(task).recipe
    length = getattr(recipe, stage)
    assert length.total_steps(n, recipe.batch_size) == steps == per_epoch * length.epochs
    assert smallest_batch(examples(n, 0), length, recipe.batch_size) == n - (per_epoch - 1) * recipe.batch_size


def test_with_a_definition_share_epochs_only_say_how_many_steps_there_are() -> None:
    rows, stage = examples(4, 9), StageRecipe(epochs=2, definition_share=0.5)
    order = list(global_batches(rows, stage, 8, np.random.default_rng(0)))
    assert [len(batch) for batch in order] == [8] * 4  # 13 examples are two steps an epoch
    assert smallest_batch(rows, stage, 8) == 8
    assert all(rows.is_definition[batch].sum() == 4 for batch in order)


@pytest.mark.parametrize(
    ("micro_batch", "smallest", "processes", "said"),
    [
        (None, 3, 3, None),
        (None, 3, 4, "the last batch of an epoch has 3 examples, which 4 processes cannot share"),
        (None, 16, 17, "a batch has 16 examples, which 17 processes cannot share"),
        (4, 16, 4, None),
        (4, 5, 2, None),
        (4, 4, 2, "the last batch of an epoch has 4 examples in 1 pieces (recipe.micro_batch), which 2 processes"),
        (8, 16, 3, "a batch has 16 examples in 2 pieces (recipe.micro_batch), which 3 processes cannot share"),
    ],
)
def test_no_process_is_left_without_an_example(
    micro_batch: int | None, smallest: int, processes: int, said: str | None
) -> None:
    recipe = Recipe(batch_size=16, micro_batch=micro_batch, stage1=StageRecipe(epochs=1))
    problem = sharing_problem(recipe, smallest, processes)
    assert (problem is None) == (said is None)
    if said is not None:
        assert problem is not None and problem.startswith(said) and problem.endswith("; give fewer processes")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 6), st.none() | st.integers(1, 15))
def test_what_is_not_refused_gives_every_process_a_part_of_every_batch(
    n: int, largest: int, processes: int, micro_batch: int | None
) -> None:
    recipe = Recipe(batch_size=16, micro_batch=micro_batch, stage1=StageRecipe(epochs=1))
    stage, rows = recipe.stage1, examples(n, 0)
    if sharing_problem(recipe, smallest_batch(rows, stage, 16), processes) is not None:
        return
    for batch in global_batches(rows, stage, 16, np.random.default_rng(0)):
        parts = [shares(batch, None, recipe, largest, Part(rank, processes, "cpu")) for rank in range(processes)]
        assert all(part and all(len(piece) for piece in part) for part in parts)
        assert sorted(np.concatenate([piece for part in parts for piece in part])) == list(range(len(batch)))


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
