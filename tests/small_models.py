"""Small language models, saved as published ones are, and what tests do with any of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from iml_bench.errors import UsageError
from iml_bench.modalities.text.model import TextModel, TextShape
from iml_bench.models import check_model, count_parameters, language, load_form, load_model
from iml_bench.spec import ModelEntry, entry_from_source

SHAPE = TextShape(classes=266, max_length=21, pad=0, line_end=199)
SEQ2SEQ = SHAPE._replace(max_length=37, max_target=9)
SIZES = {
    "gpt_neox": "hidden_size=16&intermediate_size=32&num_attention_heads=2&num_hidden_layers=2",
    "gpt2": "n_embd=16&n_head=2&n_layer=2",
    "llama": "hidden_size=16&intermediate_size=32&num_attention_heads=2&num_hidden_layers=2",
    "mamba": "hidden_size=16&num_hidden_layers=2&state_size=4",
    "rwkv": "attention_hidden_size=16&hidden_size=16&num_hidden_layers=2",
    "t5": "d_ff=32&d_kv=8&d_model=16&num_heads=2&num_layers=2",
    "bart": "d_model=16&decoder_attention_heads=2&decoder_ffn_dim=32&decoder_layers=2"
    "&encoder_attention_heads=2&encoder_ffn_dim=32&encoder_layers=2",
}
Save = Callable[..., Path]


def bpe_tokenizer(**special: str) -> Any:
    """A small byte-level BPE without a padding token, as GPT-2 has none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=266, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["Q: What is the job of the cat in Athens? A: baker"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", **special)


def build(kind: str, **options: Any) -> Any:
    """A small model of ``transformers`` with random weights."""
    from transformers import AutoConfig

    sizes = {key: int(value) for key, value in (part.split("=") for part in SIZES[kind].split("&"))}
    config = AutoConfig.for_model(kind, **{"vocab_size": 266, "pad_token_id": 0, "eos_token_id": 0, **sizes, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return language._auto_class(config).from_config(config)


def saver(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Makes folders with a small published model, each once; keyword arguments are of its configuration."""
    made: dict[str, Path] = {}

    def save(kind: str, **options: Any) -> Path:
        name = f"{kind}-{options}"
        if name not in made:
            made[name] = tmp_path_factory.mktemp(kind)
            build(kind, **options).save_pretrained(made[name])
            bpe_tokenizer().save_pretrained(made[name])
        return made[name]

    return save


def entry(source: str | Path, **fields: Any) -> ModelEntry:
    text = f"hf:{source}" if isinstance(source, Path) else source
    return entry_from_source(text).model_copy(update={"name": "small", **fields})


def load(source: str | Path, shape: TextShape = SHAPE, seed: int = 0, **more: Any) -> TextModel:
    """A loaded model, which its check passes too."""
    n_trainable = check_model(entry(source), shape, **more)
    model = load_model(entry(source), shape, seed, **more)
    assert isinstance(model, TextModel)
    assert n_trainable == count_parameters(model)
    return model


def refusal(source: str | Path, shape: TextShape = SHAPE, **fields: Any) -> str:
    """The one sentence that reading and loading a model ends with, and reading and checking it."""
    sentences = set()
    for step in (lambda entry: load_model(entry, shape, 0), lambda entry: check_model(entry, shape)):
        with pytest.raises(UsageError) as caught:
            load_form(entry(source, **fields))
            step(entry(source, **fields))
        sentences.add(str(caught.value))
    (sentence,) = sentences
    assert "\n" not in sentence
    return sentence


def inputs_of(shape: TextShape, b: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.classes, (b, shape.max_length), generator=generator)
    if not shape.max_target:
        return {"input_ids": ids}
    target = torch.randint(shape.classes, (b, shape.max_target), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": target}


def moved(model: nn.Module, shape: TextShape) -> set[str]:
    """The parameters that training changes."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(chosen, lr=0.1, weight_decay=0)
    for _ in range(2):  # the first step of LoRA moves only one of its two matrices
        model(torch.tensor([0, 5, 9]), **inputs_of(shape)).logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}


def adapters(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters() if "lora_" in name}
