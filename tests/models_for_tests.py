"""Models of a user's own, as ``python:`` sources name them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iml_bench.modalities.vision.model import VisionShape


def linear(shape: VisionShape, scale: float = 1.0) -> nn.Module:
    """A linear classifier."""
    layer = nn.Linear(shape.height * shape.width, shape.positions * shape.classes)
    layer.weight.data.mul_(scale)
    return nn.Sequential(nn.Flatten(), layer)


class _Picky(nn.Module):
    """Runs out of memory on more than ``limit`` examples while training."""

    def __init__(self, shape: VisionShape, limit: int) -> None:
        super().__init__()
        self.body, self.limit = linear(shape), limit

    def forward(self, pixels: Tensor) -> Tensor:
        if self.training and len(pixels) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. (as it would say)")
        return self.body(pixels)


def picky(shape: VisionShape, limit: int = 4) -> nn.Module:
    """See ``_Picky``."""
    return _Picky(shape, limit)


class _Diverging(nn.Module):
    """Gives NaN from the ``after``-th training step on."""

    def __init__(self, shape: VisionShape, after: int) -> None:
        super().__init__()
        self.body, self.left = linear(shape), after

    def forward(self, pixels: Tensor) -> Tensor:
        self.left -= int(self.training)
        logits: Tensor = self.body(pixels)
        return logits * float("nan") if self.training and self.left < 0 else logits


def diverging(shape: VisionShape, after: int = 7) -> nn.Module:
    """See ``_Diverging``."""
    return _Diverging(shape, after)


class _Dying(_Diverging):
    """Kills its process at the ``after``-th training step, as the system does when memory is out."""

    def forward(self, pixels: Tensor) -> Tensor:
        logits = super().forward(pixels)
        if self.training and self.left < 0:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
        return logits


def dying(shape: VisionShape, after: int = 3) -> nn.Module:
    """See ``_Dying``."""
    return _Dying(shape, after)


class _Noting(nn.Module):
    """Notes which GPUs its process sees, and from when to when it is asked anything."""

    def __init__(self, shape: VisionShape, folder: str) -> None:
        super().__init__()
        self.body, self.folder, self.began = linear(shape), Path(folder), time.monotonic()

    def forward(self, pixels: Tensor) -> Tensor:
        sees = os.environ.get("CUDA_VISIBLE_DEVICES")
        note = json.dumps([sees, self.began, time.monotonic(), os.getpid()])
        (self.folder / f"{os.getpid()}-{self.began}.json").write_text(note)
        return self.body(pixels)


def noting(shape: VisionShape, folder: str) -> nn.Module:
    """See ``_Noting``."""
    return _Noting(shape, folder)


def with_dropout(shape: VisionShape) -> nn.Module:
    """A linear classifier that draws from the global generator while it trains."""
    return nn.Sequential(nn.Dropout(0.5), linear(shape))


def with_batch_norm(shape: VisionShape) -> nn.Module:
    """A network with buffers that every training step moves and every evaluation reads."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(shape.height * shape.width, 16),
        nn.BatchNorm1d(16, momentum=0.5),
        nn.ReLU(),
        nn.Linear(16, shape.positions * shape.classes),
    )


def not_a_module(shape: VisionShape) -> Any:
    """What a confused user might write."""
    return 3
