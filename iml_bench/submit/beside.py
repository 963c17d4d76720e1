"""What lies in the folder of a submission beside its records, their files and its entries."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iml_bench.errors import shown
from iml_bench.records import Stored
from iml_bench.records.guard import MARKER

if TYPE_CHECKING:
    import polars as pl

ROOM: Final = 1_000_000
"""Bytes that a per-item file may have beside twice its outcomes: a table in many pieces has a description of each."""


def strangers(roots: Iterable[Path], stored: Iterable[Stored], entries: Iterable[Path]) -> Iterator[str]:
    """A sentence for every file that belongs to no record and is no entry, and for every link.

    Nobody would look at them, and they would be merged with the rest. What is called a record, and what lies beside
    one that cannot be read, is left to who reads records.

    Args:
        roots: the folders that were handed in.
        stored: the records in them.
        entries: files of entries in them.
    """
    known = {*entries}
    for path, record in stored:
        listed = [one.file for one in record.attachments if one.file is not None]
        known |= {path, *(path.with_name(name) for name in (*listed, *([record.items.file] if record.items else ())))}
    todo = []
    for root in roots:
        if root.is_symlink():
            yield f"{shown(str(root), 300)} is not looked into: it is a link"
        else:
            todo.append(root)
    while todo:
        inside = _inside(todo.pop())
        folders = [path for path in inside if path.is_dir() and not path.is_symlink()]
        todo += folders
        files = [path for path in inside if path not in folders and path not in known and path.name != MARKER]
        unread = tuple(f"{path.stem}." for path in files if path.suffix == ".json")
        for path in files:
            if path.name.startswith(unread):
                continue
            if path.is_symlink():
                yield f"{shown(str(path), 300)} is not looked into: it is a link"
            else:
                yield f"{shown(str(path), 300)} belongs to no record and is no entry"


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # who reads records says so
        return []


def size_problems(stored: Stored, items: pl.DataFrame) -> Iterator[str]:
    """A per-item file must hold its outcomes and little else: a Parquet file may have anything between its parts."""
    assert stored.record.items is not None
    size = stored.path.with_name(stored.record.items.file).stat().st_size
    plain = io.BytesIO()
    items.write_parquet(plain, compression="uncompressed", statistics=False)
    if size > 2 * plain.tell() + ROOM:
        yield f"its per-item file has {size:,} bytes, and its outcomes take {plain.tell():,}: it holds something else"
