"""Creative works: files of triplets, with all that is odd in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare
from test_worlds_real import check_world, told

from iml_bench.errors import UsageError
from iml_bench.streams import Streams
from iml_bench.worlds.trex import FIRST_NAMES, PREDICATES, TEMPLATES, TrexWorld, read_triplets, trex


def triplets_file(path: Path, *triplets: Any) -> Path:
    """The JSON of triplets, each "subject | predicate | object" or as it is."""
    listed: list[Any] = []
    for triplet in triplets:
        if isinstance(triplet, str) and " | " in triplet:
            subject, predicate, answer = triplet.split(" | ")
            listed.append({"subj": subject, "obj": answer, "predicate": predicate})
        else:
            listed.append(triplet)
    path.write_text(json.dumps(listed))
    return path


def work(name: str, index: int = 0) -> list[str]:
    """Four questions about a work."""
    return [
        f"{name} | P123 | Publisher {index}",
        f"{name} | P577 | {1905 + 10 * index}",
        f"{name} | P136 | Genre {index}",
        f"{name} | P50 | Author{index} Smith",
    ]


@pytest.fixture
def works(tmp_path: Path) -> Path:
    """Twelve works with four questions each."""
    listed = [triplet for index in range(12) for triplet in work(f"Work {index:02}", index)]
    return triplets_file(tmp_path / "works.json", *listed)


def test_the_predicates_and_questions_of_the_paper() -> None:
    assert set(PREDICATES) == {
        f"P{number}"
        for numbers in (
            (50, 123, 577, 136, 407, 179, 57, 58, 344, 1040, 162, 275, 750),
            (921, 127, 86, 178, 31, 840, 915, 364, 98, 135, 180, 195),
        )
        for number in numbers
    }
    assert len(PREDICATES) == TrexWorld.n_attributes
    assert set(PREDICATES.values()) == set(TEMPLATES)
    assert len(set(TEMPLATES.values())) == len(TEMPLATES)  # no two attributes ask the same
    people = [predicate for predicate, attribute in PREDICATES.items() if attribute in FIRST_NAMES]
    assert people == ["P50", "P57", "P58", "P344", "P1040", "P162", "P86", "P98"]
    assert TEMPLATES[PREDICATES["P86"]] == "First name of the composer for {name}?"
    assert TEMPLATES[PREDICATES["P1040"]] == "First name of the editor of {name}?"


def test_works_are_drawn_with_their_attributes(works: Path) -> None:
    world = trex(TrexWorld(), 12, Streams(0), works)
    check_world(world, 12)
    assert world.attributes == ("author", "publisher", "year", "genre")
    assert told(world, "Work 03") == {
        "author": ("Author3",),
        "publisher": ("Publisher 3",),
        "year": ("1930s",),
        "genre": ("Genre 3",),
    }
    assert world.vocabulary[2][:2] == ("1900s", "1910s")
    assert sorted(world.names or ()) == [f"Work {index:02}" for index in range(12)]
    assert world.names != tuple(sorted(world.names or ()))


def test_the_seed_decides_which_works_are_drawn_but_not_the_vocabulary(works: Path) -> None:
    one, again, other = (trex(TrexWorld(), 5, Streams(seed), works) for seed in (0, 0, 1))
    assert one.names == again.names
    assert (one.values == again.values).all()
    assert one.names != other.names
    assert one.vocabulary == other.vocabulary == trex(TrexWorld(), 12, Streams(0), works).vocabulary
    drawn = [name for seed in range(300) for name in trex(TrexWorld(), 5, Streams(seed), works).names or ()]
    assert chisquare(np.unique(drawn, return_counts=True)[1]).pvalue > 1e-4


def test_the_order_of_the_file_does_not_decide_who_is_drawn(works: Path, tmp_path: Path) -> None:
    listed = json.loads(works.read_text())
    turned = triplets_file(tmp_path / "turned.json", *listed[::-1])
    one, other = (trex(TrexWorld(), 5, Streams(0), path) for path in (works, turned))
    assert one.names == other.names
    assert (one.values == other.values).all()


def test_a_title_stands_in_the_question_as_a_whole(tmp_path: Path) -> None:
    path = triplets_file(tmp_path / "works.json", *work("W"), *work("o", 1))
    world = trex(TrexWorld(), 2, Streams(0), path)
    who = world.attributes.index("publisher")
    assert world.question(0, who, "W") == "Who is the publisher of W?"
    assert world.question((world.names or ()).index("W"), who, "<|v|>") == "Who is the publisher of <|v|>?"
    assert world.question(0, who, "{name}") == "Who is the publisher of {name}?"


def test_several_answers_to_a_question_are_all_right(tmp_path: Path) -> None:
    path = triplets_file(
        tmp_path / "works.json",
        *work("A"),
        "A | P136 | Second genre",
        "A | P136 | Genre 0",
        "A | P407 | French",
        "A | P364 | English",
        "A | P98 | Ann Editor",
        "A | P1040 | Bob Cutter",
        "A | P98 | Ann Otherwise",
        *work("B", 1),
        "B | P98 | Cy Editor",
        "B | P364 | French",
    )
    world = trex(TrexWorld(), 2, Streams(0), path)
    answers = told(world, "A")
    assert answers["genre"] == ("Genre 0", "Second genre")
    assert answers["language"] == ("French", "English")  # two predicates, one question: no answer is given away
    assert answers["editor"] == ("Ann", "Bob")
    assert world.words(world.attributes.index("language")) == ("English", "French")
    assert told(world, "B")["language"] == ("French",)


def test_the_same_answer_is_asked_for_once(tmp_path: Path) -> None:
    path = triplets_file(
        tmp_path / "works.json",
        *work("A"),
        "A | P178 | Publisher 0",
        "A | P57 | Author0 Smith",
        "A | P162 | Author0 Jones",
        *work("B", 1),
        "B | P178 | Publisher 0",
        "B | P57 | Dan Smith",
        "B | P162 | Emma Jones",
    )
    world = trex(TrexWorld(), 2, Streams(0), path)
    facts = read_triplets(path).facts
    assert "developer" not in facts["A"]
    assert "director" not in facts["A"]
    assert facts["A"]["producer"] == ["Author0"]  # another person of the same first name
    assert "developer" in facts["B"]
    assert told(world, "B")["producer"] == ("Emma",)


@pytest.mark.parametrize("predicate", ["P50", "P57", "P58", "P344", "P1040", "P98", "P162", "P86"])
def test_people_are_asked_for_by_first_name(tmp_path: Path, predicate: str) -> None:
    path = triplets_file(
        tmp_path / "works.json",
        f"A | {predicate} | Virginia  Woolf (writer)",
        f"B | {predicate} | Voltaire",
        f"C | {predicate} | E Nesbit",
        f"D | {predicate} | Voltaire",
        "D | P123 | Voltaire",
    )
    attribute = PREDICATES[predicate]
    assert read_triplets(path).facts == {"A": {attribute: ["Virginia"]}, "D": {"publisher": ["Voltaire"]}}
    assert read_triplets(path).skipped == 0


def test_brackets_are_stripped_and_years_put_into_words(tmp_path: Path) -> None:
    path = triplets_file(
        tmp_path / "works.json",
        "Dune (novel) | P577 | 1 August 1965 (hardcover)",
        "Dune (1984 film) | P31 | film (art), long",
        "Emma | P577 | 1815-12-23",
        "Dune | P999 | left out",
    )
    assert read_triplets(path) == (
        {
            "Dune (novel)": {"year": ["1960s"]},
            "Dune (1984 film)": {"type": ["film, long"]},
            "Emma": {"year": ["19 century"]},
        },
        0,
    )


def homonyms(tmp_path: Path) -> Path:
    """Two usable works called Alien, one of which has more questions, and two called Emma with two questions each."""
    return triplets_file(
        tmp_path / "homonyms.json",
        *work("Alien (film)"),
        *work("Alien (novel)", 1),
        "Alien (novel) | P407 | English",
        *work("Brazil  (film)", 2),
        "Brazil (film) | P407 | French",
        *(triplet.replace("Emma", "Emma (novel)") for triplet in work("Emma", 3)[:2]),
        *(triplet.replace("Emma", "Emma (film)") for triplet in work("Emma", 4)[2:]),
    )


def test_works_of_one_name_are_not_one_work(tmp_path: Path) -> None:
    path = homonyms(tmp_path)
    world = trex(TrexWorld(), 2, Streams(0), path)
    assert sorted(world.names or ()) == ["Alien", "Brazil"]  # no Emma: neither work has four questions
    assert told(world, "Alien")["publisher"] == ("Publisher 1",)  # the novel, which has one question more
    assert told(world, "Brazil")["language"] == ("French",)  # one work, however its name is spaced
    with pytest.raises(UsageError, match="has 2 subjects with at least 4 questions, but 3 are needed"):
        trex(TrexWorld(), 3, Streams(0), path)
    assert TrexWorld().account(path) == (
        f"{path} has triplets of 5 subjects, 2 of them usable (1 more share a name with one that has more questions)"
    )
    assert "usable (2 more share" in TrexWorld(min_questions=2).account(path)


def test_of_works_alike_in_name_and_questions_the_first_in_the_alphabet_is_used(tmp_path: Path) -> None:
    listed = [*work("Alien (novel)", 1), *work("Alien (film)"), *work("Brazil", 2)]
    for number, order in enumerate((listed, listed[::-1])):
        path = triplets_file(tmp_path / f"{number}.json", *order)
        assert told(trex(TrexWorld(), 2, Streams(0), path), "Alien")["publisher"] == ("Publisher 0",)


def test_malformed_triplets_are_skipped_and_counted(tmp_path: Path) -> None:
    bad: list[Any] = [
        {"subj": "A", "obj": "x"},
        {"subj": "A", "predicate": "P31"},
        {"obj": "x", "predicate": "P31"},
        {"subj": None, "obj": "x", "predicate": "P31"},
        {"subj": "A", "obj": 5, "predicate": "P31"},
        {"subj": "A", "obj": "x", "predicate": ["P31"]},
        {"subj": "", "obj": "x", "predicate": "P31"},
        {"subj": "(untitled)", "obj": "x", "predicate": "P31"},
        {"subj": "A", "obj": " ", "predicate": "P31"},
        {"subj": "A", "obj": "x", "predicate": ""},
        {"subj": "A", "obj": "some day in 79", "predicate": "P577"},
        ["A", "P31", "x"],
        "A P31 x",
        None,
        7,
    ]
    path = triplets_file(tmp_path / "works.json", *bad, "A | P31 | book")
    assert read_triplets(path) == ({"A": {"type": ["book"]}}, len(bad))


def test_works_with_too_few_questions_are_not_used(tmp_path: Path) -> None:
    few = ["C | P123 | P", "C | P577 | 1999", "C | P407 | French", "C | P364 | English", "C | P407 | German"]
    path = triplets_file(tmp_path / "works.json", *work("A"), *work("B", 1), *few)
    assert set(trex(TrexWorld(), 2, Streams(0), path).names or ()) == {"A", "B"}
    with pytest.raises(UsageError) as caught:
        trex(TrexWorld(), 3, Streams(0), path)
    assert str(caught.value) == (
        f"{path} has 2 subjects with at least 4 questions, but 3 are needed; use smaller groups or the full file"
    )
    assert set(trex(TrexWorld(min_questions=3), 3, Streams(0), path).names or ()) == {"A", "B", "C"}


def test_an_attribute_with_just_one_value_is_left_out(tmp_path: Path) -> None:
    everywhere = [f"{name} | P31 | book" for name in "ABCD"]
    path = triplets_file(
        tmp_path / "works.json",
        *(triplet for index, name in enumerate("ABC") for triplet in work(name, index)),
        *everywhere,
        *("D | P123 | P", "D | P577 | 1999", "D | P407 | French", "A | P407 | German"),
    )
    world = trex(TrexWorld(), 3, Streams(0), path)
    assert "type" not in world.attributes  # without it D has three questions left, so ...
    assert sorted(world.names or ()) == ["A", "B", "C"]
    assert "language" not in world.attributes  # ... only one of the two languages is left
    assert all(len(words) > 1 for words in world.vocabulary)
    with pytest.raises(UsageError, match="has 3 subjects with at least 4 questions, but 4 are needed"):
        trex(TrexWorld(), 4, Streams(0), path)


def test_a_file_of_works_is_read_once(works: Path) -> None:
    first = read_triplets(works)
    assert read_triplets(works) is first
    triplets_file(works, "A | P31 | book")
    assert read_triplets(works).facts == {"A": {"type": ["book"]}}


@pytest.mark.parametrize(
    ("content", "rest"),
    [
        (b"", "is not a JSON file; it should be the list of T-REx triplets"),
        (b"subj,obj,predicate\n", "is not a JSON file; it should be the list of T-REx triplets"),
        (b"\xff\xfe\x00\x80", "is not a JSON file; it should be the list of T-REx triplets"),
        (b"[" * 200_000, "is not a JSON file; it should be the list of T-REx triplets"),
        (b'{"subj": "A"}', "is not a JSON list; it should be the list of T-REx triplets"),
        (b"[]", "holds no triplets of subj, obj and predicate; it should be the list of T-REx triplets"),
        (b'[{"a": 1}, 2]', "holds no triplets of subj, obj and predicate; it should be the list of T-REx triplets"),
    ],
    ids=["nothing", "CSV", "binary", "deep", "object", "empty", "other"],
)
def test_a_wrong_file_of_works_is_one_clear_sentence(tmp_path: Path, content: bytes, rest: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        trex(TrexWorld(), 2, Streams(0), path)
    assert str(caught.value) == f"{path} {rest}"


def test_a_file_of_works_that_cannot_be_read_is_one_clear_sentence(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError) as caught:
            trex(TrexWorld(), 2, Streams(0), path)
        assert str(caught.value) == f"{path} cannot be read: {reason}"
