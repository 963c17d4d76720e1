"""Tokenizers of many kinds: what they keep apart, what is refused, and where an answer ends."""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import CPU, small_cell, small_task
from tokenizers_for_tests import KINDS, READ, REFUSED, made, save_model, surrounded

from iml_bench.errors import UsageError
from iml_bench.modalities.base import Answers
from iml_bench.modalities.text.audit import audit_texts
from iml_bench.modalities.text.feed import TextFeed
from iml_bench.modalities.text.generated import compared, generate_answers
from iml_bench.modalities.text.renderer import TextRenderer
from iml_bench.modalities.text.tokens import Codec, Form, isolate_random_strings
from iml_bench.models import generate, load_form
from iml_bench.records import SCHEMA_VERSION, read_record
from iml_bench.run.cell import Setting, run_cell
from iml_bench.run.checks import check_model
from iml_bench.run.job import Job, check_job, run_job
from iml_bench.sources import find_model
from iml_bench.spec import Audit

DEVICE = torch.device("cpu")
WORDS = (
    ("baker", "Warner Bros.", "Washington, D.C.", "nurse", "Jr.", "St. John"),
    ("Oslo", "N'Djamena", "Acme Inc.", "cat", "food", "bread"),
)
REST = ("nurse", "bread", "city")
TWO_STEPS = {"recipe__batch_size": 8, "recipe__stage1__steps": 2, "recipe__stage2__steps": 1}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@functools.cache
def form_of(kind: str, *, encoder_decoder: bool = False) -> Form:
    """As ``load_form`` makes it of a model's files."""
    tokenizer = copy.deepcopy(made(kind))
    isolate_random_strings(tokenizer)
    return Form(tokenizer, encoder_decoder)


@functools.cache
def plain_setting() -> Setting:
    return Setting(small_task("text", world__attributes=2, world__values=6), 0, DEVICE, CPU)


def renderer_of(form: Form, words: tuple[tuple[str, ...], ...] = WORDS) -> TextRenderer:
    """The texts of a smoke cell with answers of our own."""
    setting = plain_setting()
    world = replace(setting.world, vocabulary=words)
    task = setting.task
    return TextRenderer(task.render, "text", world, setting.design, setting.streams, DEVICE, form)  # type: ignore[arg-type]


def audit_of(kind: str, words: tuple[tuple[str, ...], ...] = WORDS) -> Audit:
    found = audit_texts(renderer_of(form_of(kind), words))
    assert found is not None
    return found


def test_every_kind_is_expected_to_be_read_or_refused() -> None:
    assert READ.keys() | REFUSED.keys() == KINDS.keys()
    assert len(KINDS) >= 12


@pytest.mark.parametrize("kind", READ)
def test_a_tokenizer_that_keeps_the_texts_apart_is_described(kind: str) -> None:
    audit = audit_of(kind)
    assert audit.notes == READ[kind]
    assert audit.tokens.keys() == {"alias", "tag", "answer"}
    assert all(1 <= low <= high for low, high in audit.tokens.values())
    assert audit.vocabulary == len(made(kind))
    assert audit.classes == max(made(kind).get_vocab().values()) + 1
    assert audit.texts > 60


@pytest.mark.parametrize("kind", REFUSED)
def test_a_tokenizer_that_does_not_is_one_sentence(kind: str) -> None:
    setting = plain_setting()
    with pytest.raises(UsageError) as caught:
        Setting(setting.task, 0, DEVICE, CPU, form_of(kind)).audit()
    assert "\n" not in str(caught.value)
    assert REFUSED[kind] in str(caught.value)


def test_the_tasks_own_tokenizer_is_asked_too() -> None:
    assert audit_texts(renderer_of(Form())) is None
    with pytest.raises(UsageError, match=r"own tokenizer reads the answers to .* 'A / B' and 'A/B' as the same"):
        audit_texts(renderer_of(Form(), (("A / B", "A/B", "C", *REST), WORDS[1])))


def test_answers_that_differ_in_case_only_need_capitals() -> None:
    words = (("Polish", "polish", "Oslo", *REST), WORDS[1])
    with pytest.raises(UsageError, match="'Polish' and 'polish' as the same tokens"):
        audit_of("uncased WordPiece", words)
    assert audit_of("cased WordPiece", words)
    # Two attributes may share an answer.
    assert audit_of("uncased WordPiece", (("Oslo", "Bergen", "Rome", *REST), ("oslo", "cat", "dog", *REST)))


def test_a_letter_of_a_longer_word_is_said_and_a_word_is_refused() -> None:
    notes = audit_of("unigram", (("S\u0105o", "Oslo", "cat", *REST), WORDS[1])).notes
    assert "has no token for latin small letter a with ogonek" in notes
    with pytest.raises(UsageError, match="does not know '東京', as in the text"):
        audit_of("unigram", (("東京", "Oslo", "cat", *REST), WORDS[1]))
    with pytest.raises(UsageError, match="'東京' and '北京' as the same tokens"):
        audit_of("unigram", (("東京", "北京", "cat", *REST), WORDS[1]))


def test_an_alias_that_is_a_sign_of_the_tokenizers_own_is_refused() -> None:
    renderer = renderer_of(form_of("byte-level"))
    renderer.aliases[3] = "<|endoftext|>"
    with pytest.raises(UsageError, match=r"takes '<\|endoftext\|>' in the text .* for a sign of its own"):
        audit_texts(renderer)


# Reading and writing

LETTERS = st.text("abcdeorstwABDM .'-,éßł1", min_size=1, max_size=14).map(lambda text: " ".join(text.split()))
ANSWERS = st.lists(LETTERS.filter(bool), min_size=6, max_size=6, unique=True).map(tuple)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(READ)), st.tuples(ANSWERS, ANSWERS), st.booleans())
def test_texts_come_back_or_are_refused(kind: str, words: Any, encoder_decoder: bool) -> None:
    """What passes the audit without a remark is read as it was written, token for token below the largest id."""
    try:
        renderer = renderer_of(form_of(kind, encoder_decoder=encoder_decoder), words)
        audit = audit_texts(renderer)
    except UsageError as error:
        assert "\n" not in str(error)
        return
    assert audit is not None
    codec = renderer.codec
    for asked in (0, 1):
        question = renderer.question(2, asked)
        pairs = [(question, f" {word}\n") for word in words[asked]]
        read = codec.encode(pairs)
        assert len({tuple(one.rest) for one in read}) == 6
        assert len({tuple(one.given) for one in read}) == 1, "what is given depends on what follows"
        assert max(max(one.given + one.rest) for one in read) < codec.classes
        for pair, one in zip(pairs, read, strict=True):
            assert codec.ended(one.rest)
            assert not any(codec.ended(one.rest[:n]) for n in range(len(one.rest)))
            if set(audit.notes) <= {*READ["holes"], *READ["tokens over everything"]} and not encoder_decoder:
                whole = codec.decode(one.given[len(codec.prefix) :] + one.rest)
                assert whole == "".join(pair)
                assert codec.spell(one.rest) == pair[1].strip()


def test_a_token_never_reaches_over_the_join() -> None:
    codec = renderer_of(form_of("tokens over everything")).codec
    whole = codec.read(["Q: What is the job of <|qwert|>?\nA: baker\n"])
    assert any(start < 35 < end for start, end in whole["offset_mapping"][0]), "the tokenizer must want to join them"
    (one,) = codec.encode([("Q: What is the job of <|qwert|>?\nA:", " baker\n")])
    assert codec.decode(one.given) == "Q: What is the job of <|qwert|>?\nA:"
    assert codec.decode(one.rest) == " baker\n"


def test_what_is_put_around_texts_is_found_though_a_is_not_known() -> None:
    tokenizer = form_of("begin and end added").tokenizer
    codec = Codec(Form(tokenizer), lambda: None)
    assert (codec.prefix, codec.suffix) == ([0], [1])
    lacking = copy.deepcopy(made("few words without a"))
    surrounded(lacking.backend_tokenizer, "<unk> $A <eos>")
    codec = Codec(Form(lacking), lambda: None)
    assert (codec.prefix, codec.suffix) == ([0], [1])


# Where an answer ends


def test_a_line_end_within_a_token_ends_an_answer() -> None:
    renderer = renderer_of(form_of("line end in a token"))
    codec = renderer.codec
    rest, other = (one.rest for one in codec.encode([("A:", " Warner Bros.\n"), ("A:", " Oslo\n")]))
    assert codec.line_end not in rest
    assert codec.ended(rest)
    assert not codec.ended(rest[:-1])
    assert codec.spell([*rest, *other]) == "Warner Bros."
    assert codec.spell([*codec.encode([("A:", "\n")])[0].rest, *other]) == ""


class Babbler:
    """Says the right answers and goes on, as a model does that nobody stops; a stub of ``transformers``."""

    generation_config = "its own"

    def __init__(self, said: dict[tuple[int, ...], list[int]], more: list[int]) -> None:
        self.said, self.more = said, more
        self.steps = 0

    def generate(self, input_ids: Any, generation_config: Any, stopping_criteria: Any, **more: Any) -> torch.Tensor:
        assert self.generation_config is generation_config, "what ours leaves open would be the model's"
        rows, (stop,) = input_ids.tolist(), stopping_criteria
        n_given = len(rows[0])
        over = torch.zeros(len(rows), dtype=torch.bool)
        for step in range(generation_config.max_new_tokens):
            if over.all():
                break
            self.steps = step + 1
            for row in rows:
                row.append([*self.said[tuple(row[:n_given])], *(self.more * 20)][step])
            over |= stop(torch.tensor(rows), None)
        return torch.tensor(rows)


@pytest.mark.parametrize("kind", [kind for kind in READ if "WordPiece" not in kind and "unigram" not in kind])
def test_right_answers_count_though_the_model_goes_on(kind: str) -> None:
    renderer = renderer_of(form_of(kind))
    codec = renderer.codec
    feed = renderer.feed(plain_setting().design.asked(2), evaluation=True)
    assert isinstance(feed, TextFeed)
    rests = [one.rest for one in codec.encode(feed.texts)]
    prompts = feed.prompts()
    body = Babbler(dict(zip(map(tuple, prompts), rests, strict=True)), codec.encode([("", " Oslo\n")])[0].rest)

    class Learner:
        def generate(self, prompts: list[list[int]], codec: Any, longest: int) -> list[list[int]]:
            return generate(body, prompts, codec, longest, DEVICE)

    n = len(prompts)
    before = Answers(np.zeros(n, dtype=bool), np.zeros(n), [rest.strip() for _, rest in feed.texts], [""] * n)
    answers = generate_answers(Learner(), feed, renderer, before)
    assert answers.predicted == before.gold
    assert answers.exact_match.all()
    assert {"Warner Bros.", "Acme Inc.", "Jr."} <= set(before.gold)
    assert body.steps <= max(map(len, rests)), "rows that are over need no further token"
    assert body.generation_config == "its own"


def test_a_real_model_stops_at_a_line_end_within_a_token(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer = made("line end in a token")
    source = save_model(tmp_path, tokenizer)
    codec = Codec(load_form(find_model(source)), lambda: None)
    given, rest, _ = codec.encode([("A:", " Warner Bros.\n")])[0]
    more = codec.encode([("", " Oslo\n")])[0].rest
    ids = torch.tensor([given + rest + more])
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)
    for _ in range(40):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().generation_config.repetition_penalty = 50.0  # a published model's own, which is not ours
    assert generate(model, [given], codec, 12, DEVICE) == [rest]
    assert model.generation_config.repetition_penalty == 50.0


@pytest.mark.parametrize(
    ("said", "gold", "right"),
    [
        ("Warner Bros", "Warner Bros.", True),
        ("the Oslo", "Oslo", True),
        ("", "A", False),
        ("", "The", False),
        ("", "!!!", False),
        ("the", "A", False),
        ("a", "A", True),
        ("THE ", "The", True),
        ("!!!", "!!!", True),
        ("?", "!!!", False),
        ("Oslo", "!!!", False),
    ],
)
def test_what_normalises_to_nothing_is_compared_as_it_stands(said: str, gold: str, right: bool) -> None:
    assert (compared(said) == compared(gold)) is right


# From the files of a model to a record


@pytest.mark.parametrize("kind", ["line end in a token", "sentencepiece BPE", "uncased WordPiece", "holes"])
def test_a_cell_runs_and_its_record_says_how_it_read(kind: str, tmp_path: Path) -> None:
    tokenizer = made(kind)
    source = save_model(tmp_path / "model", tokenizer)
    cell = small_cell(source, task="text", exact_match="normalised", **TWO_STEPS)
    job = Job(cell, changes={}, smoke=True, out=tmp_path / "out")
    check_job(job, CPU)
    assert run_job(job, CPU) is None
    (path,) = (tmp_path / "out").rglob("*.json")
    record = read_record(path)
    assert record.schema_version == SCHEMA_VERSION
    assert record.audit == Setting(cell.task, 0, DEVICE, CPU, load_form(cell.model)).audit()
    assert record.audit is not None
    assert not {"<", ">"} & set("".join(record.audit.notes))
    assert record.audit.classes == max(tokenizer.get_vocab().values()) + 1


def test_an_encoder_decoder_reads_its_two_sides(tmp_path: Path) -> None:
    cell = small_cell(save_model(tmp_path, made("unigram"), 256, t5=True), task="text", **TWO_STEPS)
    outcome = run_cell(cell, CPU)
    assert outcome.audit is not None
    assert "puts a space after an alias or a tag where the text has none" in outcome.audit.notes


def test_a_model_with_the_tasks_tokenizer_has_no_audit() -> None:
    assert run_cell(small_cell("neox-s", task="text", **TWO_STEPS), CPU).audit is None


@pytest.mark.parametrize("kind", ["few words", "few words without a", "few words and none for others"])
def test_nothing_is_run_with_a_tokenizer_that_loses_words(kind: str, tmp_path: Path) -> None:
    source = save_model(tmp_path / "model", made(kind))
    cell = small_cell(source, task="text", **TWO_STEPS)
    with pytest.raises(UsageError, match=r"the tokenizer of .*model "):
        check_job(Job(cell, changes={}, smoke=True, out=tmp_path / "out"), CPU)
    steps = {step.name: step for step in check_model(source, "text", CPU)}
    failed = [step for step in steps.values() if not step.passed]
    assert failed
    assert any("the tokenizer of" in step.detail for step in failed)


def test_a_check_says_how_a_model_reads(tmp_path: Path) -> None:
    steps = check_model(save_model(tmp_path, made("prefix space")), "text", CPU)
    step = next(step for step in steps if step.name == "its tokenizer keeps the texts apart")
    assert step.passed
    assert "tokens per alias" in step.detail
    assert "puts a space after an alias" in step.detail


def test_lengths_in_a_tokenizers_file_cut_and_pad_nothing(tmp_path: Path) -> None:
    source = save_model(tmp_path, KINDS["cut and padded"]())  # a new one: a tokenizer that has read cuts no more
    file = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert file["truncation"]
    assert file["padding"]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 4}), encoding="utf-8")
    form = load_form(find_model(source))
    backend = form.tokenizer.backend_tokenizer  # type: ignore[union-attr]
    assert (backend.truncation, backend.padding) == (None, None)
    texts = ["Q: What is the job of <|qwert|>?\nA:", "A"]
    codec, plain = (Codec(one, lambda: None) for one in (form, form_of("byte-level")))
    assert codec.read(texts)["input_ids"] == plain.read(texts)["input_ids"]


@pytest.mark.parametrize("kind", ["holes", "added tokens"])
def test_a_vocabulary_beyond_the_embedding_makes_it_grow(kind: str, tmp_path: Path) -> None:
    tokenizer = made(kind)
    source = save_model(tmp_path, tokenizer, 327)
    cell = small_cell(source, task="text", **TWO_STEPS)
    check_job(Job(cell, changes={}, smoke=True, out=tmp_path / "out"), CPU)
    grown = max(tokenizer.get_vocab().values()) + 1 - 327
    fits = run_cell(small_cell(save_model(tmp_path / "fits", tokenizer, 327 + grown), task="text", **TWO_STEPS), CPU)
    # Input and output layer of width 16 have a row more for each token.
    assert run_cell(cell, CPU).parameters == fits.parameters


def test_files_that_are_not_there_are_told_from_words_that_are_not_known(tmp_path: Path) -> None:
    source = save_model(tmp_path, made("few words without a"))
    assert load_form(find_model(source)).tokenizer is not None
