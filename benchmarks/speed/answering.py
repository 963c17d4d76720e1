"""Generating every answer against reading exact match off one teacher-forced pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from measure import Bench, Comparison, DifferenceError, seconds_of

from iml_bench.learners.answers import answer_questions
from iml_bench.modalities.base import Answers, Feed
from iml_bench.modalities.text.feed import TextFeed
from iml_bench.modalities.text.generated import generate_answers
from iml_bench.modalities.text.renderer import TextRenderer
from iml_bench.protocols.base import Examples

FEWEST = 1000
"""Answers on which the two sides must agree."""
MEMORISED = 16
"""Definitions that are trained until many of them are known; the others cannot be."""


class Asking(NamedTuple):
    """What is trained briefly, so that some answers are right, and what is then asked."""

    trained: Feed
    asked: TextFeed
    what: str


def short_answers(bench: Bench) -> Asking:
    """The task's own questions after stage 2, after training as in stage 1."""
    feed = bench.setting.question_feed(2)
    assert isinstance(feed, TextFeed)
    return Asking(bench.setting.train_feed("stage1"), feed, "questions")


def long_answers(bench: Bench) -> Asking:
    """Definitions as questions: given tag and alias, all that follows; a few of them have been trained.

    Of a task whose definitions do not name attributes: elsewhere the names are given too.
    """
    setting = bench.setting
    every = setting.design.trained("stage1-definitions")
    few = Examples(*(column[:MEMORISED] for column in every))
    asked = setting.renderer.feed(every, evaluation=True)
    assert isinstance(asked, TextFeed)
    return Asking(setting.renderer.feed(few, evaluation=False), asked, "definitions")


def generate_and_one_pass(bench: Bench, asking: Asking) -> Comparison:
    """``generate_answers`` over ``answer_questions``.

    Both sides find exact match and spell what was answered; the one pass also gives log-likelihoods.

    Raises:
        DifferenceError: when the two do not agree on every single answer, these are too few, or all have
            the same outcome.
    """
    learner, feed, renderer = bench.learner, asking.asked, bench.setting.renderer
    assert isinstance(renderer, TextRenderer)
    learner.restore(bench.start)
    learner.fit(asking.trained, bench.stage, "stage1")

    def one_pass() -> Answers:
        rng = bench.setting.streams.generator("render/evaluation")
        return answer_questions(learner, feed, renderer, rng, bench.device)

    expected = one_pass()

    def generated() -> Answers:
        return generate_answers(learner, feed, renderer, expected)

    check = require_same_answers(expected, generated(), bench.label)
    n_tokens = int((feed.tokens.decoded - feed.tokens.first).max())
    return Comparison(
        f"generate / one teacher-forced pass, {n_tokens} tokens",
        f"{bench.cell.task.name}, {bench.cell.model.family}, {len(feed.examples)} {asking.what}",
        check,
        lambda: seconds_of(generated, bench.device),
        lambda: seconds_of(one_pass, bench.device),
    )


def require_same_answers(expected: Answers, generated: Answers, what: str) -> str:
    """Hold the exact match of the one pass against the generated texts.

    Returns:
        What was found, for the table.
    """
    found = np.array([said == gold for said, gold in zip(generated.predicted, expected.gold, strict=True)])
    if apart := int((found != expected.exact_match).sum()):
        raise DifferenceError(f"{what}: generate and one pass disagree on {apart} of {len(found)} answers")
    n_right = int(found.sum())
    if n_right in (0, len(found)):
        raise DifferenceError(f"{what}: {n_right} of {len(found)} right, so that they agree says nothing")
    if len(found) < FEWEST:
        raise DifferenceError(f"{what}: {len(found)} answers are too few to say that the two agree")
    return f"exact match equal on all {len(found)} answers ({n_right} right)"
