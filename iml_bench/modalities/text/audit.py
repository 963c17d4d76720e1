"""Whether a tokenizer keeps apart what a task tells apart, asked before anything is trained.

What changes who or what is meant is refused: two aliases, tags, attributes or answers with the same tokens, words or
letters of an alias that are lost, a word that is a sign of the tokenizer's own. What only looks different is said in
the record: spaces that come and go, capitals, accents, punctuation or a rare letter that has no token.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from iml_bench.errors import UsageError, shown
from iml_bench.modalities.text.tokens import LINE_END, Codec
from iml_bench.spec import Audit

if TYPE_CHECKING:
    from iml_bench.modalities.text.renderer import TextRenderer

WORD: Final = re.compile(r"<\|[a-z]+\|>|\w+|\S")
"""A random string in its delimiters, a word, or any other sign."""
ENDING: Final = re.compile(r"(\w+)\|?>?")
"""A random string from its first letter to its end."""
IGNORABLE: Final = ("Mn", "Me", "Cf")
"""Unicode categories of marks on letters and of signs that nobody sees."""
ADVICE: Final = "take another model, or add it as an entry with --tokenizer task (iml-bench models add)"


class _Kind(NamedTuple):
    """Things that must be told from one another."""

    name: str
    """Key of their lengths in the audit; empty: they are not counted."""
    plural: str
    texts: list[str]
    """As a person names them."""
    ids: list[list[int]]
    """As the model reads them."""


class _Findings(NamedTuple):
    """What became of the texts."""

    words: dict[str, str]
    """Words that are lost, and what is lost of random strings, each with a text that it stands in."""
    signs: set[str]
    """Punctuation that is lost, and letters of words that are otherwise there."""
    notes: set[str]


def audit_texts(renderer: TextRenderer) -> Audit | None:
    """Read every alias, tag, attribute and answer, and a definition and a question about every entity.

    Returns:
        None for the task's own tokenizer, which is only asked whether it keeps them apart.

    Raises:
        UsageError: one sentence about what the tokenizer takes for the same, or loses.
    """
    codec, kinds = renderer.codec, list(_kinds(renderer))
    texts = _texts(renderer) if codec.brought else []
    found = _look(codec, texts, {*renderer.aliases, *_tags(renderer)})
    for kind in (*kinds, _joined("aliases and tags", [kind for kind in kinds if kind.name in ("alias", "tag")])):
        _refuse_alike(codec, kind, [*found.words, *sorted(found.signs)])
    if not codec.brought:
        return None
    if found.words:
        text = shown(repr(next(iter(found.words.values()))))
        raise UsageError(f"{codec.name} does not know {_listed(found.words)}, as in the text {text}; {ADVICE}")
    for kind in kinds:
        if kind.name == "answer":
            _refuse_endless(codec, kind)
    lengths: dict[str, list[int]] = {}
    for kind in kinds:
        if kind.name:
            lengths.setdefault(kind.name, []).extend(map(len, kind.ids))
    return Audit(
        reader=_reader(codec),
        vocabulary=codec.size,
        classes=codec.classes,
        texts=len(texts),
        tokens={name: (min(counts), max(counts)) for name, counts in lengths.items() if counts},
        notes=tuple(sorted({*found.notes, *_sign_notes(found.signs), *_codec_notes(codec)})),
    )


def _tags(renderer: TextRenderer) -> list[str]:
    """The tags that are strings; none where whole sentences are tags."""
    shared = renderer.tags if renderer.spec.tags == "random" else ()
    return [*shared, *renderer.own_tags.values()]


def _kinds(renderer: TextRenderer) -> Iterator[_Kind]:
    codec, world = renderer.codec, renderer.world

    def alone(name: str, plural: str, texts: Iterable[str]) -> _Kind:
        texts = list(texts)
        return _Kind(name, plural, texts, codec.read(texts)["input_ids"] if texts else [])

    def answers(plural: str, asked: int) -> _Kind:
        question, words = renderer.question(0, asked), list(world.words(asked))
        encoded = codec.encode([(question, f" {word}{LINE_END}") for word in words])
        return _Kind("answer", plural, words, [one.rest for one in encoded])

    yield alone("alias", "aliases", renderer.aliases)
    yield alone("tag", "tags", _tags(renderer))
    for asked in range(len(world.attributes)):
        yield answers(f"answers to {shown(world.label(asked))!r}", asked)
    yield alone("", "questions", [renderer.question(0, asked) for asked in range(len(world.attributes))])
    if world.names is not None:
        yield answers("names of entities", len(world.attributes))
    elif renderer.spec.attribute_names:
        yield alone("", "attributes", world.attributes)
    if renderer.spec.tags != "random":
        shared = range(len(renderer.tag_names) - 1)
        yield alone("", "definitions", ["".join(renderer.definition(0, 0, tag)) for tag in shared])


def _joined(plural: str, kinds: list[_Kind]) -> _Kind:
    texts, ids = (
        [*itertools.chain.from_iterable(column)] for column in zip(*(kind[2:] for kind in kinds), strict=True)
    )
    return _Kind("", plural, texts, ids)


def _texts(renderer: TextRenderer) -> list[str]:
    """The texts of an alias, a definition and a question for every entity, and of all answers, each once."""
    world, n_shared = renderer.world, len(renderer.tag_names) - 1
    pairs = []
    for entity in range(len(world.values)):
        tag = n_shared if entity in renderer.own_tags or not n_shared else entity % n_shared
        asked = entity % max(1, len(world.attributes))
        if tag != n_shared or entity in renderer.own_tags:
            pairs.append(renderer.definition(entity, entity, tag))
        pairs.append((renderer.question(entity, asked), LINE_END))
    for asked in range(len(world.attributes) + (world.names is not None)):
        pairs.append((renderer.question(0, asked), f" {world.words(asked)[0]}{LINE_END}"))
        pairs += [("", f"{word}{LINE_END}") for word in world.words(asked)]
    pairs += [("", f"{word}{LINE_END}") for words in world.also.values() for word in words]
    parts = ((part.strip() for part in pair) if renderer.codec.encoder_decoder else ("".join(pair),) for pair in pairs)
    return [text for text in dict.fromkeys(itertools.chain.from_iterable(parts)) if text]


def _refuse_alike(codec: Codec, kind: _Kind, lost: list[str]) -> None:
    known: dict[tuple[int, ...], str] = {}
    alike: list[tuple[str, str]] = []
    for text, ids in zip(kind.texts, kind.ids, strict=True):
        first = known.setdefault(tuple(ids), text)
        if first != text:
            alike.append((first, text))
    if alike:
        one, other = (shown(repr(text)) for text in alike[0])
        more = f", and {len(alike) - 1} more of {len(kind.texts)}" if len(alike) > 1 else ""
        why = f" (it does not know {_listed(lost)})" if lost else ""
        advice = ADVICE if codec.brought else "write them with other words"
        raise UsageError(
            f"{codec.name} reads the {kind.plural} {one} and {other} as the same tokens{more}{why}; {advice}"
        )


def _refuse_endless(codec: Codec, kind: _Kind) -> None:
    for text, ids in zip(kind.texts, kind.ids, strict=True):
        if not codec.ended(ids):
            raise UsageError(f"{codec.name} gives the answer {shown(repr(text))} no end; {ADVICE}")


def _look(codec: Codec, texts: list[str], random: set[str]) -> _Findings:
    """Read texts and write them again."""
    found = _Findings({}, set(), set())
    if not texts:
        return found
    unknown = _unknown(codec)
    own = {*codec.tokenizer.all_special_ids} - unknown - {codec.line_end}
    encoded = codec.read(texts)

    @functools.cache
    def spelt(token: int) -> bool:
        """Whether a token is more than the space that some put before a sign, as if it stood for that sign."""
        return bool(codec.decode([token]).strip())

    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if special := own.intersection(ids):
            token = codec.tokenizer.convert_ids_to_tokens(min(special))
            raise UsageError(
                f"{codec.name} takes {token!r} in the text {shown(repr(text))} for a sign of its own; give aliases and "
                "tags another number of letters (render.alias_letters, render.tag_letters), or take another model"
            )
        kept = text
        if not unknown.isdisjoint(ids) or "".join(text.split()) != "".join(codec.decode(ids).split()):
            standing = [span for token, span in zip(ids, offsets, strict=True) if token not in unknown and spelt(token)]
            kept = _kept(text, _lost(text, standing), random, found)
        written = codec.decode([token for token in ids if token not in unknown])
        if written != kept:
            found.notes.update(_differences(codec, kept, written, random, guess=bool(found.words)))
    return found


def _unknown(codec: Codec) -> set[int]:
    """Ids of the token that stands for what has none."""
    backend = codec.tokenizer.backend_tokenizer
    token = getattr(backend.model, "unk_token", None)
    number = getattr(backend.model, "unk_id", None)
    found = {codec.tokenizer.unk_token_id, number, backend.token_to_id(token) if token else None}
    return {token for token in found if token is not None}


def _lost(text: str, standing: list[tuple[int, int]]) -> list[bool]:
    """For each sign of a text whether no token stands for it."""
    covered = [False] * len(text)
    for start, end in standing:
        covered[start:end] = [True] * (end - start)
    return [
        not (there or sign.isspace() or unicodedata.category(sign) in IGNORABLE)
        for sign, there in zip(text, covered, strict=True)
    ]


def _kept(text: str, lost: list[bool], random: set[str], found: _Findings) -> str:
    """A text without the signs that are lost, which are added to what was found."""
    for match in WORD.finditer(text):
        word, gone = match[0], lost[match.start() : match.end()]
        without = [sign for sign, none in zip(word, gone, strict=True) if none]
        if any(map(str.isalnum, without)) and (all(gone) or word in random):
            found.words.setdefault(word, text)
        else:
            found.signs.update(without)
    return "".join(sign for sign, none in zip(text, lost, strict=True) if not none)


def _differences(codec: Codec, kept: str, written: str, random: set[str], *, guess: bool) -> set[str]:
    """How a text differs from what was written of it, in words; ``guess``: it is refused for its words anyway."""
    for change, note in _CHANGES:
        one, other = change(kept), change(written)
        if "".join(one.split()) == "".join(other.split()):
            return _spacing(one, other, random) | ({note} if note else set())
    if not guess and _letters(kept) != _letters(written):
        changed = f"{shown(repr(kept))} becomes {shown(repr(written))}"
        raise UsageError(f"{codec.name} does not give back what it reads: {changed}; {ADVICE}")
    return {"writes some punctuation in another way"}


def _bare(text: str) -> str:
    """Without accents, capitals and variants of letters."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize(
        "NFKD", "".join(s for s in parts if unicodedata.category(s) not in IGNORABLE).casefold()
    )


def _letters(text: str) -> str:
    return "".join(sign for sign in _bare(text) if sign.isalnum())


_CHANGES: Final[tuple[tuple[Callable[[str], str], str], ...]] = (
    (str, ""),
    (str.casefold, "reads capitals as small letters"),
    (_bare, "reads letters without their accents, or in another of their forms"),
)


def _spacing(text: str, written: str, random: set[str]) -> set[str]:
    """Where white space came or went, in words, between texts that are otherwise the same."""
    letters = {word.strip("<|>") for word in random}  # their delimiters may be lost
    ends = {len("".join(text[: match.end()].split())) for match in ENDING.finditer(text) if match[1] in letters}
    notes = set()
    for place, (before, after) in enumerate(zip(_gaps(text), _gaps(written), strict=True)):
        if LINE_END in before and LINE_END not in after:
            notes.add("reads a line end as a space, or not at all")
        elif before and not after:
            notes.add("leaves some spaces out")
        elif after and not before:
            where = (
                "before every text" if place == 0 else "after an alias or a tag" if place in ends else "between signs"
            )
            notes.add(f"puts a space {where} where the text has none")
    return notes


def _gaps(text: str) -> list[str]:
    """The white space before each sign that is none, and after the last."""
    gaps, gap = [], ""
    for sign in text:
        if sign.isspace():
            gap += sign
        else:
            gaps.append(gap)
            gap = ""
    return [*gaps, gap]


def _sign_notes(signs: set[str]) -> Iterator[str]:
    # By their names: a record's texts hold no sign that means something to a browser.
    if signs:
        names = sorted(unicodedata.name(sign, f"U+{ord(sign):04X}").lower() for sign in signs)
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        yield f"has no token for {', '.join(names[:5])}{more}"


def _codec_notes(codec: Codec) -> Iterator[str]:
    if codec.size < codec.classes:
        yield f"has {codec.size} tokens with ids up to {codec.classes - 1}: some ids stand for nothing"
    if codec.encoder_decoder:
        return
    if not codec.has_line_end:
        yield "has no line end: answers close with the end of the text"
    if codec.parted:
        yield "would join a question with its answer in one token: the two are read apart"


def _reader(codec: Codec) -> str:
    kind = type(codec.tokenizer.backend_tokenizer.model).__name__
    return f"{type(codec.tokenizer).__name__} ({kind})"[:200]


def _listed(words: Iterable[str]) -> str:
    words = list(words)
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(shown(repr(word), 40) for word in words[:3]) + more
