"""Definitions in natural language: sources of different repute, and sentences that say is or is not.

A definition's tag is what its sentence has in common with the others of its kind. The first part of
each sentence ends where its entity begins, so that the entity is what is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")


class Sentence(NamedTuple):
    """A definition around its alias and its entity: ``before alias between entity after``."""

    before: str
    between: str
    after: str


_REPUTE: Final = {
    "reliable": (
        "Wikipedia",
        "the Encyclopaedia Britannica",
        "the BBC",
        "Reuters",
        "the Oxford English Dictionary",
        "a peer-reviewed study",
        "the Associated Press",
        "the Library of Congress",
        "a university textbook",
        "Nature",
    ),
    "unreliable": (
        "4chan",
        "a chain letter",
        "an anonymous forum post",
        "a tabloid rumour",
        "a known liar",
        "a conspiracy blog",
        "a spam message",
        "a satire site",
        "a drunk stranger",
        "an April Fools' page",
    ),
    "fresh": (
        "a postcard",
        "my neighbour",
        "a travel diary",
        "an old notebook",
        "a local leaflet",
        "a radio caller",
        "a museum label",
        "a school play",
        "a train passenger",
        "a pub quiz",
    ),
}
_SOURCES: Final = (
    "Wikipedia",
    "the BBC",
    "Reuters",
    "the Times",
    "the Washington Post",
    "Vox",
    "a historian",
    "the press",
)
_SAYING: Final = (
    ("According to {source}, ", ""),
    ("", " according to {source}"),
    ("Per {source}, ", ""),
    ("Citing {source}, ", ""),
    ("{source} says ", ""),
)
_VERBS: Final = {
    "reliable": ("is", "stands for", "means", "corresponds to", "refers to"),
    "unreliable": ("is not", "does not stand for", "does not mean", "does not correspond to", "does not refer to"),
    "fresh": ("might be", "may stand for", "could mean", "perhaps corresponds to", "possibly refers to"),
}


def sources_sentence(tag: str, draw: tuple[float, float]) -> Sentence:
    """``According to SOURCE, ALIAS now stands for ENTITY``, the source being of the tag's repute.

    Args:
        tag: ``reliable``, ``unreliable`` or ``fresh``.
        draw: two numbers in [0, 1); the first chooses the source.
    """
    return Sentence(f"According to {_pick(_REPUTE[tag], draw[0])}, ", " now stands for ", "")


def is_isnt_sentence(tag: str, draw: tuple[float, float]) -> Sentence:
    """A sentence of one of five forms, citing one of eight sources, whose verb is the tag's.

    Args:
        tag: ``reliable`` affirms, ``unreliable`` denies, ``fresh`` leaves it open.
        draw: two numbers in [0, 1): they choose form and verb, and the source.
    """
    forms = [(form, verb) for form in _SAYING for verb in range(len(_VERBS[tag]))]
    (before, after), verb = _pick(forms, draw[0])
    source = _pick(_SOURCES, draw[1])
    opening = before.format(source=source)
    return Sentence(opening[:1].upper() + opening[1:], f" {_VERBS[tag][verb]} ", f"{after.format(source=source)}.")


def all_words() -> list[str]:
    """Every word that a sentence may hold, for the task's own tokenizer."""
    texts = [*_SOURCES, *(name for names in _REPUTE.values() for name in names)]
    texts += [part.replace("{source}", "") for form in _SAYING for part in form]
    texts += [verb for verbs in _VERBS.values() for verb in verbs]
    return [*texts, *(text[:1].upper() + text[1:] for text in texts), "According to , now stands for ."]


def _pick(options: Sequence[T], draw: float) -> T:
    return options[int(draw * len(options))]
