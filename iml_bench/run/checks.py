"""The steps of ``iml-bench check``: what must hold of a task or a model before anyone trusts its numbers."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch

from iml_bench.errors import UsageError
from iml_bench.learners.cut import causes_of
from iml_bench.learners.network import NetworkLearner
from iml_bench.models import load_form
from iml_bench.protocols import Scores, headline_of, measure_of, protocol_of, score_items
from iml_bench.protocols.base import Reading, ZeroControl, trains
from iml_bench.records import columns_of, read_items
from iml_bench.registry import TASKS
from iml_bench.run.cell import CellOutcome, Setting, prepare, run_cell
from iml_bench.run.job import Job
from iml_bench.run.rehearsal import rehearse
from iml_bench.run.session import Session
from iml_bench.runtime import THREADS, Runtime
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, ModelEntry, TaskSpec, apply_overrides

SEED: Final = 0
BOTH_STAGES: Final = "both stages run"


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
    for reference, wanted in drawn.protocol.reads(few).items():
        yield _step(f"{reference} reads what it must", partial(_reference, few, reference, wanted, runtime))
    runs = False
    for step in _cell_steps(_shrunk(task), find_model(task.model, task), runtime):
        yield step
        runs = runs or (step.name == BOTH_STAGES and step.passed)
    for control in drawn.protocol.zero_controls(task) if runs else ():
        sized = _shrunk(task) if control.exact else _quick(task)
        yield _step(control.name, partial(_reads_zero, sized, control, runtime))


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

    ran = _step(BOTH_STAGES, both_stages)
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


def _reference(task: TaskSpec, name: str, wanted: Reading, runtime: Runtime) -> str:
    outcome = run_cell(CellSpec(task=task, model=find_model(name), seed=SEED), runtime)
    scores, headline = score_items(task, columns_of(outcome.items)), headline_of(task)
    value, expected = _measured(scores, headline.name), wanted.value + wanted.of_chance * outcome.chance
    if wanted.exact:
        _require(value == expected, f"{headline.label} is {value:+.3f}, not {expected:g}")
    else:
        bound = 4 * (scores.get(headline.error or "") or 0.0)
        far = f"{headline.label} {value:+.3f} is more than 4 standard errors from {expected:.3g}"
        _require(abs(value - expected) <= bound, far)
    return f"{headline.label} {value:+.3f}"


PRETRAINED: Final = ("hf", "gguf")
"""Schemes of models that come with weights."""
MOST_STEPS: Final = 250
"""Of stage 2 in a control: enough that what is read under a tag is taken up, and seconds on a CPU."""
CONTROL_SEEDS: Final = (0, 1, 2)
"""Several, since tags that differ favour now the one and now the other, and in some seed neither."""
MOST_ERRORS: Final = 3.0
"""Errors over items that the headline of a control may be from 0, in the root mean square over the seeds. The entities
of a cell share its training, so that a seed is off by 1.4 such errors (root mean square of 24 seeds of mlp-m on
vision): three seeds exceed 3 in 0.5 % of checks where nothing is wrong."""


def _quick(task: TaskSpec) -> TaskSpec:
    """The task in the size in which its own model goes through a control in seconds.

    A pretrained model takes seconds a step on a CPU, so its task is as small as a test; any other is in its small
    setting, where it has one, with a stage 2 that is not too long.
    """
    if find_model(task.model, task).parsed.scheme in PRETRAINED:
        return _shrunk(task)
    small = apply_overrides(task, task.small)
    steps = small.recipe.stage2.steps if small.recipe.stage2 is not None else None
    return apply_overrides(small, {"recipe.stage2.steps": MOST_STEPS} if (steps or 0) > MOST_STEPS else {})


def _reads_zero(task: TaskSpec, control: ZeroControl, runtime: Runtime) -> str:
    """A control, with the task's own model."""
    task = apply_overrides(task, control.overrides)
    if not control.exact:
        cells: list[Scores] = []
        for seed in CONTROL_SEEDS:
            cells.append(_scores(task, seed, runtime))
            if not cells[0].get(headline_of(task).error or ""):
                break  # no answer differs under the two tags, as where none is right: other seeds will not either
        return _within_its_error(cells, task)
    scores = _scores(task, SEED, runtime)
    for name in control.exact:
        value = _measured(scores, name)
        _require(value == 0, f"{measure_of(task, name).label} is {value:+.3g}, not 0")
    return ", ".join(measure_of(task, name).label for name in control.exact)


def _scores(task: TaskSpec, seed: int, runtime: Runtime) -> Scores:
    cell = CellSpec(task=task, model=find_model(task.model, task), seed=seed)
    return score_items(task, columns_of(run_cell(cell, runtime).items))


def _within_its_error(cells: Sequence[Scores], task: TaskSpec) -> str:
    """Whether the headline of some seeds is 0 within its errors over items, in the root mean square."""
    headline = headline_of(task)
    pairs = [(_measured(scores, headline.name), scores.get(headline.error or "") or 0.0) for scores in cells]
    ratios = [abs(value) / error if error else math.inf * bool(value) for value, error in pairs if value]
    rms = math.sqrt(math.fsum(ratio**2 for ratio in ratios) / len(pairs))
    told = f"{headline.label} {', '.join(f'{value:+.3f} (error {error:.3f})' for value, error in pairs)}"
    far = f"{told}: in the root mean square {rms:.1f} errors over items from 0, and more than {MOST_ERRORS:g}"
    _require(rms <= MOST_ERRORS, far)
    uptake = protocol_of(task).uptake
    taken = [uptake(scores.values) or 0.0 for scores in cells] if uptake else []
    return f"{told}; uptake {sum(taken) / len(taken):.2f}" if taken else told


def _measured(scores: Scores, name: str) -> float:
    value = scores.get(name)
    if value is None:
        raise UsageError(f"{name} was not measured: {scores.reasons.get(name, 'it is null')}")
    return value


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
