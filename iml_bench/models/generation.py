"""Greedy generation, for answers that are judged as a person would read them."""

from __future__ import annotations

from typing import Any

import torch

from iml_bench.modalities.text.tokens import Codec


def generate(body: Any, prompts: list[list[int]], codec: Codec, longest: int, device: torch.device) -> list[list[int]]:
    """Greedy continuations, each up to the end of its line.

    Args:
        body: a model of ``transformers``.
        prompts: token ids, all of one length: no padding is needed then, which some models cannot mask.
        codec: says which tokens end an answer.
        longest: tokens to generate at most.
        device: where the model is.
    """
    from transformers import GenerationConfig

    ends = {codec.line_end, codec.tokenizer.eos_token_id} - {None}
    # A configuration of our own: the model's may sample, or penalise repetition.
    config = GenerationConfig(
        max_new_tokens=longest,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=sorted(ends),
        pad_token_id=codec.pad,
        decoder_start_token_id=codec.start,
    )
    ids = torch.tensor(prompts, device=device)
    with torch.no_grad():
        found = body.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    skipped = 1 if codec.encoder_decoder else ids.shape[1]
    return [_up_to_end(row, ends) for row in found[:, skipped:].tolist()]


def _up_to_end(ids: list[int], ends: set[int]) -> list[int]:
    for index, token in enumerate(ids):
        if token in ends:
            return ids[: index + 1]
    return ids
