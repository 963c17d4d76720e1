"""What a cell of a language model that was never run will cost on a GPU, from its parameters and tokens."""

from __future__ import annotations

import re
from typing import Final

from iml_bench.protocols import protocol_of
from iml_bench.spec import CellSpec

TOKENS: Final = 22
"""Of an example of the tasks for pretrained models: SmolLM2's tokenizer reads those of text-cvdb as 20 on average, of
text-cities as 22 and of text-trex as 24."""
TRAINED, ASKED = 6, 2
"""Floating-point operations for each parameter and token, forwards and backwards, and forwards (Kaplan et al. 2020)."""
TERAFLOPS: Final = 300.0
"""What a GPU does in effect, in 10^12 operations a second: about 30 % of the 989 of an H100 in bf16."""
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMB])", re.IGNORECASE)
_UNITS: Final = {"k": 1e3, "m": 1e6, "b": 1e9}


def parameters_of(size: str) -> float | None:
    """The number that an entry's size says: ``2.8B`` is 2.8e9; None where it says none."""
    found = _SIZE.fullmatch(size.strip())
    return float(found[1]) * _UNITS[found[2].lower()] if found else None


def gpu_hours(cell: CellSpec, teraflops: float = TERAFLOPS) -> float | None:
    """The estimate for one cell, without loading, padding, and what a generated answer costs beyond a forward pass.

    Args:
        cell: of a text task.
        teraflops: what the GPU does in effect.

    Returns:
        None for a model whose entry says no size, for other tasks, and where the protocol cannot count its examples.
    """
    parameters = parameters_of(cell.model.size)
    volume = protocol_of(cell.task).volume(cell.task)
    if cell.task.modality != "text" or parameters is None or volume is None:
        return None
    operations = parameters * TOKENS * (TRAINED * volume.trained + ASKED * volume.asked)
    return operations / (teraflops * 1e12) / 3600
