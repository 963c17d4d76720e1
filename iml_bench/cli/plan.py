"""``iml-bench plan``: how many seeds a question needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from iml_bench.board import ClaimVerdict
from iml_bench.board.planning import Plan
from iml_bench.board.words import signed, with_interval
from iml_bench.cli.judging import rule_of
from iml_bench.cli.options import Data, Json, MaxSeeds, Records, load_records, print_json
from iml_bench.cli.tables import out_console
from iml_bench.errors import UsageError
from iml_bench.library import reading as library
from iml_bench.registry import SUITES
from iml_bench.run.suites import suite_requests


def plan(
    task: Annotated[str | None, typer.Option("--task", help="A task with records of the model.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="A model, as in the leaderboard.")] = None,
    effect: Annotated[
        float | None, typer.Option("--effect", help="The smallest effect to be found, in the measure's unit.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", help="In their place: what it takes to decide this suite's open claims.")
    ] = None,
    max_seeds: MaxSeeds = None,
    power: Annotated[float, typer.Option("--power", help="The chance of finding it, between 0.05 and 1.")] = 0.8,
    measure: Annotated[str, typer.Option("--measure", help="What is measured.")] = "iml",
    records: Records = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Say how many seeds it takes to find an effect, how wide the interval will be, and how long that takes.

    Of a suite: how many seeds its undecided claims would take if mean and spread stayed, with the correction for all
    its claims and looks. Told from the spread between the seeds that are recorded, and from the errors over items
    within them, which more entities make smaller. The test is the two-sided t-test over seeds at 5 %.

    \b
    Examples:
      iml-bench plan --task vision --model mlp-m --effect 0.05
      iml-bench plan --task text --model neox-s --effect 0.02 --power 0.9 --measure trust
      iml-bench plan --suite claims-cpu --records iml-results
    """
    one = (task, model, effect)
    if suite is not None:
        if any(given is not None for given in one):
            raise UsageError("--suite has its own tasks, models and deltas; leave --task, --model and --effect out")
        found = SUITES.get(suite)
        if not found.claims:
            raise UsageError(f"suite {suite!r} has no claim that could be decided (iml-bench suite show {suite})")
        rule = rule_of(found, suite_requests(found, data=data), max_seeds, None)
        _print_suite(found.name, rule.judged(found, load_records(records)[0]).claims, as_json=as_json)
        return
    if max_seeds is not None or data is not None:
        raise UsageError("--max-seeds and --data are for a suite; leave them out without --suite")
    if task is None or model is None or effect is None:
        raise UsageError("give --task, --model and --effect, or --suite NAME for its undecided claims")
    planned = library.plan(task, model, effect=effect, power=power, measure=measure, records=load_records(records)[0])
    if as_json:
        print_json(planned.model_dump(mode="json"))
    else:
        _print(planned)


def _print_suite(name: str, verdicts: Sequence[ClaimVerdict], *, as_json: bool) -> None:
    left = [one for one in verdicts if one.decision == "undecided"]
    if as_json:
        print_json([one.model_dump(mode="json") | {"more_hours": _more_hours(one)} for one in left])
        return
    console = out_console()
    console.print(f"{len(left)} of {len(verdicts)} verdicts of {name} are undecided", markup=False)
    table = Table(box=None, padding=(0, 1))
    for heading in ("claim", "model"):
        table.add_column(heading, overflow="fold")
    for heading in ("seeds", "mean [95 %]", "delta", "seeds needed", "more hours"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("why not", overflow="fold")
    for one in left:
        hours = _more_hours(one)
        needed = "-" if one.seeds_needed is None else str(one.seeds_needed)
        cells = [str(one.n_seeds), with_interval(one.estimate, 3), f"{one.delta:g}", needed]
        why = one.reason if one.seeds_needed is None else ""
        table.add_row(
            escape(one.claim), escape(one.model), *cells, "-" if hours is None else f"{hours:.2g}", escape(why)
        )
    if left:
        console.print(table)


def _more_hours(one: ClaimVerdict) -> float | None:
    """Of the seeds that are lacking, one cell after the other; claims about the same cells share them."""
    if one.seeds_needed is None or one.seconds is None:
        return None
    return max(0, one.seeds_needed - one.n_seeds) * one.seconds / 3600


def _print(found: Plan) -> None:
    console = out_console()
    items = "" if found.sd_items is None else f", error over items within a seed {found.sd_items:.3f}"
    lines = [
        f"{found.model} on {found.task}: {found.measure} {signed(found.mean, 3)} over {found.n_recorded} seeds; sd "
        f"between seeds {found.sd_seeds:.3f}{items}",
        f"as many seeds find an effect of {found.effect:g} with power {found.power_recorded:.2f}; power "
        f"{found.power:g} takes:",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 1))
    for heading in ("new entities", "sd", "seeds", "careful", "half-width", "hours"):
        table.add_column(heading, justify="right")
    for row in found.planned:
        recorded = row.entities == 1
        hours = f"{found.hours:.2g}" if found.hours is not None and recorded else "-"
        width = "-" if row.half_width is None else f"{row.half_width:.3f}"
        seeds = ["more than anybody runs" if n is None else str(n) for n in (row.seeds, row.seeds_careful)]
        entities = "as recorded" if recorded else f"{row.entities} times"
        table.add_row(entities, f"{row.sd:.3f}", *seeds, width, hours)
    console.print(table)
    meant = (
        f"careful: where the sd is as large as it may be with 80 % confidence after {found.n_recorded} seeds; hours: "
        "one cell after the other, as long as recorded cells took"
    )
    console.print(meant, style="dim", markup=False, soft_wrap=True)
