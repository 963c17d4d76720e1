r"""Short texts: tag and alias are random strings; a definition says what the alias is, a question asks about it.

::

    profiles   definition   <|dkwoqn|> <|qwert|> job baker city Oslo pet cat\n
               question     Q: What is the job of <|qwert|>?\nA: baker\n
    names      definition   <|dkwoqn|> <|qwert|> Oslo\n           (or another order, or a sentence)
               question     Q: In which country is <|qwert|>?\nA: Norway\n
                                                              '------' the answer, with its line end
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator
from typing import Final

import numpy as np
import torch

from iml_bench.errors import UsageError
from iml_bench.modalities.text.feed import Spans, TextFeed
from iml_bench.modalities.text.phrases import Sentence, all_words, is_isnt_sentence, sources_sentence
from iml_bench.modalities.text.spec import TextRender
from iml_bench.modalities.text.tokens import Codec, Form, word_tokenizer
from iml_bench.protocols.base import NONE, OWN, Design, Examples, Ints
from iml_bench.streams import Streams
from iml_bench.worlds import World, draw_distinct

TAG_POOL: Final = 64
"""Strings that are drawn for a task's tags; those are taken that the model's tokenizer reads as equally many tokens."""


def random_strings(rng: np.random.Generator, n: int, letters: int, what: str, *, delimited: bool = True) -> list[str]:
    """``n`` different strings of random lower-case letters, ``<|...|>`` or bare."""
    rows = draw_distinct(rng, n, [26] * letters, what)
    texts = ["".join(string.ascii_lowercase[letter] for letter in row) for row in rows]
    return [f"<|{text}|>" for text in texts] if delimited else texts


def paired(tags: list[str], seed: int) -> tuple[str, ...]:
    """The tags of a seed: of two seeds ``2k`` and ``2k + 1`` the first two have exchanged their roles.

    A pretrained model may read one string otherwise than another; over both seeds that cancels.
    """
    first, second, *others = tags
    return (second, first, *others) if seed % 2 else (first, second, *others)


def alike(codec: Codec, drawn: list[str], n: int) -> list[str]:
    """The ``n`` first strings of the commonest length in tokens, alone and after a space, among those drawn.

    Which length that is does not depend on ``n``, so that more tags change none.

    Raises:
        UsageError: when there are not as many.
    """
    by_length: dict[tuple[int, ...], list[str]] = {}
    alone, later = (codec.read([space + text for text in drawn])["input_ids"] for space in ("", " "))
    for text, *read in zip(drawn, alone, later, strict=True):
        by_length.setdefault(tuple(map(len, read)), []).append(text)
    same = max(by_length.values(), key=len)
    if len(same) >= n:
        return same[:n]
    raise UsageError(
        f"{codec.name} reads no {n} of {len(drawn)} random strings as equally many tokens; take another model"
    )


class TextRenderer:
    """Renders examples as token ids; the line end that closes an answer belongs to the answer."""

    def __init__(
        self,
        spec: TextRender,
        loss_on: str,
        world: World,
        design: Design,
        streams: Streams,
        device: torch.device,
        form: Form = Form(),
    ) -> None:
        """Draw aliases, tags and sentences and choose the tokenizer.

        Args:
            spec: how definitions and questions look.
            loss_on: ``text`` or ``answer``, see ``Recipe.loss_on``.
            world: the attributes of every entity.
            design: which tags there are, who wears one of its own, and who is asked about by the real name.
            streams: ``aliases``, ``tags``, ``own tags``, ``phrases`` and ``attribute order`` are used.
            device: where token ids are kept.
            form: how the model reads.
        """
        self.spec, self.loss_on, self.world, self.device = spec, loss_on, world, device
        n = len(world.values)
        letters, delimited = spec.tag_letters, spec.delimited
        self.aliases = random_strings(
            streams.generator("aliases"), n, spec.alias_letters, "aliases", delimited=delimited
        )
        # Which strings are tags depends on the model's tokenizer; that none of them is an alias does not.
        pool = random_strings(streams.of_pair.generator("tags"), TAG_POOL, letters, "tags", delimited=delimited)
        aliases = set(self.aliases)
        drawn = [text for text in pool if text not in aliases]
        if len(drawn) < len(design.tags):
            raise UsageError("too many aliases are also tags; give them different numbers of letters")
        self.tag_names, wearing = design.tag_names, design.own_tagged
        n_own = len(wearing) + len(drawn) if len(wearing) else 0
        own = random_strings(streams.generator("own tags"), n_own, letters, "tags", delimited=delimited)
        self.own_tags = dict(zip(wearing.tolist(), (tag for tag in own if tag not in drawn), strict=False))
        if shared := aliases & {*(spec.tag_words or ()), *own}:
            raise UsageError(f"{min(shared)} is both an alias and a tag; give them different numbers of letters")
        self.named = frozenset(design.named.tolist())
        self.draws = streams.generator("phrases").random((n, spec.sentences, 2)) if spec.tags != "random" else None
        order = np.tile(np.arange(len(world.attributes)), (n, 1))
        if spec.attribute_order == "permuted":
            order = streams.generator("attribute order").permuted(order, axis=1)
        self.order = order
        """``[N, Q]``: the attributes in the order in which a profile's definition states them."""
        self.tags = self.first_tags = spec.tag_words or paired(drawn[: len(design.tags)], streams.seed)
        self.codec = Codec(form, self._own_tokenizer)
        self.classes = self.codec.classes
        if self.codec.brought and spec.tag_words is None:
            self.tags = paired(alike(self.codec, drawn, len(design.tags)), streams.seed)

    def feed(self, examples: Examples, *, evaluation: bool) -> TextFeed:
        """See ``Renderer.feed``; texts are the same in training and evaluation."""
        texts = [self.parts(*row) for row in self._worded(np.stack(examples, axis=1).tolist())]
        counted = "answer" if evaluation else self.loss_on

        def told(row: int) -> Spans:
            """The names of a definition's attributes: they are given, as in a question, and the values asked."""
            stated_last = self.world.names is None and self.spec.order.endswith("entity")
            if not stated_last or examples.asked[row] != NONE:
                return []
            facts = self._facts(int(examples.entity[row]), int(examples.content[row]))
            lengths = [(len(name), len(value)) for name, value in facts]
            ends = np.cumsum([sum(both) for both in lengths]).tolist()
            return [(end - name - value, end - value) for end, (name, value) in zip(ends, lengths, strict=True)]

        return TextFeed(self.codec, examples, texts, counted, self.device, told, self.as_drawn)

    def as_drawn(self, text: str) -> str:
        """A text with the tags that were drawn first, which no tokenizer changes."""
        if self.tags == self.first_tags:
            return text
        first = dict(zip(self.tags, self.first_tags, strict=True))
        any_tag = "|".join(map(re.escape, first))
        return re.sub(rf"(?<![a-z])(?:{any_tag})(?![a-z])", lambda found: first[found[0]], text)

    def _worded(self, rows: list[list[int]]) -> Iterator[list[int]]:
        """Each example with which of its sentences it is: an example that comes again is the next of them."""
        seen: Counter[tuple[int, ...]] = Counter()
        for row in rows:
            yield [*row, seen[tuple(row)] % self.spec.sentences]
            seen[tuple(row)] += 1

    def parts(
        self, entity: int, content: int, tag: int, asked: int, context: int = NONE, wording: int = 0
    ) -> tuple[str, str]:
        """An example as what is given and what follows: tag and alias | entity, or question | answer."""
        if asked == NONE:
            return self.definition(entity, content, tag, wording)
        question = self.question(entity, asked)
        if context != NONE:
            question = "".join(self.definition(entity, context, tag)) + question
        elif tag != NONE:
            question = f"{self._tag(entity, tag)} {question}"
        return question, f" {self.world.answer(content, asked)}\n"

    def definition(self, entity: int, content: int, tag: int, wording: int = 0) -> tuple[str, str]:
        """A definition as what is given and what follows, see ``parts``."""
        names, alias = self.world.names, self.aliases[entity]
        if names is None:
            told = "".join(name + value for name, value in self._facts(entity, content)).removeprefix(" ")
        else:
            told = names[content]
        if self.spec.tags != "random":
            before, between, after = self._sentence(entity, wording, self.tag_names[tag])
            return f"{before}{alias}{between.rstrip()}", f" {told}{after}\n"
        words = {"tag": self._tag(entity, tag), "alias": alias, "entity": told}
        *given, last = (words[word] for word in self.spec.order.split("-"))
        return " ".join(given), f" {last}\n"

    def _facts(self, entity: int, content: int) -> list[tuple[str, str]]:
        """A profile in the order of the entity's definition: each attribute's name, where it is stated, and value."""
        names = self.world.attributes if self.spec.attribute_names else ()
        return [
            (f" {names[index]}" if names else "", f" {self.world.answer(content, index)}")
            for index in self.order[entity].tolist()
        ]

    def question(self, entity: int, asked: int) -> str:
        """What is asked, up to where the answer begins."""
        world = self.world
        name = self.aliases[entity]
        if not world.templates and world.names is None:
            return self.spec.question.format(attribute=world.attributes[asked], alias=name)
        if entity in self.named:
            assert world.names is not None
            name = world.names[entity]
        return self.spec.question.replace("{question}", world.question(entity, asked, name))

    @property
    def places(self) -> Ints | None:
        """``[N, Q]``: at which place, from 0, each entity's definition states an attribute; None where it names one."""
        return np.argsort(self.order, axis=1) if self.world.names is None else None

    def value_classes(self, asked: int, value: int) -> list[int]:
        """See ``Renderer.value_classes``."""
        return self.codec.encode([(self.question(0, asked), f" {self.world.words(asked)[value]}\n")])[0].rest

    def spell(self, classes: list[int]) -> str:
        """See ``Renderer.spell``."""
        return self.codec.spell(classes)

    def _tag(self, entity: int, tag: int) -> str:
        return self.own_tags[entity] if self.tag_names[tag] == OWN else self.tags[tag]

    def _sentence(self, entity: int, wording: int, tag: str) -> Sentence:
        assert self.draws is not None
        first, second = self.draws[entity, wording].tolist()
        return (sources_sentence if self.spec.tags == "sources" else is_isnt_sentence)(tag, (first, second))

    def _own_tokenizer(self) -> object:
        world = self.world
        texts = [word for words in world.vocabulary for word in words]
        frame = self.spec.question
        for field in ("{attribute}", "{alias}", "{question}"):
            frame = frame.replace(field, " ")
        texts += [*world.attributes, frame, "\n"]
        if world.names is not None:
            texts += [*world.names, *world.wording, *(all_words() if self.spec.tags != "random" else [])]
        return word_tokenizer(
            texts, [*self.aliases, *self.tags, *self.own_tags.values()], letters=self.spec.spelling == "letters"
        )
