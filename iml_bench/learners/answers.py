"""Exact match and log-likelihood of every question.

Given the gold answer's earlier tokens, greedy decoding gives the gold answer exactly when the most
likely token at every answer position is the gold one; so one teacher-forced pass replaces generation
(tested against ``generate``). Only where answers are compared after normalisation are they generated.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from iml_bench.errors import DivergedError
from iml_bench.modalities.base import Answers, Feed, Indices, Renderer, draw_noise
from iml_bench.protocols.base import Ints

LARGEST_BATCH = 256


class Answering(Protocol):
    """Anything that can be asked."""

    def logits(self, feed: Feed, rows: Indices, noise: Tensor) -> Tensor:
        """``[k, C]`` for the examples ``rows`` of a feed."""
        ...


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
    if np.isnan(score).any():
        raise DivergedError("the model answered a question with NaN")
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
