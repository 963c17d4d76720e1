"""``iml-bench tune``: the learning rate of a model on a task, chosen as the tuned ruleset does."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext, redirect_stdout
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from iml_bench.cli.dryrun import dry_run, print_dry_run
from iml_bench.cli.options import (
    CellsPerGpu,
    Checkpointing,
    Data,
    DataDir,
    Device,
    Executor,
    Json,
    MicroBatch,
    Out,
    Slurm,
    Workers,
    print_json,
)
from iml_bench.cli.outcome import say_failures
from iml_bench.cli.tables import out_console
from iml_bench.library.options import DEFAULT_OUT, TuneOptions
from iml_bench.library.running import carry_out, display_of
from iml_bench.library.tuning import Sweep, Tuning, concluded, planned_sweep
from iml_bench.run.executors.choose import choose_executor
from iml_bench.run.sweep import SEEDS, rates


def tune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, source or file.")],
    task: Annotated[str, typer.Option("--task", help="A task's name, or the path of a task file.")],
    small: Annotated[bool, typer.Option("--small", help="For the task's small setting.")] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Only say which cells are done and how long the others will take.")
    ] = False,
    out: Out = DEFAULT_OUT,
    workers: Workers = None,
    executor: Executor = None,
    slurm: Slurm = None,
    cells_per_gpu: CellsPerGpu = None,
    device: Device = "auto",
    micro_batch: MicroBatch = None,
    checkpointing: Checkpointing = False,
    data: Data = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Choose the learning rate of a model: five values, two seeds, by what stage 1 taught it, never by stage 2.

    What is chosen is written into the model's entry, and run --ruleset tuned takes it from there.

    \b
    Examples:
      iml-bench tune mlp-m --task vision
      iml-bench tune my-model.yaml --task text-sets --small --out sweeps
      iml-bench tune convnet-s --task vision --dry-run
    """
    options: TuneOptions = {
        "small": small,
        "out": out,
        "workers": workers,
        "executor": executor,
        "slurm": slurm,
        "cells_per_gpu": cells_per_gpu,
        "device": device,
        "micro_batch": micro_batch,
        "gradient_checkpointing": checkpointing,
        "data": data,
        "data_dir": data_dir,
    }
    sweep = planned_sweep(model, task, options)
    work = sweep.work
    if dry:
        found = dry_run(work.jobs, choose_executor(work.where, work.runtime, len(work.jobs)).width(work.runtime))
        print_json(found.model_dump(mode="json")) if as_json else print_dry_run(found, out_console())
        return
    tuning = carry_out_sweep(sweep, as_json=as_json)
    if as_json:
        print_json(tuning.model_dump(mode="json"))
    raise typer.Exit(0 if tuning.choice.lr is not None else 1)


def carry_out_sweep(sweep: Sweep, *, as_json: bool) -> Tuning:
    """Run what is not done of a sweep, store what it chooses, and print it unless JSON is to be printed."""
    display = display_of(sweep.work)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # a model's code may print
        carry_out(sweep.work, display)
    say_failures(sweep.work, display)
    tuning = concluded(sweep)
    if not as_json:
        print_tuning(tuning, sweep)
    return tuning


def print_tuning(found: Tuning, sweep: Sweep) -> None:
    """A table of the sweep, a line for every learning rate, and what becomes of the choice."""
    console = out_console()
    title = f"{found.setting}: held-out exact match of reliable after stage 1, {found.model}"
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("learning rate", *(f"seed {seed}" for seed in SEEDS), "mean", "last loss, mean", ""):
        table.add_column(name, justify="right" if name else "left")
    for lr in rates(found.own):
        trials = {trial.seed: trial for trial in found.choice.trials if trial.lr == lr}
        marks = [
            word for word, holds in (("the task's own", lr == found.own), ("chosen", lr == found.choice.lr)) if holds
        ]
        cells = [_trial(trials[seed].match) if seed in trials else "not run" for seed in SEEDS]
        means = [[getattr(trial, name) for trial in trials.values()] for name in ("match", "loss")]
        table.add_row(f"{lr:g}", *cells, *map(_mean, means), ", ".join(marks))
    console.print(table)
    for line in _after(found, sweep):
        console.print(line, markup=False, soft_wrap=True)


def _trial(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.3f}"


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.3f}" if len(known) == len(SEEDS) else "-"


def _after(found: Tuning, sweep: Sweep) -> list[str]:
    """What was chosen, where it stands now, and what to do next."""
    if found.choice.missing:
        cells = ", ".join(f"{lr:g} seed {seed}" for lr, seed in found.choice.missing)
        return [f"nothing is chosen yet, since cells are missing: {cells}"]
    if found.choice.lr is None:
        return ["nothing is chosen, since training diverged at every learning rate"]
    lines = [f"records: {sweep.work.out}"]
    if found.entry is None:
        return [*lines, f"chosen: {found.choice.lr!r}; write into the entry of {found.model}:", found.lines.rstrip()]
    small = ["--small"] if found.setting.endswith(" small") else []
    command = shlex.join(["--task", sweep.task, *small, "--model", sweep.name, "--ruleset", "tuned", "--seeds", "8"])
    return [
        *lines,
        f"chosen: {found.choice.lr!r}; written into {found.entry}",
        f"next:    iml-bench run {command}",
    ]
