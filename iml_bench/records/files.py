"""Files that take their place whole or not at all, beside others who may be writing the same ones."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from iml_bench.errors import UsageError, shown

HOUR: Final = 3600.0
DEAD_AFTER: Final = (
    (re.compile(r"\.iml-[0-9a-f]{16}\.tmp"), HOUR),
    (re.compile(r"\.iml-[0-9a-f]{16}\.part"), 7 * 24 * HOUR),  # these wait until their cell ends
    (re.compile(r"\..+\.(json|parquet|safetensors)\.\d+\.tmp"), HOUR),  # as earlier versions named theirs
)
"""Names of temporary files, and the age in seconds past which whoever made one is no longer alive."""


class WriteError(UsageError):
    """A file of the folder of records cannot be written: which, and why."""


def reason_of(error: OSError) -> str:
    """What the system says, without the path."""
    return error.strerror or type(error).__name__


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn whatever the system refuses meanwhile into one sentence on ``path``.

    Raises:
        WriteError: that sentence.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(f"{shown(str(path), 300)} cannot be written: {reason_of(error)}") from error


class Temporary:
    """A file under a name that nobody else has; what has not been put elsewhere is removed with the block."""

    def __init__(self, folder: Path, suffix: str = ".tmp") -> None:
        """Args: folder: where the file shall stand in the end; suffix: one of ``DEAD_AFTER``."""
        self.path = folder / f".iml-{secrets.token_hex(8)}{suffix}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def write(self, content: bytes) -> None:
        """Write all of the file, down to the disk."""
        with open(self.path, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Remove what is left of it; where even that is refused, its age will do it."""
        with suppress(OSError):
            self.path.unlink()


def link_new(temporary: Path, place: Path) -> bool | None:
    """Put a file where nothing is, in one step that only one process can win.

    Returns:
        False where something is there; None where it cannot be done so, as where the file system has no hard links.
    """
    try:
        os.link(temporary, place)
    except FileExistsError:
        # A network file system may do it, lose the answer and be asked again.
        with suppress(OSError):
            return os.path.samestat(os.lstat(temporary), os.lstat(place))
        return False
    except OSError:
        return None
    return True


def put_new(temporary: Path, place: Path) -> bool:
    """Put a file where nothing is; False where something is.

    Without hard links it takes two steps, and only the lock keeps two writers apart (``records/guard.py``).
    """
    done = link_new(temporary, place)
    if done is None and not os.path.lexists(place):
        temporary.replace(place)
        return True
    return bool(done)


def set_aside(path: Path, stem: str, kind: str) -> None:
    """Keep something that cannot be used under a name that nothing reads."""
    path.rename(path.with_name(f"{stem[-200:]}.{secrets.token_hex(4)}.{kind}.broken"))


def clear_dead(folder: Path, now: float) -> None:
    """Remove temporary files of processes that were killed while they wrote; never those of the living.

    Args:
        folder: where to look; not below it.
        now: the time by the clock of the file system.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                continue  # as nearly all, and a folder may have very many
            limit = next((limit for name, limit in DEAD_AFTER if name.fullmatch(entry.name)), None)
            if limit is not None:
                with suppress(OSError):
                    if now - entry.stat(follow_symlinks=False).st_mtime > limit:
                        Path(entry.path).unlink()
