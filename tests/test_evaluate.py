"""Exact match in one pass equals greedy decoding; log-likelihoods are those of the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from making import CPU, small_cell

from iml_bench.learners import answers
from iml_bench.learners.answers import answer_questions
from iml_bench.run.cell import prepare
from iml_bench.spec import CellSpec


def _trained(model: str, steps: int, **overrides: Any) -> tuple[Any, Any]:
    cell: CellSpec = small_cell(model, task="text", **overrides)
    setting, learner, _ = prepare(cell, CPU)
    learner.fit(setting.train_feed("stage1"), cell.task.recipe.stage1.model_copy(update={"steps": steps}), "stage1")
    return setting, learner


def _ask(setting: Any, learner: Any, feed: Any) -> answers.Answers:
    return answer_questions(learner, feed, setting.renderer, np.random.default_rng(0), torch.device("cpu"))


@pytest.mark.parametrize("model", ["neox-s", "llama-s"])
@pytest.mark.parametrize("spelling", ["word", "letters"])
def test_one_teacher_forced_pass_equals_greedy_generation(model: str, spelling: str) -> None:
    setting, learner = _trained(model, 150, render__spelling=spelling)
    feed = setting.renderer.feed(setting.design.trained("stage1"), evaluation=True)
    questions = np.flatnonzero(~feed.examples.is_definition)
    feed = setting.renderer.feed(type(feed.examples)(*(column[questions] for column in feed.examples)), evaluation=True)
    answers = _ask(setting, learner, feed)

    tokenizer, body = setting.renderer.codec.tokenizer, learner.model.body
    generated = []
    for given, rest in feed.texts:
        prompt = tokenizer(given, add_special_tokens=False, return_tensors="pt")
        gold = tokenizer(rest, add_special_tokens=False)["input_ids"]
        output = body.generate(
            input_ids=prompt["input_ids"],
            attention_mask=prompt["attention_mask"],
            max_new_tokens=len(gold),
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        generated.append(output[0, prompt["input_ids"].shape[1] :].tolist() == gold)
    assert answers.exact_match.tolist() == generated
    assert 0.1 < np.mean(generated) < 1, "the model must be right sometimes and wrong sometimes"


def test_log_likelihood_is_the_sum_over_the_answers_tokens() -> None:
    setting, learner = _trained("neox-xs", 20)
    feed = setting.question_feed(1)
    answers = _ask(setting, learner, feed)
    tokenizer = setting.renderer.codec.tokenizer
    for row, (given, rest) in enumerate(feed.texts[:5]):
        ids = tokenizer(given + rest, add_special_tokens=False, return_tensors="pt")["input_ids"]
        start = len(tokenizer(given, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            scores = learner.model.body(input_ids=ids).logits[0].log_softmax(-1)
        expected = sum(float(scores[position - 1, ids[0, position]]) for position in range(start, ids.shape[1]))
        assert answers.log_likelihood[row] == pytest.approx(expected, abs=1e-4)


def test_questions_are_answered_alike_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    setting, learner = _trained("neox-xs", 20)
    whole = _ask(setting, learner, setting.question_feed(1))
    monkeypatch.setattr(answers, "LARGEST_BATCH", 3)
    pieces = _ask(setting, learner, setting.question_feed(1))
    assert whole.exact_match.tolist() == pieces.exact_match.tolist()
    assert np.allclose(whole.log_likelihood, pieces.log_likelihood, atol=1e-5)


def test_out_of_memory_in_evaluation_halves_the_batch() -> None:
    cell = small_cell("mlp-xs")
    setting, learner, _ = prepare(cell, replace(CPU))
    whole = _ask(setting, learner, setting.question_feed(2))
    original = learner.logits

    def picky(feed: Any, rows: Any, noise: torch.Tensor) -> torch.Tensor:
        if len(rows.host) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. (as it would say)")
        return original(feed, rows, noise)

    learner.logits = picky  # type: ignore[method-assign]
    pieces = _ask(setting, learner, setting.question_feed(2))
    assert np.allclose(whole.log_likelihood, pieces.log_likelihood, atol=1e-5)
    assert whole.predicted == pieces.predicted
