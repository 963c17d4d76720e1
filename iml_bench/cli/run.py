"""``iml-bench run``: parse what is asked for, call the library, show the scores."""

from __future__ import annotations

from typing import Annotated

import typer

from iml_bench.cli.launch import launch
from iml_bench.cli.options import (
    CellsPerGpu,
    Checkpointing,
    Curve,
    Data,
    DataDir,
    Detach,
    Device,
    Executor,
    Json,
    Keep,
    MicroBatch,
    Out,
    Probe,
    Shard,
    Slurm,
    Track,
    Workers,
    parse_overrides,
)
from iml_bench.cli.outcome import carry_out_and_show
from iml_bench.errors import UsageError
from iml_bench.library.options import DEFAULT_OUT, HARDWARE, SHORTHANDS, RunOptions
from iml_bench.library.running import planned
from iml_bench.run.executors.choose import HERE
from iml_bench.runtime import check_launch, launched


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
    ruleset: Annotated[
        str, typer.Option("--ruleset", help="shared, or tuned: each model at the learning rate that its entry says.")
    ] = "shared",
    small: Annotated[bool, typer.Option("--small", help="The task's small setting.")] = False,
    variant: Annotated[
        str | None, typer.Option("--variant", help="A variant of the task, such as vision-mnist's joint.")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Shrink the task to a test; the records are no results.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with an hf: model's weights.")
    ] = False,
    out: Out = DEFAULT_OUT,
    workers: Workers = None,
    executor: Executor = None,
    slurm: Slurm = None,
    detach: Detach = False,
    shard: Shard = None,
    cells_per_gpu: CellsPerGpu = None,
    device: Device = "auto",
    micro_batch: MicroBatch = None,
    checkpointing: Checkpointing = False,
    processes: Annotated[int, typer.Option("--processes", help="Processes that share every global batch.")] = 1,
    data: Data = None,
    data_dir: DataDir = None,
    curve: Curve = 0,
    track: Track = None,
    probe: Probe = None,
    keep: Keep = False,
    as_json: Json = False,
) -> None:
    """Put models through both stages of a task and score them, one record per seed.

    \b
    Examples:
      iml-bench run --task vision
      iml-bench run --task text --model neox-s --model llama-s --seeds 3
      iml-bench run --task vision --alpha 0.5 --seeds 8
      iml-bench run --task vision --model convnet-s --ruleset tuned --seeds 8
      iml-bench run --task text-cities --small --model smollm2-135m --seeds 3 --set recipe.precision=bf16
    """
    if processes < 1:
        raise UsageError(f"--processes {processes}: give 1, or as many as shall share every batch")
    shorthands = {"alpha": alpha, "batch_size": batch_size, "lr": lr, "exact_match": exact_match}
    options: RunOptions = {
        "set": parse_overrides(setting or [], {SHORTHANDS[name]: value for name, value in shorthands.items()}),
        "ruleset": ruleset,
        "small": small,
        "variant": variant,
        "smoke": smoke,
        "trust_remote_code": trust_remote_code,
        "data": data,
        "out": out,
        "workers": workers,
        "executor": executor,
        "slurm": slurm,
        "detach": detach,
        "shard": shard,
        "cells_per_gpu": cells_per_gpu,
        "device": device,
        "micro_batch": micro_batch,
        "gradient_checkpointing": checkpointing,
        "data_dir": data_dir,
        "curve": curve,
        "track": track,
        "probe": probe or [],
        "keep": keep,
    }
    work = planned(task, model, seeds, options)
    check_launch()
    elsewhere = work.where.name not in (None, *HERE)
    if processes > 1 and launched().size == 1 and not elsewhere:
        raise typer.Exit(launch(processes))
    work = work.in_processes(processes) if elsewhere else work
    if processes not in (1, launched().size) and not elsewhere:
        raise UsageError(f"--processes {processes}: this is one of {launched().size} processes already; leave it out")
    asked = {name: options.get(name) for name in HARDWARE if options.get(name)}
    asked |= {"out": out if out != DEFAULT_OUT else None, "device": device if device != "auto" else None}
    asked |= {"processes": processes if processes > 1 else None}
    raise typer.Exit(carry_out_and_show(work, asked, as_json=as_json))
