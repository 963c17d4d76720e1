"""The square of conditions, its controls, balanced tags and permuted attributes: what is drawn and what is shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import CPU, SEATS, scored, small_cell, small_task
from tokenizers_for_tests import READ, made

from iml_bench.errors import UsageError
from iml_bench.modalities.base import draw_noise
from iml_bench.modalities.text.renderer import TAG_POOL, TextRenderer, alike
from iml_bench.modalities.vision.renderer import VisionRenderer
from iml_bench.modalities.vision.tags import balanced_tags
from iml_bench.protocols.base import NONE, Ask
from iml_bench.protocols.two_stage.design import NEW_GROUPS, TAGS, TwoStageDesign, build_design
from iml_bench.run.cell import Setting, item_table, run_cell
from iml_bench.spec import TaskSpec
from iml_bench.streams import Streams

Make = Callable[..., Setting]
Array = np.ndarray
TEXT_AND_PIXELS = ("text", "vision")


def setting_of(name: str, make: Make, seed: int = 0, tokenizer: Any = None, **overrides: Any) -> Setting:
    return make(small_task(name, **overrides), seed, tokenizer)


def shown(setting: Setting, phase: str, branch: int = 0) -> dict[int, bytes]:
    """What each entity's definition looks like, byte by byte."""
    feed = setting.train_feed(phase, branch)
    examples, cpu = feed.examples, torch.device("cpu")
    noise = torch.from_numpy(draw_noise(np.random.default_rng(5), 1, feed.noise)).to(cpu)
    rows = np.flatnonzero(examples.is_definition).tolist()
    return {int(examples.entity[row]): feed.fingerprint(torch.tensor([row]), noise) for row in rows}


def strips(setting: Setting) -> Array:
    """Every tag as it is drawn, ``[tags, height, width]``."""
    renderer = setting.renderer
    assert isinstance(renderer, VisionRenderer)
    return renderer.ink[: renderer.n_tags, : renderer.spec.strip_px].numpy()


def texts_of(setting: Setting) -> TextRenderer:
    assert isinstance(setting.renderer, TextRenderer)
    return setting.renderer


# Who is in which condition


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_every_new_entity_is_once_in_each_condition_and_every_branch_is_filled_equally(size: int, seed: int) -> None:
    sizes = {f"groups__{name}": size for name in NEW_GROUPS}
    design = build(small_task("text", **sizes), seed)
    new = design.members(*NEW_GROUPS)
    roles = design.role[:, new]
    assert (np.sort(roles, axis=0) == np.array([[NONE], [0], [1], [2]])).all(), "a column is an entity's"
    assert all((np.bincount(row + 1, minlength=4) == size).all() for row in roles)
    old = np.setdiff1d(np.arange(len(design.group)), new)
    assert (design.role[:, old] == design.role[0, old]).all(), "stage 1 is one for all branches"
    for name, tags in SEATS["square"].items():
        for branch, tag in enumerate(tags):
            assert set(design.role[branch, design.members(name)]) == {NONE if tag is None else TAGS.index(tag)}


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_branch_of_a_square_shows_whom_it_defines_truly_and_asks_about_all(size: int, seed: int) -> None:
    design = build(small_task("text", **{f"groups__{name}": size for name in NEW_GROUPS}), seed)
    new = design.members(*NEW_GROUPS)
    for branch in range(4):
        examples, questions = design.trained("stage2", branch), design.asked(2, branch)
        defined = new[design.role[branch, new] != NONE]
        assert len(defined) == 3 * size
        assert examples.is_definition.all() and (examples.content == examples.entity).all()
        assert sorted(examples.entity.tolist()) == defined.tolist()
        assert (examples.tag == design.role[branch, examples.entity]).all()
        assert sorted(set(questions.entity.tolist())) == new.tolist()
        assert (questions.tag == NONE).all() and (questions.content == questions.entity).all()
        tag, claim = design.shown(branch)
        hidden = np.setdiff1d(new, defined)
        assert (tag[hidden] == NONE).all() and (claim[hidden] == NONE).all()
        assert (claim[defined] == defined).all()


def build(task: TaskSpec, seed: int) -> TwoStageDesign:
    streams = Streams(seed)
    return build_design(task, task.world.build(task.n_entities, streams, None), streams)


def test_a_square_of_unequal_groups_is_refused_with_their_sizes() -> None:
    with pytest.raises(UsageError) as caught:
        small_task("vision", groups__new_fresh=3, groups__new_undefined=0)
    assert "crossover: a square has four groups of one size, and here they are new_reliable 4, new_unreliable 4, " in (
        said := str(caught.value)
    )
    assert "new_fresh 3, new_undefined 0; set all four, or crossover to pair" in said
    assert small_task("vision", groups__new_fresh=3, crossover="pair").groups.new_fresh == 3


@pytest.mark.parametrize("task", TEXT_AND_PIXELS)
def test_items_say_nothing_of_a_definition_where_a_branch_has_none(task: str, make_setting: Make) -> None:
    setting = setting_of(task, make_setting)
    for branch in range(4):
        items = item_table(setting, setting.question_feed(2, branch).examples, Ask(2, branch), {})
        group = next(name for name, tags in SEATS["square"].items() if tags[branch] is None)
        hidden, told = items.filter(pl.col("group") == group), items.filter(pl.col("group") != group)
        columns = ["tag", "truthful", "claimed", "place"]
        assert len(hidden) == len(items) // 4
        assert hidden.select(pl.col(columns).is_null().all()).row(0) == (True,) * 4
        nulls = told.select(pl.col(columns).is_null().sum()).row(0)
        assert nulls == (0, 0, 0, 0 if task == "text" else len(told)), "pictures have no order of attributes"


# The controls


@pytest.mark.parametrize("task", TEXT_AND_PIXELS)
@pytest.mark.parametrize("crossover", SEATS)
def test_placebo_tags_are_never_in_stage_1_and_change_no_other_byte(
    task: str, crossover: str, make_setting: Make
) -> None:
    taught, placebo = (
        setting_of(task, make_setting, 3, crossover=crossover, stage2_tags=kind) for kind in ("taught", "placebo")
    )
    assert shown(taught, "stage1") == shown(placebo, "stage1") != {}
    assert set(placebo.train_feed("stage1").examples.tag.tolist()) == {NONE, 0, 1}
    assert set(placebo.train_feed("stage2").examples.tag.tolist()) == {2, 3, 4}
    if task == "vision":
        assert (strips(taught) == strips(placebo)[:3]).all()
        assert len(np.unique(strips(placebo).reshape(5, -1), axis=0)) == 5
    else:
        tags = texts_of(placebo).tags
        assert texts_of(taught).tags == tags[:3] and len(set(tags)) == 5
        first = " ".join(given + rest for given, rest in placebo.train_feed("stage1").texts)
        assert tags[0] in first and not any(tag in first for tag in tags[2:])
    for branch in range(len(SEATS[crossover]["new_fresh"])):
        before, after = shown(taught, "stage2", branch), shown(placebo, "stage2", branch)
        role = taught.design.shown(branch)[0]
        assert before.keys() == after.keys()
        assert {entity for entity in before if before[entity] != after[entity]} == {
            entity for entity in before if role[entity] in (0, 1)
        }
        assert (placebo.design.shown(branch)[0] == role).all(), "items have the role"


@pytest.mark.parametrize("task", TEXT_AND_PIXELS)
@pytest.mark.parametrize("crossover", SEATS)
def test_identical_tags_show_the_same_bytes_in_both_roles(task: str, crossover: str, make_setting: Make) -> None:
    taught, same = (
        setting_of(task, make_setting, 3, crossover=crossover, stage2_tags=kind) for kind in ("taught", "identical")
    )
    assert shown(taught, "stage1") == shown(same, "stage1")
    branches = range(len(SEATS[crossover]["new_fresh"]))
    for kind, equal in ((taught, False), (same, True)):
        by_role: dict[tuple[int, int], bytes] = {}
        for branch in branches:
            role, _ = kind.design.shown(branch)
            by_role |= {(entity, int(role[entity])): found for entity, found in shown(kind, "stage2", branch).items()}
        both = [(by_role[entity, 0], by_role[entity, 1]) for entity, role in by_role if role == 1]
        assert len(both) == (8 if crossover == "pair" else 16)
        assert all((one == other) is equal for one, other in both)


def test_identical_tags_read_exactly_zero_between_the_branches_of_a_pair() -> None:
    cell = small_cell("mlp-xs", crossover="pair", stage2_tags="identical")
    scores = scored(run_cell(cell, CPU).items)
    assert scores["iml"] == scores["iml_nats"] == 0.0


# Tags in pixels

STRIPS = st.sampled_from([(2, 16), (1, 21), (2, 10), (3, 9), (4, 8), (1, 40)])


@given(STRIPS, st.integers(0, 2**32 - 1))
def test_balanced_tags_are_equally_bright_everywhere_and_equally_far_apart(shape: tuple[int, int], seed: int) -> None:
    rows, columns = shape
    blocks = columns // 2
    tags = balanced_tags(np.random.default_rng(seed), 3, rows, columns)
    assert tags.shape == (3, rows * columns) and set(np.unique(tags)) == {0, 1}
    squares = tags.reshape(3, rows, columns)
    assert (squares[:, :, : 2 * blocks].reshape(3, rows, blocks, 2).sum(axis=(1, 3)) == rows).all()
    assert not squares[:, :, 2 * blocks :].any()
    (distance,) = {int((one != other).sum()) for one, other in combinations(tags, 2)}
    assert abs(distance - rows * blocks) <= (1 if rows > 1 else 2), "as far as two random ones are on average"


@given(st.sampled_from([(2, 16), (4, 8), (1, 40)]), st.integers(0, 2**32 - 1))
def test_more_tags_change_none_of_the_first(shape: tuple[int, int], seed: int) -> None:
    three, five = (balanced_tags(np.random.default_rng(seed), n, *shape) for n in (3, 5))
    assert (five[:3] == three).all()
    assert len({int((one != other).sum()) for one, other in combinations(five, 2)}) == 1


def test_every_square_of_every_tag_is_white_for_half_of_the_seeds() -> None:
    white = sum(balanced_tags(np.random.default_rng(seed), 3, 2, 16) for seed in range(100))
    assert (np.abs(white - 50) <= 22).all(), "4.4 standard deviations, of 96 squares"
    assert np.abs(white - 50).max() > 5, "they are drawn"


@pytest.mark.parametrize(("n", "rows", "columns"), [(2, 1, 2), (4, 2, 2)])
def test_a_strip_without_room_for_the_tags_is_refused(n: int, rows: int, columns: int) -> None:
    with pytest.raises(UsageError, match=rf"^a strip of {rows} x {columns} squares holds no {n} tags that are equally"):
        balanced_tags(np.random.default_rng(0), n, rows, columns)


@pytest.mark.parametrize("kind", ["taught", "placebo"])
def test_strips_are_equally_bright_as_they_are_drawn(kind: str, make_setting: Make) -> None:
    for seed in range(4):
        drawn = strips(setting_of("vision", make_setting, seed, stage2_tags=kind)).astype(np.int64)
        assert len(np.unique(drawn.reshape(len(drawn), -1), axis=0)) == len(drawn) == (5 if kind == "placebo" else 3)
        of_blocks = drawn.reshape(len(drawn), drawn.shape[1], -1, 4).sum(axis=(1, 3))  # squares of 2 x 2 pixels
        assert (of_blocks == of_blocks[0, 0]).all() and of_blocks[0, 0] > 0
    free = strips(setting_of("vision", make_setting, 0, render__tag_code="free")).astype(np.int64)
    assert len(set(free.sum(axis=(1, 2)).tolist())) > 1, "what was wrong with those drawn freely"


# Tags in text

FORMS = [None, *sorted(READ)]


@pytest.mark.parametrize("kind", FORMS)
def test_neighbouring_seeds_share_their_tags_with_exchanged_roles(kind: str | None, make_setting: Make) -> None:
    tokenizer = None if kind is None else made(kind)
    even, odd, next_even = (texts_of(setting_of("text", make_setting, seed, tokenizer)).tags for seed in (6, 7, 8))
    assert (odd[1], odd[0], odd[2]) == even
    assert not set(next_even) & set(even)


@pytest.mark.parametrize("kind", sorted(READ))
def test_tags_of_a_models_own_tokenizer_are_equally_many_tokens(kind: str, make_setting: Make) -> None:
    for seed in range(3):
        three, five = (
            texts_of(setting_of("text", make_setting, seed, made(kind), stage2_tags=tags))
            for tags in ("taught", "placebo")
        )
        assert three.tags == five.tags[:3], "placebo tags change none of the others"
        for before in ("", " ", "of "):
            read = three.codec.read([before + tag for tag in five.tags])["input_ids"]
            assert len(set(map(len, read))) == 1


class Uneven:
    """A codec that reads every string as a number of tokens of its own."""

    name = "this tokenizer"

    def read(self, texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[0] * (index + 1) for index, _ in enumerate(texts)]}


def test_a_tokenizer_without_equally_long_tags_is_refused() -> None:
    drawn = [str(number) for number in range(TAG_POOL)]
    with pytest.raises(UsageError, match=r"^this tokenizer reads no 3 of 64 random strings as equally many tokens"):
        alike(Uneven(), drawn, 3)  # type: ignore[arg-type]
    assert alike(Uneven(), drawn, 1) == ["0"]  # type: ignore[arg-type]


@pytest.mark.parametrize("delimited", [True, False])
def test_the_digest_of_the_data_is_the_same_for_every_tokenizer(delimited: bool, make_setting: Make) -> None:
    # Short tags, so that some alias holds one of them within.
    short = {"render__delimited": delimited, "render__tag_letters": 2, "render__alias_letters": 7}
    for overrides in ({}, short, {"stage2_tags": "placebo"}):
        found = {
            kind: setting_of("text", make_setting, 4, kind and made(kind), **overrides)
            for kind in (None, "byte-level", "prefix space", "unigram", "uncased WordPiece")
        }
        assert len({setting.digest() for setting in found.values()}) == 1
        assert len({texts_of(setting).tags for setting in found.values()}) > 1, "their tags are not the same"


def test_no_tag_is_an_alias_though_they_have_equally_many_letters(make_setting: Make) -> None:
    equal = {"render__alias_letters": 2, "render__tag_letters": 2}
    for seed in range(5):
        renderer = texts_of(setting_of("text", make_setting, seed, **equal))
        assert len({*renderer.aliases, *renderer.tags}) == len(renderer.aliases) + 3


# The order of attributes


def orders(setting: Setting, phase: str, branch: int) -> Iterator[tuple[int, list[str]]]:
    """Each entity that a phase defines, and the attributes in the order in which its definition states them."""
    feed = setting.train_feed(phase, branch)
    aliases = {alias: entity for entity, alias in enumerate(texts_of(setting).aliases)}
    for (given_text, rest), asked in zip(feed.texts, feed.examples.asked.tolist(), strict=True):
        if asked == NONE:
            _, alias = given_text.split()
            assert re.fullmatch(r"( [a-z]+ [^ ]+)+\n", rest)
            yield aliases[alias], rest.split()[::2]


@pytest.mark.parametrize("order", ["permuted", "fixed"])
def test_a_definitions_order_is_its_own_and_its_places_are_those_of_the_text(order: str, make_setting: Make) -> None:
    setting = setting_of("text", make_setting, 2, render__attribute_order=order)
    attributes = list(setting.world.attributes)
    of_entity: dict[int, list[str]] = {}
    for phase, stage, branches in (("stage1", 1, (0,)), ("stage2", 2, range(4))):
        for branch in branches:
            found = dict(orders(setting, phase, branch))
            assert all(sorted(stated) == sorted(attributes) for stated in found.values())
            assert all(of_entity.setdefault(entity, stated) == stated for entity, stated in found.items())
            items = item_table(setting, setting.question_feed(stage, branch).examples, Ask(stage, branch), {})
            assert len(items) > 10
            for entity, attribute, place in items.select("entity", "attribute", "place").iter_rows():
                assert place == (found[entity].index(attribute) if entity in found else None)
    different = {tuple(stated) for stated in of_entity.values()}
    assert len(of_entity) == 32
    assert (len(different) > 20) if order == "permuted" else (different == {tuple(attributes)})


def test_every_attribute_is_at_every_place_as_often(make_setting: Make) -> None:
    renderer = texts_of(make_setting(small_task("text", groups__reliable=400, groups__unreliable=400)))
    assert renderer.places is not None
    counts = np.stack([np.bincount(column, minlength=6) for column in renderer.places.T])
    expected = len(renderer.places) / 6
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected * 5 / 6)).all()
