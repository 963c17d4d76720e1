"""How a model reads and writes, without its weights: its tokenizer, and where its decoder starts."""

from __future__ import annotations

from typing import Any, Final

from iml_bench.modalities.text.tokens import Form, isolate_random_strings
from iml_bench.models.language import (
    LANGUAGE_SCHEMES,
    is_encoder_decoder,
    one_sentence,
    place_in,
    published_config,
    refused,
)
from iml_bench.spec import ModelEntry

ANY_LENGTH: Final = 10**30
"""Tokens that a tokenizer reads without a word; how many a model reads is asked of its configuration."""


def load_form(entry: ModelEntry) -> Form:
    """How a model reads and writes, without its weights.

    Args:
        entry: any model; those that are no language model of ``transformers`` read token by token of the task.

    Raises:
        UsageError: when the model is not there, or its configuration or tokenizer cannot be read.
    """
    source = entry.parsed
    if source.scheme not in LANGUAGE_SCHEMES:
        return Form()
    if source.scheme == "hf-config":
        return Form(encoder_decoder=is_encoder_decoder(entry))
    config, _ = published_config(entry)
    encoder_decoder = bool(config.is_encoder_decoder)
    if entry.tokenizer == "task":
        return Form(encoder_decoder=encoder_decoder)
    start = getattr(config, "decoder_start_token_id", None) if encoder_decoder else None
    return Form(_tokenizer(entry), encoder_decoder, start)


def _tokenizer(entry: ModelEntry) -> Any:
    from transformers import AutoTokenizer

    where, place = place_in(entry)
    with one_sentence(entry, "has no tokenizer that can be read"):
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=entry.trust_remote_code, **place)
    # Where there are no tokenizer files, an empty tokenizer of the configured class comes back.
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    if not any(sign.isalnum() for token in tokenizer.get_vocab() if token not in special for sign in token):
        raise refused(entry, "has no tokenizer files")
    isolate_random_strings(tokenizer)
    # What the file says about lengths was meant for another use.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    if getattr(tokenizer.backend_tokenizer.model, "dropout", None):
        tokenizer.backend_tokenizer.model.dropout = None  # the same text would be other tokens each time
    tokenizer.model_max_length = ANY_LENGTH
    return tokenizer
