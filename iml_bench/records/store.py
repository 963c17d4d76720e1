"""The folder of records, which is the state: written once and atomically, by any number of processes at a time.

A record is a JSON file beside a Parquet file of per-item outcomes, which it names with its digest. The JSON is put into
place last, so a cell that was cut leaves nothing that looks finished. Running again compares cell keys, never names.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iml_bench.errors import UsageError, shown
from iml_bench.protocols import score_items
from iml_bench.records.attachments import Attachment, Attachments
from iml_bench.records.files import Temporary, clear_dead, set_aside, writing
from iml_bench.records.guard import check_sign, guarded
from iml_bench.records.names import OWN, record_path
from iml_bench.records.publish import Piece, put_pieces, put_sheet
from iml_bench.records.reading import NewerRecordError, Shared, Stored, columns_of, damage_of, read_record, written
from iml_bench.records.record import Draft, ItemFile, Record
from iml_bench.spec import CellSpec, cell_key

if TYPE_CHECKING:
    import polars as pl


SETTLED: Final = 2_000_000_000
"""Nanoseconds after which a second change of a file cannot bear the same time as the first; file systems count in
steps."""


class Store:
    """A folder of records."""

    def __init__(self, root: Path, sign: str | None = None) -> None:
        """Args:
        root: the folder; it need not exist yet.
        sign: what a run left in it (``records.guard.join``): nothing is written once it is not there any more.
        """
        self.root, self.sign = root, sign
        self._shared = Shared()
        self._done: dict[Path, tuple[_Look, Stored]] = {}
        """Done records that were read, and how their files looked then."""

    def scan(self) -> tuple[list[Stored], list[str]]:
        """All records below the folder, and a sentence for every JSON file that is none.

        Links are not followed, and nothing that lies there makes it fail. Who scans again reads a done record again
        only where its file is another one by now, or was written: a done record stands for ever.
        """
        found, problems, before, begun = [], [], self._done, time.time_ns()
        looks, unread = _json_files(self.root)
        self._done = {}
        for path, look in sorted(looks.items()):
            known = before.get(path)
            try:
                one = known[1] if known and known[0] == look else Stored(path, read_record(path, self._shared))
            except UsageError as error:
                problems.append(str(error))
                continue
            found.append(one)
            if look is not None and begun - look.last > SETTLED and one.record.status == "done":
                self._done[path] = look, one
        return found, problems + unread

    def path_of(self, cell: CellSpec) -> Path:
        """Where the record of a cell is written, see ``record_path``."""
        return self.root / record_path(cell)

    def check(self) -> None:
        """See that the folder is still the one that the run began in.

        Raises:
            WriteError: when it is not.
        """
        with writing(self.root):
            check_sign(self.root, self.sign)

    def standing(self, path: Path) -> Stored | str | None:
        """What stands where a record would be written: a record, a sentence on what cannot be used, or nothing.

        Raises:
            NewerRecordError: when it is a record that a newer version wrote, which is not for this one to replace.
        """
        if not os.path.lexists(path):
            return None
        try:
            found = Stored(path, read_record(path))
        except NewerRecordError:
            raise
        except UsageError as error:
            return str(error)
        return (damage_of(found) if found.record.status == "done" else None) or found

    def attachments(self, cell: CellSpec, *, writes: bool = True) -> Attachments:
        """What takes the tables and weights of a cell while it runs, see ``write``."""
        return Attachments(self.path_of(cell), writes=writes, make_folder=self._make_folder)

    def write(self, draft: Draft, table: pl.DataFrame | None, waiting: Mapping[str, Temporary] | None = None) -> Path:
        """Write a record, its items first; nothing is left behind when the process is killed in between.

        Any number of processes may write the record of one cell at the same time. The first that is done stands and is
        never replaced; the record of a failure is replaced by any that comes later. What stands there and is no
        record, or has lost its items, is set aside as ``.broken``.

        Args:
            draft: what the record says beside its items and their scores.
            table: the per-item outcomes of a done cell, None for a failed one.
            waiting: files of the draft's attachments by name, which are put into place with it.

        Returns:
            Where the record stands, which may be that of another process.

        Raises:
            WriteError: when it cannot be written; what stood there before stands, and nothing else is left.
            NewerRecordError: see ``standing``.
        """
        path = self.path_of(draft.cell)
        with writing(path):
            self._make_folder(path.parent)
            with Temporary(path.parent) as content, Temporary(path.parent) as sheet:
                pieces: dict[str, Piece] = {}
                if table is None:
                    record = Record(status="failed", **dict(draft))
                else:
                    raw = io.BytesIO()
                    table.write_parquet(raw, compression="zstd", statistics=False)
                    content.write(raw.getvalue())
                    digest = hashlib.sha256(raw.getvalue()).hexdigest()
                    items = ItemFile(file=path.with_suffix(".parquet").name, rows=len(table), sha256=digest)
                    scores = score_items(draft.cell.task, columns_of(table))
                    record = Record(status="done", items=items, scores=scores, **dict(draft))
                    pieces[items.file] = Piece(content, digest)
                self._publish(record, path, sheet, pieces | _pieces(record.attachments, waiting or {}))
        return path

    def adopt(self, cell: CellSpec, files: Sequence[tuple[str, bytes]]) -> Path:
        """Put a record into place that was made elsewhere, with the files that it lists; else like ``write``.

        Args:
            cell: whose record it is.
            files: by name, the record first.

        Raises:
            WriteError: when it cannot be written.
            UsageError: when it is no record of the cell, or a file that it lists is missing or another.
        """
        path = self.path_of(cell)
        with writing(path), ExitStack() as stack:
            self._make_folder(path.parent)
            record = _received(path.name, files[0][1] if files else b"")
            listed = {one.file: one.sha256 for one in (record.items, *record.attachments) if one and one.file}
            pieces = {}
            for name, content in files[1:]:
                digest = hashlib.sha256(content).hexdigest()
                if listed.pop(name, None) != digest:
                    raise UsageError(f"{shown(name)} is not what its record lists")
                file = stack.enter_context(Temporary(path.parent))
                file.write(content)
                pieces[name] = Piece(file, digest)
            if listed or record.cell_key != cell_key(cell):
                raise UsageError(f"{shown(files[0][0])} is not the whole record of this cell")
            self._publish(record, path, stack.enter_context(Temporary(path.parent)), pieces)
        return path

    def _make_folder(self, folder: Path) -> None:
        """A record's folder. The folder of records itself is made by whoever begins to run, and then never again."""
        self.check()
        with writing(folder):
            folder.mkdir(parents=self.sign is None, exist_ok=True)

    def _publish(self, record: Record, path: Path, sheet: Temporary, pieces: Mapping[str, Piece]) -> None:
        """Put all files of a record into place, unless a done record stands there."""
        with guarded(self.root, self.sign) as alone:
            if _is_done(self.standing(path)):
                return
            placed: list[Path] = []
            try:
                record = _renamed(record, put_pieces(pieces, path.parent, placed))
                sheet.write(written(record))
                clear_dead(path.parent, os.lstat(sheet.path).st_mtime)
                stands = put_sheet(sheet.path, path, lambda: self._settle(path, placed))
            except BaseException:
                # Who is not alone may be about to publish a record that names one of these.
                _remove(placed if alone else [])
                raise
            if not stands:
                winner = self.standing(path)
                named = files_of(winner.record) if isinstance(winner, Stored) else None
                _remove([file for file in placed if named is not None and file.name not in named])

    def _settle(self, path: Path, placed: Sequence[Path]) -> str:
        """Make way for a record: ``free`` where there is nothing, ``failed``, or ``done`` where one stands.

        What cannot be used is set aside, with its items, unless these are among the files ``placed`` just now.
        """
        found = self.standing(path)
        if isinstance(found, str):
            items = None
            with suppress(UsageError):
                items = read_record(path).items
            set_aside(path, path.stem, "json")
            with suppress(OSError):
                if items is not None and path.with_name(items.file) not in placed:
                    set_aside(path.with_name(items.file), path.stem, "parquet")
            return "free"
        return found.record.status if found else "free"

    def attach(self, stored: Stored, made: Attachments) -> None:
        """List attachments in a record that is there; those of the same name and moment are replaced.

        Nothing else of the record changes, and it is exchanged whole.

        Raises:
            WriteError: when it cannot be written.
            UsageError: when the record is not there any more.
        """
        path = stored.path
        new = {(one.kind, one.name, one.moment) for one in made.made}
        with writing(path), Temporary(path.parent) as sheet, guarded(self.root, self.sign) as alone:
            before = read_record(path)  # another process may have listed others meanwhile
            kept = [one for one in before.attachments if (one.kind, one.name, one.moment) not in new]
            placed: list[Path] = []
            try:
                names = put_pieces(_pieces(made.made, made.waiting), path.parent, placed)
                record = before.model_copy(update={"attachments": (*kept, *made.made)})
                record = _renamed(record, names)
                sheet.write(written(record))
                sheet.path.replace(path)
            except BaseException:
                _remove(placed if alone else [])
                raise
            made.made[:] = record.attachments[len(kept) :]
            if alone:
                _remove([path.with_name(name) for name in files_of(before) - files_of(record)])


def _received(name: str, content: bytes) -> Record:
    """A record that was handed over; its items are named like itself, so it is read under the name that it will have.

    Raises:
        UsageError: when it is none.
    """
    with tempfile.TemporaryDirectory(prefix="iml-bench-") as folder:
        (Path(folder) / name).write_bytes(content)
        try:
            return read_record(Path(folder) / name)
        except UsageError as error:
            raise UsageError(str(error).replace(f"{folder}{os.sep}", "")) from error


def _is_done(found: Stored | str | None) -> bool:
    return isinstance(found, Stored) and found.record.status == "done"


def _pieces(attachments: Iterable[Attachment], waiting: Mapping[str, Temporary]) -> dict[str, Piece]:
    listed = {one.file: one.sha256 for one in attachments if one.file is not None and one.sha256 is not None}
    return {name: Piece(waiting[name], digest) for name, digest in listed.items() if name in waiting}


def _renamed(record: Record, names: Mapping[str, str]) -> Record:
    """A record with its files under the names that they were given in the end."""

    def named(one: Any) -> Any:
        return one.model_copy(update={"file": names.get(one.file, one.file)})

    items = named(record.items) if record.items is not None else None
    return record.model_copy(update={"items": items, "attachments": tuple(map(named, record.attachments))})


def files_of(record: Record) -> set[str]:
    """Names of the files beside a record that it lists."""
    files = {one.file for one in record.attachments if one.file is not None}
    return files | ({record.items.file} if record.items is not None else set())


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink()


class _Look(NamedTuple):
    """How a file looks from the outside; whoever exchanges it or writes to it changes that."""

    number: int
    size: int
    written: int
    changed: int

    @property
    def last(self) -> int:
        """When it was last touched, in nanoseconds."""
        return max(self.written, self.changed)


def _look(entry: os.DirEntry[str]) -> _Look | None:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return None  # it has just been removed, which reading it will say
    return _Look(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _json_files(root: Path) -> tuple[dict[Path, _Look | None], list[str]]:
    """JSON files below a folder, and a sentence for every folder that cannot be read."""
    found: dict[Path, _Look | None] = {}
    problems, todo = [], [root] if root.is_dir() else []
    while todo:
        folder = todo.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith(OWN):  # these come and go while cells run
                            todo.append(Path(entry.path))
                    elif entry.name.endswith(".json"):
                        found[Path(entry.path)] = _look(entry)
        except FileNotFoundError:
            pass  # another run has removed what it had made and left empty
        except OSError as error:
            problems.append(f"{shown(str(folder), 300)} cannot be read: {error.strerror}")
    return found, problems


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
