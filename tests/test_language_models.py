"""Language models: how they read, what is loaded, which logits are computed, and how much of them is trained."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import (
    SEQ2SEQ,
    SHAPE,
    SIZES,
    Save,
    adapters,
    bpe_tokenizer,
    build,
    entry,
    inputs_of,
    load,
    moved,
    refusal,
    saver,
)
from torch import Tensor, nn

from iml_bench.modalities.text.model import TextModel, TextShape
from iml_bench.models import count_parameters, language, load_form

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Save:
    return saver(tmp_path_factory)


# How a model reads


def test_what_is_no_language_model_reads_with_the_tasks_tokenizer() -> None:
    for source in ("timm:resnet18", "ref:mlp", "reference:oracle", "python:nets:build", "hf-config:gpt_neox"):
        assert load_form(entry(source)) == (None, False, None)
    for kind in ("t5", "bart"):
        assert load_form(entry(f"hf-config:{kind}")) == (None, True, None)


def test_a_published_model_reads_with_its_own_tokenizer_or_the_tasks(saved: Save) -> None:
    folder = saved("gpt_neox")
    form = load_form(entry(folder))
    assert not form.encoder_decoder
    assert form.start is None
    assert form.tokenizer is not None
    # A tag is cut off from its neighbours, whatever the model's own tokenizer would do.
    assert form.tokenizer.tokenize("<|ab|>?") == [*form.tokenizer.tokenize("<|ab|>"), *form.tokenizer.tokenize("?")]
    assert form.tokenizer.pad_token_id is None
    assert load_form(entry(folder, tokenizer="task")) == (None, False, None)


def test_a_decoder_starts_with_what_its_configuration_says(saved: Save) -> None:
    for kind, options, start in (("bart", {"decoder_start_token_id": 2}, 2), ("t5", {"decoder_start_token_id": 0}, 0)):
        form = load_form(entry(saved(kind, **options)))
        assert (form.encoder_decoder, form.start) == (True, start)
    assert load_form(entry(saved("bart", decoder_start_token_id=2), tokenizer="task")) == (None, True, None)


# What is loaded


@pytest.mark.parametrize("kind", sorted(SIZES))
def test_an_untrained_model_of_a_type_gives_the_logits_it_is_asked_for(kind: str) -> None:
    shape = SEQ2SEQ if kind in ("t5", "bart") else SHAPE
    model = load(f"hf-config:{kind}?{SIZES[kind]}", shape).eval()
    assert model.early
    inputs = inputs_of(shape)
    keep = torch.tensor([3, 0, 17])
    full = model.body(**inputs).logits
    assert full.shape == (3, shape.max_target or shape.max_length, shape.classes)
    seen: list[tuple[int, ...]] = []
    model.body.get_output_embeddings().register_forward_hook(lambda *hook: seen.append(tuple(hook[2].shape)))
    torch.testing.assert_close(model(keep, **inputs), full.flatten(0, 1)[keep], rtol=1e-4, atol=1e-5)
    assert seen == [(3, shape.classes)], "logits of other positions were computed"
    assert moved(model, shape)


@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2", "llama", "t5", "bart"])
def test_the_weights_of_a_folder_are_loaded_as_they_are(kind: str, saved: Save) -> None:
    shape = SEQ2SEQ if kind in ("t5", "bart") else SHAPE
    model = load(saved(kind), shape, seed=5).eval()
    original = build(kind).eval()
    inputs = inputs_of(shape)
    torch.testing.assert_close(model.body(**inputs).logits, original(**inputs).logits)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.body.config.use_cache


def test_weights_of_half_precision_become_32_bits(tmp_path: Path) -> None:
    build("gpt_neox").to(torch.bfloat16).save_pretrained(tmp_path)
    bpe_tokenizer().save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in load(tmp_path).parameters()} == {torch.float32}
    message = refusal(f"hf:{tmp_path}?dtype=bfloat16")
    assert message == "model 'small': weights are kept in 32 bits; recipe.precision is how they are used"


def test_t5_1_1_keeps_its_output_layer_apart(saved: Save, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(saved("t5", feed_forward_proj="gated-gelu"), tmp_path / "t5")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.randn(266, 16, generator=torch.Generator().manual_seed(0))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"tie_word_embeddings": False, "n_positions": 4}  # which nothing reads: positions are relative
    (folder / "config.json").write_text(json.dumps(config))
    body: Any = load(folder, SEQ2SEQ).body
    assert torch.equal(body.lm_head.weight, weights["lm_head.weight"])
    assert torch.equal(body.shared.weight, weights["shared.weight"])


def test_embeddings_grow_to_the_tokenizer_and_never_shrink(saved: Save) -> None:
    folder = saved("gpt_neox")
    bodies: list[Any] = [load(folder, SHAPE._replace(classes=classes)).body for classes in (100, 266, 270)]
    assert [body.get_input_embeddings().num_embeddings for body in bodies] == [266, 266, 270]


def test_options_reach_the_configuration(saved: Save) -> None:
    body: Any = load(f"hf:{saved('gpt_neox')}?hidden_dropout=0.25").body
    assert body.config.hidden_dropout == 0.25
    body = load(f"hf-config:bart?{SIZES['bart']}&dropout=0.25", SEQ2SEQ).body
    assert body.config.dropout == 0.25
    assert (body.config.pad_token_id, body.config.eos_token_id) == (SEQ2SEQ.pad, SEQ2SEQ.line_end)
    assert body.config.decoder_start_token_id == SEQ2SEQ.pad
    assert body.config.max_position_embeddings == SEQ2SEQ.max_length


def test_counting_parameters_does_not_change_the_weights_that_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"hf-config:llama?{SIZES['llama']}&lora=2"
    state = torch.get_rng_state()
    counted = load(source, seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(language, "check_memory_of", lambda *arguments: None)
    assert all(torch.equal(counted[key], value) for key, value in load(source, seed=4).state_dict().items())


# Logits at chosen positions


class _Odd(nn.Module):
    """A language model of one layer that is awkward in some way."""

    def __init__(self, shape: TextShape, how: str) -> None:
        super().__init__()
        self.how = how
        self.embed, self.head = nn.Embedding(shape.classes, 8), nn.Linear(8, shape.classes)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embed(input_ids)
        if self.how == "ahead":
            hidden = hidden + hidden.flip(1)
        logits: Tensor = self.head(hidden)
        if self.how == "normed":
            logits = logits - logits.flatten(0, -2).mean(0)
        if self.how == "flat":
            logits = logits.view(-1, logits.shape[-1])
        if self.how == "viewed":
            logits = logits.view(*input_ids.shape, -1)
        if self.how == "small":
            logits = logits[..., :5]
        return logits


def odd(shape: TextShape, how: str) -> nn.Module:
    """Named by the ``python:`` sources below."""
    return _Odd(shape, how)


@pytest.mark.parametrize(("how", "early"), [("plain", True), ("flat", True), ("viewed", False)])
def test_all_logits_are_computed_where_choosing_early_fails(how: str, early: bool) -> None:
    model = load(f"python:test_language_models:odd?how={how}").eval()
    assert model.early is early
    inputs, keep = inputs_of(SHAPE), torch.tensor([3, 0, 17])
    full = model.body(**inputs).view(-1, SHAPE.classes)
    torch.testing.assert_close(model(keep, **inputs), full[keep])


def test_a_model_that_looks_ahead_is_refused() -> None:
    words = "model 'small' looks ahead: what it predicts depends on the tokens that follow"
    assert refusal("python:test_language_models:odd?how=ahead") == words
    bert = "hidden_size=16&intermediate_size=32&num_attention_heads=2&num_hidden_layers=1"
    assert refusal(f"hf-config:bert?{bert}") == words


def test_too_few_classes_are_refused() -> None:
    message = refusal("python:test_language_models:odd?how=small")
    assert message == "model 'small' gave logits of shape (42, 5) for texts of 21 tokens, not (42, 266)"


# LoRA


def test_lora_trains_its_adapters_only(saved: Save) -> None:
    model = load(f"hf:{saved('gpt_neox')}?lora=4")
    assert model.early
    assert moved(model, SHAPE) == adapters(model)
    # Rank 4: of each linear layer, rank times its inputs and outputs; query, key and value are one layer.
    per_layer = 4 * ((16 + 48) + (16 + 16) + (16 + 32) + (32 + 16))
    assert count_parameters(model) == 2 * per_layer


def test_a_fresh_adapter_changes_nothing_and_is_drawn_by_the_seed(saved: Save) -> None:
    folder = saved("llama")
    plain, one, again, other = (
        load(f"hf:{folder}{lora}", seed=seed).eval()
        for lora, seed in (("", 0), ("?lora=2", 0), ("?lora=2", 0), ("?lora=2", 1))
    )
    inputs, keep = inputs_of(SHAPE), torch.arange(5)
    torch.testing.assert_close(one(keep, **inputs), plain(keep, **inputs))
    drawn = [key for key in one.state_dict() if "lora_A" in key]
    assert drawn
    assert all(torch.equal(one.state_dict()[key], again.state_dict()[key]) for key in drawn)
    assert not any(torch.equal(one.state_dict()[key], other.state_dict()[key]) for key in drawn)


@pytest.mark.parametrize(
    ("kind", "targets", "layers"),
    [
        ("llama", "[q_proj,v_proj]", 4),
        ("llama", "lm_head", 1),
        ("gpt2", "all-linear", 8),
        ("t5", "[q,v]", 12),
        ("bart", "all-linear", 32),
    ],
)
def test_the_layers_that_get_an_adapter_can_be_chosen(kind: str, targets: str, layers: int) -> None:
    shape = SEQ2SEQ if kind in ("t5", "bart") else SHAPE
    model = load(f"hf-config:{kind}?{SIZES[kind]}&lora=2&lora_targets={targets}", shape)
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == layers
    assert model.early
    assert moved(model, shape) == adapters(model)


def test_the_output_layer_is_found_in_a_model_that_peft_has_wrapped() -> None:
    from peft import LoraConfig, get_peft_model

    body = build("llama").eval()
    inputs, keep = inputs_of(SHAPE), torch.tensor([3, 0, 17])
    full = body(**inputs).logits.flatten(0, 1)
    model = TextModel(get_peft_model(body, LoraConfig(r=2, target_modules=["q_proj"]))).eval()
    torch.testing.assert_close(model(keep, **inputs), full[keep], rtol=1e-4, atol=1e-5)
    assert model._chosen


LORA_REFUSALS = {
    "lora=0": "model 'small': lora=0 is not a rank; give a whole number such as lora=8",
    "lora=2.5": "model 'small': lora=2.5 is not a rank; give a whole number such as lora=8",
    "lora=true": "model 'small': lora=True is not a rank; give a whole number such as lora=8",
    "lora_targets=[query_key_value]": "model 'small': lora_targets needs a rank, such as lora=8",
}


@pytest.mark.parametrize("options", sorted(LORA_REFUSALS))
def test_a_wrong_adapter_is_one_sentence(options: str, saved: Save) -> None:
    assert refusal(f"hf:{saved('gpt_neox')}?{options}") == LORA_REFUSALS[options]


def test_adapters_on_layers_that_are_not_there_are_refused(saved: Save) -> None:
    message = refusal(f"hf:{saved('gpt_neox')}?lora=2&lora_targets=[q_proj]")
    assert "cannot have LoRA on ['q_proj']: Target modules {'q_proj'} not found" in message


@pytest.mark.parametrize(
    ("package", "source", "message"),
    [
        (
            "peft",
            f"hf-config:llama?{SIZES['llama']}&lora=2",
            "LoRA needs the package peft: pip install 'iml-bench[lora]'",
        ),
        ("gguf", "gguf:small.gguf", "reading GGUF files needs the package gguf: pip install 'iml-bench[gguf]'"),
    ],
)
def test_a_missing_package_is_one_sentence(
    package: str, source: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else there(name))
    assert refusal(source) == message


# What is refused


def test_a_text_longer_than_the_context_is_refused(saved: Save) -> None:
    folder = saved("gpt_neox", max_position_embeddings=20)
    words = "model 'small' reads at most 20 tokens and the longest text of this task has 21"
    assert refusal(folder) == words
    assert refusal(saved("gpt2", n_positions=20)) == words
    assert load(folder, SHAPE._replace(max_length=20)).early
    bart = saved("bart", max_position_embeddings=37)
    assert refusal(bart, SEQ2SEQ._replace(max_length=38)).endswith(
        "reads at most 37 tokens and the longest text of this task has 38"
    )
    assert refusal(bart, SEQ2SEQ._replace(max_target=38)).endswith(
        "writes at most 37 tokens and the longest answer of this task has 38"
    )
    assert load(bart, SEQ2SEQ._replace(max_target=37)).early


def test_answers_longer_than_texts_fit_into_an_untrained_model() -> None:
    shape = SEQ2SEQ._replace(max_length=5, max_target=61)
    for kind in ("t5", "bart"):
        assert load(f"hf-config:{kind}?{SIZES[kind]}", shape).early
