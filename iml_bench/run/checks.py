"""The steps of ``iml-bench check``: what must hold of a task or a model before anyone trusts its numbers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from iml_bench.errors import UsageError
from iml_bench.learners.cut import causes_of
from iml_bench.learners.network import NetworkLearner
from iml_bench.models import load_form
from iml_bench.protocols import Scores, headline_of, protocol_of, score_items
from iml_bench.protocols.base import trains
from iml_bench.records import columns_of, read_items
from iml_bench.registry import TASKS
from iml_bench.run.cell import CellOutcome, Setting, prepare, run_cell
from iml_bench.run.job import THREADS, Job
from iml_bench.run.rehearsal import rehearse
from iml_bench.run.session import Session
from iml_bench.runtime import Runtime
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, ModelEntry, TaskSpec, apply_overrides

SEED = 0


class Step(NamedTuple):
    """One step of a check."""

    name: str
    passed: bool
    detail: str


def check_task(name: str, runtime: Runtime) -> Iterator[Step]:
    """Check a task: its data, its reference rows, and both stages at smoke size with its own model."""
    torch.set_num_threads(THREADS)
    task = TASKS.get(name)
    yield Step("the definition is valid", True, task.label)
    setting: list[Setting] = []

    def generate() -> str:
        setting.append(Setting(task, SEED, torch.device("cpu"), runtime))
        return f"{task.n_entities} entities, data digest {setting[0].digest()[:16]}"

    yield _step("its data can be generated", generate)
    if not setting:
        return
    yield _step("the same seed gives the same data", lambda: _same_data(task, runtime, setting[0]))
    drawn = setting[0]
    for name, holds in drawn.protocol.audit(task, drawn.world, drawn.design):
        yield _step(name, holds)
    few = apply_overrides(task, task.small)
    for reference, wanted in protocol_of(task).reads.items():
        yield _step(f"{reference} reads what it must", partial(_reference, few, reference, wanted, runtime))
    yield from _cell_steps(_shrunk(task), find_model(task.model, task), runtime)


def check_model(name: str, task_name: str | None, runtime: Runtime) -> Iterator[Step]:
    """Check a model on a task at smoke size: it loads, learns, repeats itself and can be recorded."""
    torch.set_num_threads(THREADS)
    entry = find_model(name)
    if task_name is None:
        task_name = "text" if entry.modality == "text" else "vision"
    task = _shrunk(TASKS.get(task_name))
    entry = find_model(name, task)
    yield Step("the entry is valid", True, entry.source)
    yield from _cell_steps(task, entry, runtime)


def _shrunk(task: TaskSpec) -> TaskSpec:
    return apply_overrides(task, task.smoke)


def _cell_steps(task: TaskSpec, entry: ModelEntry, runtime: Runtime) -> Iterator[Step]:
    cell = CellSpec(task=task, model=entry, seed=SEED)
    outcome: list[CellOutcome] = []

    def loads() -> str:
        _, learner, accelerator = prepare(cell, runtime)
        return f"{learner.parameters:,} parameters on {accelerator.device}"

    loaded = _step(f"{entry.name} takes {task.name}'s examples", loads)
    yield loaded
    if not loaded.passed:
        return

    if entry.modality == "text" and not entry.is_reference:
        yield _step("its tokenizer keeps the texts apart", lambda: _kept_apart(cell, runtime))
    if not entry.is_reference:
        rehearsed = _step("a training step and an evaluation go through", lambda: _rehearsed(cell, runtime))
        yield rehearsed
        if not rehearsed.passed:
            return

    def both_stages() -> str:
        outcome.append(run_cell(cell, runtime))
        return f"{len(outcome[0].items)} questions in {sum(outcome[0].seconds.values()):.1f} s"

    ran = _step("both stages run", both_stages)
    yield ran
    if not ran.passed:
        return
    if not entry.is_reference:
        if trains(protocol_of(task).schedule(task)):
            yield _step("its loss falls", lambda: _loss_falls(cell, runtime))
        yield _step("looking on and cutting batches is neutral", lambda: _neutral(cell, outcome[0], runtime))
    yield _step("the same cell gives the same outcomes", lambda: _repeats(cell, outcome[0], runtime))
    yield _step("its record can be written and read", lambda: _round_trip(cell, runtime))


def _step(name: str, action: Callable[[], str]) -> Step:
    """Run one step; a ``UsageError`` or a failed assertion is what it found, anything else too."""
    try:
        return Step(name, True, action())
    except Exception as error:
        lines = str(error).strip().splitlines()
        return Step(name, False, lines[0] if lines else type(error).__name__)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UsageError(otherwise)


def _same_data(task: TaskSpec, runtime: Runtime, setting: Setting) -> str:
    again = Setting(task, SEED, torch.device("cpu"), runtime)
    other = Setting(task, SEED + 1, torch.device("cpu"), runtime)
    _require(again.digest() == setting.digest(), "two runs of one seed differ")
    _require(other.digest() != setting.digest(), "two seeds give the same data")
    return "and another seed gives other data"


def _scores(task: TaskSpec, name: str, runtime: Runtime) -> Scores:
    cell = CellSpec(task=task, model=find_model(name), seed=SEED)
    return score_items(task, columns_of(run_cell(cell, runtime).items))


def _reference(task: TaskSpec, name: str, wanted: float | None, runtime: Runtime) -> str:
    scores = _scores(task, name, runtime)
    headline = headline_of(task)
    value = scores[headline.name]
    assert value is not None
    if wanted is None:
        bound = 4 * (scores.get(headline.error or "") or 0.0)
        _require(abs(value) <= bound, f"{headline.label} {value:+.3f} is more than 4 standard errors from 0")
    else:
        _require(value == wanted, f"{headline.label} is {value:+.3f}, not {wanted}")
    return f"{headline.label} {value:+.3f}"


def _kept_apart(cell: CellSpec, runtime: Runtime) -> str:
    audit = Setting(cell.task, cell.seed, torch.device("cpu"), runtime, load_form(cell.model)).audit()
    if audit is None:
        return "the task's own tokenizer"
    lengths = ", ".join(f"{low} to {high} tokens per {what}" for what, (low, high) in audit.tokens.items())
    return "; ".join([f"{audit.reader}: {audit.texts} texts, {lengths}", *audit.notes])


def _loss_falls(cell: CellSpec, runtime: Runtime) -> str:
    losses: list[float] = []
    setting, learner, _ = prepare(cell, replace(runtime, report=lambda progress: losses.append(progress.loss)))
    step = trains(setting.schedule)[0]
    stage = getattr(cell.task.recipe, step.recipe).model_copy(update={"steps": 60, "epochs": None})
    learner.fit(setting.train_feed(step.phase, step.fold), stage, step.phase)
    third = len(losses) // 3
    first, last = float(np.mean(losses[:third])), float(np.mean(losses[-third:]))
    _require(last < first, f"after 60 steps it is {last:.3f}, at first it was {first:.3f}")
    return f"{first:.3f} to {last:.3f} in 60 steps"


def _rehearsed(cell: CellSpec, runtime: Runtime) -> str:
    began = time.perf_counter()
    rehearse(cell, runtime)
    return f"in {time.perf_counter() - began:.1f} s"


def _neutral(cell: CellSpec, outcome: CellOutcome, runtime: Runtime) -> str:
    """A learning curve and half the micro-batch; the cut stays where it is known to be part of the answer."""
    causes = _causes(cell, runtime)
    half = None if causes else max(1, cell.task.recipe.batch_size // 2)
    again = run_cell(cell, replace(runtime, micro_batch=half, curve=2))
    if causes:
        _require(again.items.equals(outcome.items), "with a learning curve it gives another answer")
        return f"but for the cut ({', '.join(causes)}): batches stay whole, or recipe.micro_batch is part of the key"
    gap = np.abs(again.items["log_likelihood"].to_numpy() - outcome.items["log_likelihood"].to_numpy()).max()
    _require(gap < 1e-2, f"log-likelihoods differ by up to {gap:.2g} nats, and nothing in the model was seen to do it")
    return f"log-likelihoods within {gap:.1g} nats"


def _causes(cell: CellSpec, runtime: Runtime) -> tuple[str, ...]:
    """Why the model's training depends on how a batch is cut, see ``causes_of``."""
    setting, learner, _ = prepare(cell, runtime)
    steps = trains(setting.schedule)
    if not steps or not isinstance(learner, NetworkLearner):
        return ()
    return causes_of(learner.model, setting.train_feed(steps[0].phase, steps[0].fold))


def _repeats(cell: CellSpec, outcome: CellOutcome, runtime: Runtime) -> str:
    _require(run_cell(cell, runtime).items.equals(outcome.items), "two runs of one seed differ")
    return "bit for bit"


def _round_trip(cell: CellSpec, runtime: Runtime) -> str:
    with tempfile.TemporaryDirectory() as folder:
        job = Job(cell, changes={}, smoke=True, out=Path(folder))
        began = datetime.now(UTC)
        failures: list[str] = []
        stored = Session(job.out, runtime).run(
            [job], listen=lambda event: failures.append(event.message or "") if event.kind == "failed" else None
        )
        _require(not failures, failures[0] if failures else "")
        scores = score_items(cell.task, columns_of(read_items(stored[0])))
        _require(scores == stored[0].record.scores, "its scores are not those of its items")
        return f"in {(datetime.now(UTC) - began).total_seconds():.1f} s"
