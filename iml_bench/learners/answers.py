"""Exact match and log-likelihood of every question.

Given the gold answer's earlier tokens, greedy decoding gives the gold answer exactly when the most
likely token at every answer position is the gold one; so one teacher-forced pass replaces generation
(tested against ``generate``). Only where answers are compared after normalisation are they generated.
"""

from __future__ import annotations

import re
import string
from itertools import groupby
from typing import NamedTuple, Protocol

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from numpy.typing import NDArray
from torch import Tensor

from iml_bench.modalities import Feed, Indices, Renderer, TextRenderer, draw_noise
from iml_bench.modalities.text.feed import TextFeed
from iml_bench.modalities.text.tokens import Codec
from iml_bench.protocols.two_stage.design import Ints

LARGEST_BATCH = 256
SLACK = 8
"""Tokens by which a generated answer may be longer than any right one; one that does not end by then is wrong."""


class Answering(Protocol):
    """Anything that can be asked."""

    def logits(self, feed: Feed, rows: Indices, noise: Tensor) -> Tensor:
        """``[k, C]`` for the examples ``rows`` of a feed."""
        ...


class Generating(Protocol):
    """Anything that writes answers."""

    def generate(self, prompts: list[list[int]], codec: Codec, longest: int) -> list[list[int]]:
        """Greedy continuations of prompts of one length."""
        ...


class Answers(NamedTuple):
    """One row per question, shape ``[n]`` each."""

    exact_match: NDArray[np.bool_]
    """Whether every token or label of the answer is the most likely one; or see ``normalised``."""
    log_likelihood: NDArray[np.float64]
    """Natural logarithm of the gold answer's probability, in nats."""
    gold: list[str]
    predicted: list[str]


def answer_questions(
    learner: Answering, feed: Feed, renderer: Renderer, rng: np.random.Generator, device: torch.device
) -> Answers:
    """Ask every question of a feed once, in one teacher-forced pass.

    Args:
        learner: who is asked.
        feed: the questions, made with ``evaluation=True``.
        renderer: spells the answers.
        rng: what the pictures are drawn with; a fresh generator of one stream asks everyone the same.
        device: where the feed is.
    """
    n = len(feed.examples)
    noise = torch.from_numpy(draw_noise(rng, n, feed.noise)).to(device)
    order = np.arange(n) if feed.lengths is None else np.argsort(feed.lengths, kind="stable")
    pieces = np.split(order, range(LARGEST_BATCH, n, LARGEST_BATCH))
    with torch.no_grad():
        parts = [_ask(learner, feed, Indices.of(rows, device), noise) for rows in pieces if len(rows)]
    said, right, score, row = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    exact, total = np.ones(n, dtype=bool), np.zeros(n)
    np.logical_and.at(exact, row, said == right)
    np.add.at(total, row, score.astype(np.float64))
    ends = np.searchsorted(np.sort(row, kind="stable"), np.arange(1, n))
    by_row = np.argsort(row, kind="stable")
    gold, predicted = (_spelled(np.split(classes[by_row], ends), renderer) for classes in (right, said))
    return Answers(exact, total, gold, predicted)


def _ask(learner: Answering, feed: Feed, rows: Indices, noise: Tensor) -> tuple[Tensor, ...]:
    """Most likely and right class, log-probability of the right one, and row, of every answer position, ``[m]``."""
    try:
        draws = noise.index_select(0, rows.device)
        logits = learner.logits(feed, rows, draws)
        position, owner = feed.answered(rows)
        right = feed.batch(rows, draws).targets.index_select(0, position)
        asked = logits.index_select(0, position).float()
        # The same as a log-softmax, without writing one down for every word of the vocabulary.
        score = asked.gather(1, right[:, None])[:, 0] - asked.logsumexp(dim=-1)
        return asked.argmax(dim=-1), right, score, rows.device.index_select(0, owner)
    except RuntimeError as error:
        if len(rows.host) == 1 or not should_reduce_batch_size(error):
            raise
    halves = [
        _ask(learner, feed, Indices(host, device), noise)
        for host, device in zip(np.array_split(rows.host, 2), rows.device.tensor_split(2), strict=True)
    ]
    return tuple(torch.cat(column) for column in zip(*halves, strict=True))


def _spelled(answers: list[Ints], renderer: Renderer) -> list[str]:
    """Every row's classes in words; few answers differ, and spelling is slow."""
    known: dict[tuple[int, ...], str] = {}
    words = []
    for answer in answers:
        said = tuple(answer.tolist())
        if said not in known:
            known[said] = renderer.spell(list(said))
        words.append(known[said])
    return words


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
    golds = dict(zip(known, (rest for _, rest in codec.encode([("", f" {text}\n") for text in known])), strict=True))
    # Spelled as the answers will be: a tokenizer may put spaces where the text has none.
    plain = {text: normalised(renderer.spell(ids)) for text, ids in golds.items()}
    longest = max(map(len, golds.values())) + SLACK
    ends = {codec.line_end, codec.tokenizer.eos_token_id}
    predicted, ended = [""] * len(prompts), [False] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for _, same in groupby(by_length, key=lambda row: len(prompts[row])):
        rows = list(same)
        for start in range(0, len(rows), LARGEST_BATCH):
            batch = rows[start : start + LARGEST_BATCH]
            said = learner.generate([prompts[row] for row in batch], renderer.codec, longest)
            for row, ids in zip(batch, said, strict=True):
                predicted[row], ended[row] = renderer.spell(ids), ids[-1] in ends
    exact = [
        end and normalised(said) in {plain[text] for text in right}
        for said, end, right in zip(predicted, ended, texts, strict=True)
    ]
    return answers._replace(exact_match=np.array(exact, dtype=bool), predicted=predicted)


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and surplus spaces (paper section 1, metric)."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
