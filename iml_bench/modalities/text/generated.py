"""Answers that are generated and compared after normalisation, as a person would read them."""

from __future__ import annotations

import re
import string
from itertools import groupby
from typing import Protocol

import numpy as np

from iml_bench.modalities.base import Answers
from iml_bench.modalities.text.feed import TextFeed
from iml_bench.modalities.text.renderer import TextRenderer
from iml_bench.modalities.text.tokens import Codec

LARGEST_BATCH = 256
SLACK = 8
"""Tokens by which a generated answer may be longer than any right one; one that does not end by then is wrong."""


class Generating(Protocol):
    """Anything that writes answers."""

    def generate(self, prompts: list[list[int]], codec: Codec, longest: int) -> list[list[int]]:
        """Greedy continuations of prompts of one length."""
        ...


def generate_answers(learner: Generating, feed: TextFeed, renderer: TextRenderer, answers: Answers) -> Answers:
    """The same questions with generated answers, right when normalised they equal any of the right ones.

    Args:
        learner: who is asked.
        feed: the questions.
        renderer: spells the answers and knows all the right ones.
        answers: of the teacher-forced pass, whose log-likelihoods and gold answers are kept.
    """
    prompts, examples, codec = feed.prompts(), feed.examples, renderer.codec
    texts = [
        renderer.world.answers(content, asked)
        for content, asked in zip(examples.content.tolist(), examples.asked.tolist(), strict=True)
    ]
    known = sorted({text for answers_ in texts for text in answers_})
    golds = dict(zip(known, (one.rest for one in codec.encode([("", f" {text}\n") for text in known])), strict=True))
    # Spelled as the answers will be: a tokenizer may put spaces where the text has none.
    plain = {text: compared(renderer.spell(ids)) for text, ids in golds.items()}
    longest = max(map(len, golds.values())) + SLACK
    predicted, ended = [""] * len(prompts), [False] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for _, same in groupby(by_length, key=lambda row: len(prompts[row])):
        rows = list(same)
        for start in range(0, len(rows), LARGEST_BATCH):
            batch = rows[start : start + LARGEST_BATCH]
            said = learner.generate([prompts[row] for row in batch], renderer.codec, longest)
            for row, ids in zip(batch, said, strict=True):
                predicted[row], ended[row] = renderer.spell(ids), codec.ended(ids)
    exact = [
        end and compared(said) in {plain[text] for text in right}
        for said, end, right in zip(predicted, ended, texts, strict=True)
    ]
    return answers._replace(exact_match=np.array(exact, dtype=bool), predicted=predicted)


def compared(text: str) -> str:
    """What of an answer is compared: its normalised form, or all of it where nothing would be left ("A", "!!!")."""
    return normalised(text) or " ".join(text.lower().split())


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and surplus spaces (paper section 1, metric)."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
