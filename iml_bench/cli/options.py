"""What several verbs share: option declarations, parsing of seeds and overrides, JSON output."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from iml_bench.errors import UsageError
from iml_bench.paths import data_root
from iml_bench.records import Store, Stored
from iml_bench.runtime import Runtime
from iml_bench.spec import Spec, parse_override, parse_seeds

DEFAULT_OUT = Path("iml-results")
DEVICES = ("auto", "cpu", "cuda", "mps")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the records; the same command continues there.")]
Records = Annotated[
    list[Path] | None,
    typer.Option("--records", help="Folder of records; repeatable. Default: iml-results, or the shipped results."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes of one thread each. Default: the cores; 1 on a GPU.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder of data sets that are not embedded (MNIST).")]
Track = Annotated[str | None, typer.Option("--track", help="A tracker of Accelerate: tensorboard, wandb, ...")]
MicroBatch = Annotated[
    int | None, typer.Option("--micro-batch", min=1, help="Examples per forward pass; does not change the answer.")
]
Data = Annotated[Path | None, typer.Option("--data", help="The file that a task's entities are read from.")]


def seeds_of(text: str) -> tuple[int, ...]:
    """What ``--seeds`` names.

    Raises:
        UsageError: when it names no seed.
    """
    try:
        return parse_seeds(text)
    except ValueError as error:
        raise UsageError(f"--seeds {error}") from error


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


def make_runtime(
    device: str, *, data_dir: Path | None = None, track: str | None = None, out: Path | None = None, **more: Any
) -> Runtime:
    """The hardware side of a run; ``more`` are fields of ``Runtime`` that need no check.

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


def load_records(folders: Sequence[Path] | None) -> tuple[list[Stored], list[Path]]:
    """All records of some folders, and the folders; files that are no records are named on stderr.

    Raises:
        UsageError: when a folder that was asked for does not exist.
    """
    stored, found, problems = scan_records(folders)
    for problem in problems:
        sys.stderr.write(f"left out: {problem}\n")
    return stored, found


def scan_records(folders: Sequence[Path] | None) -> tuple[list[Stored], list[Path], list[str]]:
    """All records of some folders, the folders, and a sentence for every file that is no record.

    Raises:
        UsageError: when a folder that was asked for does not exist.
    """
    if not folders:
        shipped = data_root() / "leaderboard" / "results"
        folders = [DEFAULT_OUT] if DEFAULT_OUT.is_dir() else [shipped]
    stored: list[Stored] = []
    problems: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--records {str(folder)!r} is not a folder")
        found, left_out = Store(folder).scan()
        stored += found
        problems += left_out
    return stored, list(folders), problems


def print_json(value: Spec | dict[str, Any] | Sequence[Spec] | Sequence[dict[str, Any]]) -> None:
    """Print one object, or a list of rows, as JSON."""

    def plain(item: Any) -> Any:
        return item.model_dump(mode="json") if isinstance(item, Spec) else item

    shown = plain(value) if isinstance(value, Spec | dict) else [plain(row) for row in value]
    sys.stdout.write(json.dumps(shown, indent=1, allow_nan=False) + "\n")
