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

    Nobody would look at them, and they would be merged with the rest. JSON files are left to who reads records.

    Args:
        roots: the folders that were handed in.
        stored: the records in them.
        entries: files of entries in them.
    """
    known = {*entries}
    for path, record in stored:
        listed = [one.file for one in record.attachments if one.file is not None]
        known |= {path.with_name(name) for name in (*listed, *([record.items.file] if record.items else ()))}
    todo = [*roots]
    for root in todo:
        if root.is_symlink():
            yield f"{shown(str(root), 300)} is a link, and links are not followed"
    while todo:
        folder = todo.pop()
        for path in _inside(folder):
            if path.is_symlink():
                if path.suffix != ".json" and path not in known:
                    yield f"{shown(str(path), 300)} is a link, and links are not followed"
            elif path.is_dir():
                todo.append(path)
            elif path.suffix != ".json" and path.name != MARKER and path not in known:
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
