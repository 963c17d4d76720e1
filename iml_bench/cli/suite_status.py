"""``iml-bench suite status`` and ``suite script``: what runs where, and a script that lets a scheduler run it."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iml_bench.cli.dryrun import duration
from iml_bench.cli.options import Data, Json, Out, SuiteName, print_json
from iml_bench.cli.tables import out_console
from iml_bench.errors import UsageError, shown
from iml_bench.library.options import DEFAULT_OUT, seeds_of
from iml_bench.registry import SUITES
from iml_bench.run.plan import plan
from iml_bench.run.status import RunningCell, Status, status
from iml_bench.run.suites import suite_requests
from iml_bench.spec import Needs

OwnModels = Annotated[
    list[str] | None, typer.Option("--model", help="In place of the suite's models, as for suite run; repeatable.")
]
OwnSeeds = Annotated[
    str | None, typer.Option("--seeds", help="In place of the suite's: how many, a range 3-7, or a list 1,4.")
]
Smoke = Annotated[bool, typer.Option("--smoke", help="Every task shrunk to a test, as for suite run.")]


def show_status(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A suite's name or file; without it, all of the folder.")
    ] = None,
    model: OwnModels = None,
    seeds: OwnSeeds = None,
    smoke: Smoke = False,
    out: Out = DEFAULT_OUT,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show what runs where, how far it is and since when, and what is left, whoever runs it.

    \b
    Examples:
      iml-bench suite status claims-cpu
      iml-bench suite status --out my-results --json
    """
    if not out.is_dir():
        raise UsageError(f"there is no folder {shown(str(out), 300)}; give the --out DIR that records are written to")
    jobs = None
    if name is not None:
        chosen = seeds_of(seeds) if seeds is not None else ()
        requests = suite_requests(SUITES.get(name), smoke=smoke, data=data, models=model or (), seeds=chosen)
        jobs = plan(requests, out)
    found = status(out, jobs)
    if as_json:
        print_json(found)
    else:
        print_status(found, out_console())


def print_status(found: Status, console: Console) -> None:
    """A line for every cell that runs, and one on the whole."""
    if found.running:
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for heading in ("cell", "where", "how far", "since"):
            table.add_column(heading, overflow="fold")
        for one in found.running:
            where = f"{one.host} {one.pid}" + (f", {one.engine}" if one.engine else "")
            table.add_row(escape(one.cell), escape(where), escape(_how_far(one)), escape(_since(one.started)))
        console.print(table)
    parts = [f"{found.done} done", f"{found.failed} failed", f"{len(found.running)} running"]
    parts += [f"{found.waiting} handed over and waiting"] if found.waiting else []
    if found.cells is None:
        console.print(f"{found.out}: {', '.join(parts)}", markup=False, soft_wrap=True)
        return
    rest = "nothing to wait for"
    if found.left or found.running:
        workers = max(1, len(found.running))
        takes = f"about {duration(found.seconds)}" if found.seconds is not None else "for an unknown time"
        rest = f"{takes} with {workers} cell{'s' if workers > 1 else ''} at a time"
    console.print(
        f"{found.cells} cells in {found.out}: {', '.join(parts)}, {found.left} left; {rest}",
        markup=False,
        soft_wrap=True,
    )


def _how_far(one: RunningCell) -> str:
    if one.silent > one.term:
        return f"silent for {duration(one.silent)}: its next looker takes it"
    return f"{one.stage} {100 * one.done // one.total} %" if one.total else "beginning"


def _since(started: str) -> str:
    """A time as people of this place write it."""
    try:
        return f"{datetime.fromisoformat(started).astimezone():%d %b %H:%M:%S}"
    except ValueError:
        return "?"


def show_script(
    name: SuiteName,
    slurm: Annotated[
        str, typer.Option("--slurm", metavar="OPTION=VALUE,...", help="Options of sbatch: partition=gpu,time=4h.")
    ] = "",
    tasks: Annotated[int, typer.Option("--tasks", min=1, max=10_000, help="Tasks of the array.")] = 4,
    model: OwnModels = None,
    seeds: OwnSeeds = None,
    smoke: Smoke = False,
    out: Out = DEFAULT_OUT,
    data: Data = None,
) -> None:
    """Print a script for sbatch: an array whose tasks run one command on one folder and share its cells.

    Nothing of this package submits it or watches it; iml-bench suite status does, wherever the folder is seen.

    \b
    Examples:
      iml-bench suite script claims-cpu --slurm partition=cpu,time=8h --tasks 16 > claims.sh
      sbatch claims.sh
    """
    from iml_bench.run.executors.slurm_options import parse_options, script

    SUITES.get(name)
    options = parse_options(slurm)
    cpus = int(options.get("cpus_per_task", "1"))
    words = [sys.executable, "-m", "iml_bench", "suite", "run", name, "--workers", str(cpus)]
    words += ["--out", str(out.absolute())]
    for option, value in (("--seeds", seeds), ("--data", data and data.absolute())):
        words += [option, str(value)] if value else []
    words += [word for one in model or () for word in ("--model", one)]
    words += ["--smoke"] if smoke else []
    options.setdefault("chdir", str(Path.cwd()))  # where the suite's file is, if it is one
    sys.stdout.write(script(options, shlex.join(words), tasks, Needs(cpus=cpus)))
