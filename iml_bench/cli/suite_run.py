"""``iml-bench suite run``: the cells of a suite, the sweeps before them, and as many seeds as its claims take."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from iml_bench.board import Judgement, Row, judge, points_of
from iml_bench.cli.dryrun import DryRun, dry_run, print_dry_run
from iml_bench.cli.judging import NONE, Rule, rule_of
from iml_bench.cli.options import (
    CellsPerGpu,
    Data,
    DataDir,
    Detach,
    Device,
    Executor,
    Json,
    MaxSeeds,
    Out,
    Shard,
    Slurm,
    SuiteName,
    Workers,
    print_json,
)
from iml_bench.cli.outcome import carry_out_and_show
from iml_bench.cli.points import print_points
from iml_bench.cli.tables import out_console, print_rows
from iml_bench.cli.tune import carry_out_sweep
from iml_bench.errors import UsageError
from iml_bench.library.options import DEFAULT_OUT, make_runtime, seeds_of, sharded
from iml_bench.library.results import Results
from iml_bench.library.running import Work, carry_out, display_of
from iml_bench.library.tuning import Sweep, sweep_of
from iml_bench.records import Store
from iml_bench.registry import SUITES, TASKS
from iml_bench.run.cost import TERAFLOPS
from iml_bench.run.executors.choose import Where, choose_executor
from iml_bench.run.plan import Request, plan, untuned
from iml_bench.run.suites import suite_requests
from iml_bench.runtime import is_first, is_launched
from iml_bench.spec import SuiteSpec, cell_key


def run_suite(
    name: SuiteName,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Put in place of the suite's models wherever it can read the task; repeatable."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="In place of the suite's: how many, a range 3-7, or a list 1,4.")
    ] = None,
    until: Annotated[
        Literal["decided"] | None,
        typer.Option("--until", help="decided: add seeds to what a claim is about until it is decided; --max-seeds."),
    ] = None,
    max_seeds: MaxSeeds = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Only say which cells are done and how long the others will take.")
    ] = False,
    max_hours: Annotated[
        float | None, typer.Option("--max-hours", help="Run nothing if it will take longer, in hours or GPU-hours.")
    ] = None,
    teraflops: Annotated[
        float, typer.Option("--teraflops", min=0.001, help="What a GPU does in effect, for the estimate of GPU-hours.")
    ] = TERAFLOPS,
    smoke: Annotated[bool, typer.Option("--smoke", help="Shrink every task to a test.")] = False,
    out: Out = DEFAULT_OUT,
    workers: Workers = None,
    executor: Executor = None,
    slurm: Slurm = None,
    detach: Detach = False,
    shard: Shard = None,
    cells_per_gpu: CellsPerGpu = None,
    device: Device = "auto",
    data: Data = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Run every cell of a suite that is not done yet, whatever command did it.

    Where it asks for tuned rows, the learning rate of a model that has none yet is chosen first (iml-bench tune).
    Where it has controls, the verdict on each is told in the end; a control that fails is exit status 1. With --until
    decided, claims are judged after 4, 8, 16, ... seeds, and only what is still undecided gets more: the error of 5 %
    is shared among the looks, and the same command goes on where it was.

    \b
    Examples:
      iml-bench suite run leaderboard --dry-run
      iml-bench suite run leaderboard --model my-model.yaml
      iml-bench suite run smoke --smoke --out smoke-results
      iml-bench suite run claims-cpu --until decided --max-seeds 32
    """
    suite = SUITES.get(name)
    _check_until(until, max_seeds, shard, smoke=smoke)
    chosen = seeds_of(seeds) if seeds is not None else ()
    requests = suite_requests(suite, smoke=smoke, data=data, models=model or (), seeds=chosen)
    rule = rule_of(suite, requests, max_seeds, seeds)
    source = data.resolve() if data else None
    runtime = make_runtime(device, data_dir=data_dir, data=source, out=out, cells_per_gpu=cells_per_gpu)
    ruleset = "tuned" if any(request.ruleset == "tuned" for request in requests) else "shared"
    work = Work((), runtime, out, Where(executor, workers, slurm, detach), ruleset=ruleset)
    sweeps = _sweeps(requests, work)
    # Before anything runs: what is not valid says so. Learning rates that are yet to be chosen are the tasks' own here.
    own = {place: sweep.own for place, sweep in sweeps.items()}
    _say_left_out(suite, {request.where for request in requests})
    without = dry and data is None and any(TASKS.get(request.task).world.reads_file for request in requests)
    rule = rule._replace(requests=_with_rates(rule.requests, own), looks=() if without else rule.looks)
    planned = plan(rule.requests, out, with_source=not without)
    if dry or max_hours is not None:
        jobs = [job for sweep in sweeps.values() for job in sweep.work.jobs]
        jobs += plan(_asked(suite, rule, out), out) if dry and rule.looks else planned
        found = _dry_run(work._replace(jobs=tuple(jobs)), teraflops)
        if max_hours is not None:
            _check_hours(found, max_hours)
    if dry:
        _show_dry_run(found, sweeps, as_json=as_json)
        if without and not as_json:
            out_console().print("without --data nobody knows which of them are done", markup=False)
        return
    chosen_rates = _rates_of(sweeps, as_json=as_json)
    rule = rule._replace(requests=_with_rates(rule.requests, chosen_rates)) if sweeps else rule
    status = _carry_out(suite, rule, work, shard, as_json=as_json) or int(None in chosen_rates.values())
    judged = rule.judged(suite, Store(out).scan()[0]) if is_first() and not smoke else NONE
    judged.show(Console(stderr=True) if as_json else out_console())
    raise typer.Exit(status or int(any(one.verdict == "fail" for one in judged.controls)))


def _check_until(until: str | None, max_seeds: int | None, shard: str | None, *, smoke: bool) -> None:
    if until and shard:
        raise UsageError("--until decided looks at all records, and --shard makes some of them; leave one of them out")
    if (until is None) != (max_seeds is None) or (until and smoke):
        raise UsageError(
            "--until decided and --max-seeds N go together, and not with --smoke: seeds are added until every claim is "
            "decided or has N of them"
        )
    if until and is_launched():
        raise UsageError("--until decided looks at records between runs, in one process; start it without a launcher")


def _dry_run(work: Work, teraflops: float) -> DryRun:
    jobs = list({cell_key(job.cell): job for job in work.jobs}.values())
    width = choose_executor(work.where, work.runtime, len(jobs)).width(work.runtime)
    return dry_run(jobs, width, teraflops)


def _check_hours(found: DryRun, most: float) -> None:
    """See that a run will not take longer than ``--max-hours``.

    Raises:
        UsageError: when it will, or nobody knows.
    """
    hours = (found.seconds or 0) / 3600 + found.gpu_hours
    if found.unknown:
        raise UsageError(
            f"--max-hours {most:g}: nobody knows how long {found.unknown} of the {found.to_do} cells to run will take; "
            "leave it out, or run one of each task first (--dry-run shows them)"
        )
    if hours > most:
        raise UsageError(
            f"--max-hours {most:g}: the {found.to_do} cells to run will take about {hours:.2g} hours (--dry-run shows "
            "where they go)"
        )


def _show_dry_run(found: DryRun, sweeps: Mapping[Place, Sweep], *, as_json: bool) -> None:
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


def _asked(suite: SuiteSpec, rule: Rule, out: Path) -> Sequence[Request]:
    """What is to be run next: all of it, or as much as the next look at undecided claims takes."""
    return [*_unclaimed(suite, rule), *_looked(suite, rule, out).wanted] if rule.looks else rule.requests


def _unclaimed(suite: SuiteSpec, rule: Rule) -> list[Request]:
    """The grids that no claim is about, which are run as they are."""
    claimed = {suite.where(index) for index, grid in enumerate(suite.grids) if grid.name in suite.claimed}
    return [request for request in rule.requests if request.where not in claimed]


def _looked(suite: SuiteSpec, rule: Rule, out: Path) -> Judgement:
    """What is decided by now, and what the next look takes."""
    return judge(suite, rule.requests, Store(out).scan()[0], rule.looks)


Place = tuple[int, str]
"""Which of the requests, and which model of it."""


def _sweeps(requests: Sequence[Request], where: Work) -> dict[Place, Sweep]:
    """The sweeps that have to come first."""
    return {
        (index, name): sweep_of(replace(request, models=(name,)), where)
        for index, request in enumerate(requests)
        for name in untuned(request)
    }


def _rates_of(sweeps: Mapping[Place, Sweep], *, as_json: bool) -> dict[Place, float | None]:
    """Carry sweeps out, each once; the learning rates that they choose."""
    done: dict[frozenset[str], float | None] = {}
    for sweep in sweeps.values():
        if sweep.keys not in done:
            done[sweep.keys] = carry_out_sweep(sweep, as_json=as_json).choice.lr
    return {place: done[sweep.keys] for place, sweep in sweeps.items()}


def _carry_out(suite: SuiteSpec, rule: Rule, work: Work, shard: str | None, *, as_json: bool) -> int:
    """Carry out what the rule asks for, look by look, and show the rows of all of it; the exit status."""
    asked = _unclaimed(suite, rule) if rule.looks else rule.requests
    last: list[Request] = []
    # Where the same is wanted again there is no record of what was run.
    while rule.looks and (found := _looked(suite, rule, work.out)).wanted not in ([], last):
        asked, last = [*asked, *found.wanted], found.wanted
        _say_look(found, rule)
        look = work._replace(jobs=tuple(plan(found.wanted, work.out)))
        with redirect_stdout(sys.stderr) if as_json else nullcontext():  # a model's code may print
            carry_out(look, display_of(look))
    jobs = tuple(sharded(plan(asked, work.out), shard))

    def show(rows: Sequence[Row], results: Results, console: Console) -> None:
        """What varies in a grid as columns of its table, and the other rows as everywhere."""
        points = points_of(suite, rule.requests, results)
        print_points(points, console)
        in_points = {(row.task_key, row.model_key) for point in points if (row := point.row)}
        print_rows([row for row in rows if (row.task_key, row.model_key) not in in_points], console)

    return carry_out_and_show(work._replace(jobs=jobs), None, as_json=as_json, show=show) if jobs else 1


def _say_look(found: Judgement, rule: Rule) -> None:
    left = sum(one.decision == "undecided" for one in found.verdicts)
    seeds = max(len(request.seeds) for request in found.wanted)
    sys.stderr.write(
        f"{left} of {len(found.verdicts)} verdicts are open; next look after {seeds} of {rule.looks[-1]} seeds\n"
    )


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
