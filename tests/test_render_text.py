"""Texts: what they say, how they are tokenised, and what the loss counts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from texts import renderer_of

from iml_bench.modalities.base import Indices
from iml_bench.modalities.text.spec import ORDERS
from iml_bench.modalities.text.tokens import PAD, isolate_random_strings, word_tokenizer
from iml_bench.protocols.base import NONE
from iml_bench.run.cell import Setting
from iml_bench.spec import TaskSpec

Make = Callable[..., Setting]


def shown(feed: Any, *rows: int) -> Any:
    """A batch of these rows, or of all."""
    host = np.array(rows or range(len(feed.examples)), dtype=np.int64)
    return feed.batch(Indices.of(host, torch.device("cpu")), torch.zeros(len(host), 0))


def tokenizer_of(setting: Setting) -> Any:
    return renderer_of(setting).codec.tokenizer


def tokens(setting: Setting, ids: torch.Tensor) -> list[str]:
    found: list[str] = tokenizer_of(setting).convert_ids_to_tokens(ids.tolist())
    return found


def byte_tokenizer(text: str = "Q: What is the job of baker city Athens cat bread\nA:") -> Any:
    """A small byte-level BPE, the kind that comes with pretrained models."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([text] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def test_a_definition_is_its_tag_its_alias_and_the_profile(text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task)
    renderer, world = renderer_of(setting), setting.world
    job, city, pet, food = (world.answer(5, index) for index in range(4))
    given, rest = renderer.parts(3, 5, 1, NONE)
    assert given == f"{renderer.tags[1]} {renderer.aliases[3]}"
    assert rest == f" job {job} city {city} pet {pet} food {food}\n"
    assert re.fullmatch(r"<\|[a-z]{6}\|> <\|[a-z]{5}\|>", given)


@pytest.mark.parametrize("order", ORDERS)
def test_a_profile_stands_in_every_word_order(order: str, text_task: TaskSpec, make_setting: Make) -> None:
    """What is counted of an answer is the last word, or the values of a profile that comes last."""
    setting = make_setting(text_task, render__order=order, recipe__loss_on="answer")
    renderer, feed = renderer_of(setting), setting.train_feed("stage1")
    row = int(np.flatnonzero(feed.examples.is_definition)[0])
    entity, content, tag = (int(getattr(feed.examples, name)[row]) for name in ("entity", "content", "tag"))
    values = [setting.world.answer(content, index) for index in range(4)]
    profile = " ".join(f"{name} {value}" for name, value in zip(("job", "city", "pet", "food"), values, strict=True))
    words = {"tag": renderer.tags[tag], "alias": renderer.aliases[entity], "entity": profile}
    *given, last = (words[word] for word in order.split("-"))
    assert renderer.parts(entity, content, tag, NONE) == (" ".join(given), f" {last}\n")
    assert tokens(setting, shown(feed, row).targets) == [*(values if order.endswith("entity") else [last]), "\n"]


def test_a_question_asks_one_attribute_and_never_shows_a_tag(text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task)
    renderer = renderer_of(setting)
    given, rest = renderer.parts(3, 3, NONE, 1)
    assert given == f"Q: What is the city of {renderer.aliases[3]}?\nA:"
    assert rest == f" {setting.world.answer(3, 1)}\n"
    for feed in (setting.train_feed("stage1"), setting.question_feed(1), setting.question_feed(2)):
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
    renderer, feed = renderer_of(setting), setting.train_feed("stage1")
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
    tokenizer = tokenizer_of(setting)
    for feed in (
        setting.train_feed("stage1"),
        setting.train_feed("stage2", 1),
        setting.question_feed(1),
        setting.question_feed(2),
    ):
        batch = shown(feed)
        assert tokenizer.unk_token_id not in batch.inputs["input_ids"]
        assert tokenizer.unk_token_id not in batch.targets
    assert tokenizer.eos_token == "\n"
    assert len(tokenizer) == renderer_of(setting).classes


def test_a_batch_is_as_long_as_its_longest_text(text_task: TaskSpec, make_setting: Make) -> None:
    feed = make_setting(text_task).train_feed("stage1")
    definition = int(np.flatnonzero(feed.examples.is_definition)[0])
    question = int(np.flatnonzero(~feed.examples.is_definition)[0])
    lengths = [int(feed.lengths[row]) for row in (definition, question)]
    assert lengths[0] != lengths[1]
    for rows, width in (((definition,), lengths[0]), ((question,), lengths[1]), ((question, definition), max(lengths))):
        assert shown(feed, *rows).inputs["input_ids"].shape == (len(rows), width)


@pytest.mark.parametrize("loss_on", ["text", "answer"])
def test_the_loss_counts_what_the_recipe_says(loss_on: str, text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task, recipe__loss_on=loss_on)
    feed, tokenizer = setting.train_feed("stage1"), tokenizer_of(setting)
    whole = shown(feed)
    start, names = 0, set(setting.world.attributes) if loss_on == "answer" else set()
    for row, (given, rest) in enumerate(feed.texts):
        all_tokens, followed = tokenizer.tokenize(given + rest), tokenizer.tokenize(rest)
        after = followed if loss_on == "answer" else all_tokens[1:]
        # The names of a definition's attributes are given in what follows, as they are in a question.
        at = [place for place, token in enumerate(after, len(all_tokens) - 1 - len(after)) if token not in names]
        expected = [token for token in after if token not in names]
        assert loss_on == "text" or len(expected) == (5 if feed.examples.asked[row] == NONE else 2)
        alone = shown(feed, row)
        assert tokens(setting, alone.targets) == expected
        assert tokens(setting, alone.inputs["input_ids"][0]) == all_tokens[:-1]
        assert (alone.weights == 1).all()
        assert alone.inputs["keep"].tolist() == at
        assert feed.mass[row] == len(expected)
        # The same tokens, in the same order, in the batch of all texts.
        assert torch.equal(whole.targets[start : start + len(expected)], alone.targets)
        start += len(expected)
    assert start == len(whole.targets)


def test_a_kept_position_predicts_its_target(text_task: TaskSpec, make_setting: Make) -> None:
    feed = make_setting(text_task, render__spelling="letters").train_feed("stage1")
    batch = shown(feed)
    ids = batch.inputs["input_ids"]
    row, position = batch.inputs["keep"] // ids.shape[1], batch.inputs["keep"] % ids.shape[1]
    inside = position + 1 < torch.from_numpy(feed.lengths)[row]
    assert (ids[row[inside], position[inside] + 1] == batch.targets[inside]).all()
    assert (batch.targets[~inside] == feed.codec.line_end).all(), "only the last token of a text is not shown"


def test_an_answer_is_the_value_and_its_line_end(text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task)
    examples, renderer = setting.question_feed(2).examples, renderer_of(setting)
    for row in range(len(examples)):
        entity, asked = int(examples.entity[row]), int(examples.asked[row])
        answer = shown(setting.question_feed(2), row).targets
        assert tokens(setting, answer) == [setting.world.answer(entity, asked), "\n"]
        assert renderer.value_classes(asked, int(setting.world.values[entity, asked])) == answer.tolist()
        assert renderer.spell(answer.tolist()) == setting.world.answer(entity, asked)


def test_padding_is_on_the_right_and_is_never_scored(text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task, render__spelling="letters")
    feed = setting.train_feed("stage1")
    batch = shown(feed)
    padded = batch.inputs["input_ids"] == tokenizer_of(setting).convert_tokens_to_ids(PAD)
    assert padded.any()
    assert not padded.all(dim=0).any(), "a column that is padding everywhere"
    assert (padded[:, 1:] | ~padded[:, :-1]).all(), "a token after padding"
    assert not padded.flatten()[batch.inputs["keep"]].any()
    assert feed.codec.pad not in batch.targets


@pytest.mark.parametrize("padding", ["<pad>", None])
def test_a_models_own_tokenizer_reads_the_same_texts(
    padding: str | None, text_task: TaskSpec, make_setting: Make
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = padding  # padding is masked by position, so a tokenizer may lack it
    setting, ours = make_setting(text_task, tokenizer=tokenizer), make_setting(text_task)
    as_drawn = renderer_of(setting).as_drawn  # its tags may be others, which are equally many tokens
    assert setting.digest() == ours.digest()
    for feed, same in (
        (setting.train_feed("stage1"), ours.train_feed("stage1")),
        (setting.question_feed(2), ours.question_feed(2)),
    ):
        assert [(as_drawn(given), rest) for given, rest in feed.texts] == same.texts
        for row, (given, rest) in enumerate(feed.texts):
            batch = shown(feed, row)
            ids = batch.inputs["input_ids"][0]
            assert tokenizer.decode(ids.tolist()) + "\n" == given + rest
            scored = rest if feed is setting.question_feed(2) else (given + rest)
            assert scored.endswith(tokenizer.decode(batch.targets.tolist()))
    renderer = renderer_of(setting)
    assert renderer.classes == len(tokenizer)
    value = renderer.value_classes(0, 0)
    assert tokenizer.decode(value) == " baker\n"
    assert renderer.spell(value) == "baker"


def test_a_random_string_never_merges_with_its_neighbours(text_task: TaskSpec, make_setting: Make) -> None:
    tokenizer = byte_tokenizer("of <|ab|>?\nA: of <|cd|>? |>? |>?")
    assert any(">?" in token for token in tokenizer.tokenize("of <|qw|>?")), "the tokenizer must want to merge them"
    isolate_random_strings(tokenizer)
    for text in ("of <|qw|>?", "<|qw|><|er|>, said", "(<|qw|>)"):
        ends = [match.span() for match in re.finditer(r"<\|[a-z]+\|>", text)]
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        for start, end in ends:
            assert all(not (first < end < last) and not (first < start - 1 < last) for first, last in offsets)
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_fingerprint_is_the_texts(text_task: TaskSpec, make_setting: Make) -> None:
    feed = make_setting(text_task).train_feed("stage2")
    rows = torch.tensor([2, 0])
    expected = "\0".join("|".join(feed.texts[row]) for row in (2, 0))
    assert feed.fingerprint(rows, torch.zeros(2, 0)).decode() == expected


def test_a_pair_shows_the_same_profiles_under_exchanged_tags(text_task: TaskSpec, make_setting: Make) -> None:
    setting = make_setting(text_task)
    tags = renderer_of(setting).tags
    exchanged = {tags[0]: tags[1], tags[1]: tags[0], tags[2]: tags[2]}
    branches = (setting.train_feed("stage2", branch).texts for branch in (0, 1))
    for (one, rest), (two, same) in zip(*branches, strict=True):
        tag, alias = one.split()
        assert (f"{exchanged[tag]} {alias}", rest) == (two, same)
