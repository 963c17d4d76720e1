r"""Short texts: tag and alias are random strings, a definition states a profile, a question asks an attribute.

::

    definition   <|dkwoqn|> <|qwert|> job baker city Oslo pet cat\n
    question     Q: What is the job of <|qwert|>?\nA: baker\n
                                                      '------' the answer, with its line end
"""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iml_bench.design import NONE, TAGS, Examples
from iml_bench.errors import UsageError
from iml_bench.render.base import Batch
from iml_bench.render.tokens import word_tokenizer
from iml_bench.spec import TextRender
from iml_bench.streams import Streams
from iml_bench.worlds import World, draw_distinct


def random_strings(rng: np.random.Generator, n: int, letters: int, what: str) -> list[str]:
    """``n`` different strings ``<|...|>`` of random lower-case letters."""
    rows = draw_distinct(rng, n, [26] * letters, what)
    return ["<|" + "".join(string.ascii_lowercase[letter] for letter in row) + "|>" for row in rows]


class TextRenderer:
    """Renders examples as token ids; the line end that closes an answer belongs to the answer."""

    def __init__(
        self,
        spec: TextRender,
        loss_on: str,
        world: World,
        streams: Streams,
        device: torch.device,
        tokenizer: Any = None,
    ) -> None:
        """Draw aliases and tags and choose the tokenizer.

        Args:
            spec: how random strings look.
            loss_on: ``text`` or ``answer``, see ``Recipe.loss_on``.
            world: the attributes of every entity.
            streams: ``aliases`` and ``tags`` are used.
            device: where token ids are kept.
            tokenizer: a fast tokenizer of ``transformers``; None builds the task's own.
        """
        self.spec, self.loss_on, self.world, self.device = spec, loss_on, world, device
        n = len(world.values)
        self.aliases = random_strings(streams.generator("aliases"), n, spec.alias_letters, "aliases")
        self.tags = random_strings(streams.generator("tags"), len(TAGS), spec.tag_letters, "tags")
        self.tokenizer = tokenizer or self._own_tokenizer()
        if self.tokenizer.pad_token_id is None:
            raise UsageError("the model's tokenizer has no padding token; iml-bench needs one")
        self.classes = len(self.tokenizer)

    def feed(self, examples: Examples, *, evaluation: bool) -> TextFeed:
        """See ``Renderer.feed``; texts are the same in training and evaluation."""
        return TextFeed(self, examples)

    def parts(self, entity: int, content: int, tag: int, asked: int) -> tuple[str, str]:
        """An example as what is given and what follows: tag and alias | profile, or question | answer."""
        world = self.world
        if asked == NONE:
            named = self.spec.attribute_names
            facts = [
                f" {name + ' ' if named else ''}{world.answer(content, index)}"
                for index, name in enumerate(world.attributes)
            ]
            return f"{self.tags[tag]} {self.aliases[entity]}", "".join(facts) + "\n"
        return self.question(entity, asked), f" {world.answer(content, asked)}\n"

    def question(self, entity: int, asked: int) -> str:
        """What is asked, up to where the answer begins."""
        return self.spec.question.format(attribute=self.world.attributes[asked], alias=self.aliases[entity])

    def encode(self, texts: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
        """Token ids of each ``given + rest``, and how many of them belong to ``given``."""
        if not texts:
            return []
        encoded = self.tokenizer(
            [given + rest for given, rest in texts], add_special_tokens=False, return_offsets_mapping=True
        )
        return [
            (ids, sum(end <= len(given) for _, end in offsets))
            for ids, offsets, (given, _) in zip(encoded["input_ids"], encoded["offset_mapping"], texts, strict=True)
        ]

    def value_classes(self, attribute: int, value: int) -> list[int]:
        """See ``Renderer.value_classes``."""
        text = (self.question(0, attribute), f" {self.world.vocabulary[attribute][value]}\n")
        ids, n_given = self.encode([text])[0]
        return ids[n_given:]

    def spell(self, classes: list[int]) -> str:
        """See ``Renderer.spell``."""
        return str(self.tokenizer.decode(classes)).strip()

    def _own_tokenizer(self) -> Any:
        texts = [word for words in self.world.vocabulary for word in words]
        texts += [*self.world.attributes, self.spec.question.format(attribute="", alias=""), "\n"]
        return word_tokenizer(texts, [*self.aliases, *self.tags], letters=self.spec.spelling == "letters")


class TextFeed:
    """Examples of one stage as token ids, tokenised once and padded on the right; see ``Feed``."""

    noise = 0

    def __init__(self, renderer: TextRenderer, examples: Examples) -> None:
        """Tokenise all examples."""
        self.renderer, self.examples = renderer, examples
        columns = np.stack(examples, axis=1).tolist()
        self.texts = [renderer.parts(*row) for row in columns]
        encoded = renderer.encode(self.texts)
        length = max((len(ids) for ids, _ in encoded), default=2)
        ids = np.full((len(encoded), length), renderer.tokenizer.pad_token_id)
        real, answer = np.zeros((2, len(encoded), length), dtype=bool)
        for row, (tokens, n_given) in enumerate(encoded):
            ids[row, : len(tokens)] = tokens
            real[row, : len(tokens)] = True
            answer[row, n_given : len(tokens)] = True
        counted = (real if renderer.loss_on == "text" else answer)[:, 1:].astype(np.float32)
        device = renderer.device
        self.ids = torch.from_numpy(ids).to(device)
        self.answer = torch.from_numpy(answer[:, 1:].copy()).to(device)
        self.weights = torch.from_numpy(counted).to(device)
        self.mass = self.weights.sum(1)

    def batch(self, rows: Tensor, noise: Tensor) -> Batch:
        """See ``Feed.batch``; position ``p`` is the prediction of token ``p + 1``."""
        ids = self.ids.index_select(0, rows)
        return Batch(
            # No attention mask: padding is on the right, where no causal model can see it.
            {"input_ids": ids[:, :-1]},
            ids[:, 1:],
            self.weights.index_select(0, rows),
            self.answer.index_select(0, rows),
        )

    def fingerprint(self, rows: Tensor, noise: Tensor) -> bytes:
        """See ``Feed.fingerprint``: the texts."""
        return "\0".join("|".join(self.texts[row]) for row in rows.tolist()).encode()
