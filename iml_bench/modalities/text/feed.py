"""Texts as batches of token ids, each only as long as its own longest text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iml_bench.modalities.base import Batch, Indices, to_device
from iml_bench.modalities.text.tokens import Codec
from iml_bench.protocols.base import Examples, Ints

Spans = list[tuple[int, int]]
"""Parts of a text: the first sign of each, and the one after its last."""


class _Tokens(NamedTuple):
    """All texts of a feed as token ids, padded on the right to the longest."""

    ids: Tensor
    """``[n, T]``: of causal models the whole text, of encoder-decoder ones what is given."""
    targets: Tensor
    """``[n, T]`` or ``[n, D]``: the token to predict at each position."""
    length: Ints
    """``[n]``: positions of each text; of encoder-decoder models those of the encoder."""
    decoded: Ints
    """``[n]``: positions of each text at which a token is predicted."""
    first: Ints
    """``[n]``: the first position that may be scored."""
    scored: NDArray[np.bool_]
    """``[n, T]`` or ``[n, D]``: the positions that are."""


class TextFeed:
    """Examples of one stage as token ids, tokenised once; see ``Feed``."""

    noise = 0

    def __init__(
        self,
        codec: Codec,
        examples: Examples,
        texts: list[tuple[str, str]],
        counted: str,
        device: torch.device,
        told: Callable[[int], Spans],
        as_drawn: Callable[[str], str],
    ) -> None:
        """Args:
        codec: turns texts into token ids.
        examples: what the texts show.
        texts: what is given and what follows, for each example.
        counted: ``text``: every token is scored; ``answer``: only what follows, without what is told in it.
        device: where token ids are kept.
        told: of an example, the parts of what follows that are given all the same.
        as_drawn: makes a text what it is for a model whose tokenizer is the task's own.
        """
        self.told, self.as_drawn = told, as_drawn
        self.codec, self.examples, self.texts = codec, examples, texts
        self.counted, self.device = counted, device

    @cached_property
    def tokens(self) -> _Tokens:
        """Tokenised when it is first needed: a digest needs the texts alone."""
        encoded = self.codec.encode(self.texts)
        if self.codec.encoder_decoder:
            ids = _padded([one.given for one in encoded], self.codec.pad)
            targets = _padded([one.rest for one in encoded], self.codec.pad)
            length = np.array([len(one.given) for one in encoded], dtype=np.int64)
            decoded = np.array([len(one.rest) for one in encoded], dtype=np.int64)
            rest = np.zeros_like(decoded)
        else:
            # Position p predicts token p + 1; the last token predicts nothing and is never shown.
            whole = _padded([one.given + one.rest for one in encoded], self.codec.pad)
            ids, targets = whole[:, :-1], whole[:, 1:]
            length = np.array([len(one.given) + len(one.rest) - 1 for one in encoded], dtype=np.int64)
            decoded = length
            given = np.array([len(one.given) for one in encoded], dtype=np.int64)
            rest = np.maximum(given - 1, 0)
        causal_text = self.counted == "text" and not self.codec.encoder_decoder
        first = np.zeros_like(rest) if causal_text else rest
        at = np.arange(targets.shape[1])
        scored = (at >= first[:, None]) & (at < decoded[:, None])
        if self.counted == "answer":
            for row, one in enumerate(encoded):
                if told := self.told(row):
                    for position, span in enumerate(one.spans, int(rest[row])):
                        scored[row, position] &= not _within(span, told)
        on_device = [torch.from_numpy(np.ascontiguousarray(part)).to(self.device) for part in (ids, targets)]
        return _Tokens(on_device[0], on_device[1], length, decoded, first, scored)

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest text, and of the longest answer of an encoder-decoder model (else 0)."""
        tokens = self.tokens
        length = int(tokens.length.max(initial=2))
        return length, int(tokens.decoded.max(initial=2)) if self.codec.encoder_decoder else 0

    @cached_property
    def lengths(self) -> Ints:
        """``[n]``: what each text costs, in tokens."""
        tokens = self.tokens
        return tokens.length + tokens.decoded if self.codec.encoder_decoder else tokens.length

    @cached_property
    def mass(self) -> Tensor:
        """``[n]``, see ``Feed.mass``: every scored token weighs one."""
        tokens = self.tokens
        return torch.from_numpy(tokens.scored.sum(axis=1).astype(np.float32)).to(self.device)

    def batch(self, rows: Indices, noise: Tensor) -> Batch:
        """See ``Feed.batch``."""
        tokens, device = self.tokens, self.device
        width = int(tokens.length[rows.host].max())
        decoded = int(tokens.decoded[rows.host].max())
        scored, _ = _scored(tokens, rows.host, decoded)
        keep = to_device(scored, device)
        ids = tokens.ids.index_select(0, rows.device)[:, :width]
        targets = tokens.targets.index_select(0, rows.device)[:, :decoded]
        inputs = {"keep": keep, "input_ids": ids}
        if self.codec.encoder_decoder:
            # A decoder sees its own earlier tokens: the start, then all targets but the last.
            start = torch.full_like(targets[:, :1], self.codec.start)
            inputs["decoder_input_ids"] = torch.cat([start, targets[:, :-1]], dim=1)
            inputs["attention_mask"] = self._mask(rows, width)
        # Causal models need no attention mask: padding is on the right, where they cannot see it.
        return Batch(inputs, targets.flatten().index_select(0, keep), torch.ones(len(keep), device=device))

    def answered(self, rows: Indices) -> tuple[Tensor, Tensor]:
        """See ``Feed.answered``; a feed made for evaluation scores answers only."""
        owner = self.owners(rows)
        return torch.arange(len(owner), device=self.device), owner

    def owners(self, rows: Indices) -> Tensor:
        """See ``Feed.owners``."""
        _, owner = _scored(self.tokens, rows.host, int(self.tokens.decoded[rows.host].max()))
        return to_device(owner, self.device)

    def prompts(self) -> list[list[int]]:
        """Token ids of what is given, for generation; of a feed that scores answers only."""
        tokens = self.tokens
        # Of a causal model the first scored position is that of the last token that is given.
        given = tokens.length if self.codec.encoder_decoder else tokens.first + 1
        return [ids[:n] for ids, n in zip(tokens.ids.tolist(), given.tolist(), strict=True)]

    def fingerprint(self, rows: Tensor, noise: Tensor) -> bytes:
        """See ``Feed.fingerprint``: the texts, whatever the tokenizer."""
        return self.as_drawn("\0".join("|".join(self.texts[row]) for row in rows.tolist())).encode()

    def _mask(self, rows: Indices, width: int) -> Tensor:
        length = to_device(self.tokens.length[rows.host], self.device)
        return (torch.arange(width, device=self.device) < length[:, None]).long()


def _padded(sequences: list[list[int]], pad: int) -> NDArray[np.int64]:
    """``[n, longest]``, filled up on the right."""
    width = max((len(sequence) for sequence in sequences), default=2)
    out = np.full((len(sequences), width), pad, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        out[row, : len(sequence)] = sequence
    return out


def _scored(tokens: _Tokens, rows: Ints, width: int) -> tuple[Ints, Ints]:
    """Scored positions of some texts, ``[k]``, in a batch of ``width`` positions each; and whose they are."""
    owner, position = np.nonzero(tokens.scored[rows, :width])
    return owner * width + position, owner


def _within(span: tuple[int, int], parts: Spans) -> bool:
    """Whether a token stands for signs of one of some parts of a text only."""
    start, end = span
    return start < end and any(low <= start and end <= high for low, high in parts)
