"""Records and their items as untrusted input, and the one form in which a record is written."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import ValidationError

from iml_bench.errors import UsageError, shown
from iml_bench.protocols import ITEM_TYPES, Columns, Scores, evaluate, measures_of
from iml_bench.protocols.items import NULLABLE, OPTIONAL
from iml_bench.records.attachments import Attachment, by_content
from iml_bench.records.provenance import Provenance
from iml_bench.records.record import SCHEMA_VERSION, ItemFile, Record
from iml_bench.spec import ModelEntry, Spec, TaskSpec, digest_of
from iml_bench.spec.base import canonical_json, first_problem
from iml_bench.untrusted import read_bytes, read_json

if TYPE_CHECKING:
    import polars as pl

LARGEST_RECORD: Final = 5_000_000
"""Bytes of a record; the shipped ones have some 5,000, most of it the traceback where there is one."""
LARGEST_ITEMS: Final = 50_000_000
"""Bytes of a per-item file, or of a probe's table."""
MOST_TABLE_ROWS: Final = 2_000_000
"""Of a probe's table."""
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


class Shared:
    """What records have in common, so that it is validated once and takes memory once, however many are read.

    The records of a folder are of some tasks and some models, made by one version on one machine; what differs is the
    seed and the outcome. Specifications are frozen, so that one object can be part of many records.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[type[Spec], str], Spec] = {}

    def put_into(self, data: dict[str, Any]) -> dict[str, Any]:
        """The data of a record with specifications in the place of data that are the same as another record's.

        What is not valid stays as it is, for the validation of the whole record to say so.
        """
        cell = data["cell"]
        if isinstance(cell, dict):
            cell = self._put(self._put(cell, "task", TaskSpec), "model", ModelEntry)
        return self._put({**data, "cell": cell}, "provenance", Provenance)

    def _put(self, data: dict[str, Any], field: str, kind: type[Spec]) -> dict[str, Any]:
        given = data.get(field)
        if not isinstance(given, dict):
            return data
        text = canonical_json(given)
        if (kind, text) not in self._known:
            try:
                self._known[kind, text] = kind.model_validate(given)
            except ValidationError:
                return data
        return {**data, field: self._known[kind, text]}


class Stored(NamedTuple):
    """A record and where it was read from."""

    path: Path
    record: Record


def read_record(path: Path, shared: Shared | None = None) -> Record:
    """Read and validate one record.

    Args:
        path: of its JSON file.
        shared: what records that were read before have in common with it.

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
        record = Record.model_validate(shared.put_into(data) if shared is not None else data)
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


def read_table(stored: Stored, listed: Attachment, columns: Mapping[str, str]) -> pl.DataFrame:
    """Some columns of a table that lies beside a record.

    Args:
        stored: the record.
        listed: one of its attachments, with a file.
        columns: those that are read, with their types as polars writes them; the table may have others.

    Raises:
        UsageError: why it cannot be read, in a few words that name no place on this machine.
    """
    assert listed.file is not None and listed.sha256 is not None

    def check(types: dict[str, str], rows: int) -> list[str]:
        wrong = sorted(name for name, kind in columns.items() if types.get(name) != kind)
        if wrong:
            raise UsageError(f"its column {wrong[0]!r} is not as it must be")
        if rows > MOST_TABLE_ROWS:
            raise UsageError(f"it has {rows:,} rows, and no more than {MOST_TABLE_ROWS:,} are read")
        return list(columns)

    try:
        raw = _content(stored.path.with_name(listed.file), listed.sha256, "its record")
    except UsageError as error:
        raise UsageError(f"it {error}") from error
    return _unpacked(raw, check)


def _items_of(stored: Stored) -> tuple[ItemFile, bytes]:
    items = stored.record.items
    whose = shown(str(stored.path), 300)
    if items is None:
        raise UsageError(f"{whose} is the record of a failed cell and has no items")
    path = stored.path.with_name(items.file)
    try:
        return items, _content(path, items.sha256, whose)
    except UsageError as error:
        raise UsageError(f"{shown(str(path), 300)} {error}") from error


def _content(path: Path, digest: str, whose: str) -> bytes:
    """The bytes of a file beside a record.

    Raises:
        UsageError: what is wrong with the file, as it follows its name.
    """
    if not path.is_symlink() and not path.exists():
        raise UsageError(f"is missing; it belongs to {whose}")
    try:
        raw = read_bytes(path, LARGEST_ITEMS)
    except UsageError as error:
        raise UsageError(f"cannot be read: {error}") from error
    if hashlib.sha256(raw).hexdigest() != digest:
        raise UsageError(f"is not the file that {whose} was made with")
    return raw


def _unpacked(raw: bytes, check: Callable[[dict[str, str], int], list[str]]) -> pl.DataFrame:
    """A Parquet file's table, with those of its columns that ``check`` says.

    Args:
        raw: the file.
        check: is told the types of the columns and the number of rows before anything is unpacked.
    """
    import polars as pl

    try:
        types = {name: str(kind) for name, kind in pl.read_parquet_schema(io.BytesIO(raw)).items()}
        rows = pl.scan_parquet(io.BytesIO(raw)).select(pl.len()).collect().item()
        return pl.read_parquet(io.BytesIO(raw), columns=check(types, rows))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise UsageError("it is not a Parquet file") from error


def _table(raw: bytes, rows: int) -> pl.DataFrame:
    """The per-item outcomes in a Parquet file."""
    import polars as pl

    def check(found: dict[str, str], held: int) -> list[str]:
        types = {name: kind for name, kind in ITEM_TYPES.items() if name in found or name not in OPTIONAL}
        if found != types:
            wrong = sorted(name for name in {*found, *types} if found.get(name) != types.get(name))
            raise UsageError(f"column {shown(repr(wrong[0]))} is not as it must be")
        if held != rows:
            raise UsageError(f"it has {held:,} rows, and the record says {rows:,}")
        return list(found)

    table = _unpacked(raw, check)
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
    """The JSON of a record as it is, or where it lies under another name, as it must be under this one.

    Weights and tables of probes stay where they are; what has scores is still listed, with the digest of its table.
    """
    items = stored.record.items
    beside = Path(name).with_suffix(".parquet").name
    listed = tuple(one for one in stored.record.attachments if one.scores)
    if listed != stored.record.attachments:
        bare = stored.record.model_copy(update={"attachments": listed})
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
