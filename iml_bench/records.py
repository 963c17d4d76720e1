"""The versioned result of a cell, written once and atomically; the folder that holds them is the state.

A record is a JSON file beside a Parquet file of per-item outcomes. The JSON is renamed into place last,
so a cell that was cut leaves nothing that looks finished. Running again compares cell keys, never names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from iml_bench.errors import UsageError
from iml_bench.provenance import Provenance
from iml_bench.spec import CellSpec, Spec, cell_key
from iml_bench.spec.base import first_problem
from iml_bench.stats import Columns, Scores, score_items

if TYPE_CHECKING:
    import polars as pl

SCHEMA_VERSION = 2
"""Version of ``Record``; a record of a newer one is refused, older ones are read.

1: first light. 2: learning curves, entity attribution, sets of questions in the per-item file.
"""


class StageReport(Spec):
    """What one stage of training did."""

    name: str
    steps: int
    final_loss: float | None
    micro_batch: int | None
    """Examples per process and forward pass at the end; smaller than asked for where memory ran out."""
    accumulation: int | None
    """Forward passes per process and optimiser step at the end."""


class CurveReport(Spec):
    """One point of a learning curve."""

    phase: str
    fold: int
    step: int
    exact_match: dict[str, float]


class Failure(Spec):
    """Why a cell failed."""

    kind: str
    message: str
    traceback: str


class ItemFile(Spec):
    """The per-item outcomes that the scores were computed from."""

    file: str
    """Name of the Parquet file beside the record."""
    rows: int
    sha256: str


class Timing(Spec):
    """The only part of a record that differs when the same cell is run again on the same machine."""

    started: str
    """UTC, ISO 8601."""
    ended: str
    seconds: dict[str, float]
    """Wall time by part of the cell: setup, stage1, stage2/fold0, stage2/fold1, evaluation; a learning curve's is
    in that of its phases, too."""


class Record(Spec):
    """The result of one cell."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1)
    status: Literal["done", "failed"]
    key: str
    """``cell_key(cell)``; checked whenever a record is read."""
    cell: CellSpec
    """The resolved specification."""
    changes: dict[str, Any]
    """The fields in which the task differs from the one that is registered under its name."""
    smoke: bool
    """Whether the task was shrunk for a test; such a record is no result."""
    parameters: int | None = None
    """Trainable parameters, measured."""
    scores: Scores | None = None
    chance: float | None = None
    """Exact match of a guess among an attribute's values."""
    data_digest: str | None = None
    items: ItemFile | None = None
    streams: dict[str, int]
    """The seed of every named random stream."""
    stages: tuple[StageReport, ...] = ()
    curve: tuple[CurveReport, ...] = ()
    """Where it was asked for (``--curve``); it is no part of the identity and changes nothing else."""
    provenance: Provenance
    timing: Timing
    error: Failure | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.key != cell_key(self.cell):
            raise ValueError("the key does not belong to the specification; one of them was changed")
        if (self.status == "done") != (self.scores is not None and self.items is not None):
            raise ValueError("a done record has scores and items, a failed one has neither")
        return self


class Stored(NamedTuple):
    """A record and where it was read from."""

    path: Path
    record: Record


def read_record(path: Path) -> Record:
    """Read and validate one record.

    Raises:
        UsageError: when there is no such file, it is no record, or it was written by a newer version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise UsageError(f"{path} is not a record of iml-bench: {reason}") from error
    if not isinstance(data, dict) or "schema_version" not in data or "cell" not in data:
        raise UsageError(f"{path} is not a record of iml-bench: it has no schema_version and cell")
    if isinstance(data["schema_version"], int) and data["schema_version"] > SCHEMA_VERSION:
        raise UsageError(
            f"{path} has record schema {data['schema_version']} and this iml-bench reads up to "
            f"{SCHEMA_VERSION}; install a newer iml-bench"
        )
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{path} is not a valid record: {first_problem(error)}") from error


def read_items(stored: Stored) -> pl.DataFrame:
    """The per-item outcomes of a done record.

    Raises:
        UsageError: when the file is missing or is not the one the record was made with.
    """
    import polars as pl

    items = stored.record.items
    if items is None:
        raise UsageError(f"{stored.path} is the record of a failed cell and has no items")
    path = stored.path.with_name(items.file)
    if not path.is_file():
        raise UsageError(f"{path} is missing; it belongs to {stored.path}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != items.sha256:
        raise UsageError(f"{path} is not the file that {stored.path} was made with")
    return pl.read_parquet(path)


def columns_of(table: pl.DataFrame) -> Columns:
    """A per-item table as the plain columns that scoring reads."""
    return {name: table[name].to_numpy() for name in table.columns}


class Store:
    """A folder of records."""

    def __init__(self, root: Path) -> None:
        """Args: root: the folder; it need not exist yet."""
        self.root = root

    def scan(self) -> tuple[list[Stored], list[str]]:
        """All records below the folder, and a sentence for every JSON file that is none."""
        found, problems = [], []
        for path in sorted(self.root.rglob("*.json")):
            try:
                found.append(Stored(path, read_record(path)))
            except UsageError as error:
                problems.append(str(error))
        return found, problems

    def path_of(self, cell: CellSpec) -> Path:
        """Where the record of a cell is written; the name is for people, identity is the key inside."""
        model = re.sub(r"[^A-Za-z0-9._-]+", "_", cell.model.name)[:60].strip(".") or "model"
        return self.root / model / f"{cell.task.name}@{cell.task.version}-{cell_key(cell)[:12]}-seed{cell.seed}.json"

    def write(self, draft: dict[str, Any], table: pl.DataFrame | None) -> Path:
        """Write a record, its items first; nothing is left behind when the process is killed in between.

        Args:
            draft: the fields of ``Record`` but ``status``, ``items`` and ``scores``.
            table: the per-item outcomes of a done cell, None for a failed one.
        """
        path = self.path_of(draft["cell"])
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path)
        if table is None:
            record = Record(status="failed", **draft)
        else:
            parquet = path.with_suffix(".parquet")
            with _Replacing(parquet) as temporary:
                table.write_parquet(temporary, compression="zstd", statistics=False)
                digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
            items = ItemFile(file=parquet.name, rows=len(table), sha256=digest)
            scores = score_items(columns_of(table))
            record = Record(status="done", items=items, scores=scores, **draft)
        with _Replacing(path) as temporary:
            temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return path


class _Replacing:
    """A temporary file beside ``path`` that takes its place, flushed to disk, when the block ends well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.temporary.unlink(missing_ok=True)
            return
        with open(self.temporary, "rb+") as file:
            os.fsync(file.fileno())
        self.temporary.replace(self.path)


def _clear_leftovers(path: Path) -> None:
    """Remove temporary files of processes that were killed while they wrote this very record."""
    for leftover in path.parent.glob(f".{path.stem}.*.tmp"):
        leftover.unlink(missing_ok=True)


def latest_by_key(stored: Sequence[Stored]) -> dict[str, Stored]:
    """Records by cell key; where a key has several, a done one goes before a failed one."""
    result: dict[str, Stored] = {}
    for entry in sorted(stored, key=lambda entry: entry.record.status == "done"):
        result[entry.record.key] = entry
    return result


def iterate_done(stored: Sequence[Stored]) -> Iterator[Stored]:
    """One done record per key."""
    for entry in latest_by_key(stored).values():
        if entry.record.status == "done":
            yield entry
