"""Untrusted input: the kind and size of a file are known before it is read, its contents before they are used."""

from __future__ import annotations

import json
import math
import re
import stat
from pathlib import Path
from typing import Any, Final

from iml_bench.errors import UsageError, shown

LONGEST: Final = 100_000
"""Characters of one text; the longest honest one is a traceback."""
DEEPEST: Final = 32
"""Lists and objects within one another."""
LARGEST_INTEGER: Final = 2**64
UNFIT: Final = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")
"""Characters that no text holds: control characters but tab and line end, and halves of characters."""


def read_bytes(path: Path, largest: int, *, links: bool = False) -> bytes:
    """The contents of a plain file.

    Args:
        path: of the file.
        largest: bytes it may have.
        links: follow a link to one.

    Raises:
        UsageError: why not, in a few words.
    """
    try:
        status = path.stat() if links else path.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise UsageError("it is a link")
        if not stat.S_ISREG(status.st_mode):
            raise UsageError("it is no file")
        with path.open("rb") as file:
            # Asked for all that it may have, the system would set as much memory aside, for every file anew.
            found = file.read(min(status.st_size, largest) + 1)
            if status.st_size < len(found) <= largest:  # it has grown
                found += file.read(largest + 1 - len(found))
    except (OSError, ValueError) as error:
        raise UsageError(getattr(error, "strerror", None) or "its name is no file's") from error
    if len(found) > largest:
        raise UsageError(f"it has {max(status.st_size, len(found)):,} bytes, and no more than {largest:,} are read")
    return found


def read_json(path: Path, largest: int) -> Any:
    """The contents of a JSON file: finite numbers, texts without control characters, nothing nested without end.

    Raises:
        UsageError: why not, in a few words.
    """
    raw = read_bytes(path, largest)
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise UsageError("it is not UTF-8") from error
    except RecursionError as error:
        raise UsageError("it is nested too deep") from error
    except ValueError as error:
        raise UsageError("it is not JSON") from error
    check_plain(found)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"it has '{shown(twice)}' twice")
    return found


def check_plain(value: Any) -> None:
    """Look through plain data.

    Raises:
        UsageError: what is wrong with it, in a few words.
    """
    if not _all_plain(value):
        _find_problem(value)


def _all_plain(value: Any) -> bool:
    """Whether nothing is wrong with plain data: quickly, since it is asked of every record whenever one is read."""
    texts: list[Any] = []
    level = [value]
    for _ in range(DEEPEST + 1):
        below: list[Any] = []
        for part in level:
            kind = type(part)
            if kind is str:
                texts.append(part)
            elif kind is dict:
                texts += part
                below += part.values()
            elif kind is list:
                below += part
            elif kind is int:
                if abs(part) >= LARGEST_INTEGER:
                    return False
            elif kind is float:
                if not math.isfinite(part):
                    return False
            elif part is not None and kind is not bool:
                return False
        if not below:
            return _all_fit(texts)
        level = below
    return False


def _all_fit(texts: list[Any]) -> bool:
    """Whether all are texts, as the names of fields must be, too, and none is too long or holds what does not fit."""
    try:
        whole = "".join(texts)
    except TypeError:
        return False
    return UNFIT.search(whole) is None and (len(whole) <= LONGEST or max(map(len, texts)) <= LONGEST)


def _find_problem(value: Any) -> None:
    """Raise the first problem of plain data, in the order in which they are told; see ``check_plain``."""
    todo = [(value, 0)]
    while todo:
        part, depth = todo.pop()
        if depth > DEEPEST:
            raise UsageError("it is nested too deep")
        if isinstance(part, dict):
            todo += [(item, depth + 1) for pair in part.items() for item in pair]
        elif isinstance(part, list):
            todo += [(item, depth + 1) for item in part]
        elif isinstance(part, str):
            _check_text(part)
        elif isinstance(part, int) and abs(part) >= LARGEST_INTEGER:
            raise UsageError("it has a number of more than 64 bits")
        elif isinstance(part, float) and not math.isfinite(part):
            raise UsageError("it has a number that is not finite")


def fit(text: str) -> str:
    """Any text as one that ``check_plain`` lets pass: its end where it is too long, what does not fit escaped."""
    return UNFIT.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)[-LONGEST:]


def _check_text(text: str) -> None:
    if len(text) > LONGEST:
        raise UsageError(f"it has a text of {len(text):,} characters, and no more than {LONGEST:,} are read")
    if UNFIT.search(text):
        raise UsageError(f"it has a text with control characters, '{shown(text, 40)}'")
