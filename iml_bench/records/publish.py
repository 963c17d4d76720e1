"""How the files of a record get their places beside others who may be writing the same record."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from iml_bench.records.attachments import by_content
from iml_bench.records.files import Temporary, link_new, put_new

ATTEMPTS: Final = 5


class Piece(NamedTuple):
    """A file that a record lists, not yet in its place."""

    file: Temporary
    sha256: str


def put_pieces(pieces: Mapping[str, Piece], folder: Path, placed: list[Path]) -> dict[str, str]:
    """Put what a record lists into place. No file that is there is ever written over: a record may list it.

    Args:
        pieces: by the names that they shall have. Where something else has that name, it is followed by the beginning
            of the content's own digest.
        folder: where they shall lie.
        placed: takes the paths of those that were not there before, one by one.

    Returns:
        The names that they have.
    """
    names = {}
    for name, (file, digest) in pieces.items():
        for title in (name, by_content(name, digest)):
            place = folder / title
            if link_new(file.path, place):
                placed.append(place)
            elif not _holds(place, digest):
                continue
            break
        else:
            # Without hard links, or where what lies there is not what its name says: whoever else writes under a name
            # that is made from the content writes the same.
            new = not os.path.lexists(place)
            file.path.replace(place)
            placed += [place] if new else []
        names[name] = title
    return names


def put_sheet(sheet: Path, path: Path, settle: Callable[[], str]) -> bool:
    """Put a record into place, once its files are.

    Args:
        sheet: the record, complete.
        path: where it shall stand.
        settle: makes way for it and says what stands there: ``free``, ``failed`` or ``done``.

    Returns:
        Whether it stands; False where a done record does.
    """
    for _ in range(ATTEMPTS):
        match settle():
            case "done":
                return False
            case "failed":
                sheet.replace(path)
                return True
        if put_new(sheet, path):
            return True
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))


def _holds(place: Path, digest: str) -> bool:
    try:
        if not place.is_file() or place.is_symlink():
            return False
        with place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:
        return False
