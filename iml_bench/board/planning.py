"""How many seeds, of how many entities and in what time, a question about one row needs; from records of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from iml_bench.board.rows import Row
from iml_bench.errors import UsageError, shown
from iml_bench.protocols import measure_of
from iml_bench.spec import Spec
from iml_bench.stats.power import half_width, power_of, seeds_for, upper_sd

ENTITIES = (1, 2, 4)
"""Times as many new entities as the task has."""


class Planned(Spec):
    """What one number of entities needs."""

    entities: int
    """Times as many new entities as recorded."""
    sd: float
    """Between seeds, errors over items included."""
    seeds: int | None
    """With which the effect is found with the power that is asked for; null where nobody will run so many."""
    seeds_careful: int | None
    """The same where the standard deviation is as large as it may be with 80 % confidence."""
    half_width: float | None
    """Expected, of the 95 % interval over that many seeds."""


class Plan(Spec):
    """An answer to "how many seeds does it take?"."""

    task: str
    model: str
    measure: str
    effect: float
    power: float
    n_recorded: int
    """Seeds that the variances are told from."""
    mean: float
    sd_seeds: float
    """Between seeds, without what the items add."""
    sd_items: float | None
    """The root mean square of the error over items within a seed; null where none is recorded for the measure."""
    power_recorded: float
    """Of as many seeds as are recorded."""
    planned: tuple[Planned, ...]
    hours: float | None
    """Of the first, one cell after the other, as long as recorded cells took."""


def plan_row(row: Row, measure: str, effect: float, power: float, seconds: float | None) -> Plan:
    """How many seeds of a row are needed to find an effect.

    The variance between seeds is what the seeds of the row differ by (``sd_seeds`` squared) plus what their items add;
    the latter falls with the number of entities, the former does not.

    Args:
        row: with two or more seeds.
        measure: one of its protocol's.
        effect: the smallest one that is to be found, in the measure's unit.
        power: the chance of finding it.
        seconds: of one cell.

    Raises:
        UsageError: when the measure does not exist, or fewer than two seeds have it.
    """
    unit = measure_of(row.protocol, measure)
    values = list(row.by_seed(measure).values())
    if len(values) < 2:
        raise UsageError(
            f"{shown(row.model)} on {row.label} has {measure} in {len(values)} seeds, and a spread needs two; run more "
            "first"
        )
    errors = list(row.by_seed(unit.error).values()) if unit.error else []
    items = math.fsum(error**2 for error in errors) / len(errors) if errors else None
    whole = stdev(values) ** 2
    between = max(0.0, whole - (items or 0.0))
    return Plan(
        task=row.label,
        model=row.model,
        measure=measure,
        effect=effect,
        power=power,
        n_recorded=len(values),
        mean=fmean(values),
        sd_seeds=math.sqrt(between),
        sd_items=math.sqrt(items) if items is not None else None,
        power_recorded=power_of(effect, math.sqrt(whole), len(values)),
        planned=(planned := _planned(between, items, len(values), effect, power)),
        hours=planned[0].seeds * seconds / 3600 if planned[0].seeds and seconds else None,
    )


def _planned(between: float, items: float | None, n: int, effect: float, power: float) -> tuple[Planned, ...]:
    found = []
    for times in ENTITIES if items is not None else ENTITIES[:1]:
        sd = math.sqrt(between + (items or 0.0) / times)
        seeds = seeds_for(effect, sd, power)
        careful = seeds_for(effect, upper_sd(sd, n), power)
        width = half_width(sd, seeds) if seeds else None
        found.append(Planned(entities=times, sd=sd, seeds=seeds, seeds_careful=careful, half_width=width))
    return tuple(found)


def row_named(rows: Sequence[Row], task: str, model: str) -> Row:
    """The row of a model on a task as it is registered, tuned where there is such a row.

    Raises:
        UsageError: when there is none.
    """
    found = [row for row in rows if row.task == task and row.model == model and not row.changes]
    if not found:
        raise UsageError(
            f"there are no records of {shown(model)} on {shown(task)} to plan from; run two seeds or more first "
            f"(iml-bench run --task {shown(task)} --model {shown(model)} --seeds 100,101)"
        )
    return max(found, key=lambda row: row.ruleset == "tuned")
