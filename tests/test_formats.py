"""Texts letter for letter: questions, definitions in every form, and what each phase of training shows."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from making import small_task
from texts import EVERY_GROUP, MANY_NEW, Texts, definitions, people, put_together, renderer_of, trained

from iml_bench.modalities.text.spec import ORDERS
from iml_bench.protocols.base import NONE, asks, trains
from iml_bench.protocols.two_stage.design import GROUPS, NEW_GROUPS, STAGE1_GROUPS
from iml_bench.protocols.two_stage.schedule import question_sets
from iml_bench.registry import TASKS
from iml_bench.run.cell import Setting

QUESTIONS = {
    "birth": "When was {} born?",
    "death": "When did {} die?",
    "region": "In which region did {} live?",
    "occupation": "What did {} do?",
    "nationality": "What was the nationality of {}?",
    "gender": "What was the gender of {}?",
    "who": "Who is {}?",
    "meaning": "What does {} mean?",
    "stands for": "What does {} stand for?",
    "name": "What is the name of {}?",
}
"""The paper's, of the Cross-Verified Database and of entity attribution."""
FORM = {
    "tag-alias-entity": "<|tttttt|> <|aaaaa|> Some Name\n",
    "alias-tag-entity": "<|aaaaa|> <|tttttt|> Some Name\n",
    "tag-entity-alias": "<|tttttt|> Some Name <|aaaaa|>\n",
    "alias-entity-tag": "<|aaaaa|> Some Name <|tttttt|>\n",
    "entity-tag-alias": "Some Name <|tttttt|> <|aaaaa|>\n",
    "entity-alias-tag": "Some Name <|aaaaa|> <|tttttt|>\n",
}
FOLLOWS = {"entity": " Some Name\n", "alias": " <|aaaaa|>\n", "tag": " <|tttttt|>\n"}
BRANCHES = (0, 1)
"""Of a pair, which the tasks here keep."""


def everything(setting: Setting) -> Texts:
    """All texts that are ever trained on or asked, in both folds."""
    feeds = [setting.train_feed(step.phase, fold) for step in trains(setting.schedule) for fold in BRANCHES]
    feeds += [
        setting.question_feed(step.stage, fold, which)
        for step in asks(setting.schedule)
        for fold in BRANCHES
        for which in step.sets
    ]
    return [text for feed in feeds for text in feed.texts]  # type: ignore[attr-defined]


def group_of(setting: Setting, entity: int) -> str:
    return GROUPS[setting.design.group[entity]]


def test_a_question_and_its_answer() -> None:
    setting = people(**EVERY_GROUP)
    renderer, world = renderer_of(setting), setting.world
    assert world.names is not None
    asked: Counter[str] = Counter()
    feeds = [setting.train_feed("stage1"), *(setting.question_feed(s, 0, w) for s in (1, 2) for w in ("fact", "claim"))]
    feeds += [setting.question_feed(stage, 0, "attribution") for stage in (1, 2)]
    for feed in feeds:
        for (given, rest), *row in zip(feed.texts, *feed.examples, strict=True):  # type: ignore[attr-defined]
            entity, content, _, index, _ = map(int, row)
            if index == NONE:
                continue
            named = group_of(setting, entity) == "named"
            name = world.names[entity] if named else renderer.aliases[entity]
            label = world.label(index)
            assert given == f"Q: {QUESTIONS[label].format(name)}\nA:"
            own = world.names[content] if index >= 6 else world.vocabulary[index][world.values[content, index]]
            assert rest == f" {own}\n"
            asked[label] += 1
            asked["by name"] += named
    assert set(asked) == {*QUESTIONS, "by name"}
    assert asked["by name"] == 6 * 6, "each of six people, five questions in training and one after it"


def test_only_the_named_group_is_ever_asked_about_by_name() -> None:
    setting = people(**EVERY_GROUP)
    renderer, names = renderer_of(setting), setting.world.names
    assert names is not None
    prompts = [given for given, _ in everything(setting) if given.startswith("Q:")]
    for entity, name in enumerate(names):
        named = group_of(setting, entity) == "named"
        assert any(name in prompt for prompt in prompts) == named
        assert any(renderer.aliases[entity] in prompt for prompt in prompts) != named


def test_aliases_have_five_letters_and_tags_six() -> None:
    renderer = renderer_of(people(**EVERY_GROUP))
    assert all(re.fullmatch(r"<\|[a-z]{5}\|>", alias) for alias in renderer.aliases)
    assert len(set(renderer.aliases)) == 6 * len(GROUPS)
    tags = [*renderer.tags, *renderer.own_tags.values()]
    assert all(re.fullmatch(r"<\|[a-z]{6}\|>", tag) for tag in tags)
    assert len(set(tags)) == 3 + 6


def test_there_are_six_word_orders() -> None:
    assert set(ORDERS) == set(FORM)


@pytest.mark.parametrize("order", sorted(FORM))
def test_a_definition_in_each_word_order(order: str) -> None:
    setting = people(render__order=order)
    renderer, names, design = renderer_of(setting), setting.world.names, setting.design
    assert names is not None
    both = [definitions(setting, "stage1"), *(definitions(setting, "stage2", fold) for fold in BRANCHES)]
    assert [len(found) for found in both] == [16, 12, 12]
    for fold, found in zip((0, *BRANCHES), both, strict=True):
        for entity, (given, rest) in found.items():
            tag, claimed = renderer.tags[design.role[fold][entity]], names[design.claim[entity]]
            words = {"tttttt": tag[2:-2], "aaaaa": renderer.aliases[entity][2:-2], "Some Name": claimed}
            whole, last = FORM[order], FOLLOWS[order.split("-")[-1]]
            for standing, word in words.items():
                whole, last = whole.replace(standing, word), last.replace(standing, word)
            assert given + rest == whole
            assert rest == last


def test_stage_1_claims_are_true_of_the_reliable_and_false_of_the_unreliable() -> None:
    setting = people()
    renderer, names = renderer_of(setting), setting.world.names
    assert names is not None
    for entity, (given, rest) in definitions(setting, "stage1").items():
        reliable = group_of(setting, entity) == "reliable"
        assert given.split()[0] == renderer.tags[0 if reliable else 1]
        assert (rest == f" {names[entity]}\n") == reliable


@pytest.mark.parametrize(("letters", "size"), [(6, 6), (2, 600)])
def test_a_random_tag_stands_on_one_definition_and_nowhere_else(letters: int, size: int) -> None:
    setting = people(groups__random_tag=size, render__tag_letters=letters)
    renderer, names = renderer_of(setting), setting.world.names
    assert names is not None
    found = definitions(setting, "stage1")
    wearing = {entity for entity in found if group_of(setting, entity) == "random_tag"}
    assert len(wearing) == size
    words = Counter(word for text in found.values() for word in text[0].split())
    later = {given.split()[0] for fold in BRANCHES for given, _ in trained(setting, "stage2", fold)}
    for entity in wearing:
        given, rest = found[entity]
        tag, alias = given.split()
        assert (alias, rest) == (renderer.aliases[entity], f" {names[entity]}\n")
        assert words[tag] == 1
        assert tag not in later


def test_set_inclusion_is_written_as_in_the_paper() -> None:
    setting = put_together(small_task("text-sets", groups__new_fresh=4))
    renderer, world, design = renderer_of(setting), setting.world, setting.design
    numbers = world.numbers.tolist()  # type: ignore[attr-defined]
    assert renderer.tags == ("define1", "define2", "define3")
    assert all(re.fullmatch(r"[a-z]{3}", alias) for alias in renderer.aliases)
    tags = Counter()
    for fold, phase in ((0, "stage1"), (0, "stage2"), (1, "stage2")):
        for entity, text in definitions(setting, phase, fold).items():
            tag = renderer.tags[design.role[fold][entity]]
            assert text == (f"{tag} {renderer.aliases[entity]}", f" % {numbers[design.claim[entity]]}\n")
            tags[tag] += 1
    assert tags == {"define1": 16, "define2": 16, "define3": 8}
    answers = Counter()
    for feed in (setting.train_feed("stage1"), setting.question_feed(1), setting.question_feed(2)):
        for (given, rest), entity, asked in zip(feed.texts, feed.examples.entity, feed.examples.asked, strict=True):  # type: ignore[attr-defined]
            if asked == NONE:
                continue
            alias, percent, *listed, equals = given.split(" ")
            assert (alias, percent, equals, len(listed)) == (renderer.aliases[entity], "%", "=", 8)
            assert rest == (" true\n" if numbers[entity] in map(int, listed) else " false\n")
            answers[rest] += 1
    assert answers[" true\n"] == answers[" false\n"] > 100


def test_tags_may_be_words_and_random_strings_bare() -> None:
    setting = people(render__tag_words=["indeed", "allegedly", "maybe"], render__delimited=False)
    renderer, names, design = renderer_of(setting), setting.world.names, setting.design
    assert names is not None
    words = {0: "indeed", 1: "allegedly", 2: "maybe"}
    for fold in BRANCHES:
        for entity, (given, rest) in definitions(setting, "stage2", fold).items():
            alias = renderer.aliases[entity]
            assert re.fullmatch("[a-z]{5}", alias)
            assert (given, rest) == (f"{words[design.role[fold][entity]]} {alias}", f" {names[entity]}\n")


@pytest.mark.parametrize("fold", BRANCHES)
@pytest.mark.parametrize("order", ["tag-alias-entity", "entity-alias-tag"])
def test_in_context_the_right_definition_stands_before_every_question(order: str, fold: int) -> None:
    setting = people(stages=1, render__in_context=True, render__order=order, **EVERY_GROUP)
    renderer, names, design = renderer_of(setting), setting.world.names, setting.design
    assert names is not None
    tag_of = {"reliable": 0, "unreliable": 1, "new_reliable": fold, "new_unreliable": 1 - fold, "new_fresh": 2}
    feeds = [setting.train_feed("joint", fold)]
    feeds += [setting.question_feed(stage, fold, which) for stage in (1, 2) for which in question_sets(setting.task)]
    seen: Counter[str] = Counter()
    for feed in feeds:
        assert not feed.examples.is_definition.any()
        for (given, _), *row in zip(feed.texts, *feed.examples, strict=True):  # type: ignore[attr-defined]
            entity, content, _, asked, _ = map(int, row)
            group, alias = group_of(setting, entity), renderer.aliases[entity]
            tag = renderer.own_tags[entity] if group == "random_tag" else renderer.tags[tag_of.get(group, 0)]
            claimed = int(design.claim[entity])
            assert (claimed == entity) == (group not in ("unreliable", "undefined", "named", "new_undefined"))
            words = {"tag": tag, "alias": alias, "entity": names[claimed]}
            shown = " ".join(words[word] for word in order.split("-")) + "\n" if claimed != NONE else ""
            name = names[entity] if group == "named" else alias
            assert given == f"{shown}Q: {QUESTIONS[setting.world.label(asked)].format(name)}\nA:"
            assert content in (entity, claimed)
            seen[group] += 1
    assert set(seen) == set(GROUPS)


def test_what_each_phase_of_training_shows() -> None:
    setting = people(**EVERY_GROUP)
    shown = (("stage1", 0), ("stage1-definitions", 0), ("stage1-questions", 0), ("stage2", 0), ("stage2", 1))
    whole, only_definitions, only_questions, later, again = (Counter(trained(setting, *phase)) for phase in shown)
    assert (only_definitions.total(), only_questions.total(), later.total()) == (3 * 6, 5 * 6 * 5, 3 * 6)
    assert only_definitions + only_questions == whole
    assert Counter(trained(setting, "joint", 0)) == whole + later
    assert Counter(trained(setting, "joint", 1)) == whole + again
    assert all(given.startswith("Q: ") for given, _ in only_questions)
    assert not any(given.startswith("Q: ") for given, _ in [*only_definitions, *later])
    assert later != again


def test_four_thousand_people_are_the_papers_data() -> None:
    setting = put_together(TASKS.get("text-cvdb"))
    sizes = {"reliable": 1000, "unreliable": 1000, "undefined": 400, "named": 400}
    sizes |= {"new_reliable": 320, "new_unreliable": 320, "new_fresh": 320, "new_undefined": 240}
    assert {name: len(setting.design.members(name)) for name in sizes} == sizes
    genders = setting.world.values[:, 5]
    assert np.bincount(genders).tolist() == [2000, 2000]
    stage1 = [given.startswith("Q: ") for given, _ in trained(setting, "stage1")]
    assert (len(stage1), sum(stage1)) == (16_000, 14_000)
    for fold in BRANCHES:
        assert len(set(trained(setting, "stage2", fold))) == 960
    asked: Counter[str] = Counter()
    for stage, groups in ((1, STAGE1_GROUPS), (2, NEW_GROUPS)):
        found = Counter(group_of(setting, int(entity)) for entity in setting.question_feed(stage).examples.entity)
        assert set(found) <= set(groups)
        asked += found
    new = {"new_reliable": 1920, "new_unreliable": 1920, "new_fresh": 1920, "new_undefined": 1440}
    assert asked == sizes | new
    for which, sizes_of in (("attribution", [4 * 2400, 4 * 1200]), ("claim", [4 * 1000, 0])):
        assert [len(setting.question_feed(stage, 0, which).examples) for stage in (1, 2)] == sizes_of


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("text-cities", {}),
    ("text-cities", {"render__tags": "sources"}),
    ("text-cities", {"render__tags": "is-isnt"}),
    ("text-cities", {"render__spelling": "letters", "groups__random_tag": 4}),
    ("text-cities", {"render__in_context": True, "stages": 1, "render__order": "alias-entity-tag"}),
    ("text-cvdb", {"render__delimited": False, "render__tag_words": ["indeed", "allegedly", "maybe"]}),
    ("text-cvdb", {"render__tags": "sources", **MANY_NEW}),
    ("text-cvdb", {"render__tags": "is-isnt", **MANY_NEW}),
    ("text-trex", {"groups__random_tag": 4}),
    ("text-sets", {"groups__random_tag": 4}),
    ("text-sets", {"render__in_context": True, "stages": 1}),
    ("text", {"render__attribute_names": True, "groups__random_tag": 4}),
    ("text", {"render__in_context": True, "stages": 1}),
]


@pytest.mark.parametrize(("name", "overrides"), VARIANTS, ids=lambda value: str(value))
def test_the_tasks_own_tokenizer_knows_every_word_of_every_text(name: str, overrides: dict[str, Any]) -> None:
    setting = put_together(small_task(name, **overrides), seed=3)
    codec = renderer_of(setting).codec
    texts = sorted(set(everything(setting)))
    for (given, rest), encoded in zip(texts, codec.encode(texts), strict=True):
        words = codec.tokenizer.convert_ids_to_tokens([*encoded.given, *encoded.rest])
        assert "<unk>" not in words
        assert "".join(words).split("\n") == "".join((given + rest).split(" ")).split("\n")


@pytest.mark.parametrize("tags", ["random", "sources", "is-isnt"])
@pytest.mark.parametrize("in_context", [False, True])
def test_a_model_is_made_for_the_longest_text_of_either_fold(tags: str, in_context: bool) -> None:
    for seed in range(20):
        setting = people(seed, render__tags=tags, render__in_context=in_context, stages=1)
        encoded = renderer_of(setting).codec.encode(everything(setting))
        assert setting.shape().max_length == max(len(one.given) + len(one.rest) - 1 for one in encoded)  # type: ignore[union-attr]
