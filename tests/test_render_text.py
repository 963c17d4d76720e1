"""Texts: what they say, how they are tokenised, and what the loss counts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from iml_bench.cell import Setting
from iml_bench.design import NONE
from iml_bench.errors import UsageError
from iml_bench.render import TextRenderer
from iml_bench.render.tokens import PAD, word_tokenizer
from iml_bench.spec import TaskSpec

Make = Callable[..., Setting]


def renderer_of(setting: Setting) -> TextRenderer:
    assert isinstance(setting.renderer, TextRenderer)
    return setting.renderer


def everything(feed: Any) -> Any:
    n = len(feed.examples)
    return feed.batch(torch.arange(n), torch.zeros(n, 0))


def tokens(setting: Setting, ids: torch.Tensor) -> list[str]:
    found: list[str] = renderer_of(setting).tokenizer.convert_ids_to_tokens(ids.tolist())
    return found


def byte_tokenizer() -> Any:
    """A small byte-level BPE, the kind that comes with pretrained models."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["Q: What is the job of baker city Athens cat bread\nA:"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def test_a_definition_is_its_tag_its_alias_and_the_profile(text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task)
    renderer, world = renderer_of(setting), setting.world
    job, city, pet, food = (world.answer(5, index) for index in range(4))
    given, rest = renderer.parts(3, 5, 1, NONE)
    assert given == f"{renderer.tags[1]} {renderer.aliases[3]}"
    assert rest == f" job {job} city {city} pet {pet} food {food}\n"
    assert re.fullmatch(r"<\|[a-z]{6}\|> <\|[a-z]{5}\|>", given)


def test_a_question_asks_one_attribute_and_never_shows_a_tag(text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task)
    renderer = renderer_of(setting)
    given, rest = renderer.parts(3, 3, NONE, 1)
    assert given == f"Q: What is the city of {renderer.aliases[3]}?\nA:"
    assert rest == f" {setting.world.answer(3, 1)}\n"
    for feed in (setting.train_feed(1), setting.question_feed(1), setting.question_feed(2)):
        for (given, _), asked in zip(feed.texts, feed.examples.asked, strict=True):
            assert any(tag in given for tag in renderer.tags) == (asked == NONE)


def test_attribute_names_and_the_question_are_the_tasks_choice(text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(
        text_task, render__attribute_names=False, render__question="{attribute} of {alias}?", render__tag_letters=3
    )
    renderer, world = renderer_of(setting), setting.world
    assert renderer.parts(0, 2, 0, NONE)[1] == " " + " ".join(world.answer(2, index) for index in range(4)) + "\n"
    assert renderer.parts(1, 1, NONE, 2) == (f"pet of {renderer.aliases[1]}?", f" {world.answer(1, 2)}\n")
    assert all(re.fullmatch(r"<\|[a-z]{3}\|>", tag) for tag in renderer.tags)


def test_a_false_definition_states_another_entitys_profile(text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task)
    renderer, feed = renderer_of(setting), setting.train_feed(1)
    examples = feed.examples
    rows = np.flatnonzero(examples.is_definition & (examples.tag == 1))
    assert len(rows) == 8
    for row in rows:
        entity, content = int(examples.entity[row]), int(examples.content[row])
        assert entity != content
        assert feed.texts[row][0] == f"{renderer.tags[1]} {renderer.aliases[entity]}"
        assert feed.texts[row][1].split()[1::2] == [setting.world.answer(content, index) for index in range(4)]


def test_aliases_and_tags_all_differ(text_task: TaskSpec, make_setting: Make) -> None:
    renderer = renderer_of(make_setting(text_task, render__alias_letters=2, render__tag_letters=2))
    assert len(set(renderer.aliases)) == 33
    assert len(set(renderer.tags)) == 3


def test_random_strings_are_one_token_or_letters() -> None:
    whole = word_tokenizer(["job baker of"], ["<|qwert|>"], letters=False)
    letters = word_tokenizer(["job baker of"], ["<|qwert|>"], letters=True)
    assert whole.tokenize("job of <|qwert|>? baker\n")[:3] == ["job", "of", "<|qwert|>"]
    assert letters.tokenize("<|qwert|>") == ["<|", "q", "w", "e", "r", "t", "|>"]
    assert letters.tokenize("job of <|qwert|> baker") == ["job", "of", "<|", "q", "w", "e", "r", "t", "|>", "baker"]
    assert letters.tokenize("<|zz|><|ab|>") == ["<|", "z", "z", "|>", "<|", "a", "b", "|>"]
    assert whole.tokenize("nobody") == ["<unk>"]


@pytest.mark.parametrize("spelling", ["word", "letters"])
def test_the_tasks_own_tokenizer_knows_every_word(spelling: str, text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task, render__spelling=spelling)
    tokenizer = renderer_of(setting).tokenizer
    for feed in (setting.train_feed(1), setting.train_feed(2, 1), setting.question_feed(1), setting.question_feed(2)):
        batch = everything(feed)
        assert tokenizer.unk_token_id not in batch.inputs["input_ids"]
        assert tokenizer.unk_token_id not in batch.targets
    assert tokenizer.eos_token == "\n"
    assert len(tokenizer) == renderer_of(setting).classes


def test_targets_are_the_next_tokens(text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task)
    batch = everything(setting.train_feed(1))
    n = len(setting.train_feed(1).examples)
    assert batch.inputs["input_ids"].shape == batch.targets.shape == batch.weights.shape == batch.answer.shape
    assert len(batch.targets) == n
    assert (batch.inputs["input_ids"][:, 1:] == batch.targets[:, :-1]).all()
    assert (batch.weights.dtype, batch.answer.dtype, batch.targets.dtype) == (torch.float32, torch.bool, torch.int64)


@pytest.mark.parametrize("loss_on", ["text", "answer"])
def test_the_loss_counts_what_the_recipe_says(loss_on: str, text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task, recipe__loss_on=loss_on)
    renderer, feed = renderer_of(setting), setting.train_feed(1)
    batch = everything(feed)
    pad = renderer.tokenizer.pad_token_id
    assert (batch.targets == pad).any()
    for row, (given, rest) in enumerate(feed.texts):
        all_tokens = renderer.tokenizer.tokenize(given + rest)
        followed = renderer.tokenizer.tokenize(rest)
        counted = batch.weights[row]
        assert set(counted.tolist()) <= {0.0, 1.0}
        assert (counted[batch.targets[row] == pad] == 0).all()
        expected = followed if loss_on == "answer" else all_tokens[1:]
        assert tokens(setting, batch.targets[row][counted > 0]) == expected
        assert tokens(setting, batch.targets[row][batch.answer[row]]) == followed
        assert feed.mass[row] == len(expected)


def test_an_answer_is_the_value_and_its_line_end(text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task)
    feed = setting.question_feed(2)
    batch = everything(feed)
    examples, renderer = feed.examples, renderer_of(setting)
    for row in range(len(examples)):
        entity, asked = int(examples.entity[row]), int(examples.asked[row])
        answer = batch.targets[row][batch.answer[row]]
        assert tokens(setting, answer) == [setting.world.answer(entity, asked), "\n"]
        assert renderer.value_classes(asked, int(setting.world.values[entity, asked])) == answer.tolist()
        assert renderer.spell(answer.tolist()) == setting.world.answer(entity, asked)


def test_padding_is_on_the_right_and_has_no_weight(text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task, render__spelling="letters")
    feed = setting.train_feed(1)
    padded = feed.ids == renderer_of(setting).tokenizer.convert_tokens_to_ids(PAD)
    assert padded.any()
    assert not padded.all(dim=0).any(), "a column that is padding everywhere"
    assert (padded[:, 1:] | ~padded[:, :-1]).all(), "a token after padding"
    assert (feed.weights[padded[:, 1:]] == 0).all()
    assert not feed.answer[padded[:, 1:]].any()


def test_a_models_own_tokenizer_reads_the_same_texts(text_task: TaskSpec, make_setting: Make) -> None:
    tokenizer = byte_tokenizer()
    setting = make_setting(text_task, tokenizer=tokenizer)
    ours = make_setting(text_task)
    assert setting.digest() == ours.digest()
    for feed, same in ((setting.train_feed(1), ours.train_feed(1)), (setting.question_feed(2), ours.question_feed(2))):
        assert feed.texts == same.texts
        batch = everything(feed)
        pad = tokenizer.pad_token_id
        for row, (given, rest) in enumerate(feed.texts):
            ids = feed.ids[row]
            assert tokenizer.decode(ids[ids != pad].tolist()) == given + rest
            assert tokenizer.decode(batch.targets[row][batch.answer[row]].tolist()) == rest
            assert (batch.weights[row] > 0).sum() == (ids != pad).sum() - 1
    renderer = renderer_of(setting)
    assert renderer.classes == len(tokenizer)
    value = renderer.value_classes(0, 0)
    assert tokenizer.decode(value) == " baker\n"
    assert renderer.spell(value) == "baker"


def test_a_tokenizer_without_padding_is_refused(text_task: TaskSpec, make_setting: Make) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(UsageError, match="no padding token"):
        make_setting(text_task, tokenizer=tokenizer)


def test_a_fingerprint_is_the_texts(text_task: TaskSpec, make_setting: Make) -> None:
    feed = make_setting(text_task).train_feed(2)
    rows = torch.tensor([2, 0])
    expected = "\0".join("|".join(feed.texts[row]) for row in (2, 0))
    assert feed.fingerprint(rows, torch.zeros(2, 0)).decode() == expected


def test_both_folds_show_the_same_profiles_under_exchanged_tags(text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task)
    tags = renderer_of(setting).tags
    exchanged = {tags[0]: tags[1], tags[1]: tags[0], tags[2]: tags[2]}
    for (one, rest), (two, same) in zip(setting.train_feed(2, 0).texts, setting.train_feed(2, 1).texts, strict=True):
        tag, alias = one.split()
        assert (f"{exchanged[tag]} {alias}", rest) == (two, same)
