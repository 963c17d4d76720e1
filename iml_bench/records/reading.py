"""Records and their items as untrusted input, and the one form in which a record is written."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import ValidationError

from iml_bench.errors import UsageError, shown
from iml_bench.protocols import ITEM_TYPES, Columns, Scores, evaluate, measures_of
from iml_bench.protocols.items import NULLABLE, OPTIONAL
from iml_bench.records.attachments import by_content
from iml_bench.records.record import SCHEMA_VERSION, ItemFile, Record
from iml_bench.spec import digest_of
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


SEAL: Final = "seal"
"""The last field of a record, and of its timing: the digest of the other fields, so that no number that was changed is
believed. A record's does not cover the timing: the same cell again gives the same record but for that."""


def _seals(data: dict[str, Any]) -> tuple[str, str]:
    """The seals of a record without them and of its timing."""
    return digest_of({name: value for name, value in data.items() if name != "timing"}), digest_of(data.get("timing"))


def _sealed(data: dict[str, Any]) -> bool:
    """Take the seals out of a record; whether they are right. Older records have none."""
    timing = data.get("timing")
    given = [part.pop(SEAL) if isinstance(part, dict) and SEAL in part else None for part in (data, timing)]
    return all(one in (None, own) for one, own in zip(given, _seals(data), strict=True))


class NewerRecordError(UsageError):
    """A record of a version of iml-bench that is yet to be installed here."""


class Stored(NamedTuple):
    """A record and where it was read from."""

    path: Path
    record: Record


def read_record(path: Path) -> Record:
    """Read and validate one record.

    Raises:
        NewerRecordError: when it was written by a newer version.
        UsageError: when there is no such file, it is no record, or it is not as it was written.
    """
    where = shown(str(path), 300)
    try:
        data = read_json(path, LARGEST_RECORD)
    except UsageError as error:
        raise UsageError(f"{where} is not a record of iml-bench: {error}") from error
    if not isinstance(data, dict) or "schema_version" not in data or "cell" not in data:
        raise UsageError(f"{where} is not a record of iml-bench: it has no schema_version and cell")
    changed = not _sealed(data)
    if not changed and isinstance(data["schema_version"], int) and data["schema_version"] > SCHEMA_VERSION:
        raise NewerRecordError(
            f"{where} has record schema {data['schema_version']} and this iml-bench reads up to "
            f"{SCHEMA_VERSION}; install a newer iml-bench"
        )
    try:
        record = Record.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{where} is not a valid record: {first_problem(error)}") from error
    beside = path.with_suffix(".parquet").name
    if record.items is not None and record.items.file not in (beside, by_content(beside, record.items.sha256)):
        raise UsageError(
            f"{where} is not a valid record: items.file: the file beside it is named like it, "
            f"{shown(beside)!r} (given: {shown(repr(record.items.file))})"
        )
    if changed:
        raise UsageError(f"{where} is not a valid record: it was changed after it was written")
    return record


def read_items(stored: Stored) -> pl.DataFrame:
    """The per-item outcomes of a done record.

    Raises:
        UsageError: when the file is missing, is not the one the record was made with, or holds something else.
    """
    items, raw = _items_of(stored)
    where = shown(str(stored.path.with_name(items.file)), 300)
    try:
        return _table(raw, items.rows)
    except UsageError as error:
        raise UsageError(f"{where} holds no per-item outcomes: {error}") from error


def damage_of(stored: Stored) -> str | None:
    """Why the items of a done record are not to be had, in a sentence; None where they are those it was made with."""
    try:
        _items_of(stored)
    except UsageError as error:
        return str(error)
    return None


def _items_of(stored: Stored) -> tuple[ItemFile, bytes]:
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
    return items, raw


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
    # What needs a column that came later, or another task, is known to be null, and no file is opened for it.
    found = {measure.name: evaluate(measure, {}) for measure in lacking if absent & {*measure.needs}}
    found |= {measure.name: (None, measure.missing) for measure in lacking if not measure.of_task(record.cell.task)}
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
    return written(bare.model_copy(update={"items": renamed}))


def written(record: Record) -> bytes:
    """The bytes of a record's file, sealed."""
    data = json.loads(record.model_dump_json())
    data[SEAL], data["timing"][SEAL] = _seals(data)
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
