"""Exact match and log-likelihood of every question, from one teacher-forced pass.

Given the gold answer's earlier tokens, greedy decoding gives the gold answer exactly when the most
likely token at every answer position is the gold one; so one pass replaces generation (tested against
``generate``).
"""

from __future__ import annotations

from itertools import compress
from typing import NamedTuple, Protocol

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from numpy.typing import NDArray
from torch import Tensor

from iml_bench.render import Feed, Renderer, draw_noise

LARGEST_BATCH = 256


class Answering(Protocol):
    """Anything that can be asked."""

    def logits(self, feed: Feed, rows: Tensor, noise: Tensor) -> Tensor:
        """``[b, P, C]`` for the examples ``rows`` of a feed."""
        ...


class Answers(NamedTuple):
    """One row per question, shape ``[n]`` each."""

    exact_match: NDArray[np.bool_]
    """Whether every token or label of the answer is the most likely one."""
    log_likelihood: NDArray[np.float64]
    """Natural logarithm of the gold answer's probability, in nats."""
    gold: list[str]
    predicted: list[str]


def answer_questions(
    learner: Answering, feed: Feed, renderer: Renderer, rng: np.random.Generator, device: torch.device
) -> Answers:
    """Ask every question of a feed once.

    Args:
        learner: who is asked.
        feed: the questions, made with ``evaluation=True``.
        renderer: spells the answers.
        rng: what the pictures are drawn with; a fresh generator of one stream asks everyone the same.
        device: where the feed is.
    """
    n = len(feed.examples)
    noise = torch.from_numpy(draw_noise(rng, n, feed.noise)).to(device)
    rows = torch.arange(n, device=device)
    with torch.no_grad():
        parts = [_ask(learner, feed, piece, noise[piece]) for piece in torch.split(rows, LARGEST_BATCH)]
    found, right, answer, score = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    exact = ((found == right) | ~answer).all(dim=1)
    total = score.double().sum(dim=1)
    gold, predicted = (_spelled(classes, answer, renderer) for classes in (right, found))
    return Answers(exact.numpy(), total.numpy(), gold, predicted)


def _spelled(classes: Tensor, answer: Tensor, renderer: Renderer) -> list[str]:
    """Every row's classes at the answer positions in words; few answers differ, and spelling is slow."""
    known: dict[tuple[int, ...], str] = {}
    words = []
    for row, mask in zip(classes.tolist(), answer.tolist(), strict=True):
        said = tuple(compress(row, mask))
        if said not in known:
            known[said] = renderer.spell(list(said))
        words.append(known[said])
    return words


def _ask(learner: Answering, feed: Feed, rows: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    """Most likely and right classes, answer mask and log-probability of the right ones, ``[b, P]`` each."""
    try:
        logits = learner.logits(feed, rows, noise).float()
        batch = feed.batch(rows, noise)
        likely = torch.log_softmax(logits[batch.answer], dim=-1)  # elsewhere nothing is asked
        score = torch.zeros(batch.answer.shape, device=logits.device)
        score[batch.answer] = likely.gather(1, batch.targets[batch.answer][:, None])[:, 0]
        return logits.argmax(dim=-1), batch.targets, batch.answer, score
    except RuntimeError as error:
        if len(rows) == 1 or not should_reduce_batch_size(error):
            raise
    half = len(rows) // 2
    halves = [_ask(learner, feed, rows[part], noise[part]) for part in (slice(half), slice(half, None))]
    return tuple(torch.cat(column) for column in zip(*halves, strict=True))
