"""Generated answers: they agree with the one teacher-forced pass, and are judged as a person would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from making import CPU, SEATS, small_cell, small_task
from sources import people_file
from texts import renderer_of

from iml_bench.learners.answers import answer_questions
from iml_bench.modalities.base import Answers
from iml_bench.modalities.text import generated
from iml_bench.modalities.text.feed import TextFeed
from iml_bench.modalities.text.generated import generate_answers, normalised
from iml_bench.modalities.text.renderer import TextRenderer
from iml_bench.models import generate
from iml_bench.protocols.base import Examples
from iml_bench.run.cell import Setting, prepare, run_cell
from iml_bench.runtime import Runtime

T5 = "hf-config:t5?d_ff=64&d_kv=16&d_model=32&num_heads=2&num_layers=2"
NEOX = "neox-s"
DEVICE = torch.device("cpu")
SIZES = {"reliable": 32, "unreliable": 32, "undefined": 10, **dict.fromkeys(SEATS["square"], 8)}
LARGER = {f"groups__{name}": size for name, size in SIZES.items()}
TRAINING = {"recipe__batch_size": 32, "recipe__lr": 3e-3, "recipe__stage2__steps": 20}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def only_questions(setting: Setting) -> TextFeed:
    """Every question that is trained on or asked."""
    parts = [setting.design.trained("stage1"), setting.design.asked(1), setting.design.asked(2)]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    kept = columns[3] >= 0
    feed = setting.renderer.feed(Examples(*(column[kept] for column in columns)), evaluation=True)
    assert isinstance(feed, TextFeed)
    return feed


def ask(setting: Setting, learner: Any, feed: TextFeed) -> Answers:
    return answer_questions(learner, feed, setting.renderer, np.random.default_rng(0), DEVICE)


Trained = tuple[Setting, Any, TextFeed]


@pytest.fixture(scope="module")
def trained() -> Callable[..., Trained]:
    """A network in the middle of stage 1, each made once."""
    made: dict[tuple[Any, ...], Trained] = {}

    def train(task: str, model: str, seed: int, steps: int) -> Trained:
        key = task, model, seed, steps
        if key not in made:
            torch.set_num_threads(1)
            cell = small_cell(model, seed, task, **LARGER, **TRAINING)
            runtime = replace(CPU, data=people_file() if task == "text-cvdb" else None)
            setting, learner, _ = prepare(cell, runtime)
            stage = cell.task.recipe.stage1.model_copy(update={"steps": steps})
            learner.fit(setting.train_feed("stage1"), stage, "stage1")
            made[key] = setting, learner, only_questions(setting)
        return made[key]

    return train


@pytest.mark.parametrize(
    ("task", "model", "steps"), [("text", NEOX, 150), ("text", T5, 200), ("text-cvdb", NEOX, 160)], ids=str
)
def test_one_pass_finds_the_same_answers_right_as_generation(
    task: str, model: str, steps: int, trained: Callable[..., Trained]
) -> None:
    n, right = 0, 0
    for seed in (0, 1):
        setting, learner, feed = trained(task, model, seed, steps)
        one_pass = ask(setting, learner, feed)
        generated = generate_answers(learner, feed, renderer_of(setting), one_pass)
        assert generated.exact_match.tolist() == one_pass.exact_match.tolist()
        assert (generated.gold, generated.log_likelihood.tolist()) == (one_pass.gold, one_pass.log_likelihood.tolist())
        exact = [said == gold for said, gold in zip(generated.predicted, generated.gold, strict=True)]
        assert generated.exact_match.tolist() == exact
        n, right = n + len(exact), right + sum(exact)
    assert n >= 1000
    assert 0.1 < right / n < 0.9, "the network must be right sometimes and wrong sometimes"


def test_what_is_generated_is_the_greedy_choice_token_by_token(trained: Callable[..., Trained]) -> None:
    for model, steps in ((NEOX, 150), (T5, 200)):
        setting, learner, feed = trained("text", model, 0, steps)
        codec, body = renderer_of(setting).codec, learner.model.body
        prompts = feed.prompts()[:40]
        said = learner.generate(prompts, codec, 3)
        for prompt, ids in zip(prompts, said, strict=True):
            expected: list[int] = []
            while len(expected) < 3 and expected[-1:] != [codec.line_end]:
                shown = {"input_ids": torch.tensor([prompt if codec.encoder_decoder else prompt + expected])}
                if codec.encoder_decoder:
                    shown["decoder_input_ids"] = torch.tensor([[codec.start, *expected]])
                with torch.no_grad():
                    expected.append(int(body(**shown).logits[0, -1].argmax()))
            assert ids == expected


@pytest.mark.parametrize("model", [NEOX, T5], ids=["causal", "encoder-decoder"])
def test_generation_stops_at_the_line_end_however_long_it_may_be(model: str, trained: Callable[..., Trained]) -> None:
    setting, learner, feed = trained("text", model, 0, 150 if model == NEOX else 200)
    codec = renderer_of(setting).codec
    short, long = (learner.generate(feed.prompts()[:200], codec, longest) for longest in (3, 9))
    ended = [ids for ids in long if ids[-1] == codec.line_end]
    assert len(ended) > 100
    assert all(codec.line_end not in ids[:-1] for ids in long)
    assert all(len(ids) == 9 for ids in long if ids[-1] != codec.line_end)
    assert [ids[:3] for ids in long] == short


def test_what_stands_after_the_end_of_a_line_is_cut() -> None:
    """In one batch answers end at different places; a model of its own makes up what follows."""
    codec = renderer_of(Setting(small_task("text"), 0, DEVICE, CPU)).codec
    end = codec.line_end
    seen: list[Any] = []

    def body(**given: Any) -> torch.Tensor:
        seen.append(given)
        rest = torch.tensor([[7, end, 8, 9], [7, 8, end, codec.pad], [7, 8, 9, 10], [end, end, 7, 8]])
        return torch.cat([given["input_ids"], rest], dim=1)

    said = generate(SimpleNamespace(generate=body), [[4, 5], [4, 6], [5, 5], [6, 6]], codec, 4, DEVICE)
    assert said == [[7, end], [7, 8, end], [7, 8, 9, 10], [end]]
    (given,) = seen
    assert given["attention_mask"].tolist() == [[1, 1]] * 4
    config = given["generation_config"]
    assert (config.max_new_tokens, config.do_sample, config.num_beams) == (4, False, 1)


def test_prompts_of_different_lengths_are_each_answered_as_alone(
    trained: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, learner, feed = trained("text-cvdb", NEOX, 0, 160)
    renderer, prompts = renderer_of(setting), feed.prompts()
    assert len(set(map(len, prompts))) >= 3
    answers = ask(setting, learner, feed)
    longest = int((feed.tokens.decoded - feed.tokens.first).max()) + 1
    whole = generate_answers(learner, feed, renderer, answers)
    for row in range(0, len(prompts), 17):
        (alone,) = learner.generate([prompts[row]], renderer.codec, longest)
        assert whole.predicted[row] == renderer.spell(alone)
    monkeypatch.setattr(generated, "LARGEST_BATCH", 5)
    batches: list[list[list[int]]] = []

    def noting(batch: list[list[int]], *more: Any) -> list[list[int]]:
        batches.append(batch)
        said: list[list[int]] = learner.generate(batch, *more)
        return said

    pieces = generate_answers(SimpleNamespace(generate=noting), feed, renderer, answers)  # type: ignore[arg-type]
    assert pieces.predicted == whole.predicted
    assert all(1 <= len(batch) <= 5 and len(set(map(len, batch))) == 1 for batch in batches)
    assert sorted(prompt for batch in batches for prompt in batch) == sorted(prompts)


@pytest.mark.parametrize("model", [NEOX, T5], ids=["causal", "encoder-decoder"])
def test_normalised_and_strict_cells_have_the_same_answers_right(model: str) -> None:
    settings = {**LARGER, **TRAINING, "recipe__stage1__steps": 100}
    strict, lenient = (
        run_cell(small_cell(model, 0, "text", exact_match=how, **settings), CPU).items
        for how in ("strict", "normalised")
    )
    kept = [name for name in strict.columns if name != "predicted"]
    assert strict.select(kept).equals(lenient.select(kept))
    assert 0 < strict["exact_match"].sum() < len(strict)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Oslo", "oslo"),
        ("The  U.S.A.", "usa"),
        ("the U S A", "u s"),
        ("An apple, a pear and THE plum!", "apple pear and plum"),
        ("Theodora Anatole", "theodora anatole"),
        ("  a\tb\n c ", "b c"),
        ("N'Djamena", "ndjamena"),
        ("Port-au-Prince", "portauprince"),
        ("+44", "44"),
        ("Côte d'Ivoire", "côte divoire"),
        ("the", ""),
        ("...", ""),
        ("", ""),
    ],
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalised(text) == expected
    assert normalised(expected) == expected


class Parrot:
    """Says what it was told to, token by token, and is cut off where a model would be."""

    def __init__(self, renderer: TextRenderer, feed: TextFeed, answers: list[str]) -> None:
        prompts = map(tuple, feed.prompts())
        self.said = dict(zip(prompts, (self.ids(renderer, text) for text in answers), strict=True))

    @staticmethod
    def ids(renderer: TextRenderer, text: str) -> list[int]:
        return renderer.codec.encode([("x", f" {text}\n")])[0].rest

    def generate(self, prompts: list[list[int]], codec: Any, longest: int) -> list[list[int]]:
        return [self.said[tuple(prompt)][:longest] for prompt in prompts]


WORDS = (
    ("Porto-Novo", "N'Djamena", "Oslo", "St. John's", "Washington, D.C."),
    ("Ruble", "Yuan", "West African CFA franc", "Peso", "Dong"),
    ("Fula", "Thai", "Malay", "Dutch", "Hindi"),
)


def parroting(say: Callable[[str], str], also: tuple[str, ...] = ()) -> tuple[Answers, list[str]]:
    """What is right of answers that are made of the gold ones; the second attribute has further gold ones."""
    task = small_task("text", world__attributes=3, world__values=5)
    setting = Setting(task, 0, DEVICE, Runtime(device="cpu"))
    more = {(entity, 1): also for entity in range(len(setting.world.values))}
    world = replace(setting.world, vocabulary=WORDS, also=more)
    # The words of the other answers are in the vocabulary as those of a model's own tokenizer would be.
    known = replace(world, attributes=(*world.attributes, "also"), vocabulary=(*WORDS, (*also, "West , the Dong")))
    renderer = TextRenderer(task.render, "answer", known, setting.design, setting.streams, DEVICE)  # type: ignore[arg-type]
    renderer.world = world
    feed = renderer.feed(setting.design.asked(2), evaluation=True)
    rows = zip(feed.examples.entity.tolist(), feed.examples.asked.tolist(), strict=True)
    gold = [world.answer(*row) for row in rows]
    n = len(gold)
    before = Answers(np.zeros(n, dtype=bool), np.zeros(n), gold, [""] * n)
    parrot = Parrot(renderer, feed, [say(text) for text in gold])
    return generate_answers(parrot, feed, renderer, before), gold  # type: ignore[arg-type]


def test_the_gold_answer_is_right_whatever_signs_it_has() -> None:
    answers, gold = parroting(lambda text: text)
    wrong = {text for text, right in zip(gold, answers.exact_match, strict=True) if not right}
    assert set(gold) == {word for words in WORDS for word in words}
    assert wrong == set()


def test_articles_and_punctuation_are_forgiven_and_other_words_are_not() -> None:
    plain = {"Oslo", *WORDS[1], *WORDS[2]}
    for say, expected in (
        (lambda text: f"the {text},", True),
        (lambda text: f"West {text}", False),
        (lambda text: "Dong Dong", False),
    ):
        answers, gold = parroting(say)
        rows = [index for index, text in enumerate(gold) if text in plain]
        assert {bool(answers.exact_match[row]) for row in rows} == {expected}


def test_any_of_several_gold_answers_is_right() -> None:
    answers, gold = parroting(lambda text: "Dong", also=("Peso", "Dong"))
    second = np.array([text in WORDS[1] for text in gold])
    assert (answers.exact_match == second).all()
    alone, _ = parroting(lambda text: "Dong")
    assert (alone.exact_match == [text == "Dong" for text in gold]).all()


def test_a_gold_answer_longer_than_the_first_ones_is_right() -> None:
    longer = " ".join(["West African CFA franc"] * 4)
    answers, gold = parroting(lambda text: longer, also=(longer,))
    second = np.array([text in WORDS[1] for text in gold])
    assert (answers.exact_match == second).all()


def test_an_answer_that_does_not_end_is_wrong() -> None:
    answers, gold = parroting(lambda text: f"{text} , , , , , , Dong")
    assert len(gold) == 48
    assert not answers.exact_match.any()


def test_an_answer_is_spelled_up_to_the_end_of_its_line() -> None:
    codec = renderer_of(Setting(small_task("text"), 0, DEVICE, CPU)).codec
    (_, one, _), (_, two, _) = codec.encode([("", " red\n"), ("", " Oslo\n")])
    assert codec.spell(one) == "red"
    assert codec.spell([*one, *two]) == "red"


def test_reference_learners_are_not_asked_to_write() -> None:
    strict, lenient = (
        run_cell(small_cell("gullible", task="text", exact_match=how), CPU).items for how in ("strict", "normalised")
    )
    assert strict.equals(lenient)
