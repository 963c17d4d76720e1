"""What a run takes beside its task, models and seeds, and what becomes of it: a request, and the hardware side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final, TypedDict, get_type_hints

from iml_bench.errors import UsageError, nearest, shown
from iml_bench.run.executors.choose import Where
from iml_bench.run.job import Job
from iml_bench.run.plan import RULESETS, Request
from iml_bench.runtime import Runtime
from iml_bench.spec import parse_seeds

AnyPath = str | PathLike[str]

DEFAULT_OUT = Path("iml-results")
DEFAULT_SEEDS: Final = 5
DEVICES = ("auto", "cpu", "cuda", "mps")

SHORTHANDS: Final = {
    "alpha": "alpha",
    "batch_size": "recipe.batch_size",
    "lr": "recipe.lr",
    "exact_match": "exact_match",
}
"""Options that are short for a field of the task."""
HARDWARE: Final = (
    "device",
    "micro_batch",
    "gradient_checkpointing",
    "data_dir",
    "curve",
    "track",
    "workers",
    "executor",
    "slurm",
    "cells_per_gpu",
)
"""Options that change no answer by more than rounding: a command that is repeated is given them again, with ``out``."""


class TuneOptions(TypedDict, total=False):
    """What ``iml_bench.tune`` takes: which data, and where and how fast."""

    small: bool
    """The task's small setting."""
    data: AnyPath | None
    """The file that a task's entities are read from."""
    out: AnyPath
    """Folder of the records, ``iml-results`` by default; what is done there is not run again."""
    workers: int | None
    """Cells side by side, in processes of one thread each; by default the cores, and one for each place on GPUs."""
    executor: str | None
    """Where cells run: ``local`` (the default), ``inline``, ``processes``, ``slurm``, ``ray``, or one that another
    package adds."""
    slurm: str | None
    """Options of sbatch for the jobs of executor ``slurm``: ``partition=gpu,account=lab,time=4h``."""
    cells_per_gpu: int | None
    """Places on each GPU, 1 by default: as many cells share it where several run side by side."""
    device: str
    """``auto``, ``cpu``, ``cuda`` or ``mps``."""
    micro_batch: int | None
    """Examples per forward pass: the answer stays the same within rounding, of which training makes much, and the
    record says which was used. Refused where it would change more (dropout, batch normalisation)."""
    gradient_checkpointing: bool
    """Less memory, more time; does not change the answer."""
    data_dir: AnyPath | None
    """Folder of data sets that are not embedded (MNIST)."""
    progress: bool
    """Show how it goes (the default); False: silent."""


class RunOptions(TuneOptions, total=False):
    """What ``iml_bench.run`` and ``iml-bench run`` take, by the names of the command line's options."""

    set: Mapping[str, Any]
    """Fields of the task and of its recipe that are changed: ``{"recipe.stage1.steps": 400}``."""
    alpha: float | None
    """Share of the definitions whose tag tells the truth about them; short for ``set={"alpha": ...}``."""
    batch_size: int | None
    """Short for ``set={"recipe.batch_size": ...}``."""
    lr: float | None
    """Short for ``set={"recipe.lr": ...}``."""
    exact_match: str | None
    """``strict`` or ``normalised``; short for ``set={"exact_match": ...}``."""
    ruleset: str
    """``shared`` (the default): the task's learning rate for all; ``tuned``: for each model the one that
    ``iml_bench.tune`` chose and its entry says."""
    variant: str | None
    """The name of one of the task's variants."""
    smoke: bool
    """Shrink the task to a test; the records are no results."""
    trust_remote_code: bool
    """Run code that comes with an ``hf:`` model's weights."""
    curve: int
    """Also ask this many times in each stage, at most 1000; kept in the record."""
    track: str | None
    """A tracker of Accelerate (``tensorboard``, ``wandb``, ...): one run for every cell that is trained."""
    probe: Sequence[str]
    """Probes that look into every network, ``NAME[?OPTION=VALUE][@MOMENT]``; their tables lie beside the records."""
    shard: str | None
    """``2/3``: only the second of three parts of the cells, for machines that share no folder."""
    detach: bool
    """Hand the cells over to Slurm and return."""
    keep: bool
    """Write the weights after every training step beside the records."""


def check_names(options: Mapping[str, Any], verb: str = "run", known_to: type = RunOptions) -> None:
    """Check that every option is one.

    Args:
        options: as they were given.
        verb: who takes them.
        known_to: which there are.

    Raises:
        UsageError: one sentence with the name that looks most like it.
    """
    known = list(get_type_hints(known_to))
    for name in options:
        if name not in known:
            near = nearest(name, known)
            hint = f": did you mean {near!r}?" if near else ""
            raise UsageError(f"unknown option {shown(repr(name))}{hint} ({verb} takes {', '.join(known)})")


def make_request(
    task: str, model: str | Sequence[str] | None, seeds: int | str | Sequence[int], options: RunOptions
) -> Request:
    """What is asked for.

    Args:
        task: a task's name, or the path of a task file.
        model: names, sources or files; None: the task's own model.
        seeds: how many (5: seeds 0 to 4), text as ``--seeds`` takes it, or the seeds themselves.
        options: see ``RunOptions``.

    Raises:
        UsageError: when no seed is named, a field is set twice, or there is no such ruleset.
    """
    overrides = dict(options.get("set", {}))
    for name, path in SHORTHANDS.items():
        value = options.get(name)
        if value is not None:
            if path in overrides:
                raise UsageError(f"{path} is set twice")
            overrides[path] = value
    data, ruleset = options.get("data"), options.get("ruleset", "shared")
    if ruleset not in RULESETS:
        raise UsageError(f"--ruleset {shown(repr(ruleset))} is none of {', '.join(RULESETS)}")
    return Request(
        task=task,
        models=(model,) if isinstance(model, str) else tuple(model or ()),
        seeds=seeds_of(seeds),
        overrides=overrides,
        ruleset=ruleset,
        small=options.get("small", False),
        smoke=options.get("smoke", False),
        variant=options.get("variant"),
        trust_remote_code=options.get("trust_remote_code", False),
        data=None if data is None else Path(data),
        probes=tuple(options.get("probe", ())),
    )


def seeds_of(seeds: int | str | Sequence[int]) -> tuple[int, ...]:
    """What ``--seeds`` names, or a number or list of them.

    Raises:
        UsageError: when it names no seed.
    """
    if not isinstance(seeds, int | str):
        listed = list(seeds)
        if not listed or not all(isinstance(seed, int) and seed >= 0 for seed in listed):
            raise UsageError(f"--seeds {shown(repr(listed))} are no seeds; give a number, text like 3-7, or integers")
        seeds = ",".join(f"{seed}-{seed}" for seed in listed)
    try:
        return parse_seeds(str(seeds))
    except ValueError as error:
        raise UsageError(f"--seeds {error}") from error


def where_of(options: TuneOptions | RunOptions) -> Where:
    """What is to carry the cells out.

    Raises:
        UsageError: when the number of workers is none.
    """
    workers = options.get("workers")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: give 1, or as many cells as shall run side by side")
    detach = bool(options.get("detach", False))
    return Where(options.get("executor"), workers, options.get("slurm"), detach)


def sharded(jobs: list[Job], shard: str | None) -> list[Job]:
    """One of several parts of the jobs, dealt out in turn, so that parts take about the same time.

    Args:
        jobs: all of them, as every machine plans them.
        shard: ``2/3``: the second of three parts; None: all.

    Raises:
        UsageError: when it is no such part.
    """
    if shard is None:
        return jobs
    found = re.fullmatch(r"0*(\d{1,6})/0*(\d{1,6})", shard)
    part, parts = (int(number) for number in found.groups()) if found else (0, 0)
    if not 1 <= part <= parts:
        raise UsageError(f"--shard {shown(shard)} is no part; give 1/3, 2/3 and 3/3 to three machines")
    return jobs[part - 1 :: parts]


def runtime_of(options: RunOptions) -> Runtime:
    """The hardware side of the options.

    Raises:
        UsageError: when the device, the data folder or the tracker does not exist, or a number is out of range.
    """
    data, data_dir = options.get("data"), options.get("data_dir")
    micro_batch, curve = options.get("micro_batch"), options.get("curve", 0)
    for name, number, least, most in (("--micro-batch", micro_batch, 1, None), ("--curve", curve, 0, 1000)):
        if number is not None and (number < least or (most is not None and number > most)):
            raise UsageError(f"{name} {number}: it is at least {least}" + (f" and at most {most}" if most else ""))
    return make_runtime(
        options.get("device", "auto"),
        data_dir=None if data_dir is None else Path(data_dir),
        track=options.get("track"),
        out=Path(options.get("out", DEFAULT_OUT)),
        micro_batch=micro_batch,
        cells_per_gpu=options.get("cells_per_gpu"),
        data=None if data is None else Path(data).resolve(),
        curve=curve,
        checkpointing=options.get("gradient_checkpointing", False),
        keep=options.get("keep", False),
    )


def make_runtime(
    device: str,
    *,
    data_dir: Path | None = None,
    track: str | None = None,
    out: Path | None = None,
    cells_per_gpu: int | None = None,
    **more: Any,
) -> Runtime:
    """The hardware side of whatever trains; ``more`` are fields of ``Runtime`` that need no check.

    Raises:
        UsageError: when the device's name, the data folder or the tracker does not exist.
    """
    if device not in DEVICES:
        raise UsageError(f"--device {device!r} is none of {', '.join(DEVICES)}")
    if data_dir is not None and not data_dir.is_dir():
        raise UsageError(f"--data-dir {str(data_dir)!r} is not a folder")
    if track is not None:
        _check_tracker(track)
    return Runtime(
        device=device,  # type: ignore[arg-type]
        cells_per_gpu=1 if cells_per_gpu is None else cells_per_gpu,
        data_dir=data_dir.resolve() if data_dir else None,
        track=track,
        track_dir=out / "tracking" if track and out else None,
        **more,
    )


def _check_tracker(name: str) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    from accelerate.utils import is_tensorboard_available, is_wandb_available

    if name not in LOGGER_TYPE_TO_CLASS:
        raise UsageError(f"--track {name!r}: Accelerate knows {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
    installed = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}.get(name, lambda: True)()
    if not installed:
        raise UsageError(f"--track {name} needs the package {name!r}: pip install {name}")
