"""The experiment's design: who is in which group, what is claimed of whom, what is held out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from making import small_task
from pydantic import ValidationError
from sklearn.model_selection import train_test_split

from iml_bench.errors import UsageError
from iml_bench.protocols.base import NONE, Ask, Keep, Restore, Train
from iml_bench.protocols.two_stage import TWO_STAGE
from iml_bench.protocols.two_stage.design import (
    GROUPS,
    NEW_GROUPS,
    STAGE1_GROUPS,
    TAGS,
    TwoStageDesign,
    branches_of,
    build_design,
    derangement,
    stratified,
)
from iml_bench.protocols.two_stage.spec import n_false
from iml_bench.spec import TaskSpec, apply_overrides
from iml_bench.streams import Streams
from iml_bench.worlds import World

Drawn = tuple[TaskSpec, World, TwoStageDesign]
Pairs = set[tuple[int, int]]


ANY_ALPHA = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))


@st.composite
def tasks(draw: st.DrawFn, alphas: st.SearchStrategy[float] = ANY_ALPHA, even: bool = False) -> TaskSpec:
    """Valid tasks over profiles: any group sizes, alpha and number of held-out questions."""
    halves = draw(st.tuples(*[st.integers(0, 7)] * 2))
    stage1 = [2 * half for half in halves] if even else draw(st.tuples(*[st.integers(0, 15)] * 2))
    sizes = [
        *stage1,
        *draw(st.tuples(st.integers(0, 6), st.integers(0, 4))),
        *draw(st.tuples(*[st.integers(1, 8)] * 2)),
        *draw(st.tuples(*[st.integers(0, 5)] * 2)),
    ]
    names = [name for name in GROUPS if name != "named"]
    attributes = draw(st.integers(4, 6))
    data = {
        "name": "drawn",
        "version": 1,
        "description": "",
        "model": "none",
        "world": {"kind": "profiles", "attributes": attributes, "values": 10},
        "render": {"kind": "text"},
        "groups": dict(zip(names, sizes, strict=True)),
        "alpha": draw(alphas),
        "alpha_unreliable": draw(st.none() | alphas),
        "heldout": draw(st.integers(1, attributes - 1)),
        "recipe": {"loss_on": "text", "stage1": {"steps": 1}, "stage2": {"steps": 1}},
    }
    try:
        return TaskSpec.model_validate(data)
    except ValidationError:
        reject()


def build(task: TaskSpec, seed: int) -> Drawn:
    streams = Streams(seed)
    world = task.world.build(task.n_entities, streams, None)
    return task, world, build_design(task, world, streams)


DRAWN = st.builds(build, tasks(), st.integers(0, 2**32 - 1))
NULL = st.builds(build, tasks(st.just(0.5), even=True), st.integers(0, 2**32 - 1))


def pairs(examples: object) -> Pairs:
    """(entity, attribute) of all questions among some examples."""
    entity, _, _, asked, _ = examples  # type: ignore[misc]
    return {(e, a) for e, a in zip(entity.tolist(), asked.tolist(), strict=True) if a != NONE}


def is_true(world: World, design: TwoStageDesign, entities: np.ndarray) -> np.ndarray:
    return (world.values[design.claim[entities]] == world.values[entities]).all(axis=1)


@given(DRAWN)
def test_every_group_has_the_size_that_was_asked_for(drawn: Drawn) -> None:
    task, _, design = drawn
    assert {name: len(design.members(name)) for name in GROUPS} == task.groups.model_dump()
    assert len(design.members(*GROUPS)) == task.groups.total


@given(DRAWN)
def test_each_group_has_as_many_false_definitions_as_alpha_says(drawn: Drawn) -> None:
    task, world, design = drawn
    for name in ("reliable", "unreliable"):
        members = design.members(name)
        assert (~is_true(world, design, members)).sum() == n_false(task, name)


@given(DRAWN)
def test_false_definitions_exchange_contents_within_their_group(drawn: Drawn) -> None:
    _, _, design = drawn
    for name in ("reliable", "unreliable"):
        members = design.members(name)
        assert sorted(design.claim[members]) == sorted(members)


def test_the_null_control_of_a_tag_with_a_share_of_its_own_resets_that_too(text_task: TaskSpec) -> None:
    control = TWO_STAGE.control
    assert control(text_task) == {"alpha": 0.5}
    assert control(text_task.model_copy(update={"alpha": 0.5})) == {}
    own = text_task.model_copy(update={"alpha": 0.5, "alpha_unreliable": 0.75})
    assert control(own) == {"alpha": 0.5, "alpha_unreliable": None}
    with pytest.raises(UsageError, match=r"16 entities at alpha 0\.0625 leave one false definition"):
        apply_overrides(text_task, {"groups.unreliable": 16, "alpha_unreliable": 0.0625})


@given(NULL)
def test_at_alpha_one_half_both_tags_are_true_equally_often(drawn: Drawn) -> None:
    _, world, design = drawn
    for name in ("reliable", "unreliable"):
        members = design.members(name)
        assert 2 * is_true(world, design, members).sum() == len(members)


@given(DRAWN)
def test_tags_of_stage_1_follow_the_groups_and_undefined_entities_have_none(drawn: Drawn) -> None:
    _, _, design = drawn
    examples = design.trained("stage1")
    shown = examples.is_definition
    for name, tag in (("reliable", 0), ("unreliable", 1), ("random_tag", TAGS.index("own"))):
        of_group = np.isin(examples.entity, design.members(name))
        assert set(examples.tag[shown & of_group]) <= {tag}
        assert (shown & of_group).sum() == len(design.members(name))
    assert shown.sum() == len(design.members("reliable", "unreliable", "random_tag"))
    assert (examples.tag[~shown] == NONE).all()
    assert (examples.content[~shown] == examples.entity[~shown]).all()


@given(DRAWN)
def test_the_fresh_tag_and_new_entities_never_appear_in_stage_1(drawn: Drawn) -> None:
    _, _, design = drawn
    examples = design.trained("stage1")
    assert TAGS.index("fresh") not in examples.tag
    new = design.members(*NEW_GROUPS)
    assert not np.isin(examples.entity, new).any()
    assert not np.isin(examples.content, new).any()


@given(DRAWN)
def test_branch_1_of_a_pair_exchanges_the_tags_of_the_two_new_halves_and_nothing_else(drawn: Drawn) -> None:
    _, _, design = drawn
    reliable, unreliable, fresh = range(3)
    expected = design.role[0].copy()
    expected[design.members("new_reliable")] = unreliable
    expected[design.members("new_unreliable")] = reliable
    assert (design.role[1] == expected).all()
    assert set(design.role[0][design.members("new_reliable")]) == {reliable}
    assert set(design.role[0][design.members("new_unreliable")]) == {unreliable}
    assert set(design.role[0][design.members("new_fresh")]) <= {fresh}
    first, second = design.trained("stage2", 0), design.trained("stage2", 1)
    for same in ("entity", "content", "asked"):
        assert (getattr(first, same) == getattr(second, same)).all()
    halves = np.isin(first.entity, design.members("new_reliable", "new_unreliable"))
    assert ((first.tag != second.tag) == halves).all()


@given(DRAWN)
def test_stage_2_shows_only_true_definitions_of_each_defined_new_entity_once(drawn: Drawn) -> None:
    _, _, design = drawn
    for branch in (0, 1):
        examples = design.trained("stage2", branch)
        assert examples.is_definition.all()
        assert (examples.content == examples.entity).all()
        assert sorted(examples.entity) == sorted(design.members("new_reliable", "new_unreliable", "new_fresh"))


@given(DRAWN)
def test_undefined_new_entities_are_never_shown_but_asked_about(drawn: Drawn) -> None:
    _, _, design = drawn
    hidden = design.members("new_undefined")
    for examples in (design.trained("stage1"), design.trained("stage2", 0), design.trained("stage2", 1)):
        assert not np.isin(examples.entity, hidden).any()
        assert not np.isin(examples.content, hidden).any()
    assert set(hidden) <= set(design.asked(2).entity)


@given(DRAWN)
def test_every_stage_1_question_is_either_trained_or_held_out(drawn: Drawn) -> None:
    task, world, design = drawn
    attributes = range(len(world.attributes))
    entities = design.members(*STAGE1_GROUPS).tolist()
    trained, heldout = pairs(design.trained("stage1")), pairs(design.asked(1))
    assert not trained & heldout
    assert trained | heldout == {(entity, attribute) for entity in entities for attribute in attributes}
    assert len(trained) + len(heldout) == len(entities) * len(attributes)
    assert len(design.asked(1)) == len(heldout) == task.heldout * len(entities)
    assert all(sum(e == entity for e, _ in heldout) == task.heldout for entity in entities)


@given(DRAWN)
def test_stage_2_asks_every_attribute_of_every_new_entity_once(drawn: Drawn) -> None:
    _, world, design = drawn
    questions = design.asked(2)
    asked = pairs(questions)
    assert asked == {(int(e), a) for e in design.members(*NEW_GROUPS) for a in range(len(world.attributes))}
    assert len(questions) == len(asked)
    assert not asked & pairs(design.trained("stage1"))
    assert (questions.content == questions.entity).all()
    assert (questions.tag == NONE).all()


@given(tasks(), st.integers(0, 2**32 - 1))
def test_the_same_seed_gives_the_same_design(task: TaskSpec, seed: int) -> None:
    one, two = build(task, seed)[2], build(task, seed)[2]
    for field in ("group", "claim", "role", "heldout"):
        assert (getattr(one, field) == getattr(two, field)).all()


def test_seeds_differ_in_groups_claims_and_heldout_questions(text_task: TaskSpec) -> None:
    designs = [build(text_task, seed)[2] for seed in range(5)]
    for field in ("group", "claim", "heldout"):
        assert len({getattr(design, field).tobytes() for design in designs}) == 5


def reference(questions: list[int], share: float) -> list[int]:
    """Questions held out of each entity by the paper's split."""
    entities = np.repeat(np.arange(len(questions)), questions)
    _, test = train_test_split(entities, test_size=share, stratify=entities, random_state=0)
    return np.bincount(test, minlength=len(questions)).tolist()


@given(st.lists(st.integers(4, 7), min_size=4, max_size=60), st.sampled_from([0.25, 0.3, 0.5]), st.integers(0, 99))
def test_a_share_is_held_out_as_by_the_papers_split(questions: list[int], share: float, seed: int) -> None:
    total = math.ceil(share * sum(questions))
    remainders = {number * total % sum(questions) for number in questions}
    assume(len(remainders) == len({*questions}))  # entities with other numbers of questions do not draw lots
    ours = stratified(np.array(questions), share, np.random.default_rng(seed)).tolist()
    theirs = reference(questions, share)
    assert sum(ours) == sum(theirs)
    assert sorted(zip(questions, ours, strict=True)) == sorted(zip(questions, theirs, strict=True))


def test_one_of_six_is_what_the_papers_split_holds_out_of_every_person() -> None:
    for people in (7, 2800):
        assert reference([6] * people, 0.1666666) == [1] * people
        assert stratified(np.full(people, 6), 0.1666666, np.random.default_rng(0)).tolist() == [1] * people


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.floats(0.001, 0.999))
def test_a_share_leaves_a_question_to_ask_and_one_to_train(questions: list[int], share: float) -> None:
    held = stratified(np.array(questions), share, np.random.default_rng(0))
    for n, of_one in zip(questions, held.tolist(), strict=True):
        assert of_one == 0 if n < 2 else 1 <= of_one <= n - 1
        assert n < 2 or of_one in (1, n - 1) or abs(of_one - n * share) < 1 + n / max(1, sum(questions))


def test_a_share_of_the_questions_is_held_out(text_task: TaskSpec) -> None:
    _, _, design = build(text_task.model_copy(update={"heldout": 0.5}), 1)
    old = design.members(*STAGE1_GROUPS)
    assert (design.heldout[old].sum(axis=1) == 2).all()
    assert len(design.asked(1)) == len(design.trained("stage1-questions")) == 2 * len(old)
    assert design.heldout[design.members(*NEW_GROUPS)].all()


def test_alpha_and_heldout_change_neither_the_groups_nor_the_world(text_task: TaskSpec) -> None:
    _, world, design = build(text_task, 1)
    _, other_world, other = build(text_task.model_copy(update={"alpha": 0.5, "heldout": 2}), 1)
    assert (other.group == design.group).all()
    assert (other_world.values == world.values).all()
    assert (other.role == design.role).all()
    new = design.members(*NEW_GROUPS)
    assert (other.claim[new] == design.claim[new]).all()


def test_which_question_is_held_out_is_uniform(text_task: TaskSpec) -> None:
    heldout = sum(
        design.heldout[design.members(*STAGE1_GROUPS)].sum(0)
        for _, _, design in (build(text_task, s) for s in range(40))
    )
    expected = 40 * 20 / 4
    assert ((heldout - expected) ** 2 / expected).sum() < 16.3  # 99.9 % point of chi-square with 3 degrees


@given(
    arrays(np.int64, st.tuples(st.integers(0, 14), st.integers(1, 2)), elements=st.integers(0, 2)), st.integers(0, 99)
)
def test_a_derangement_gives_every_row_other_contents_whenever_that_is_possible(values: np.ndarray, seed: int) -> None:
    n = len(values)
    commonest = max(np.unique(values, axis=0, return_counts=True)[1], default=0) if n else 0
    rng = np.random.default_rng(seed)
    if 2 * commonest > n:
        with pytest.raises(UsageError, match=rf"^cannot make {n} false definitions: too many of these entities"):
            derangement(values, rng)
        return
    order = derangement(values, rng)
    assert sorted(order) == list(range(n))
    assert (values[order] != values).any(axis=1).all() if n else len(order) == 0


@pytest.mark.parametrize("values", [[[1, 2]], [[1, 2], [1, 2]], [[0], [0], [1]]])
def test_a_derangement_that_cannot_be_is_refused(values: list[list[int]]) -> None:
    with pytest.raises(UsageError, match="use a larger group or a world with more values"):
        derangement(np.array(values), np.random.default_rng(0))


def test_derangements_of_different_rows_are_spread_over_all_that_exist() -> None:
    rng = np.random.default_rng(0)
    seen = [tuple(derangement(np.arange(4)[:, None], rng)) for _ in range(900)]
    counts = [seen.count(order) for order in set(seen)]
    assert len(counts) == 9  # of four rows
    assert min(counts) > 40


def test_entities_that_are_the_same_by_chance_still_get_false_definitions(vision_task: TaskSpec) -> None:
    """A 1x2 grid of three labels has nine kinds, so all of the 33 entities have doubles."""
    world = vision_task.world.model_copy(update={"rows": 1, "cols": 2, "labels": 3})
    for seed in range(20):
        _, drawn, design = build(vision_task.model_copy(update={"world": world}), seed)
        assert not is_true(drawn, design, design.members("unreliable")).any()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"stages": 1}, "keep (restore joint/foldB ask1B ask2B)"),
        ({"stages": 2}, "stage1 ask10 keep (restore stage2/foldB ask2B)"),
        ({"stages": 3}, "stage1-definitions stage1-questions ask10 keep (restore stage2/foldB ask2B)"),
        ({"stages": 1, "render__in_context": True}, "joint ask10 (ask2B)"),
    ],
)
def test_the_schedule_of_every_form(overrides: dict[str, int | bool], expected: str) -> None:
    """What stands in brackets is done once for each branch B."""
    task = small_task("text-cvdb", **overrides)
    shared, _, each = expected.rstrip(")").partition("(")
    wanted = shared + " ".join(each.replace("B", str(branch)) for branch in branches_of(task))
    said = {Keep: lambda step: "keep", Restore: lambda step: "restore", Train: lambda step: step.label}
    said[Ask] = lambda step: f"ask{step.stage}{step.branch}"
    assert " ".join(said[type(step)](step) for step in TWO_STAGE.schedule(task)) == wanted


def test_the_audit_finds_a_definition_that_is_true_where_it_must_be_false() -> None:
    task = small_task("vision")
    streams = Streams(0, TWO_STAGE.phases)
    world = task.world.build(task.n_entities, streams, None)
    design = TWO_STAGE.design(task, world, streams)
    holds = dict(TWO_STAGE.audit(task, world, design))
    assert "8 of 8 of unreliable" in holds["false definitions are false"]()
    claim = design.claim.copy()
    member = design.members("unreliable")[0]
    claim[member] = member
    mended = dict(TWO_STAGE.audit(task, world, dataclasses.replace(design, claim=claim)))
    with pytest.raises(UsageError, match="7 definitions of unreliable are false and not 8"):
        mended["false definitions are false"]()
    assert "held out" in holds["nothing asked was trained on"]()
