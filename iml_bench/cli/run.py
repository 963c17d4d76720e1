"""``iml-bench run``: put models through a task, skip what is done, show the scores."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from iml_bench.board import build_rows
from iml_bench.cli.launch import launch
from iml_bench.cli.options import (
    DEFAULT_OUT,
    Data,
    DataDir,
    Device,
    Json,
    MicroBatch,
    Out,
    Track,
    Workers,
    make_runtime,
    parse_overrides,
    print_json,
    seeds_of,
)
from iml_bench.cli.tables import out_console, print_rows
from iml_bench.errors import UsageError
from iml_bench.paths import probe_writable
from iml_bench.protocols import protocol_of
from iml_bench.records import Store, Stored, latest_by_key
from iml_bench.run.job import Job
from iml_bench.run.plan import Request, plan
from iml_bench.runtime import Runtime
from iml_bench.spec import cell_key

ALL_DONE, SOME_FAILED, INTERRUPTED = 0, 1, 130


def run(
    task: Annotated[str, typer.Option("--task", help="A task's name, or the path of a task file.")],
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model's name, source or file; repeatable.")
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", help="How many (5: seeds 0 to 4), a range 3-7, or a list 1,4.")
    ] = "5",
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="field.path=value: change any field of the task; repeatable.")
    ] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Short for --set alpha=.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Short for --set recipe.batch_size=.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Short for --set recipe.lr=.")] = None,
    exact_match: Annotated[
        str | None, typer.Option("--exact-match", help="strict or normalised; short for --set exact_match=.")
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="The task's small setting.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Shrink the task to a test; the records are no results.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with an hf: model's weights.")
    ] = False,
    out: Out = DEFAULT_OUT,
    workers: Workers = None,
    device: Device = "auto",
    micro_batch: MicroBatch = None,
    checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time; does not change the answer.")
    ] = False,
    processes: Annotated[int, typer.Option("--processes", help="Processes that share every global batch.")] = 1,
    data: Data = None,
    data_dir: DataDir = None,
    curve: Annotated[
        int,
        typer.Option("--curve", min=0, max=1000, help="Also ask this many times in each stage; kept in the record."),
    ] = 0,
    track: Track = None,
    as_json: Json = False,
) -> None:
    """Put models through both stages of a task and score them, one record per seed.

    \b
    Examples:
      iml-bench run --task vision
      iml-bench run --task text --model neox-s --model llama-s --seeds 3
      iml-bench run --task vision --alpha 0.5 --seeds 8
      iml-bench run --task text-cities --small --model smollm2-135m --seeds 3 --set recipe.precision=bf16
    """
    if processes < 1:
        raise UsageError(f"--processes {processes}: give 1, or as many as shall share every batch")
    shorthands = {"alpha": alpha, "recipe.batch_size": batch_size, "recipe.lr": lr, "exact_match": exact_match}
    request = Request(
        task=task,
        models=tuple(model or ()),
        seeds=seeds_of(seeds),
        overrides=parse_overrides(setting or [], shorthands),
        small=small,
        smoke=smoke,
        trust_remote_code=trust_remote_code,
        data=data,
    )
    runtime = make_runtime(
        device,
        data_dir=data_dir,
        track=track,
        out=out,
        micro_batch=micro_batch,
        data=data.resolve() if data else None,
        curve=curve,
        checkpointing=checkpointing,
    )
    jobs = plan([request], out)
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        raise typer.Exit(launch(processes))
    raise typer.Exit(execute(jobs, runtime, workers, as_json=as_json))


def execute(jobs: Sequence[Job], runtime: Runtime, workers: int | None, *, as_json: bool) -> int:
    """Run the jobs that are not done, then print the rows of all of them; returns the exit status."""
    from iml_bench.cli.progress import RunDisplay
    from iml_bench.run.executors.processes import default_workers, run_jobs

    store = Store(jobs[0].out)
    status = status_of(jobs, store.scan()[0])
    todo = [job for job in jobs if status.get(cell_key(job.cell)) != "done"]
    first = int(os.environ.get("RANK", "0")) == 0
    workers = workers or default_workers(runtime)
    if first:
        _announce(len(jobs), len(todo), list(status.values()).count("failed"), workers, store.root)
        if todo:
            probe_writable(store.root)
    with RunDisplay(todo, quiet=not first) as display:
        try:
            run_jobs(todo, runtime, workers, display)
        except KeyboardInterrupt:
            sys.stderr.write(f"interrupted; what is done is kept. To continue:\n  {_command()}\n")
            return INTERRUPTED
    if first:
        _report(jobs, todo, display.failures, as_json=as_json)
    return SOME_FAILED if display.failures else ALL_DONE


def status_of(jobs: Sequence[Job], stored: Sequence[Stored]) -> dict[str, str]:
    """``done`` or ``failed`` by cell key, for those of the jobs that have a record, whatever wrote it."""
    known = latest_by_key(stored)
    return {key: known[key].record.status for job in jobs if (key := cell_key(job.cell)) in known}


def _announce(planned: int, todo: int, failed: int, workers: int, root: Path) -> None:
    retried = f", {failed} failed before and tried again" if failed else ""
    sys.stderr.write(
        f"{planned} cells: {planned - todo} done already, {todo} to run{retried}; "
        f"{workers} worker{'s' if workers > 1 else ''}; records in {root}\n"
    )


def _report(jobs: Sequence[Job], todo: Sequence[Job], failures: dict[int, str], *, as_json: bool) -> None:
    store = Store(jobs[0].out)
    keys = {cell_key(job.cell) for job in jobs}
    stored = [entry for entry in store.scan()[0] if entry.record.key in keys]
    rows = build_rows(stored)
    if as_json:
        print_json(rows)
    else:
        console = out_console()
        print_rows(rows, console)
        console.print(f"records: {store.root}", markup=False)
        console.print(f"next:    {_next_command(jobs)}", markup=False, soft_wrap=True)
    for index, message in failures.items():
        sys.stderr.write(f"failed: {store.path_of(todo[index].cell)}: {message}\n")
    if failures:
        sys.stderr.write(f"to try the failed cells again:\n  {_command()}\n")


def _next_command(jobs: Sequence[Job]) -> str:
    names = list(dict.fromkeys(job.cell.model.name for job in jobs if not job.cell.model.is_reference))
    folder = "" if jobs[0].out == DEFAULT_OUT else f" --records {shlex.quote(str(jobs[0].out))}"
    if len(names) > 1:
        return f"iml-bench compare {shlex.quote(names[0])} {shlex.quote(names[1])}{folder}"
    task = jobs[0].cell.task
    if protocol_of(task).control(task):
        return f"iml-bench run --task {task.name} --alpha 0.5 --seeds 8    (the null control: must read zero)"
    return f"iml-bench leaderboard{folder}"


def _command() -> str:
    """The command as the user gave it, to paste."""
    program = "iml-bench" if not sys.argv[0].endswith("__main__.py") else "python -m iml_bench"
    return program + " " + shlex.join(sys.argv[1:])
