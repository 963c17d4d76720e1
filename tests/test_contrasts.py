"""The measures of two stages, each against what a made table of items gives by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from making import CPU, SEATS, item_rows, scored, small_cell, write_result
from typer.testing import CliRunner

import iml_bench
from iml_bench.cli.app import app
from iml_bench.errors import UsageError
from iml_bench.protocols.two_stage.measures import mean_uptake
from iml_bench.records import Stored, read_items, read_record
from iml_bench.run.cell import ITEM_SCHEMA
from iml_bench.run.job import Job, run_job

CONDITIONS = ("reliable", "unreliable", "fresh", None)
Answered = np.ndarray
"""``[n, 4, q]``: for each entity, in each of ``CONDITIONS``, whether each question was answered right."""


def items_of(answers: Answered, crossover: str = "square", offsets: Answered | None = None) -> pl.DataFrame:
    """The items of some entities, dealt to the groups in turn, with what each would answer in each condition."""
    rows = []
    groups = list(SEATS[crossover])
    for entity, outcomes in enumerate(answers):
        group = groups[entity % 4]
        for branch, tag in enumerate(SEATS[crossover][group]):
            for question, right in enumerate(outcomes[CONDITIONS.index(tag)]):
                nats = (-0.5 if right else -2.5) + (0.0 if offsets is None else offsets[entity])
                said = (tag, f"a{question}", question if tag else None, True if tag else None, "x" if tag else None)
                rows.append((2, branch, "fact", entity, group, *said, "x", "x" if right else "y", bool(right), nats))
    return pl.DataFrame(rows, schema=ITEM_SCHEMA, orient="row")


BY_HAND = np.array(
    [  # reliable, unreliable, fresh, undefined
        [[1], [0], [1], [0]],
        [[1], [1], [0], [0]],
        [[1], [0], [0], [0]],
        [[0], [0], [0], [0]],
    ]
)


def test_the_contrasts_of_a_square_by_hand() -> None:
    scores = scored(items_of(BY_HAND))
    assert scores["iml"] == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert scores["uptake"] == pytest.approx((1 + 1 + 1 + 0) / 4)
    assert scores["trust"] == pytest.approx((0 + 1 + 1 + 0) / 4)
    assert scores["distrust"] == pytest.approx((1 - 1 + 0 + 0) / 4)
    assert scores["discernment"] == pytest.approx(0.5 / 0.75)
    assert scores["iml_nats"] == pytest.approx(2 * 0.5)
    assert scores["iml_se_items"] == pytest.approx(np.std([1, 0, 1, 0], ddof=1) / 2)
    assert scores["stage1_gap"] is None and "group" in scores.reasons["stage1_gap"]
    found = {name: value for name, value in scores.exact_match.items() if "/" not in name}
    assert found == {"new_reliable": 0.75, "new_unreliable": 0.25, "new_fresh": 0.25, "new_undefined": 0.0}
    assert mean_uptake(scores.values) == pytest.approx((0.75 + 0.25) / 2)


SIZES = st.tuples(st.integers(1, 5).map(lambda n: 4 * n), st.just(4), st.integers(1, 4))


@given(arrays(np.int64, SIZES, elements=st.integers(0, 1)))
def test_every_contrast_of_a_square_is_the_mean_of_differences_within_entities(answers: Answered) -> None:
    scores = scored(items_of(answers))
    reliable, unreliable, fresh, undefined = (answers[:, index].mean(axis=1) for index in range(4))
    uptake = (reliable - undefined).mean()
    assert scores["iml"] == pytest.approx((reliable - unreliable).mean())
    assert scores["uptake"] == pytest.approx(uptake)
    assert scores["trust"] == pytest.approx((reliable - fresh).mean())
    assert scores["distrust"] == pytest.approx((fresh - unreliable).mean())
    assert scores["trust"] + scores["distrust"] == pytest.approx(scores["iml"])
    assert mean_uptake(scores.values) == pytest.approx(((reliable + unreliable) / 2 - undefined).mean())
    assume(abs(uptake - 0.1) > 1e-9)
    if uptake > 0.1:
        assert scores["discernment"] == pytest.approx(scores["iml"] / uptake)
    else:
        assert scores["discernment"] is None
        assert scores.reasons["discernment"].startswith("not measurable: uptake is not above 0.1")


@given(arrays(np.int64, (8, 4, 2), elements=st.integers(0, 1)), arrays(np.int64, 8, elements=st.integers(-50, 0)))
def test_what_an_entity_is_like_cancels_in_a_square(answers: Answered, offsets: Answered) -> None:
    without, with_offsets = scored(items_of(answers)), scored(items_of(answers, offsets=offsets))
    assert with_offsets["iml_nats"] == pytest.approx(without["iml_nats"], abs=1e-9)


def test_a_group_that_is_easier_moves_the_uptake_of_a_pair_and_not_of_a_square() -> None:
    easy = BY_HAND.copy()
    easy[2:] = 1  # those in the third and fourth group are right whatever was said of them
    square, pair = (scored(items_of(easy, crossover)) for crossover in ("square", "pair"))
    assert square["uptake"] == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert square["iml"] == pytest.approx((1 + 0 + 0 + 0) / 4)
    assert pair["uptake"] == pytest.approx((1 + 1) / 2 - 1)
    assert pair["iml"] == pytest.approx((1 + 0) / 2), "which is within entities there too"
    assert pair["trust"] == pytest.approx((1 + 1) / 2 - 1)
    assert pair["distrust"] == pytest.approx(1 - (0 + 1) / 2)


@given(
    arrays(np.int64, (8, 4, 3), elements=st.integers(0, 1)),
    st.lists(st.integers(1, 3), min_size=8, max_size=8),
    st.sampled_from(sorted(SEATS)),
)
def test_entities_weigh_the_same_however_many_questions_each_has(
    answers: Answered, asked: list[int], crossover: str
) -> None:
    number = pl.DataFrame({"entity": range(8), "n": asked}, schema={"entity": ITEM_SCHEMA["entity"], "n": pl.Int64})
    items = items_of(answers, crossover).join(number, on="entity", maintain_order="left")
    scores = scored(items.filter(pl.col("attribute").str.slice(1).cast(pl.Int64) < pl.col("n")).drop("n"))
    means = np.array([[answers[entity, index, : asked[entity]].mean() for index in range(4)] for entity in range(8)])
    groups = np.arange(8) % 4
    both = np.isin(groups, [0, 1]) if crossover == "pair" else np.ones(8, bool)
    others = {2: groups == 2, 3: groups == 3} if crossover == "pair" else {2: both, 3: both}
    reliable, unreliable = means[both, 0].mean(), means[both, 1].mean()
    assert scores["iml"] == pytest.approx(reliable - unreliable)
    assert scores["uptake"] == pytest.approx(reliable - means[others[3], 3].mean())
    assert scores["trust"] == pytest.approx(reliable - means[others[2], 2].mean())
    assert scores["trust"] + scores["distrust"] == pytest.approx(scores["iml"])


@pytest.mark.parametrize(("right", "measured"), [(0, False), (2, False), (3, True), (10, True)])
def test_discernment_is_null_unless_uptake_is_above_a_tenth(right: int, measured: bool) -> None:
    answers = np.zeros((20, 4, 1), dtype=np.int64)
    answers[:right, 0] = 1
    scores = scored(items_of(answers))
    assert scores["uptake"] == pytest.approx(right / 20)
    assert (scores["discernment"] == 1.0) if measured else (scores["discernment"] is None)
    assert ("discernment" in scores.reasons) is not measured


def test_exact_match_is_told_apart_by_place() -> None:
    answers = np.zeros((8, 4, 3), dtype=np.int64)
    answers[:, 0, 0] = answers[:4, 0, 2] = answers[:, 3, 1] = 1
    match = scored(items_of(answers)).exact_match
    by_place = {name: value for name, value in match.items() if "/place" in name}
    assert by_place == {
        **{f"new_reliable/place{at}": value for at, value in ((1, 1.0), (2, 0.0), (3, 0.5))},
        **{f"new_{tag}/place{at}": 0.0 for tag in ("unreliable", "fresh") for at in (1, 2, 3)},
    }, "what is not defined has no place"
    assert match["new_undefined"] == pytest.approx(1 / 3)
    assert not any("/place" in name for name in scored(items_of(answers).drop("place")).exact_match)


def of_names(answers: Answered, kind: str) -> pl.DataFrame:
    """The same outcomes as answers to one kind of question about names."""
    told = {"set": pl.lit("attribution"), "attribute": pl.lit(kind), "place": pl.lit(None, ITEM_SCHEMA["place"])}
    return items_of(answers).with_columns(**told)


def test_attribution_is_of_the_name_alone_above_the_floor_of_those_never_defined() -> None:
    nothing, all_right = np.zeros((4, 4, 1), dtype=np.int64), np.ones((4, 4, 1), dtype=np.int64)
    others = [of_names(all_right if kind == "who" else nothing, kind) for kind in ("who", "meaning", "stands for")]
    name = BY_HAND.copy()
    name[0, 3] = 1  # a guess about an alias that was never defined
    scores = scored(pl.concat([items_of(nothing), of_names(name, "name"), *others]))
    assert scores["iml_attribution"] == pytest.approx(0.5)
    assert scores["uptake_attribution"] == pytest.approx(0.75 - 0.25)
    assert scores["iml"] == scores["uptake"] == 0.0
    match = scores.exact_match
    assert match["attribution/new_reliable/name"] == 0.75
    assert match["attribution/new_undefined/name"] == 0.25
    assert match["attribution/new_unreliable/who"] == 1.0
    assert match["attribution/new_reliable"] == pytest.approx((0.75 + 1) / 4)
    without = scored(pl.concat([items_of(nothing), *others]))
    assert without["iml_attribution"] is None and without["uptake_attribution"] is None


def test_a_record_of_an_older_schema_has_no_places_and_is_read(tmp_path: Path) -> None:
    path = write_result(tmp_path, table=item_rows(0.3).drop("place", strict=False))
    written = read_record(path)
    for version in (2, 3, 4):
        path.write_text(written.model_copy(update={"schema_version": version}).model_dump_json())
        record = read_record(path)
        items = read_items(Stored(path, record))
        assert record.schema_version == version and "place" not in items.columns
        assert scored(items)["iml"] == pytest.approx(0.3)
    assert iml_bench.score(iml_bench.read(tmp_path).items)["iml"] == pytest.approx(0.3)


def test_outcomes_without_their_attribute_are_refused() -> None:
    with pytest.raises(UsageError, match="these are no per-item outcomes: there is no column 'attribute'"):
        iml_bench.score(items_of(BY_HAND).drop("attribute"))


@pytest.mark.parametrize("task", ["vision", "text"])
def test_a_record_of_a_square_is_shown_read_and_compared(task: str, tmp_path: Path) -> None:
    cell = small_cell("oracle", task=task)
    assert run_job(Job(cell, {}, True, tmp_path), CPU) is None
    (path,) = tmp_path.rglob("*.json")
    done = CliRunner().invoke(app, ["show", str(path)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "1.000, IML" in done.stdout and "stage2/fold3" in done.stdout
    assert ("new_reliable/place6 1.000" in done.stdout) is (task == "text")
    items = iml_bench.read(tmp_path).items
    assert sorted(set(items["fold"])) == [0, 1, 2, 3]
    assert iml_bench.score(items)["iml"] == 1.0
