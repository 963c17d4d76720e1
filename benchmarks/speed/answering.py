"""Generating every answer against reading exact match off one teacher-forced pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from measure import Bench, Comparison, DifferenceError, seconds_of
from numpy.typing import NDArray
from torch import Tensor

from iml_bench.evaluate import LARGEST_BATCH, Answers, answer_questions
from iml_bench.render.text import TextFeed


class Prompts(NamedTuple):
    """The questions of a feed, without their answers and padded on the left."""

    ids: Tensor
    """``[n, longest question]`` int64."""
    attention: Tensor
    """``[n, longest question]`` int64, 0 on padding."""
    gold: list[list[int]]
    """Tokens of every answer, its line end included."""


def generate_and_one_pass(bench: Bench) -> Comparison:
    """``generate`` over ``answer_questions`` on the questions after stage 2, for a briefly trained model.

    Both sides find exact match and spell what was answered; the one pass also gives log-likelihoods.

    Raises:
        DifferenceError: when the two do not agree on every single question, or all have the same outcome.
    """
    bench.learner.restore(bench.start)
    bench.learner.fit(bench.setting.train_feed(1), bench.stage, "stage1")
    bench.learner.model.eval()
    feed = bench.setting.question_feed(2)
    assert isinstance(feed, TextFeed)
    prompts = make_prompts(bench, feed)

    def one_pass() -> Answers:
        rng = bench.setting.streams.generator("render/evaluation")
        return answer_questions(bench.learner, feed, bench.setting.renderer, rng, bench.device)

    def generated() -> tuple[NDArray[np.bool_], list[str]]:
        return generate_answers(bench, prompts)

    expected, (found, _) = one_pass().exact_match, generated()
    if apart := int((found != expected).sum()):
        raise DifferenceError(f"{bench.label}: generate and one pass disagree on {apart} of {len(found)} questions")
    n_right = int(expected.sum())
    if n_right in (0, len(found)):
        raise DifferenceError(f"{bench.label}: {n_right} of {len(found)} right, so that they agree says nothing")
    check = f"exact match equal on all {len(found)} questions ({n_right} right)"
    return Comparison(
        "generate / one teacher-forced pass",
        f"{bench.cell.task.name}, {bench.cell.model.name}, {len(found)} questions",
        check,
        lambda: seconds_of(generated, bench.device),
        lambda: seconds_of(one_pass, bench.device),
    )


def make_prompts(bench: Bench, feed: TextFeed) -> Prompts:
    """Cut every question off its answer; done once, as the feed was tokenised once."""
    first = feed.answer.int().argmax(dim=1) + 1  # ``answer`` speaks of targets, one token to the left
    last = first + feed.answer.sum(dim=1)
    rows = [ids[:end].tolist() for ids, end in zip(feed.ids, first.tolist(), strict=True)]
    gold = [ids[a:b].tolist() for ids, a, b in zip(feed.ids, first.tolist(), last.tolist(), strict=True)]
    longest = max(map(len, rows))
    pad = _tokenizer(bench).pad_token_id
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=bench.device)
    attention = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=bench.device)
    return Prompts(ids, attention, gold)


def generate_answers(bench: Bench, prompts: Prompts) -> tuple[NDArray[np.bool_], list[str]]:
    """Exact match of every question, and what was answered, by greedy generation with a cache."""
    tokenizer, model = _tokenizer(bench), bench.learner.model.body
    line_end = tokenizer.eos_token_id
    found: list[list[int]] = []
    for piece in torch.split(torch.arange(len(prompts.ids), device=bench.device), LARGEST_BATCH):
        output = model.generate(
            input_ids=prompts.ids[piece],
            attention_mask=prompts.attention[piece],
            max_new_tokens=max(map(len, prompts.gold)),
            do_sample=False,
            use_cache=True,
            eos_token_id=line_end,
            pad_token_id=tokenizer.pad_token_id,
        )
        found += output[:, prompts.ids.shape[1] :].tolist()
    answers = [row[: row.index(line_end) + 1] if line_end in row else row for row in found]
    exact = np.array([answer == gold for answer, gold in zip(answers, prompts.gold, strict=True)])
    return exact, [bench.setting.renderer.spell(answer) for answer in answers]


def _tokenizer(bench: Bench) -> Any:
    return bench.setting.renderer.tokenizer  # type: ignore[attr-defined]
