"""Where and how fast a cell runs: everything that must not change its answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


class StageProgress(NamedTuple):
    """How far a stage is."""

    stage: str
    step: int
    total: int
    loss: float
    cell_step: int = 0
    """Steps of the whole cell so far, which never go back."""
    cell_total: int = 0
    """Steps of the cell's whole schedule; 0 where they are not told."""


def is_launched() -> bool:
    """Whether this is one of several processes that share every batch, as Accelerate starts them."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this is the process that speaks and writes, of several that share every batch."""
    return int(os.environ.get("RANK", "0")) == 0


def _silent(progress: StageProgress) -> None:
    pass


@dataclass(frozen=True)
class Runtime:
    """Hardware and folders of a run; none of it is part of a cell's identity."""

    device: DeviceName = "auto"
    micro_batch: int | None = None
    """Examples per forward pass; None starts with the whole batch and halves when memory runs out."""
    data_dir: Path | None = None
    """Folder of data sets that are not embedded (MNIST)."""
    data: Path | None = None
    """The file of a world that is read from one; its digest is part of the identity, its path is not."""
    curve: int = 0
    """Points of the learning curve in each phase of training; 0: none."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: slower, in less memory."""
    probes: tuple[tuple[str, str], ...] = ()
    """Names of probes, each with the moment at which it looks; they change no outcome."""
    keep: bool = False
    """Write the weights after every training step beside the record."""
    track: str | None = None
    """An Accelerate tracker (``tensorboard``, ``wandb``, ...); None: no tracking."""
    track_dir: Path | None = None
    report: Callable[[StageProgress], None] = _silent
    """Called some forty times a stage."""
