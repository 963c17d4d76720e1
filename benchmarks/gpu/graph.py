"""The plain step of ``vision`` as one CUDA graph, against the same step launched operation by operation.

::

    python graph.py --device cuda [--tiny]

A measurement only: no cell is run so. ``mlp-m`` and ``convnet-m`` train for as many steps in three ways: by the runner
(``NetworkLearner.fit``), by a bare loop over the same batches in fixed tensors, and by replays of a captured step. The
weights of the last two are compared. On a CPU nothing can be captured, and the bare loop stands for the graph.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))
from measure import Bench, make_bench, make_cell, seconds_of, time_training
from training import own_model, summed_loss

from iml_bench.learners.order import global_batches
from iml_bench.modalities.base import Indices, draw_noise

WARM = 3
"""Steps before a capture, on a stream of their own, as torch asks for."""


class FixedStep:
    """A training step whose tensors are always the same ones, so that it can be captured."""

    def __init__(self, bench: Bench) -> None:
        """Args: bench: the model and its data."""
        recipe, streams, device = bench.recipe, bench.setting.streams, bench.device
        self.bench, self.feed, self.model = bench, bench.setting.train_feed("stage1"), own_model(bench)
        order = global_batches(self.feed.examples, bench.stage, recipe.batch_size, streams.generator("order/stage1"))
        host = np.stack(list(order))
        drawn = draw_noise(streams.generator("render/stage1"), *host.shape, self.feed.noise)
        self.rows, self.noises = torch.from_numpy(host).to(device), torch.from_numpy(drawn).to(device)
        self.row, self.noise = self.rows[0].clone(), self.noises[0].clone()
        self.host = host[0]  # pictures are rendered by the device's numbers alone
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )
        self.model.train()

    def step(self) -> None:
        """One step on what ``row`` and ``noise`` hold."""
        total = self.feed.mass.index_select(0, self.row).sum()
        batch = self.feed.batch(Indices(self.host, self.row), self.noise)
        (summed_loss(self.model, batch) / total).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)

    def captured(self) -> Callable[[], None]:
        """The step as a graph; the weights and the optimiser are afterwards as before."""
        before = [weight.detach().clone() for weight in self.model.parameters()]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                self.step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        with torch.no_grad():
            for weight, value in zip(self.model.parameters(), before, strict=True):
                weight.copy_(value)
            for state in self.optimizer.state.values():
                for value in state.values():
                    if isinstance(value, Tensor):
                        value.zero_()
        return graph.replay

    def train(self, act: Callable[[], None]) -> None:
        """All steps, each by ``act``."""
        for row, noise in zip(self.rows, self.noises, strict=True):
            self.row.copy_(row)
            self.noise.copy_(noise)
            act()


def measured(model: str, device: str, steps: int, *, tiny: bool) -> dict[str, Any]:
    """Steps per second in every way."""
    bench = make_bench(make_cell("vision", model, (steps, 1), "smoke" if tiny else "full"), device)  # type: ignore[arg-type]
    feed = bench.setting.train_feed("stage1")
    time_training(bench, feed)
    runner = time_training(bench, feed)
    eager, graph = FixedStep(bench), FixedStep(bench)
    eager_seconds = seconds_of(lambda: eager.train(eager.step), bench.device)
    replay = graph.captured() if device == "cuda" else graph.step
    graph_seconds = seconds_of(lambda: graph.train(replay), bench.device)
    pairs = zip(eager.model.parameters(), graph.model.parameters(), strict=True)
    return {
        "model": model,
        "steps": steps,
        "runner_steps_per_second": round(steps / runner, 1),
        "eager_steps_per_second": round(steps / eager_seconds, 1),
        "graph_steps_per_second": round(steps / graph_seconds, 1),
        "graph_over_eager": round(eager_seconds / graph_seconds, 2),
        "weights_apart": max(float((one - other).detach().abs().max()) for one, other in pairs),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    models, steps = (("mlp-xs",), 4) if given.tiny else (("mlp-m", "convnet-m"), 2000)
    rows = [measured(model, given.device, steps, tiny=given.tiny) for model in models]
    sys.stdout.write(json.dumps({"rows": rows, "captured": given.device == "cuda"}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
