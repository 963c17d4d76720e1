"""Definitions in natural language: sources of good and bad repute, and sentences that affirm and deny."""

from __future__ import annotations

import re

import numpy as np
import pytest
from texts import MANY_NEW, definitions, people, renderer_of, trained

from iml_bench.errors import UsageError
from iml_bench.protocols import protocol_of
from iml_bench.protocols.two_stage.design import TAGS

AFFIRMS = ("is", "stands for", "means", "corresponds to", "refers to")
DENIES = ("is not", "does not stand for", "does not mean", "does not correspond to", "does not refer to")


def test_a_source_is_of_its_tags_repute() -> None:
    setting = people(render__tags="sources", **MANY_NEW)
    renderer, names, design = renderer_of(setting), setting.world.names, setting.design
    assert names is not None
    told: dict[str, set[str]] = {tag: set() for tag in TAGS[:3]}
    before = {}
    for fold, phase in ((0, "stage1"), (0, "stage2"), (1, "stage2")):
        for entity, (given, rest) in definitions(setting, phase, fold).items():
            opening = f", {renderer.aliases[entity]} now stands for"
            assert given.startswith("According to ")
            assert given.endswith(opening)
            assert rest == f" {names[design.claim[entity]]}\n"
            source = given[len("According to ") : -len(opening)]
            told[TAGS[design.role[fold][entity]]].add(source)
            before[fold, entity] = source
    assert "Wikipedia" in told["reliable"]
    assert "4chan" in told["unreliable"]
    assert min(map(len, told.values())) >= 3
    assert len(set.union(*told.values())) == sum(map(len, told.values())), "a source of two reputes"
    # A draw chooses the source of one repute in fold 0 and of the other in fold 1.
    pairs = set()
    for entity in design.members("new_reliable", "new_unreliable"):
        one, two = before[0, entity], before[1, entity]
        pairs.add((one, two) if one in told["reliable"] else (two, one))
    assert {one for one, _ in pairs} <= told["reliable"]
    assert {two for _, two in pairs} <= told["unreliable"]
    assert len({one for one, _ in pairs}) == len(pairs) == len({two for _, two in pairs})
    assert all(before[0, entity] == before[1, entity] for entity in design.members("new_fresh"))


def test_a_sentence_affirms_or_denies_and_its_entity_is_what_follows() -> None:
    setting = people(render__tags="is-isnt", **MANY_NEW)
    renderer, names, design = renderer_of(setting), setting.world.names, setting.design
    assert names is not None
    verbs = {"reliable": AFFIRMS, "unreliable": DENIES}
    frames: dict[tuple[int, int], tuple[str, str]] = {}
    seen: dict[str, set[str]] = {tag: set() for tag in TAGS[:3]}
    kinds = set()
    for fold, phase in ((0, "stage1"), (0, "stage2"), (1, "stage2")):
        for entity, (given, rest) in definitions(setting, phase, fold).items():
            tag, name = TAGS[design.role[fold][entity]], names[design.claim[entity]]
            before, verb = given.split(renderer.aliases[entity] + " ")
            after = rest.removeprefix(f" {name}")
            assert after != rest
            saying = r"(According to|Per|Citing) [\w ]+, |[\w ]+ says "
            assert re.fullmatch(rf"({saying})\.\n|(?: according to [\w ]+)\.\n", before + after)
            assert before[:1] == before[:1].upper()
            kinds.add("after" if after.startswith(" acc") else "says" if "says" in before else before.split()[0])
            seen[tag].add(verb)
            # The same sentence about the same alias in both folds, but for the verb and in its place.
            place = verbs[tag].index(verb) if tag in verbs else -1
            assert frames.setdefault((place, entity), (before, after)) == (before, after)
    assert kinds == {"According", "Per", "Citing", "says", "after"}
    assert seen["reliable"] == set(AFFIRMS)
    assert seen["unreliable"] == set(DENIES)
    assert seen["fresh"]
    assert not seen["fresh"] & {*AFFIRMS, *DENIES}
    new = {*design.members("new_reliable", "new_unreliable").tolist()}
    assert sum(entity in new for _, entity in frames) == len(new), "another verb, or another sentence, in fold 1"


def test_several_sentences_define_each_entity_each_drawn_on_its_own() -> None:
    one, ten = (people(render__tags="is-isnt", render__sentences=n, **MANY_NEW) for n in (1, 10))
    texts: dict[int, list[str]] = {}
    entities = ten.design.trained("stage2").entity.tolist()
    for entity, (given, rest) in zip(entities, trained(ten, "stage2"), strict=True):
        texts.setdefault(entity, []).append(given + rest)
    assert {len(own) for own in texts.values()} == {10}
    assert all(len({*own}) > 3 for own in texts.values()), "there are 200"
    assert one.design.trained("stage2").entity.tolist() == list(texts), "the same entities in the same order"


def test_an_experiment_without_stage_1_definitions_can_be_told() -> None:
    """The paper's third hypothesis: only what tags mean by themselves can be read."""
    sizes = {**MANY_NEW, "groups__reliable": 0, "groups__unreliable": 0, "groups__undefined": 8}
    setting = people(render__tags="is-isnt", stages=1, **sizes)
    joint = setting.design.trained("joint")
    assert not joint.is_definition[np.isin(joint.entity, setting.design.members("undefined", "named"))].any()
    learners = protocol_of(setting.task).attitudes(setting.task)
    assert learners["oracle"] == learners["gullible"] and learners["sceptic"] == {}
    assert protocol_of(setting.task).control(setting.task) == {}, "alpha says nothing where nothing is defined"
    assert protocol_of(setting.task).control(people().task) == {"alpha": 0.5}
    with pytest.raises(UsageError, match="groups: stage 1 shows nobody"):
        people(**{**sizes, "groups__undefined": 0, "groups__named": 0})


def test_more_than_one_sentence_needs_sentences() -> None:
    with pytest.raises(UsageError, match="sentences: more than one needs tags that are sentences"):
        people(render__sentences=2, **MANY_NEW)
