"""Named random streams."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import iml_bench
from iml_bench.errors import UsageError
from iml_bench.probes.subjects import STREAMS as OF_PROBES
from iml_bench.protocols.two_stage.schedule import PHASES
from iml_bench.streams import OF_A_PHASE, STREAMS, Streams

SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.sampled_from(sorted(STREAMS))


def first(streams: Streams, name: str, n: int = 8) -> list[int]:
    return streams.generator(name).integers(0, 2**62, n).tolist()


@given(SEEDS, NAMES)
def test_the_same_seed_and_name_give_the_same_numbers(seed: int, name: str) -> None:
    assert first(Streams(seed), name) == first(Streams(seed), name)
    assert Streams(seed).integer(name) == Streams(seed).integer(name)


@given(SEEDS)
def test_streams_of_one_seed_all_differ(seed: int) -> None:
    streams = Streams(seed)
    assert len({tuple(first(streams, name)) for name in STREAMS}) == len(STREAMS)
    assert len(set(streams.as_dict().values())) == len(STREAMS)


@given(st.lists(SEEDS, min_size=2, max_size=8, unique=True), NAMES)
def test_a_stream_differs_between_seeds(seeds: list[int], name: str) -> None:
    assert len({tuple(first(Streams(seed), name)) for seed in seeds}) == len(seeds)
    assert len({Streams(seed).integer(name) for seed in seeds}) == len(seeds)


def test_drawing_more_of_one_stream_changes_no_other() -> None:
    streams = Streams(5)
    before = {name: first(streams, name) for name in STREAMS}
    for drawn in STREAMS:
        streams.generator(drawn).random(1000)
        streams.integer(drawn)
        assert {name: first(streams, name) for name in STREAMS} == before


def test_a_generator_starts_at_the_beginning_each_time() -> None:
    streams = Streams(5)
    assert first(streams, "split") == first(streams, "split")


def test_a_new_stream_changes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Streams(7).as_dict()
    monkeypatch.setitem(STREAMS, "a new one", "for the test")
    after = Streams(7).as_dict()
    assert {name: after[name] for name in before} == before
    assert after["a new one"] not in before.values()


def test_global_random_state_is_neither_read_nor_written() -> None:
    np.random.seed(1)  # noqa: NPY002
    one, state = first(Streams(3, PHASES), "order/stage1"), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert first(Streams(3, PHASES), "order/stage1") == one


def test_a_stream_is_random() -> None:
    drawn = Streams(0).generator("guesses").random(10_000)
    assert abs(drawn.mean() - 0.5) < 0.02
    correlations = [
        abs(np.corrcoef(Streams(0).generator(a).random(2000), Streams(0).generator(b).random(2000))[0, 1])
        for a, b in itertools.combinations(sorted(STREAMS), 2)
    ]
    assert max(correlations) < 0.12


@pytest.mark.parametrize("name", ["", "orders", "order/stage3"])
def test_an_unknown_stream_is_refused(name: str) -> None:
    for ask in (Streams(0).generator, Streams(0).integer):
        with pytest.raises(UsageError) as caught:
            ask(name)
        assert str(caught.value) == f"no random stream is named {name!r}"


@given(SEEDS)
def test_integers_fit_where_libraries_take_seeds(seed: int) -> None:
    assert all(0 <= value < 2**63 for value in Streams(seed).as_dict().values())


def test_every_stream_says_what_it_is_for() -> None:
    meanings = Streams(0, PHASES).meanings
    assert all(what.strip() for what in meanings.values())
    assert list(Streams(0, PHASES).as_dict()) == list(meanings)
    assert meanings.keys() - STREAMS.keys() == {f"{use}/{phase}" for use in OF_A_PHASE for phase in PHASES}


def test_the_streams_of_seed_0_are_what_they_were() -> None:
    """Records name these integers; another value means that the data of every cell changed."""
    assert Streams(0).integer("contents") == 3438593360096938746
    assert Streams(0, PHASES).integer("order/stage1") == 3057711001615680613


def test_the_package_uses_every_documented_stream_and_no_other() -> None:
    used = set()
    for path in Path(iml_bench.__file__).parent.rglob("*.py"):
        for name in re.findall(r"\.(?:generator|integer)\(f?\"([^\"]+)\"\)", path.read_text(encoding="utf-8")):
            used |= {name.replace("{name}", phase) for phase in PHASES}
    assert used == {*Streams(0, PHASES).meanings, *OF_PROBES}
