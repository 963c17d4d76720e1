"""The lock of a folder of records, and the sign by which a run knows the folder again.

Both are one file, ``.iml-bench-store``. A run writes a random sign into it when it begins and takes it out when it
ends; before a record is put into place its sign must still be there. So a folder that was removed, or whose disk was
unmounted, is noticed, and nothing goes silently to the disk below. Who has the file locked is alone: the kernel gives
the lock back when a process dies. Where a file system has no locks, a record is still put into place by a step that
only one can win.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from iml_bench.errors import shown
from iml_bench.records.files import WriteError
from iml_bench.records.names import OWN

try:
    import fcntl
except ImportError:  # Windows
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

MARKER: Final = f"{OWN}store"
PATIENCE: Final = 60.0
"""Seconds to wait for whoever holds the lock, which takes milliseconds unless its process is stopped."""
LARGEST: Final = 1_000_000
"""Bytes of the marker that are read."""
ATTEMPTS: Final = 20


@cache
def this_machine() -> str:
    """Where a process number means a process: this host since it was started, and this container of it."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def has_ended(machine: str, pid: int) -> bool:
    """Whether a process is known to have ended: one of this machine that is no more, or a zombie."""
    if machine != this_machine() or pid <= 0:
        return False
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


class Sign(NamedTuple):
    """What a run has left in a folder of records."""

    root: Path
    text: str
    made: tuple[Path, ...]
    """Folders that were made for it, the innermost first."""


def join(root: Path, text: str | None = None) -> Sign:
    """Make a folder of records, where there is none, and leave a sign in it.

    Args:
        root: the folder.
        text: of the sign, where another process may have to take it out; None: a random one.

    Raises:
        OSError: when the folder cannot be made or written.
    """
    text = text or secrets.token_hex(16)
    missing = tuple(part for part in (root, *root.parents) if not os.path.lexists(part))
    for attempt in range(ATTEMPTS):
        root.mkdir(parents=True, exist_ok=True)
        try:
            with _locked(root / MARKER, os.O_RDWR | os.O_CREAT) as (marker, held):
                if held:
                    _blank(marker, _of_the_dead)
                own = os.open(root / MARKER, os.O_WRONLY | os.O_APPEND)
                try:
                    os.write(own, f"{text} {this_machine()} {os.getpid()}\n".encode())
                finally:
                    os.close(own)
            break
        except FileNotFoundError:
            if attempt == ATTEMPTS - 1:
                raise
            # Another run has just ended without a record and removed the folder that it had made.
    return Sign(root, text, missing)


def leave(sign: Sign) -> None:
    """Take a run's sign out again; of a folder that was made for it and is empty nothing is left.

    Signs of the dead go with it: of two runs on one folder one may have been killed, and no other may come after it.
    """
    found = False
    with suppress(OSError), _locked(sign.root / MARKER, os.O_RDWR) as (marker, held):
        found = _blank(marker, lambda line: line.startswith(sign.text.encode()))
        if held:
            _blank(marker, _of_the_dead)
    for part in sign.made if found else ():  # another folder under this path is not ours to remove
        with suppress(OSError):
            part.rmdir()


def sweep(root: Path) -> None:
    """Take the signs of killed runs out of a folder in which nothing is to be run."""
    if os.path.lexists(root / MARKER):
        with suppress(OSError), _locked(root / MARKER, os.O_RDWR) as (marker, held):
            if held:
                _blank(marker, _of_the_dead)


def check_sign(root: Path, sign: str | None) -> None:
    """See that a folder is the one that a run began in.

    Raises:
        WriteError: when it is not.
        OSError: when it cannot be read.
    """
    if sign is None:
        return
    try:
        marker = os.open(root / MARKER, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        raise _another(root) from None
    try:
        if sign.encode() not in _content(marker):
            raise _another(root)
    finally:
        os.close(marker)


@contextmanager
def guarded(root: Path, sign: str | None) -> Iterator[bool]:
    """Be alone with a folder of records.

    Args:
        root: the folder.
        sign: what a run left in it; None: it may be any folder.

    Returns:
        Whether it is certain that nobody else is there.

    Raises:
        WriteError: when it is not the folder that the run began in.
        OSError: when it cannot be written.
    """
    check_sign(root, sign)
    with _locked(root / MARKER, os.O_RDWR | os.O_CREAT) as (marker, held):
        if sign is not None and sign.encode() not in _content(marker):
            raise _another(root)
        yield held


def _another(root: Path) -> WriteError:
    return WriteError(
        f"{shown(str(root), 300)} is not the folder that this run began in: it was removed, exchanged or unmounted"
    )


@contextmanager
def _locked(path: Path, flags: int) -> Iterator[tuple[int, bool]]:
    """The marker, open, and whether it is locked; without any sign in it, it is removed at the end."""
    deadline = time.monotonic() + PATIENCE
    while True:
        marker = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
        held = _lock(marker, deadline)
        if not held or os.fstat(marker).st_nlink:
            break
        os.close(marker)  # whoever had it locked has removed it
    try:
        yield marker, held
    finally:
        with suppress(OSError):
            if held and not _content(marker).strip() and os.path.samestat(os.fstat(marker), os.lstat(path)):
                path.unlink()
        os.close(marker)


def _lock(marker: int, deadline: float) -> bool:
    while HAS_LOCKS:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.003)
        except OSError:
            break
    return False


def _blank(marker: int, which: Callable[[bytes], bool]) -> bool:
    """Take signs out of the marker, in place; whether there were any."""
    lines = _content(marker).split(b"\n")
    left = [b" " * len(line) if which(line) else line for line in lines]
    if left == lines:
        return False
    os.lseek(marker, 0, os.SEEK_SET)
    os.write(marker, b"\n".join(left))
    return True


def _of_the_dead(line: bytes) -> bool:
    """Whether a sign is that of a process of this machine that was killed."""
    match line.split():
        case [_, machine, number] if number.isdigit():
            return has_ended(machine.decode(errors="replace"), int(number))
    return False


def _content(marker: int) -> bytes:
    os.lseek(marker, 0, os.SEEK_SET)
    return os.read(marker, LARGEST)
