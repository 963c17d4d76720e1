"""``iml-bench suite``: named grids of cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from iml_bench.board import points_of, task_label
from iml_bench.cli import suite_pages
from iml_bench.cli.judging import rule_of
from iml_bench.cli.options import Data, Json, MaxSeeds, Records, SuiteName, load_records, print_json
from iml_bench.cli.points import print_points
from iml_bench.cli.suite_run import run_suite
from iml_bench.cli.suite_status import OwnModels, OwnSeeds, show_script, show_status
from iml_bench.cli.tables import out_console
from iml_bench.errors import UsageError
from iml_bench.library.options import DEFAULT_OUT, seeds_of
from iml_bench.registry import SUITES, TASKS
from iml_bench.run.plan import plan
from iml_bench.run.suites import suite_requests
from iml_bench.spec import SuiteSpec, show_seeds

app = typer.Typer(help="Run named grids of cells (benchmarks/*.yaml).", no_args_is_help=True, rich_markup_mode=None)
app.command("run")(run_suite)
app.command("report")(suite_pages.report_suite)
app.command("plot")(suite_pages.plot_suite)
app.command("status")(show_status)
app.command("script")(show_script)


@app.command("list")
def list_suites(as_json: Json = False) -> None:
    """List the suites."""
    listed = SUITES.list()
    if as_json:
        fields = ({"description": row.spec.description} if row.spec else {} for row in listed)
        print_json(
            [{"name": row.name, "problem": row.problem, **more} for row, more in zip(listed, fields, strict=True)]
        )
        return
    for row in listed:
        text = row.spec.description if row.spec else f"broken: {row.problem}"
        out_console().print(f"[bold]{escape(row.name)}[/bold]  {escape(text)}")


@app.command("show")
def show_suite(name: SuiteName, as_json: Json = False) -> None:
    """Show a suite's grids: the task, the models, what varies, the seeds and the number of cells.

    \b
    Examples:
      iml-bench suite show leaderboard
      iml-bench suite show my-suite.yaml --json
    """
    suite = SUITES.get(name)
    cells, references = _count(suite)
    grids = _grids(suite)
    if as_json:
        claims = [claim.model_dump(mode="json") for claim in suite.claims]
        whole: dict[str, Any] = {"name": suite.name, "description": suite.description, "grids": grids, "claims": claims}
        print_json(whole | {"cells": cells, "reference_cells": references})
        return
    console = out_console()
    console.print(f"[bold]{escape(suite.name)}[/bold]  {escape(suite.description)}")
    for grid in grids:
        preset = {"setting": "small"} if grid["small"] else {}
        preset |= {"variant": grid["variant"]} if grid["variant"] else {}
        label = task_label(grid["task"], grid["task_version"], preset | grid["set"])
        title = f"grid {grid['number']}" + (f" {grid['name']}" if grid["name"] else "")
        console.print(f"\n[bold]{escape(title)}: {escape(label)}[/bold]", soft_wrap=True)
        table = Table(box=None, show_header=False)
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        table.add_row("models", escape(", ".join(grid["models"])))
        if grid["ruleset"] == "tuned":
            table.add_row("ruleset", "tuned: each at the learning rate that iml-bench tune chose or is to choose")
        for path, values in grid["axes"].items():
            table.add_row("varies", escape(f"{path}: {', '.join(map(str, values))}"))
        if grid["zip"]:
            points = " | ".join(", ".join(map(str, values)) for values in zip(*grid["zip"].values(), strict=True))
            table.add_row("varies", escape(f"{', '.join(grid['zip'])}: {points}"))
        table.add_row("seeds", show_seeds(grid["seeds"]))
        if grid["control"]:
            table.add_row("control", escape(_control(grid["control"])))
        table.add_row("cells", f"{grid['cells']} and {grid['reference_cells']} of reference learners")
        console.print(table)
    for claim in suite.claims:
        about = f"{claim.estimand} of {claim.measure}" + (f" along {claim.along}" if claim.along else "")
        what = f"{about} in grid {claim.grid}, delta {claim.delta:g}"
        console.print(f"\n[bold]claim {escape(claim.name)}[/bold]: {escape(claim.says)}", soft_wrap=True)
        console.print(what, style="dim", markup=False, soft_wrap=True)
    console.print(f"\n{cells} cells and {references} of reference learners in all, each counted once", markup=False)


def _control(control: Mapping[str, Any]) -> str:
    what = f"{control['measure']} plus that of {control['mirror_of']}" if control["mirror_of"] else control["measure"]
    if control["margin"] == 0:
        return f"{what} is exactly 0"
    return f"{what} is 0 within {control['margin']:g}: the 90 % interval over seeds lies inside"


def _grids(suite: SuiteSpec) -> list[dict[str, Any]]:
    rows = []
    for number, grid in enumerate(suite.grids, 1):
        cells, references = _count(suite.model_copy(update={"grids": (grid,)}))
        row = {"number": number, "task_version": TASKS.get(grid.task).version, **grid.model_dump(mode="json")}
        rows.append(row | {"cells": cells, "reference_cells": references})
    return rows


def _count(suite: SuiteSpec) -> tuple[int, int]:
    """Distinct cells of trained models, and of reference learners."""
    jobs = plan(suite_requests(suite), DEFAULT_OUT, with_source=False)
    references = sum(job.cell.model.is_reference for job in jobs)
    return len(jobs) - references, references


@app.command("table")
def show_table(
    name: SuiteName,
    model: OwnModels = None,
    seeds: OwnSeeds = None,
    records: Records = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show what records say of every point of a suite, with what varies as columns.

    \b
    Examples:
      iml-bench suite table claims-cpu --records iml-results
      iml-bench suite table my-suite.yaml --json
    """
    suite = SUITES.get(name)
    if not any(grid.axes or grid.zip for grid in suite.grids):
        raise UsageError(f"nothing varies in suite {suite.name!r}; see its rows with iml-bench leaderboard")
    requests = suite_requests(suite, data=data, models=model or (), seeds=seeds_of(seeds) if seeds else ())
    points = points_of(suite, requests, load_records(records)[0])
    if as_json:
        print_json(points)
    else:
        print_points(points, out_console())


@app.command("verdict")
def show_verdict(
    name: SuiteName,
    model: OwnModels = None,
    seeds: OwnSeeds = None,
    max_seeds: MaxSeeds = None,
    records: Records = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Judge a suite's controls and claims from records.

    A control passes where the 90 % interval over seeds lies within the margin, fails where all of it lies beyond, and
    is undecided otherwise, or while seeds are missing. A claim is supported or contradicted where what it is about
    is significantly different from 0, there is no effect larger than delta where it is significantly within delta, and
    else it is undecided; all claims of a suite are corrected together. The exit status is 0 only where every control
    passes.

    \b
    Examples:
      iml-bench suite verdict controls
      iml-bench suite verdict controls --records my-results --json
    """
    suite = SUITES.get(name)
    if not suite.claims and not any(grid.control for grid in suite.grids):
        raise UsageError(f"suite {suite.name!r} has no control and no claim (iml-bench suite show {name})")
    chosen = seeds_of(seeds) if seeds is not None else ()
    rule = rule_of(suite, suite_requests(suite, data=data, models=model or (), seeds=chosen), max_seeds, seeds)
    judged = rule.judged(suite, load_records(records)[0])
    if as_json:
        print_json({name: [one.model_dump(mode="json") for one in rows] for name, rows in judged._asdict().items()})
    else:
        judged.show(out_console())
    raise typer.Exit(int(any(one.verdict != "pass" for one in judged.controls)))
