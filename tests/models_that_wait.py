"""A model of which tests learn where it is trained and how often, and which waits until it may go on."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from models_for_tests import linear
from torch import Tensor, nn

from iml_bench.modalities.vision.model import VisionShape

GATE = "IML_TEST_GATE"
"""Of the environment: a folder. ``ran`` there has a line for every training that came to its fifth step; the N-th of
them waits there for a file ``go`` or ``go-N``. Without it nothing is noted and nothing waits."""
STEP = 5


class _Gated(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.body, self.steps = linear(shape), 0
        self.drawn = sum(float(weights.detach().double().sum()) for weights in self.body.parameters())

    def forward(self, pixels: Tensor) -> Tensor:
        self.steps += int(self.training)
        if self.steps == STEP and self.training and GATE in os.environ:
            self._wait(Path(os.environ[GATE]))
        logits: Tensor = self.body(pixels)
        return logits

    def _wait(self, gate: Path) -> None:
        with (gate / "ran").open("a+") as ran:
            ran.write(f"{self.drawn} {platform.node()} {os.environ.get('SLURM_JOB_ID')}\n")
            ran.flush()
            ran.seek(0)
            own = gate / f"go-{len(ran.readlines())}"
        while not own.exists() and not (gate / "go").exists():
            time.sleep(0.05)


def gated(shape: VisionShape) -> nn.Module:
    """A linear classifier, see ``GATE``."""
    return _Gated(shape)
