"""Two things timed in turn in one process, as a ratio; the other modules beside this one say which two."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from cells import FIRST_SEED

from iml_bench.learners.network import NetworkLearner
from iml_bench.modalities.base import Feed
from iml_bench.records import this_provenance
from iml_bench.registry import TASKS
from iml_bench.run.cell import Setting, prepare
from iml_bench.runtime import DeviceName, Runtime
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, Recipe, StageRecipe, apply_overrides

Measured = Callable[[], float]
"""Does something once and returns the seconds that counted."""
SAME_LOSS = 1e-4
"""Relative difference of two losses that differ by the order of additions alone."""
Size = Literal["full", "small", "smoke"]
"""Of a task: as it is registered, or as ``--small`` or ``--smoke`` make it."""


class DifferenceError(RuntimeError):
    """The two sides did not do the same work, so their ratio would mean nothing."""


@dataclass(frozen=True)
class Ratio:
    """One row of the table: seconds of the first side over seconds of the second."""

    name: str
    setting: str
    target: str
    """Empty where there is none."""
    met: bool | None
    median: float
    low: float
    high: float
    seconds: tuple[float, float]
    """Medians of both sides."""
    check: str
    """What was found equal before the ratio was taken."""


@dataclass(frozen=True)
class Comparison:
    """What is compared, ready to be timed."""

    name: str
    setting: str
    check: str
    first: Measured
    second: Measured
    at_most: float | None = None
    at_least: float | None = None

    def ratio(self, repeats: int) -> Ratio:
        """Time both sides in turn.

        Args:
            repeats: pairs; every pair gives one ratio, so what slows the machine for long slows both.
        """
        pairs = [(self.first(), self.second()) for _ in range(repeats)]
        ratios = [first / second for first, second in pairs]
        median = statistics.median(ratios)
        target, met = "", None
        if self.at_most is not None:
            target, met = f"<= {self.at_most:.2f}", median <= self.at_most
        elif self.at_least is not None:
            target, met = f">= {self.at_least:.2f}", median >= self.at_least
        sides = (statistics.median(first for first, _ in pairs), statistics.median(second for _, second in pairs))
        return Ratio(self.name, self.setting, target, met, median, min(ratios), max(ratios), sides, self.check)


@dataclass(frozen=True)
class Bench:
    """A model on a task, and the weights that every measurement starts from."""

    cell: CellSpec
    setting: Setting
    learner: NetworkLearner
    device: torch.device
    start: dict[str, torch.Tensor]

    @property
    def recipe(self) -> Recipe:
        """Of the task."""
        return self.cell.task.recipe

    @property
    def stage(self) -> StageRecipe:
        """Stage 1, which is what is trained here."""
        return self.recipe.stage1

    @property
    def steps(self) -> int:
        """Optimiser steps of stage 1."""
        assert self.stage.steps is not None
        return self.stage.steps

    @property
    def label(self) -> str:
        """What stands in the table."""
        return f"{self.cell.task.name}, {self.cell.model.name}, {self.steps} steps of {self.recipe.batch_size}"


def make_cell(
    task: str,
    model: str,
    steps: tuple[int, int] | None,
    size: Size = "full",
    overrides: Mapping[str, Any] | None = None,
) -> CellSpec:
    """A cell of a shipped task with other lengths.

    Args:
        task: its name.
        model: a model entry's name, or a source.
        steps: of stage 1 and of stage 2; None: the task's own.
        size: of the task.
        overrides: further fields of the task to change.
    """
    base = TASKS.get(task)
    preset = {"full": {}, "small": base.small, "smoke": base.smoke}[size]
    lengths = {"recipe.stage1.steps": steps[0], "recipe.stage2.steps": steps[1]} if steps else {}
    changed = apply_overrides(base, {**preset, **lengths, **(overrides or {})})
    return CellSpec(task=changed, model=find_model(model), seed=FIRST_SEED)


def make_bench(cell: CellSpec, device: DeviceName) -> Bench:
    """Draw the data and build the model, as a run would."""
    setting, learner, accelerator = prepare(cell, Runtime(device=device))
    assert isinstance(learner, NetworkLearner)
    return Bench(cell, setting, learner, accelerator.device, learner.snapshot())


def header(device: str) -> dict[str, str | int]:
    """What was measured on."""
    machine = this_provenance(device, 1, torch.get_num_threads())
    keys = ("processor", "cores", "python", "device", "threads", "commit")
    data = machine.model_dump(include=set(keys))
    return {key: data[key] for key in keys} | {"torch": torch.__version__}


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Wall time of an action, with the device's work done before and after it."""
    gc.collect()  # what another side left behind is not this one's to clear up
    _wait(device)
    before = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - before


def time_training(bench: Bench, feed: Feed) -> float:
    """Seconds that ``NetworkLearner.fit`` takes for stage 1."""
    bench.learner.restore(bench.start)
    return seconds_of(lambda: bench.learner.fit(feed, bench.stage, "stage1"), bench.device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def require_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], what: str) -> str:
    """Compare two sets of weights.

    Returns:
        What was found, for the table.

    Raises:
        DifferenceError: when they are not the same up to rounding.
    """
    if first.keys() != second.keys():
        raise DifferenceError(f"{what}: the two sides have different weights: {first.keys() ^ second.keys()}")
    for name, weight in first.items():
        if not torch.allclose(weight, second[name].cpu(), rtol=1e-4, atol=1e-5):
            apart = (weight - second[name].cpu()).abs().max().item()
            raise DifferenceError(f"{what}: after the same steps {name} differs by up to {apart:.3g}")
    identical = all(torch.equal(weight, second[name].cpu()) for name, weight in first.items())
    return "weights identical" if identical else "weights equal up to rounding"
