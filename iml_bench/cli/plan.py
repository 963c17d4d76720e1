"""``iml-bench plan``: how many seeds a question needs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from iml_bench.board.planning import Plan
from iml_bench.board.words import signed
from iml_bench.cli.options import Json, Records, load_records, print_json
from iml_bench.cli.tables import out_console
from iml_bench.library import reading as library


def plan(
    task: Annotated[str, typer.Option("--task", help="A task with records of the model.")],
    model: Annotated[str, typer.Option("--model", help="A model, as in the leaderboard.")],
    effect: Annotated[float, typer.Option("--effect", help="The smallest effect to be found, in the measure's unit.")],
    power: Annotated[float, typer.Option("--power", help="The chance of finding it, between 0.05 and 1.")] = 0.8,
    measure: Annotated[str, typer.Option("--measure", help="What is measured.")] = "iml",
    records: Records = None,
    as_json: Json = False,
) -> None:
    """Say how many seeds it takes to find an effect, how wide the interval will be, and how long that takes.

    Told from the spread between the seeds that are recorded, and from the errors over items within them, which more
    entities make smaller. The test is the two-sided t-test over seeds at 5 %.

    \b
    Examples:
      iml-bench plan --task vision --model mlp-m --effect 0.05
      iml-bench plan --task text --model neox-s --effect 0.02 --power 0.9 --measure trust
    """
    found = library.plan(task, model, effect=effect, power=power, measure=measure, records=load_records(records)[0])
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found)


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
