"""How much of a GPU a training step uses: shapes of models, operations of a step, peaks of devices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from iml_bench.protocols.base import Ints

VOCABULARY = 50304


class Shape(NamedTuple):
    """A GPT-NeoX model."""

    layers: int
    width: int
    heads: int
    vocabulary: int | None = VOCABULARY
    """None: as large as the task's own."""

    @property
    def source(self) -> str:
        """The model entry's source, with random weights."""
        options = {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "rotary_pct": 0.25,
            "use_parallel_residual": "true",
            **({"vocab_size": self.vocabulary} if self.vocabulary else {}),
        }
        return "hf-config:gpt_neox?" + "&".join(f"{key}={value}" for key, value in options.items())


SHAPES = {
    "160m": Shape(12, 768, 12),
    "410m": Shape(24, 1024, 16),
    "1b": Shape(16, 2048, 8),
    "2.8b": Shape(32, 2560, 32),
}
"""Layers, widths and heads of Pythia."""
TINY = Shape(2, 32, 2, vocabulary=None)
PEAKS = {"H100 80GB HBM3": 989e12, "H200": 989e12, "A100": 312e12}
"""Floating-point operations per second in dense bf16, by what a device's name holds; NVIDIA's data sheets."""
OTHERS = ("NVL", "MIG")
"""What the names of slower variants hold besides, whose peaks are not in the table."""


def peak_of(device_name: str) -> float | None:
    """The peak of a device; None where it is not known."""
    if any(part in device_name for part in OTHERS):
        return None
    return next((peak for part, peak in PEAKS.items() if part in device_name), None)


def model_operations(shape: Shape, multiplied: int, lengths: Ints) -> float:
    """Floating-point operations that training on some texts needs, forward and backward.

    ``6 N t + 12 L h t^2`` summed over the texts of ``t`` tokens, ``N`` being the parameters that tokens
    are multiplied with (all but the input embedding, which is looked up), ``L`` layers of width ``h``.
    The first term counts a multiplication and an addition per parameter in the forward pass and twice
    as many in the backward pass; the second is the same for the scores of the attention and for its
    weighted sums, as if nothing were masked. Padding, and what gradient checkpointing computes a second
    time, is no use to anybody and does not count. Every token is scored (``loss_on: text``), so that
    the output layer is applied to all of them.

    Args:
        shape: ``L`` and ``h``.
        multiplied: ``N``.
        lengths: ``t`` of each text.
    """
    tokens, squares = float(lengths.sum()), float(np.square(lengths).sum())
    return 6.0 * multiplied * tokens + 12.0 * shape.layers * shape.width * squares
