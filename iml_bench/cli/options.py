"""What several verbs share: option declarations, parsing of overrides, JSON output."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from iml_bench.errors import UsageError, shown, unknown
from iml_bench.library.reading import scan_folders
from iml_bench.records import Stored
from iml_bench.registry import MODELS, TASKS, kind_of
from iml_bench.sources.find import is_source
from iml_bench.spec import Spec, parse_override

SuiteName = Annotated[str, typer.Argument(metavar="NAME", help="A suite's name, or the path of a suite file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the records; the same command continues there.")]
Records = Annotated[
    list[Path] | None,
    typer.Option("--records", help="Folder of records; repeatable. Default: iml-results, or the shipped results."),
]
Ruleset = Annotated[
    str | None,
    typer.Option(
        "--ruleset",
        help="shared or tuned. Default: tuned where the leaderboard asks for it and has any.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes of one thread each. Default: the cores; the places on GPUs."),
]
CellsPerGpu = Annotated[
    int | None, typer.Option("--cells-per-gpu", min=1, help="Places on each GPU: cells that share it. Default: 1.")
]
Executor = Annotated[
    str | None,
    typer.Option("--executor", help="Where cells run: local (the default), inline, processes, slurm, ray."),
]
Slurm = Annotated[
    str | None,
    typer.Option("--slurm", metavar="OPTION=VALUE,...", help="Run as jobs of Slurm: partition=gpu,account=lab,time=4h"),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Hand the cells over to Slurm and return; the same command waits for them.")
]
Shard = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Only part I of N of the cells, for machines that share no folder."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder of data sets that are not embedded (MNIST).")]
Track = Annotated[str | None, typer.Option("--track", help="A tracker of Accelerate: tensorboard, wandb, ...")]
Checkpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Less memory, more time; does not change the answer.")
]
Curve = Annotated[
    int,
    typer.Option("--curve", min=0, max=1000, help="Also ask this many times in each stage; kept in the record."),
]
Probe = Annotated[
    list[str] | None,
    typer.Option("--probe", help="NAME or NAME@MOMENT: look into the network; repeatable. iml-bench probe --help"),
]
Keep = Annotated[bool, typer.Option("--keep", help="Write the weights after every training step beside the records.")]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        "--micro-batch",
        min=1,
        help="Examples per forward pass; the answer is the same within rounding, and the record says it.",
    ),
]
MaxSeeds = Annotated[
    int | None,
    typer.Option(
        "--max-seeds",
        help="Judge claims after 4, 8, 16, ... seeds and at last after this many; the looks share the error.",
    ),
]
Data = Annotated[Path | None, typer.Option("--data", help="The file that a task's entities are read from.")]


def parse_overrides(texts: Sequence[str], shorthands: dict[str, Any]) -> dict[str, Any]:
    """``--set`` texts and the shorthands that were given, as ``{path: value}``.

    Raises:
        UsageError: when one is malformed, or a field is set twice.
    """
    found: dict[str, Any] = {}
    given = [parse_override(text) for text in texts]
    given += [(path, value) for path, value in shorthands.items() if value is not None]
    for path, value in given:
        if path in found:
            raise UsageError(f"{path} is set twice")
        found[path] = value
    return found


def load_records(folders: Sequence[Path] | None) -> tuple[list[Stored], list[Path]]:
    """All records of some folders, and the folders; files that are no records are named on stderr.

    Raises:
        UsageError: when a folder that was asked for does not exist.
    """
    stored, found, problems = scan_folders(folders)
    for problem in problems:
        sys.stderr.write(f"left out: {problem}\n")
    return stored, found


def print_json(value: Spec | dict[str, Any] | Sequence[Spec] | Sequence[dict[str, Any]]) -> None:
    """Print one object, or a list of rows, as JSON."""

    def plain(item: Any) -> Any:
        return item.model_dump(mode="json") if isinstance(item, Spec) else item

    shown = plain(value) if isinstance(value, Spec | dict) else [plain(row) for row in value]
    sys.stdout.write(json.dumps(shown, indent=1, allow_nan=False) + "\n")


def task_or_model(name: str) -> str:
    """Whether what a user named is a ``task`` or a ``model``: a name, a source or a file.

    Raises:
        UsageError: when there is neither.
    """
    if name in TASKS.origins:
        return "task"
    if name in MODELS.origins or is_source(name):
        return "model"
    path = Path(name)
    if path.is_file():
        return kind_of(path, TASKS, MODELS).kind
    if path.is_dir():
        raise UsageError(f"{shown(repr(name), 300)} is a folder, and a task or a model is a file")
    if path.suffix in (".yaml", ".yml"):
        raise UsageError(f"there is no file {shown(repr(name), 300)} (iml-bench tasks and iml-bench models list names)")
    known = [*TASKS.origins, *MODELS.origins]
    raise unknown("task or model", name, known, "iml-bench tasks and iml-bench models")
