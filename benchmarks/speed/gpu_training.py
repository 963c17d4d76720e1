"""Training of one model on one GPU, in every way that ``gpu.py`` compares."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from measure import Bench, seconds_of
from utilisation import Shape, model_operations
from waits import watched_steps

from iml_bench.learners.network import NetworkLearner
from iml_bench.learners.order import global_batches
from iml_bench.modalities.text.feed import TextFeed
from iml_bench.protocols.base import Ints
from iml_bench.run.cell import prepare
from iml_bench.runtime import DeviceName, Runtime
from iml_bench.spec import CellSpec

WATCHED = 3
"""Steps that are watched for waits; not those that are timed."""


@dataclass(frozen=True)
class Waits:
    """How often the host waited for the device within a step."""

    per_step: float
    where: list[str]
    """Each place once, ``file:line``."""


@dataclass(frozen=True)
class Measurement:
    """One timed training run; all is null where it could not be done, but for the reason."""

    seconds_per_step: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    peak_memory: int | None = None
    """Bytes."""
    micro_batch: int | None = None
    """Examples, at the end."""
    first_seconds: float | None = None
    """Of the same run the first time."""
    waits: Waits | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Row:
    """A model with or without gradient checkpointing."""

    size: str
    layers: int
    width: int
    heads: int
    parameters: int | None
    batch_size: int
    tokens_per_text: float | None
    checkpointing: bool
    eager: Measurement | None
    compiled: Measurement | None
    reason: str | None
    """Why there is neither."""


def measure_size(size: str, shape: Shape, cell: CellSpec, device: DeviceName, peak: float | None) -> list[Row]:
    """All rows of one model; whatever goes wrong with it is the reason of a row.

    Args:
        size: its name.
        shape: its shape.
        cell: the model on the task.
        device: ``cuda``, or ``cpu`` to try this out.
        peak: of the device, in operations per second.
    """
    batch = cell.task.recipe.batch_size
    try:
        setting, learner, accelerator = prepare(cell, Runtime(device=device))
        assert isinstance(learner, NetworkLearner)
        trial = _Trial(Bench(cell, setting, learner, accelerator.device, {}), shape, peak)
        found = trial.measure(always=device == "cpu")
    except Exception as error:
        return [Row(size, *shape[:3], None, batch, None, False, None, None, one_line(error))]
    finally:
        setting = learner = accelerator = trial = None
        torch.compiler.reset()  # code is kept by function, and only for so many models
        _free()
    parameters, tokens, ways = found
    return [
        Row(size, *shape[:3], parameters, batch, tokens, checkpointing, *sides, None) for checkpointing, sides in ways
    ]


Way = tuple[bool, tuple[Measurement, Measurement]]
"""Whether with checkpointing; eager and compiled."""


class _Trial:
    """A model that is trained on the same batches again and again."""

    def __init__(self, bench: Bench, shape: Shape, peak: float | None) -> None:
        feed = bench.setting.train_feed("stage1")
        assert isinstance(feed, TextFeed)
        self.bench, self.shape, self.peak, self.feed = bench, shape, peak, feed
        self.body: Any = bench.learner.model.body
        looked_up = self.body.get_input_embeddings().weight
        self.multiplied = bench.learner.parameters - looked_up.numel()
        self.lengths = self._trained_lengths()

    def measure(self, *, always: bool) -> tuple[int, float, list[Way]]:
        """All ways to train it; with checkpointing where that is needed, or always.

        Returns:
            Parameters, tokens of a text, and the measurements.
        """
        batch = self.bench.recipe.batch_size
        eager = [self.attempt(watch=True)]
        ways = [False, True] if always or eager[0].micro_batch != batch else [False]
        for checkpointing in ways[1:]:
            eager.append(self.attempt(watch=True, checkpointing=checkpointing))
        on_gpu = self.bench.device.type == "cuda"
        # Last, since it cannot be undone. Texts differ in length, and so do batches. The output layer stays
        # as it is: how many positions TextModel gives it changes with every step, and so would the code.
        self.body.base_model.compile(dynamic=True, backend="inductor" if on_gpu else "eager")
        compiled = [self.attempt(watch=on_gpu, checkpointing=checkpointing) for checkpointing in ways]
        sides = zip(eager, compiled, strict=True)
        return self.bench.learner.parameters, float(self.lengths.mean()), list(zip(ways, sides, strict=True))

    def attempt(self, *, watch: bool = False, checkpointing: bool = False) -> Measurement:
        """Train and measure; or say why that was not possible."""
        try:
            if checkpointing:
                _switch_checkpointing(self.body, "enable")
            return self._timed(watch=watch)
        except Exception as error:
            return Measurement(reason=one_line(error))
        finally:
            if checkpointing:
                _switch_checkpointing(self.body, "disable")
            self.bench.learner.model.zero_grad()
            _free()

    def _timed(self, *, watch: bool) -> Measurement:
        bench, learner = self.bench, self.bench.learner
        learner.micro_batch = bench.recipe.batch_size

        def train() -> None:
            learner.fit(self.feed, bench.stage, "stage1")

        first = seconds_of(train, bench.device)
        on_gpu = bench.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds = seconds_of(train, bench.device)
        operations = model_operations(self.shape, self.multiplied, self.lengths)
        return Measurement(
            seconds_per_step=seconds / bench.steps,
            tokens_per_second=float(self.lengths.sum()) / seconds,
            mfu=operations / seconds / self.peak if self.peak else None,
            peak_memory=torch.cuda.max_memory_allocated() if on_gpu else None,
            micro_batch=learner.micro_batch,
            first_seconds=first,
            waits=self._waits() if watch else None,
        )

    def _waits(self) -> Waits:
        bench = self.bench
        few = bench.stage.model_copy(update={"steps": WATCHED})
        with watched_steps(bench.learner) as places:
            bench.learner.fit(self.feed, few, "stage1")
        return Waits(len(places) / WATCHED, sorted(set(places)))

    def _trained_lengths(self) -> Ints:
        """``[steps * batch]``: tokens of every text that a run trains on."""
        bench = self.bench
        rng = bench.setting.streams.generator("order/stage1")
        order = global_batches(self.feed.examples, bench.stage, bench.recipe.batch_size, rng)
        return self.feed.lengths[np.concatenate(list(order))]


def one_line(error: Exception) -> str:
    """What went wrong, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _switch_checkpointing(body: Any, how: str) -> None:
    # transformers 5 has another name for it and warns of the old one.
    switch = getattr(body, f"activation_checkpointing_{how}", None) or getattr(body, f"gradient_checkpointing_{how}")
    switch()


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
