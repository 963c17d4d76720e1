"""``iml-bench suite``: named grids of cells."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iml_bench.board import ClaimVerdict, Verdict, claims_of, task_label, verdicts_of
from iml_bench.cli.dryrun import dry_run, print_dry_run
from iml_bench.cli.options import Data, DataDir, Device, Executor, Json, Out, Records, Workers, load_records, print_json
from iml_bench.cli.outcome import carry_out_and_show
from iml_bench.cli.tables import out_console, print_claims, print_verdicts
from iml_bench.cli.tune import carry_out_sweep
from iml_bench.errors import UsageError
from iml_bench.library.options import DEFAULT_OUT, make_runtime, seeds_of
from iml_bench.library.running import Work
from iml_bench.library.tuning import Sweep, sweep_of
from iml_bench.records import Store, Stored
from iml_bench.registry import SUITES, TASKS
from iml_bench.run.executors.base import choose_executor
from iml_bench.run.plan import Request, plan, untuned
from iml_bench.run.suites import suite_requests
from iml_bench.runtime import is_first
from iml_bench.spec import SuiteSpec, cell_key, show_seeds

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


@app.command("show")
def show_suite(name: Name, as_json: Json = False) -> None:
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


@app.command("run")
def run_suite(
    name: Name,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Put in place of the suite's models wherever it can read the task; repeatable."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="In place of the suite's: how many, a range 3-7, or a list 1,4.")
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Only say which cells are done and how long the others will take.")
    ] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Shrink every task to a test.")] = False,
    out: Out = DEFAULT_OUT,
    workers: Workers = None,
    executor: Executor = None,
    device: Device = "auto",
    data: Data = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Run every cell of a suite that is not done yet, whatever command did it.

    Where it asks for tuned rows, the learning rate of a model that has none yet is chosen first (iml-bench tune).
    Where it has controls, the verdict on each is told in the end; a control that fails is exit status 1.

    \b
    Examples:
      iml-bench suite run leaderboard --dry-run
      iml-bench suite run leaderboard --model my-model.yaml
      iml-bench suite run smoke --smoke --out smoke-results
    """
    suite = SUITES.get(name)
    chosen = seeds_of(seeds) if seeds is not None else ()
    requests = suite_requests(suite, smoke=smoke, data=data, models=model or (), seeds=chosen)
    runtime = make_runtime(device, data_dir=data_dir, data=data.resolve() if data else None, out=out)
    ruleset = "tuned" if any(request.ruleset == "tuned" for request in requests) else "shared"
    work = Work((), runtime, out, workers, executor, ruleset=ruleset)
    sweeps = _sweeps(requests, work)
    # Before anything runs: what is not valid says so. Learning rates that are yet to be chosen are the tasks' own here.
    jobs = plan(_with_rates(requests, {place: sweep.own for place, sweep in sweeps.items()}), out)
    _say_left_out(suite, {request.where for request in requests})
    if not dry:
        status, carried = _carry_out(requests, sweeps, work._replace(jobs=tuple(jobs)), as_json=as_json)
        judged = _judge(suite, carried, Store(out).scan()[0]) if is_first() and not smoke else NONE
        judged.show(Console(stderr=True) if as_json else out_console())
        raise typer.Exit(status or int(any(one.verdict == "fail" for one in judged.controls)))
    jobs = [*{cell_key(job.cell): job for sweep in sweeps.values() for job in sweep.work.jobs}.values(), *jobs]
    found = dry_run(jobs, choose_executor(executor, workers, runtime, len(jobs)).width(runtime))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    print_dry_run(found, out_console())
    if sweeps:
        names = ", ".join(dict.fromkeys(sweep.model for sweep in sweeps.values()))
        out_console().print(
            f"with the sweeps that choose learning rates first, and rows at the tasks' own in their place: {names}",
            markup=False,
            soft_wrap=True,
        )


@app.command("verdict")
def show_verdict(
    name: Name,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="In place of the suite's models, as for suite run; repeatable.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="In place of the suite's: how many, a range 3-7, or a list 1,4.")
    ] = None,
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
    requests = suite_requests(suite, data=data, models=model or (), seeds=chosen)
    judged = _judge(suite, requests, load_records(records)[0])
    if as_json:
        print_json({name: [one.model_dump(mode="json") for one in rows] for name, rows in judged._asdict().items()})
    else:
        judged.show(out_console())
    raise typer.Exit(int(any(one.verdict != "pass" for one in judged.controls)))


@app.command("report")
def report_suite(
    name: Name,
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")],
    records: Records = None,
    data: Data = None,
) -> None:
    """Write the report on a suite's claims: a page that needs nothing else, Markdown, figures, and all numbers as JSON.

    \b
    Examples:
      iml-bench suite report claims-cpu --out report
      iml-bench suite report my-suite.yaml --records iml-results --out report
    """
    from iml_bench.site.assets import check_installed

    check_installed()
    from iml_bench.site.report import Report, build_report, record_files
    from iml_bench.site.write import check_out, write_site

    suite = SUITES.get(name)
    if not suite.claims:
        raise UsageError(f"suite {suite.name!r} has no claim to report on (iml-bench suite show {name})")
    check_out(out)
    requests = suite_requests(suite, data=data)
    stored = load_records(records)[0]
    claims = claims_of(suite, requests, stored)
    files = record_files(suite, requests, stored, out)
    write_site(build_report(Report(suite, claims, files, f"iml-bench suite run {shlex.quote(name)}")), out)
    print_claims(claims, out_console())
    sys.stdout.write(f"open {out / 'index.html'}\n")


class Judged(NamedTuple):
    """The verdicts of a suite."""

    controls: Sequence[Verdict]
    claims: Sequence[ClaimVerdict]

    def show(self, console: Console) -> None:
        """Print those that there are."""
        if self.controls:
            print_verdicts(self.controls, console)
        if self.claims:
            print_claims(self.claims, console)


NONE: Final = Judged((), ())


def _judge(suite: SuiteSpec, requests: Sequence[Request], stored: Sequence[Stored]) -> Judged:
    return Judged(verdicts_of(suite, requests, stored), claims_of(suite, requests, stored))


Place = tuple[int, str]
"""Which of the requests, and which model of it."""


def _sweeps(requests: Sequence[Request], where: Work) -> dict[Place, Sweep]:
    """The sweeps that have to come first."""
    return {
        (index, name): sweep_of(replace(request, models=(name,)), where)
        for index, request in enumerate(requests)
        for name in untuned(request)
    }


def _carry_out(
    requests: Sequence[Request], sweeps: Mapping[Place, Sweep], work: Work, *, as_json: bool
) -> tuple[int, Sequence[Request]]:
    """Carry sweeps out, and then the rows of all models that have a learning rate.

    Returns:
        The exit status, and the requests with the learning rates that were chosen.
    """
    done: dict[frozenset[str], float | None] = {}
    for sweep in sweeps.values():
        if sweep.keys not in done:
            done[sweep.keys] = carry_out_sweep(sweep, as_json=as_json).choice.lr
    if sweeps:
        requests = _with_rates(requests, {place: done[sweep.keys] for place, sweep in sweeps.items()})
        work = work._replace(jobs=tuple(plan(requests, work.out)))
    lacking = None in done.values()
    status = carry_out_and_show(work, None, as_json=as_json) or int(lacking) if work.jobs else 1
    return status, requests


def _with_rates(requests: Sequence[Request], rates: Mapping[Place, float | None]) -> list[Request]:
    """The requests with learning rates that were chosen; models whose sweep chose none are left out."""
    found = []
    for index, request in enumerate(requests):
        own = {name: lr for (place, name), lr in rates.items() if place == index}
        models = tuple(name for name in request.models if own.get(name, 0.0) is not None)
        chosen = {name: lr for name, lr in own.items() if lr is not None}
        found += [replace(request, models=models, rates=chosen)] if models else []
    return found


def _say_left_out(suite: SuiteSpec, planned: set[str]) -> None:
    for index, grid in enumerate(suite.grids):
        if suite.where(index) not in planned:
            sys.stderr.write(f"left out: {suite.where(index)}: none of the models reads task {grid.task!r}\n")
