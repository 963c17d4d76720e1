"""The folder of records, which is the state: written once and atomically, read as untrusted input.

A record is a JSON file beside a Parquet file of per-item outcomes. The JSON is renamed into place last,
so a cell that was cut leaves nothing that looks finished. Running again compares cell keys, never names.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic import ValidationError

from iml_bench.errors import UsageError, shown
from iml_bench.protocols import ITEM_TYPES, Columns, Scores, evaluate, measures_of, score_items
from iml_bench.protocols.items import NULLABLE, OPTIONAL
from iml_bench.records.attachments import Attachment
from iml_bench.records.files import Replacing
from iml_bench.records.names import record_path
from iml_bench.records.record import SCHEMA_VERSION, Draft, ItemFile, Record
from iml_bench.spec import CellSpec
from iml_bench.spec.base import first_problem
from iml_bench.untrusted import read_bytes, read_json

if TYPE_CHECKING:
    import polars as pl

LARGEST_RECORD: Final = 5_000_000
"""Bytes of a record; the shipped ones have some 5,000, most of it the traceback where there is one."""
LARGEST_ITEMS: Final = 50_000_000
"""Bytes of a per-item file."""
LONGEST_ANSWER: Final = 10_000
"""Bytes of one text of a per-item file."""


class Stored(NamedTuple):
    """A record and where it was read from."""

    path: Path
    record: Record


def read_record(path: Path) -> Record:
    """Read and validate one record.

    Raises:
        UsageError: when there is no such file, it is no record, or it was written by a newer version.
    """
    where = shown(str(path), 300)
    try:
        data = read_json(path, LARGEST_RECORD)
    except UsageError as error:
        raise UsageError(f"{where} is not a record of iml-bench: {error}") from error
    if not isinstance(data, dict) or "schema_version" not in data or "cell" not in data:
        raise UsageError(f"{where} is not a record of iml-bench: it has no schema_version and cell")
    if isinstance(data["schema_version"], int) and data["schema_version"] > SCHEMA_VERSION:
        raise UsageError(
            f"{where} has record schema {data['schema_version']} and this iml-bench reads up to "
            f"{SCHEMA_VERSION}; install a newer iml-bench"
        )
    try:
        record = Record.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{where} is not a valid record: {first_problem(error)}") from error
    if record.items is not None and record.items.file != path.with_suffix(".parquet").name:
        raise UsageError(
            f"{where} is not a valid record: items.file: the file beside it is named like it, "
            f"{shown(path.with_suffix('.parquet').name)!r} (given: {shown(repr(record.items.file))})"
        )
    return record


def read_items(stored: Stored) -> pl.DataFrame:
    """The per-item outcomes of a done record.

    Raises:
        UsageError: when the file is missing, is not the one the record was made with, or holds something else.
    """
    items = stored.record.items
    whose = shown(str(stored.path), 300)
    if items is None:
        raise UsageError(f"{whose} is the record of a failed cell and has no items")
    path = stored.path.with_name(items.file)
    where = shown(str(path), 300)
    if not path.is_symlink() and not path.exists():
        raise UsageError(f"{where} is missing; it belongs to {whose}")
    try:
        raw = read_bytes(path, LARGEST_ITEMS)
    except UsageError as error:
        raise UsageError(f"{where} cannot be read: {error}") from error
    if hashlib.sha256(raw).hexdigest() != items.sha256:
        raise UsageError(f"{where} is not the file that {whose} was made with")
    try:
        return _table(raw, items.rows)
    except UsageError as error:
        raise UsageError(f"{where} holds no per-item outcomes: {error}") from error


def _table(raw: bytes, rows: int) -> pl.DataFrame:
    """A Parquet file's table; its columns and its number of rows are known before it is unpacked."""
    import polars as pl

    try:
        schema = pl.read_parquet_schema(io.BytesIO(raw))
        types = {name: kind for name, kind in ITEM_TYPES.items() if name in schema or name not in OPTIONAL}
        found = {name: str(kind) for name, kind in schema.items()}
        if found != types:
            wrong = sorted(name for name in {*found, *types} if found.get(name) != types.get(name))
            raise UsageError(f"column {shown(repr(wrong[0]))} is not as it must be")
        held = pl.scan_parquet(io.BytesIO(raw)).select(pl.len()).collect().item()
        if held != rows:
            raise UsageError(f"it has {held:,} rows, and the record says {rows:,}")
        table = pl.read_parquet(io.BytesIO(raw))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise UsageError("it is not a Parquet file") from error
    for name in table.columns:
        if name not in NULLABLE and table[name].null_count():
            raise UsageError(f"column {name!r} has gaps")
    if not table["log_likelihood"].is_finite().all():
        raise UsageError("a log-likelihood is not finite")
    longest = table.select(pl.col(pl.String).str.len_bytes().max()).row(0)
    if max(length or 0 for length in longest) > LONGEST_ANSWER:
        raise UsageError(f"it has a text of more than {LONGEST_ANSWER:,} bytes")
    return table


def columns_of(table: pl.DataFrame) -> Columns:
    """A per-item table as the plain columns that scoring reads."""
    return {name: table[name].to_numpy() for name in table.columns}


def scores_of(stored: Stored) -> Scores:
    """The scores of a done record, with those that its protocol has gained since it was written.

    What the record stores is what counts; the items beside it are read only for what it lacks.
    """
    record = stored.record
    assert record.scores is not None
    lacking = [measure for measure in measures_of(record.cell.task) if measure.name not in record.scores]
    absent = {name for name, version in OPTIONAL.items() if version > record.schema_version}
    # What needs a column that came later is known to be null, and no file is opened for it.
    found = {measure.name: evaluate(measure, {}) for measure in lacking if absent & {*measure.needs}}
    rest = [measure for measure in lacking if measure.name not in found]
    if rest:
        try:
            columns = columns_of(read_items(stored))
            found |= {measure.name: evaluate(measure, columns) for measure in rest}
        except UsageError:
            found |= {measure.name: (None, "the items beside its record cannot be read") for measure in rest}
    return Scores(
        **{**record.scores.values, **{name: value for name, (value, _) in found.items()}},
        exact_match=record.scores.exact_match,
        reasons={**record.scores.reasons, **{name: why for name, (_, why) in found.items() if why}},
    )


class Store:
    """A folder of records."""

    def __init__(self, root: Path) -> None:
        """Args: root: the folder; it need not exist yet."""
        self.root = root

    def scan(self) -> tuple[list[Stored], list[str]]:
        """All records below the folder, and a sentence for every JSON file that is none.

        Links are not followed, and nothing that lies there makes it fail.
        """
        found, problems = [], []
        paths, unread = _json_files(self.root)
        for path in sorted(paths):
            try:
                found.append(Stored(path, read_record(path)))
            except UsageError as error:
                problems.append(str(error))
        return found, problems + unread

    def path_of(self, cell: CellSpec) -> Path:
        """Where the record of a cell is written, see ``record_path``."""
        return self.root / record_path(cell)

    def write(self, draft: Draft, table: pl.DataFrame | None) -> Path:
        """Write a record, its items first; nothing is left behind when the process is killed in between.

        Args:
            draft: what the record says beside its items and their scores.
            table: the per-item outcomes of a done cell, None for a failed one.
        """
        path = self.path_of(draft.cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(path)
        if table is None:
            record = Record(status="failed", **dict(draft))
        else:
            parquet = path.with_suffix(".parquet")
            with Replacing(parquet) as temporary:
                table.write_parquet(temporary, compression="zstd", statistics=False)
                digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
            items = ItemFile(file=parquet.name, rows=len(table), sha256=digest)
            scores = score_items(draft.cell.task, columns_of(table))
            record = Record(status="done", items=items, scores=scores, **dict(draft))
        with Replacing(path) as temporary:
            temporary.write_bytes(_written(record))
        return path

    def attach(self, stored: Stored, made: Sequence[Attachment]) -> None:
        """List attachments in a record that is there; those of the same name and moment are replaced.

        Nothing else of the record changes, and it is exchanged whole.
        """
        new = {(one.kind, one.name, one.moment) for one in made}
        kept = [one for one in stored.record.attachments if (one.kind, one.name, one.moment) not in new]
        with Replacing(stored.path) as temporary:
            temporary.write_bytes(_written(stored.record.model_copy(update={"attachments": (*kept, *made)})))


def _json_files(root: Path) -> tuple[list[Path], list[str]]:
    """JSON files below a folder, and a sentence for every folder that cannot be read."""
    found, problems, todo = [], [], [root] if root.is_dir() else []
    while todo:
        folder = todo.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(Path(entry.path))
                    elif entry.name.endswith(".json"):
                        found.append(Path(entry.path))
        except OSError as error:
            problems.append(f"{shown(str(folder), 300)} cannot be read: {error.strerror}")
    return found, problems


def _clear_leftovers(path: Path) -> None:
    """Remove temporary files of processes that were killed while they wrote this very record."""
    for leftover in path.parent.glob(f".{path.stem}.*.tmp"):
        leftover.unlink(missing_ok=True)


def as_named(stored: Stored, name: str) -> bytes:
    """The JSON of a record as it is, or where it lies under another name, as it must be under this one."""
    items = stored.record.items
    beside = Path(name).with_suffix(".parquet").name
    if stored.record.attachments:  # weights and tables of probes stay where they are
        bare = stored.record.model_copy(update={"attachments": ()})
    elif items is None or items.file == beside:
        return stored.path.read_bytes()
    else:
        bare = stored.record
    renamed = items.model_copy(update={"file": beside}) if items is not None else None
    return _written(bare.model_copy(update={"items": renamed}))


def _written(record: Record) -> bytes:
    return (record.model_dump_json(indent=1) + "\n").encode()


def in_order(stored: Iterable[Stored]) -> list[Stored]:
    """Records in an order that no path and no order of folders has a part in."""
    return sorted(stored, key=lambda entry: (entry.record.key, entry.record.status, entry.record.timing.started))


def latest_by_key(stored: Sequence[Stored]) -> dict[str, Stored]:
    """Records by ``Record.cell_key``; where a key has several, a done one goes before a failed one."""
    result: dict[str, Stored] = {}
    for entry in sorted(in_order(stored), key=lambda entry: entry.record.status == "done"):
        result[entry.record.cell_key] = entry
    return result


def iterate_done(stored: Sequence[Stored]) -> Iterator[Stored]:
    """One done record per key."""
    for entry in latest_by_key(stored).values():
        if entry.record.status == "done":
            yield entry
