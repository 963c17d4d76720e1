"""``iml-bench suite``: named grids of cells."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from iml_bench.cli.options import DEFAULT_OUT, Data, DataDir, Device, Json, Out, Workers, make_runtime, print_json
from iml_bench.cli.run import execute
from iml_bench.cli.tables import out_console
from iml_bench.plan import plan, suite_requests
from iml_bench.registry import SUITES

app = typer.Typer(help="Run named grids of cells (benchmarks/*.yaml).", no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="A suite's name, or the path of a suite file.")]


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


@app.command("run")
def run_suite(
    name: Name,
    smoke: Annotated[bool, typer.Option("--smoke", help="Shrink every task to a test.")] = False,
    out: Out = DEFAULT_OUT,
    workers: Workers = None,
    device: Device = "auto",
    data: Data = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Run every cell of a suite that is not done yet.

    \b
    Examples:
      iml-bench suite run first-light
      iml-bench suite run first-light --smoke --out /tmp/try
      iml-bench suite run my-suite.yaml --workers 1
    """
    runtime = make_runtime(device, data_dir=data_dir, data=data, out=out)
    jobs = plan(suite_requests(SUITES.get(name), smoke=smoke, data=data), out)
    raise typer.Exit(execute(jobs, runtime, workers, as_json=as_json))
