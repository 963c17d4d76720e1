"""Creative works, from filtered triplets of T-REx.

Source: Elsahar et al., "T-REx: A Large Scale Alignment of Natural Language with Knowledge Base Triples",
LREC 2018; derived from Wikipedia and Wikidata; CC BY-SA 4.0. The file is the user's own copy, a JSON list
of ``{"subj": ..., "obj": ..., "predicate": "P50"}``; nothing of it is distributed here.

A subject is told apart by its whole name in the file (``Alien (film)``, ``Alien (novel)``), and so its questions are
counted; texts show its name without what stands in brackets. Two entities cannot have one name: of several usable
subjects with the same the one with most questions is used, which the plain name most likely stands for.

Predicates, questions and what is left out are the paper's. Two pairs of predicates ask the same question
(P98 and P1040, P364 and P407) and share an attribute, or one would give the other's answer away.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Final, Literal, NamedTuple

import numpy as np
from pydantic import Field

from iml_bench.errors import UsageError
from iml_bench.spec.world import FileWorld
from iml_bench.streams import Streams
from iml_bench.worlds.base import World, read_once
from iml_bench.worlds.years import convert_year

TEMPLATES: Final = {
    "author": "First name of the author of {name}?",
    "publisher": "Who is the publisher of {name}?",
    "year": "When was {name} published or released?",
    "genre": "What is the genre of {name}?",
    "language": "In which language was {name} published?",
    "series": "Which series is {name} part of?",
    "director": "First name of the director of {name}?",
    "screenwriter": "First name of the screenwriter of {name}?",
    "cinematographer": "First name of the cinematographer of {name}?",
    "editor": "First name of the editor of {name}?",
    "producer": "First name of the producer of {name}?",
    "license": "What is the license of {name}?",
    "distributor": "What is the distributor of {name}?",
    "subject": "What is the main subject of {name}?",
    "owner": "Who owns {name}?",
    "composer": "First name of the composer for {name}?",
    "developer": "Who developed {name}?",
    "type": "What is the type of {name}?",
    "setting": "Where is {name} set?",
    "filmed in": "Where was {name} filmed?",
    "movement": "Which movement is {name} associated with?",
    "depicts": "What does {name} depict?",
    "collection": "Which collection is {name} part of?",
}
"""The attributes in order, each with the question that asks for it."""
PREDICATES: Final = {
    "P50": "author",
    "P123": "publisher",
    "P577": "year",
    "P136": "genre",
    "P407": "language",
    "P179": "series",
    "P57": "director",
    "P58": "screenwriter",
    "P344": "cinematographer",
    "P1040": "editor",
    "P162": "producer",
    "P275": "license",
    "P750": "distributor",
    "P921": "subject",
    "P127": "owner",
    "P86": "composer",
    "P178": "developer",
    "P31": "type",
    "P840": "setting",
    "P915": "filmed in",
    "P364": "language",
    "P98": "editor",
    "P135": "movement",
    "P180": "depicts",
    "P195": "collection",
}
"""The attribute of each of the 25 predicates that are used; triplets of others are left out."""
FIRST_NAMES: Final = frozenset(name for name, template in TEMPLATES.items() if template.startswith("First name"))
"""The attributes that are people, who are asked for by first name."""

UNFIT: Final = re.compile("[\ud800-\udfff\x00-\x08\x0e-\x1f\x7f]")
"""Halves of characters, which JSON can write and no text can hold, and signs that control a terminal."""

Facts = dict[str, dict[str, list[str]]]
"""The right answers by subject, as the file names it, and attribute; in the order of the file."""


class Usable(NamedTuple):
    """What a world can be made of."""

    subjects: list[str]
    """With enough questions, no two with one plain name; sorted."""
    words: dict[str, tuple[str, ...]]
    """The values of each attribute among them, sorted; of those attributes that have more than one."""
    homonyms: int
    """Subjects with enough questions that were left out, since another with the same plain name has more."""


class Triplets(NamedTuple):
    """What a file says about its subjects."""

    facts: Facts
    skipped: int
    """Triplets that were left out because something in them is missing, twice, not a text, empty, or no year."""


class TrexWorld(FileWorld):
    """Entities are subjects of the filtered T-REx triplets, from their JSON (``--data FILE``)."""

    named: ClassVar[bool] = True
    own_questions: ClassVar[bool] = True
    kind: Literal["trex"] = "trex"
    min_questions: int = Field(default=4, ge=2)
    """Questions an entity must have to be used."""
    n_attributes: ClassVar[int] = 25

    @property
    def asked_about_each(self) -> int:
        """See ``WorldSpec.asked_about_each``."""
        return self.min_questions

    def build(self, n: int, streams: Streams, data: Path | None) -> World:
        """See ``WorldSpec.build`` and ``trex``."""
        return trex(self, n, streams, self._given(self.kind, data))

    def account(self, data: Path) -> str:
        """See ``FileWorld.account``."""
        found = read_triplets(data)
        usable = usable_subjects(found.facts, self.min_questions)
        said = f"{data} has triplets of {len(found.facts)} subjects, {len(usable.subjects)} of them usable"
        if usable.homonyms:
            said += f" ({usable.homonyms} more share a name with one that has more questions)"
        rest = f"; left out: {found.skipped} in which something is missing, twice, no text or no year"
        return said + (rest if found.skipped else "")


def trex(spec: TrexWorld, n: int, streams: Streams, data: Path) -> World:
    """``n`` subjects, drawn from those with at least ``spec.min_questions`` different questions, see ``Usable``.

    An attribute that is the same for all of them, or that none has, is left out, so there are at most 23.

    Args:
        spec: how many questions each must have.
        n: number of subjects.
        streams: ``contents`` decides who is drawn.
        data: the JSON file.

    Raises:
        UsageError: when the file cannot be read, is not the right one, or holds too few such subjects.
    """
    facts = read_triplets(data).facts
    usable, words, _ = usable_subjects(facts, spec.min_questions)
    if len(usable) < n:
        raise UsageError(
            f"{data} has {len(usable)} subjects with at least {spec.min_questions} questions, but {n} are needed; "
            "use smaller groups or the full file"
        )
    drawn = streams.generator("contents").permutation(len(usable))[:n]
    subjects = [usable[index] for index in drawn]
    where = [{word: index for index, word in enumerate(of_one)} for of_one in words.values()]
    values = np.full((n, len(words)), -1, dtype=np.int64)
    also: dict[tuple[int, int], tuple[str, ...]] = {}
    for row, subject in enumerate(subjects):
        for column, attribute in enumerate(words):
            answers = facts[subject].get(attribute)
            if answers:
                values[row, column] = where[column][answers[0]]
                if len(answers) > 1:
                    also[row, column] = tuple(answers[1:])
    return World(
        attributes=tuple(words),
        vocabulary=tuple(words.values()),
        values=values,
        names=tuple(map(_plain, subjects)),
        templates=tuple(TEMPLATES[attribute] for attribute in words),
        also=also,
    )


def read_triplets(path: Path) -> Triplets:
    """All that a file says of the 25 predicates; read once in a process, unless the file changes.

    Raises:
        UsageError: when the file cannot be read or is not a JSON list of triplets.
    """
    return read_once(_read, path)


@lru_cache(maxsize=2)
def _read(path: Path, _mtime: int, _size: int) -> Triplets:
    raw = path.read_bytes()
    try:
        listed = json.loads(raw, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} {_no_json(raw, error)}; it should be the list of T-REx triplets") from None
    if not isinstance(listed, list):
        raise UsageError(f"{path} is not a JSON list; it should be the list of T-REx triplets")
    facts: Facts = {}
    seen: set[tuple[str, str]] = set()
    skipped = 0
    for triplet in listed:
        parsed = _parse(triplet)
        if parsed is None:
            skipped += 1
            continue
        subject, predicate, answer = parsed
        attribute = PREDICATES.get(predicate)
        if attribute is None or (subject, answer) in seen:
            continue
        asked = _first_name(answer) if attribute in FIRST_NAMES else answer
        if asked:
            seen.add((subject, answer))
            answers = facts.setdefault(subject, {}).setdefault(attribute, [])
            if asked not in answers:
                answers.append(asked)
    if not facts:
        raise UsageError(
            f"{path} holds no triplets of subj, obj and predicate; it should be the list of T-REx triplets"
        )
    return Triplets(facts, skipped)


def _no_json(raw: bytes, error: Exception) -> str:
    """What is wrong with a file that is not JSON, where it can be told."""
    if isinstance(error, json.JSONDecodeError):
        first = error.doc.lstrip("\ufeff \r\n")[:1]
        if first == "{" and error.msg == "Extra data":
            return "holds one object after another and not one list of them"
        if first == "[":
            return f"is damaged JSON ({error.msg}, line {error.lineno}, column {error.colno})"
    if isinstance(error, UnicodeDecodeError) and raw.lstrip()[:1] in (b"[", b"{"):
        return f"is not {error.encoding.upper()} (byte {error.start})"
    return "is not a JSON file"


def _once(pairs: list[tuple[str, object]]) -> dict[str, object] | None:
    """An object; None where a name stands in it twice, and nobody knows which is meant."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else None


def _parse(triplet: object) -> tuple[str, str, str] | None:
    """Subject, predicate and answer of a triplet; None where it is malformed."""
    if not isinstance(triplet, dict):
        return None
    subject, answer, predicate = (triplet.get(key) for key in ("subj", "obj", "predicate"))
    if not (isinstance(subject, str) and isinstance(answer, str) and isinstance(predicate, str)):
        return None
    if UNFIT.search(subject + answer):
        return None
    subject, answer = " ".join(subject.split()), _plain(answer)
    if predicate == "P577":
        year = re.search("[0-9]{4}", answer)
        answer = convert_year(int(year.group())) if year else ""
    return (subject, predicate, answer) if _plain(subject) and answer and predicate else None


def _plain(text: str) -> str:
    """The text without what stands in brackets, with single spaces."""
    return " ".join(re.sub(r"\s*\([^()]*\)", "", text).split())


def _first_name(person: str) -> str:
    """The first of several names; empty where there is just one, or where it is a single character."""
    first, _, others = person.partition(" ")
    return first if others and len(first) > 1 else ""


def usable_subjects(facts: Facts, least: int) -> Usable:
    """The subjects that have enough questions, without those that would be called like another.

    Leaving out an attribute that has just one value can leave a subject with too few questions, which
    can take away another's second value, and so on until nothing changes.

    Args:
        facts: of a file.
        least: questions that a subject must have.
    """
    kept = list(TEMPLATES)
    while True:
        counts = {subject: sum(name in known for name in kept) for subject, known in facts.items()}
        enough = [subject for subject, count in counts.items() if count >= least]
        # The last of each plain name stays: the one with most questions, and of equals the first in the alphabet.
        ordered = sorted(sorted(enough, reverse=True), key=counts.__getitem__)
        subjects = sorted({_plain(subject): subject for subject in ordered}.values())
        words: dict[str, set[str]] = {name: set() for name in kept}
        for subject in subjects:
            for name in kept:
                words[name].update(facts[subject].get(name, ()))
        several = [name for name in kept if len(words[name]) > 1]
        if several == kept:
            sorted_words = {name: tuple(sorted(words[name])) for name in kept}
            return Usable(subjects, sorted_words, len(enough) - len(subjects))
        kept = several
