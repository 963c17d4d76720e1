"""The sweep of the tuned ruleset: which cells it has, and which learning rate they choose.

The choice is a function of records alone, and the same one wherever it is made: when a model is tuned, on the board,
and when a submission is checked. It sees nothing of stage 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from iml_bench.errors import DivergedError, UsageError
from iml_bench.protocols import protocol_of
from iml_bench.records import Record
from iml_bench.registry import TASKS
from iml_bench.run.plan import Request, resized
from iml_bench.spec import LEARNING_RATE, Spec, TaskSpec

FACTORS: Final = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""Of the task's own learning rate; powers of two, so that every product is exact and is written as a person would."""
SEEDS: Final = (100, 101)
"""None of them is among those that are reported."""
DIGITS: Final = 12
"""Decimal places to which means are compared: two that are equal may differ by the rounding of a sum."""


class Trial(Spec):
    """A cell of a sweep."""

    lr: float
    seed: int
    match: float | None
    """Held-out exact match of what stage 1 defined under the reliable tag; null where training diverged."""
    loss: float | None
    """The last of stage 1; null where training diverged."""


class Choice(Spec):
    """What a sweep chose, and all that it was chosen from."""

    lr: float | None
    """Null where the sweep is not complete, or training diverged at every learning rate."""
    trials: tuple[Trial, ...]
    """By learning rate and seed."""
    missing: tuple[tuple[float, int], ...]
    """Learning rate and seed of the cells that are not there."""


def rates(lr: float) -> tuple[float, ...]:
    """The learning rates of the sweep of a task whose own is ``lr``, from the lowest."""
    return tuple(lr * factor for factor in FACTORS)


def is_sweep(task: TaskSpec) -> bool:
    """Whether cells of a task end before what is measured; they are no rows of a board."""
    ends = protocol_of(task).sweep
    return bool(ends) and all(getattr(task, field) == value for field, value in ends.items())


def sweep_requests(request: Request) -> list[Request]:
    """The cells of a sweep.

    Args:
        request: the task, its size, the models and where the data are; what else it says is put aside.

    Raises:
        UsageError: when there is no such task, or its protocol knows no such sweep.
    """
    base = TASKS.get(request.task)
    request = replace(request, overrides={}, variant=None, ruleset="shared", seeds=SEEDS, references=False)
    task, ends = resized(base, request), protocol_of(base).sweep
    if not ends:
        raise UsageError(
            f"task {base.name!r} cannot be tuned: its protocol {base.protocol!r} says of no cell that it ends before "
            "what is measured"
        )
    return [replace(request, overrides={**ends, LEARNING_RATE: lr}) for lr in rates(task.recipe.lr)]


def counts(record: Record) -> bool:
    """Whether a record is evidence on a learning rate: it is done, or says that training diverged."""
    return record.status == "done" or (record.error is not None and record.error.kind == DivergedError.__name__)


def choose(lr: float, records: Iterable[Record]) -> Choice:
    """The learning rate that a sweep chooses.

    The highest mean over seeds of held-out exact match after stage 1; of equals the lowest mean of the last losses,
    and then the lowest learning rate. One at which any seed diverged is not chosen.

    Args:
        lr: the task's own.
        records: of one model's cells of the sweep; others by learning rate or seed are not looked at.
    """
    wanted = [(rate, seed) for rate in rates(lr) for seed in SEEDS]
    found: dict[tuple[float, int], Trial] = {}
    for record in sorted(filter(counts, records), key=lambda record: record.status == "done"):
        found[record.cell.task.recipe.lr, record.cell.seed] = _trial(record)
    trials = tuple(found[cell] for cell in wanted if cell in found)
    missing = tuple(cell for cell in wanted if cell not in found)
    ranked = sorted(_rank(rate, [trial for trial in trials if trial.lr == rate]) for rate in rates(lr))
    best = None if missing or math.isinf(ranked[0][0]) else ranked[0][-1]
    return Choice(lr=best, trials=trials, missing=missing)


def _trial(record: Record) -> Trial:
    task = record.cell.task
    match = record.scores.exact_match.get(protocol_of(task).chosen_by) if record.scores else None
    loss = record.stages[-1].final_loss if record.scores and record.stages else None
    return Trial(lr=task.recipe.lr, seed=record.cell.seed, match=match, loss=loss)


def _rank(lr: float, trials: list[Trial]) -> tuple[float, float, float]:
    """Sorts the best first."""
    matches = [trial.match for trial in trials if trial.match is not None]
    losses = [trial.loss for trial in trials if trial.loss is not None]
    if not matches or len(matches) < len(trials):
        return math.inf, math.inf, lr
    return -round(math.fsum(matches) / len(matches), DIGITS), _mean(losses), lr


def _mean(losses: list[float]) -> float:
    return round(math.fsum(losses) / len(losses), DIGITS) if losses else math.inf
