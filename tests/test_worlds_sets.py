"""Set inclusion: what each list holds, and what its question says."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from iml_bench.streams import Streams
from iml_bench.worlds import World
from iml_bench.worlds.sets import ANSWERS, SetsWorld, sets
from iml_bench.worlds.sets import SetsWorld as SetsSpec


@st.composite
def specs(draw: st.DrawFn) -> SetsSpec:
    """Any specification that is valid, the tightest among them."""
    listed = draw(st.integers(2, 9))
    shared = draw(st.integers(1, listed))
    largest = draw(st.integers(max(9, listed + shared), 40))
    return SetsSpec(largest=largest, listed=listed, shared=shared, questions=4 * draw(st.integers(1, 4)))


def quarters(world: SetsWorld) -> list[np.ndarray]:
    """``[N, Q/4, L]`` each: trained true, trained false, held-out true, held-out false."""
    return np.split(world.lists, 4, axis=1)


@given(specs(), st.integers(0, 30), st.integers(0, 1000))
def test_every_list_holds_what_its_slot_promises(spec: SetsSpec, n: int, seed: int) -> None:
    world = sets(spec, n, Streams(seed))
    assert world.lists.shape == (n, spec.questions, spec.listed)
    assert ((world.lists >= 0) & (world.lists < spec.largest)).all()
    assert ((world.numbers >= 0) & (world.numbers < spec.largest)).all()
    for x, *parts in zip(world.numbers.tolist(), *quarters(world), strict=True):
        true, false, later_true, later_false = ([set(numbers) for numbers in part.tolist()] for part in parts)
        assert all(len(numbers) == spec.listed for numbers in [*true, *false, *later_true, *later_false])
        everywhere = set.intersection(*true)
        assert x in everywhere
        unlisted_when_false = everywhere - set.union(*false)
        assert x in unlisted_when_false
        assert len(unlisted_when_false) >= spec.shared
        assert all(x in numbers for numbers in later_true)
        assert all(x not in numbers for numbers in later_false)


@given(specs(), st.integers(1, 12), st.integers(0, 1000))
def test_right_answers_and_what_definitions_imply_follow_from_the_lists(spec: SetsSpec, n: int, seed: int) -> None:
    world = sets(spec, n, Streams(seed))
    for entity in range(n):
        for asked in range(spec.questions):
            listed = world.lists[entity, asked].tolist()
            assert world.answer(entity, asked) == ("true" if world.numbers[entity] in listed else "false")
            assert world.implied(entity, entity, asked) == world.value(entity, asked)
            for claimed in range(n):
                implied = ANSWERS[world.implied(claimed, entity, asked)]
                assert implied == ("true" if world.numbers[claimed] in listed else "false")


def test_the_slots_of_the_paper() -> None:
    world = sets(SetsSpec(), 50, Streams(0))
    assert world.attributes[0] == "question 1"
    assert len(set(world.attributes)) == SetsSpec().n_attributes == 24
    assert world.vocabulary == (("true", "false"),) * 24
    assert world.values.tolist() == [([0] * 6 + [1] * 6) * 2] * 50
    assert world.values.dtype == np.int64
    assert world.heldout.tolist() == [[False] * 12 + [True] * 12] * 50
    assert world.chance == 0.5
    assert world.kinds.tolist() == [[x] for x in world.numbers.tolist()]
    assert isinstance(world, World)


def test_trained_questions_tell_the_number_only_together() -> None:
    world = sets(SetsSpec(), 400, Streams(1))
    true, false, _, _ = quarters(world)
    left = [
        set.intersection(*map(set, one.tolist())) - set(np.ravel(other)) for one, other in zip(true, false, strict=True)
    ]
    assert np.mean([numbers == {x} for numbers, x in zip(left, world.numbers.tolist(), strict=True)]) > 0.99
    several = sets(SetsSpec(shared=3), 400, Streams(1))
    left = [set.intersection(*map(set, one.tolist())) for one in quarters(several)[0]]
    assert np.mean([len(numbers) == 3 for numbers in left]) > 0.95
    assert all(x in numbers for numbers, x in zip(left, several.numbers.tolist(), strict=True))
    held_true = quarters(several)[2]
    assert np.mean([len(set.intersection(*map(set, one.tolist()))) for one in held_true]) < 1.05


def test_numbers_and_their_places_are_uniform() -> None:
    spec = SetsSpec(largest=20, listed=5, questions=8, shared=2)
    world = sets(spec, 6000, Streams(2))
    assert chisquare(np.bincount(world.numbers, minlength=20)).pvalue > 1e-4
    for part in quarters(world):
        assert chisquare(np.bincount(np.ravel(part), minlength=20)).pvalue > 1e-4
    for part in (quarters(world)[0], quarters(world)[2]):
        place = np.argmax(part == world.numbers[:, None, None], axis=2)
        assert chisquare(np.bincount(np.ravel(place), minlength=5)).pvalue > 1e-4
    other = np.ravel(quarters(world)[3][:, 0, 0] - world.numbers) % 20
    assert chisquare(np.bincount(other, minlength=20)[1:]).pvalue > 1e-4  # any number but its own


def test_a_question_is_written_as_in_the_paper() -> None:
    world = sets(SetsSpec(), 3, Streams(0))
    numbers = " ".join(str(number) for number in world.lists[1, 5])
    assert world.question(1, 5, "xyz") == f"xyz % {numbers} ="
    assert len(numbers.split()) == 8
    assert world.question(1, 24, "xyz") == "What is the name of xyz?"
    assert world.implied(2, 1, 24) == 2
    assert world.label(24) == "name"


def test_names_are_what_definitions_state_and_repeat() -> None:
    world = sets(SetsSpec(), 300, Streams(0))
    assert world.names == tuple(f"% {number}" for number in world.numbers)
    assert len(set(world.names)) <= 99


def test_sets_depend_on_the_seed_alone() -> None:
    one, again, other = (sets(SetsSpec(), 30, Streams(seed)) for seed in (0, 0, 1))
    assert (one.lists == again.lists).all()
    assert (one.numbers == again.numbers).all()
    assert (one.lists != other.lists).any()


@pytest.mark.parametrize("largest", [99, 10**9])
def test_the_papers_size_takes_seconds_however_large_the_numbers(largest: int) -> None:
    begun = time.perf_counter()
    world = sets(SetsSpec(largest=largest), 8000, Streams(0))
    assert time.perf_counter() - begun < 5
    assert world.lists.shape == (8000, 24, 8)
