"""Tokenizers of many kinds, small and made in memory, as they come with models; and models to go with them."""

from __future__ import annotations

import functools
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as kinds
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

END = "<|endoftext|>"
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SENTENCES = [
    *(["Q: What is the job of <|qwert|>?\nA: baker\n", "Acme Inc.\n", "Warner Bros.\n", "Washington, D.C.\n"] * 40),
    *(["<|dkwoqn|> <|qwert|> job nurse city Oslo pet cat food bread\n", "Q: Who is <|asdfg|>?\nA: Ann\n"] * 40),
    *(["of him? Oslo\n", "of her? cat\n"] * 40),
    *string.printable,
    "é á ü ß ł",
]
"""Letters with accents are rare, and still known where a kind knows letters at all."""


def byte_level(
    *,
    split: str | None = "",
    prefix: bool = False,
    size: int = 330,
    special: tuple[str, ...] = (END,),
    all_bytes: bool = True,
) -> Tokenizer:
    """A byte-level BPE: ``split`` is None for none, empty for GPT-2's."""
    tokenizer = Tokenizer(kinds.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=split == "")
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), level]) if split else level
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if all_bytes else []
    texts = SENTENCES if all_bytes else [text.replace("w", "") for text in SENTENCES]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def surrounded(tokenizer: Tokenizer, form: str) -> Tokenizer:
    """With special tokens that the post-processor adds, such as ``<s> $A </s>``."""
    special = [(word, tokenizer.token_to_id(word)) for word in form.split() if word != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(single=form, special_tokens=special)
    return tokenizer


def fast(tokenizer: Tokenizer, **special: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def sentencepiece_bpe() -> Any:
    """As Llama 2's: a mark for each space, letters that are not known as bytes."""
    tokenizer = Tokenizer(kinds.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{number:02X}>" for number in range(256))]
    # It learns of no sign with a space behind it, as those do not that split at spaces.
    texts = [text.replace("\n", "") for text in SENTENCES[:-1] if "? " not in text]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=450, special_tokens=special, show_progress=False)
    )
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return fast(surrounded(tokenizer, "<s> $A"), bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram(without: str = "") -> Any:
    """As T5's: white space is one space, and there is one before every word."""
    tokenizer = Tokenizer(kinds.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    texts = ["".join(sign for sign in text if sign not in without) for text in SENTENCES]
    trainer = trainers.UnigramTrainer(
        vocab_size=250, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return fast(surrounded(tokenizer, "$A </s>"), eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def wordpiece(*, lowercase: bool, eos: bool = True) -> Any:
    """As BERT's."""
    tokenizer = Tokenizer(kinds.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=450, special_tokens=special, show_progress=False)
    signs = string.ascii_letters + string.digits + "é"
    tokenizer.train_from_iterator([*SENTENCES, *(f"{sign} a{sign}" for sign in signs)], trainer)
    ends = {"eos_token": "[SEP]"} if eos else {}
    return fast(surrounded(tokenizer, "[CLS] $A [SEP]"), pad_token="[PAD]", unk_token="[UNK]", **ends)


def word_level(words: str, *, unknown: bool = True) -> Any:
    """Whole words."""
    tokenizer = Tokenizer(kinds.WordLevel(unk_token="<unk>" if unknown else None))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|<\|[a-z]+\|>|\w+|[^\s\w]"), "removed", invert=True)
    special = ["<unk>", "<eos>"] if unknown else ["<eos>"]
    tokenizer.train_from_iterator([words], trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    return fast(tokenizer, eos_token="<eos>", **({"unk_token": "<unk>"} if unknown else {}))


def with_holes() -> Any:
    """Ids go to 39 more than there are tokens."""
    plain = json.loads(byte_level().to_str())
    vocabulary = {token: number + 40 * (number > 150) for token, number in plain["model"]["vocab"].items()}
    plain["model"]["vocab"] = vocabulary
    for token in plain["added_tokens"]:
        token["id"] = vocabulary[token["content"]]
    return fast(Tokenizer.from_str(json.dumps(plain)), eos_token=END)


def with_added_tokens() -> Any:
    tokenizer = fast(byte_level(), eos_token=END)
    tokenizer.add_tokens(["baker", "Oslo", "<extra>"])
    return tokenizer


def cut_and_padded() -> Any:
    """With truncation and padding switched on in its file."""
    tokenizer = byte_level()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=40, pad_id=0, pad_token=END)
    return fast(tokenizer, eos_token=END, pad_token=END)


def without_decoder() -> Any:
    tokenizer = byte_level()
    tokenizer.decoder = None
    return fast(tokenizer, eos_token=END)


FEW = "job city pet food ? baker Oslo cat < | > : Q A What is the of \n"
KINDS: dict[str, Callable[[], Any]] = {
    "byte-level": lambda: fast(byte_level(), eos_token=END, pad_token=END),
    "prefix space": lambda: fast(byte_level(prefix=True), eos_token=END),
    "line end in a token": lambda: fast(byte_level(split=GPT4, size=400), eos_token=END),
    "tokens over everything": lambda: fast(byte_level(split=None, size=600), eos_token=END),
    "sentencepiece BPE": sentencepiece_bpe,
    "unigram": unigram,
    "unigram without <": lambda: unigram("<"),
    "cased WordPiece": lambda: wordpiece(lowercase=False),
    "uncased WordPiece": lambda: wordpiece(lowercase=True),
    "WordPiece without an end": lambda: wordpiece(lowercase=True, eos=False),
    "few words": lambda: word_level(f"a {FEW}"),
    "few words without a": lambda: word_level(FEW),
    "few words and none for others": lambda: word_level(FEW, unknown=False),
    "added tokens": with_added_tokens,
    "holes": with_holes,
    "neither pad nor end": lambda: fast(byte_level(special=())),
    "begin and end added": lambda: fast(
        surrounded(byte_level(special=("<s>", "</s>")), "<s> $A </s>"), bos_token="<s>", eos_token="</s>"
    ),
    "cut and padded": cut_and_padded,
    "without a letter": lambda: fast(byte_level(all_bytes=False), eos_token=END),
    "without a decoder": without_decoder,
}


@functools.cache
def made(kind: str) -> Tokenizer:
    """Its file, as it would lie beside a model."""
    return KINDS[kind]()


def save_model(folder: Path, tokenizer: Any, rows: int | None = None, *, t5: bool = False) -> str:
    """A tiny model with a tokenizer; returns its source. ``rows``: of the embedding, as many as there are tokens."""
    rows = rows or len(tokenizer)
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 16}
    if t5:
        small = {"num_layers": 1, "num_heads": 2, "d_model": 16, "d_kv": 8, "d_ff": 32, "decoder_start_token_id": 0}
    else:
        small |= {"intermediate_size": 32, "max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": None}
    config = AutoConfig.for_model("t5" if t5 else "llama", vocab_size=rows, **small)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (AutoModelForSeq2SeqLM if t5 else AutoModelForCausalLM).from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"hf:{folder}"


READ = {
    "byte-level": (),
    "prefix space": (
        "puts a space after an alias or a tag where the text has none",
        "puts a space before every text where the text has none",
    ),
    "line end in a token": (),
    "tokens over everything": ("would join a question with its answer in one token: the two are read apart",),
    "sentencepiece BPE": (),
    "unigram": (
        "has no line end: answers close with the end of the text",
        "puts a space after an alias or a tag where the text has none",
        "reads a line end as a space, or not at all",
    ),
    "unigram without <": (
        "has no line end: answers close with the end of the text",
        "has no token for less-than sign",
        "puts a space after an alias or a tag where the text has none",
        "reads a line end as a space, or not at all",
    ),
    "cased WordPiece": (
        "has no line end: answers close with the end of the text",
        "puts a space between signs where the text has none",
        "reads a line end as a space, or not at all",
    ),
    "uncased WordPiece": (
        "has no line end: answers close with the end of the text",
        "puts a space between signs where the text has none",
        "reads a line end as a space, or not at all",
        "reads capitals as small letters",
    ),
    "added tokens": (),
    "holes": ("has 330 tokens with ids up to 369: some ids stand for nothing",),
    "neither pad nor end": (),
    "begin and end added": (),
    "cut and padded": (),
}
"""Of those that keep the texts apart, what the audit says beside that."""
REFUSED = {
    "WordPiece without an end": "has neither a line end nor an end-of-text token to close answers with",
    "few words": "as the same tokens, and 34 more of 36 (it does not know '<|",
    "few words without a": "as the same tokens, and 34 more of 36 (it does not know '<|",
    "few words and none for others": "cannot read the task's texts: WordLevel error: Missing [UNK] token",
    "without a letter": "does not know '<|",
    "without a decoder": "does not give back what it reads: '<|",
}
