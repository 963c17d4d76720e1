"""Worlds: distinct entities, drawn evenly."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from iml_bench.errors import UsageError
from iml_bench.spec import TaskSpec
from iml_bench.streams import Streams
from iml_bench.worlds import World, draw_distinct
from iml_bench.worlds.grids import LabelGridWorld, label_grids
from iml_bench.worlds.profiles import ATTRIBUTES, ProfileWorld, profiles

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@given(SIZES, st.data(), st.integers(0, 1000))
def test_drawn_rows_differ_and_stay_in_range(sizes: list[int], data: st.DataObject, seed: int) -> None:
    n = data.draw(st.integers(0, int(np.prod(sizes))))
    rows = draw_distinct(np.random.default_rng(seed), n, sizes, "things")
    assert rows.shape == (n, len(sizes))
    assert len({tuple(row) for row in rows.tolist()}) == n
    assert (rows >= 0).all()
    assert (rows < np.array(sizes)).all()


@given(st.integers(0, 200), st.integers(0, 1000))
def test_rows_of_a_space_too_large_to_list_differ_too(n: int, seed: int) -> None:
    rows = draw_distinct(np.random.default_rng(seed), n, [3] * 14, "things")
    assert rows.shape == (n, 14)
    assert len({tuple(row) for row in rows.tolist()}) == n


def test_a_crowded_large_space_is_still_without_repeats() -> None:
    rows = draw_distinct(np.random.default_rng(0), 200_000, [2**21], "things")
    assert len(np.unique(rows)) == len(rows) == 200_000


@pytest.mark.parametrize("sizes", [[6, 7], [10] * 6 + [2]], ids=["listed", "drawn"])
def test_every_value_is_equally_likely(sizes: list[int]) -> None:
    counts = [np.zeros(size) for size in sizes]
    for seed in range(60):
        rows = draw_distinct(np.random.default_rng(seed), 20, sizes, "things")
        for column, count in enumerate(counts):
            count += np.bincount(rows[:, column], minlength=sizes[column])
    for count in counts:
        assert chisquare(count).pvalue > 1e-4


def test_the_whole_space_can_be_drawn_and_comes_in_random_order() -> None:
    one, two = (draw_distinct(np.random.default_rng(seed), 24, [2, 3, 4], "things") for seed in (0, 1))
    assert (
        sorted(one.tolist())
        == sorted(two.tolist())
        == [[a, b, c] for a in range(2) for b in range(3) for c in range(4)]
    )
    assert one.tolist() != two.tolist()


def test_asking_for_too_many_is_one_clear_sentence(text_task: TaskSpec) -> None:
    with pytest.raises(UsageError) as caught:
        profiles(ProfileWorld(attributes=2, values=3), 10, Streams(0))
    assert str(caught.value) == "10 different profiles were asked for, but only 9 exist; use smaller groups"
    small = text_task.model_copy(update={"world": ProfileWorld(attributes=2, values=4)})
    with pytest.raises(UsageError, match="33 different profiles were asked for, but only 16 exist"):
        small.world.build(small.n_entities, Streams(0), None)


@pytest.mark.parametrize(("n", "least"), [(500, 0), (512, 1), (513, 1), (1100, 2)])
def test_label_grids_are_repeated_equally_often_where_there_are_too_few(n: int, least: int) -> None:
    world = label_grids(LabelGridWorld(rows=3, cols=3, labels=2), n, Streams(4))
    assert world.values.shape == (n, 9)
    counts = Counter(map(tuple, world.values.tolist()))
    assert set(counts.values()) <= {least, least + 1}
    assert len(counts) == min(n, 512)


def test_label_grids_differ_where_there_are_enough() -> None:
    world = label_grids(LabelGridWorld(rows=2, cols=2, labels=10), 700, Streams(0))
    assert len(np.unique(world.values, axis=0)) == 700


@pytest.mark.parametrize("n", [700, 10_000, 14_000])
def test_labels_of_each_cell_are_uniform(n: int) -> None:
    world = label_grids(LabelGridWorld(rows=2, cols=2, labels=10), n, Streams(3))
    for cell in range(4):
        assert chisquare(np.bincount(world.values[:, cell], minlength=10)).pvalue > 1e-4


def test_a_label_grid_names_its_cells_row_by_row() -> None:
    world = label_grids(LabelGridWorld(rows=2, cols=3, labels=3), 5, Streams(0))
    assert world.attributes[:4] == ("row 1 column 1", "row 1 column 2", "row 1 column 3", "row 2 column 1")
    assert world.vocabulary == (("A", "B", "C"),) * 6
    assert world.answer(2, 4) == "ABC"[world.values[2, 4]]


def test_profiles_take_the_first_attributes_and_values() -> None:
    world = profiles(ProfileWorld(attributes=3, values=4), 40, Streams(0))
    assert world.attributes == ("job", "city", "pet")
    assert world.vocabulary[1] == ("Athens", "Berlin", "Cairo", "Dublin")
    assert len(np.unique(world.values, axis=0)) == 40
    assert world.answer(7, 2) in ("cat", "dog", "goat", "hamster")


def test_profile_values_are_uniform() -> None:
    values = np.concatenate([profiles(ProfileWorld(), 500, Streams(seed)).values for seed in range(4)])
    for attribute in range(6):
        assert chisquare(np.bincount(values[:, attribute], minlength=10)).pvalue > 1e-4


def test_no_word_stands_under_two_attributes() -> None:
    words = [word for values in ATTRIBUTES.values() for word in values.split()]
    assert len(words) == len(set(words)) == 60
    assert not set(words) & set(ATTRIBUTES)
    assert all(len(values.split()) == 10 for values in ATTRIBUTES.values())


def test_chance_is_that_of_a_guess_among_the_values() -> None:
    assert label_grids(LabelGridWorld(labels=2), 4, Streams(0)).chance == 0.5
    assert profiles(ProfileWorld(values=8), 4, Streams(0)).chance == 0.125
    uneven = World(("a", "b"), (("x", "y"), ("x", "y", "z", "w")), np.zeros((1, 2), dtype=np.int64))
    assert uneven.chance == (1 / 2 + 1 / 4) / 2


def test_a_world_depends_on_the_seed_alone(vision_task: TaskSpec, text_task: TaskSpec) -> None:
    for task in (vision_task, text_task):
        one, again, other = (task.world.build(task.n_entities, Streams(seed), None).values for seed in (0, 0, 1))
        assert one.shape == (task.groups.total, task.world.n_attributes)
        assert (one == again).all()
        assert (one != other).any()
