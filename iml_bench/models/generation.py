"""Greedy generation, for answers that are judged as a person would read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from iml_bench.modalities.text.tokens import Codec


def generate(body: Any, prompts: list[list[int]], codec: Codec, longest: int, device: torch.device) -> list[list[int]]:
    """Greedy continuations, each up to the token with which its text holds a line end, or the end of the text.

    Args:
        body: a model of ``transformers``.
        prompts: token ids, all of one length: no padding is needed then, which some models cannot mask.
        codec: says when an answer is over.
        longest: tokens to generate at most.
        device: where the model is.
    """
    from transformers import GenerationConfig

    over = _remembered(codec.ended)
    ends = sorted({end for end in (codec.line_end, codec.tokenizer.eos_token_id) if end is not None and over([end])})
    # A configuration of our own: the model's may sample, or penalise repetition.
    config = GenerationConfig(
        max_new_tokens=longest,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=ends or None,
        pad_token_id=codec.pad,
        decoder_start_token_id=codec.start,
    )
    ids = torch.tensor(prompts, device=device)
    skipped = 1 if codec.encoder_decoder else ids.shape[1]

    def rows_over(shown: Tensor, scores: Any, **more: Any) -> Tensor:
        """``[b]``: which rows need no further token; a line end may be part of any token."""
        return torch.tensor([over(row) for row in shown[:, skipped:].tolist()], device=shown.device)

    with torch.no_grad(), _configured(body, config):
        found = body.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            stopping_criteria=[rows_over],
        )
    return [_up_to_end(row, over) for row in found[:, skipped:].tolist()]


def _up_to_end(ids: list[int], over: Callable[[list[int]], bool]) -> list[int]:
    return next((ids[:n] for n in range(1, len(ids) + 1) if over(ids[:n])), ids)


def _remembered(ended: Callable[[list[int]], bool]) -> Callable[[list[int]], bool]:
    """The same answer without decoding twice: few answers differ, and each begins like many others."""
    known: dict[tuple[int, ...], bool] = {}

    def over(ids: list[int]) -> bool:
        key = tuple(ids)
        if key not in known:
            known[key] = ended(ids)
        return known[key]

    return over


@contextmanager
def _configured(body: Any, config: Any) -> Iterator[None]:
    """Put a model's own settings aside: what ours leave open, ``generate`` takes from them."""
    before = getattr(body, "generation_config", None)
    body.generation_config = config
    try:
        yield
    finally:
        body.generation_config = before
