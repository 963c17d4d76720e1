"""Where the shipped declarations are: found the same way from a checkout, an editable install and a wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from iml_bench.errors import UsageError, shown

PACKAGE = Path(__file__).resolve().parent


def data_root() -> Path:
    """The folder that holds ``tasks/``, ``benchmarks/`` and ``leaderboard/``.

    A wheel carries them inside the package; a checkout has them beside it.
    """
    for root in (PACKAGE / "_data", PACKAGE.parent):
        if (root / "tasks").is_dir():
            return root
    raise UsageError(f"the shipped tasks are not beside or inside {PACKAGE}; reinstall iml-bench")


DEVICES: Final = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)))
)


def is_device_name(name: str) -> bool:
    """Whether Windows takes a file's name for a device, whatever follows its first dot: ``aux``, ``NUL.txt``."""
    return name.partition(".")[0].rstrip().lower() in DEVICES


def probe_writable(folder: Path) -> None:
    """Try to write into a folder, so that a run cannot fail to save after hours of work; leaves no trace.

    Raises:
        UsageError: when that is not possible, or no other library can be told the folder's name.
    """
    if not str(folder).isprintable() and any("\ud800" <= sign <= "\udfff" for sign in str(folder)):
        raise UsageError(f"the name of the folder {shown(repr(str(folder)))} is no text; give another --out DIR")
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"cannot write records into {folder}: {reason}; give another --out DIR") from error
    finally:
        for part in missing:
            if part.is_dir():
                part.rmdir()


def is_folder(name: str) -> bool:
    """Whether there is a folder of this name; of a name that no file system takes there is none."""
    try:
        return Path(name).is_dir()
    except OSError:  # such as a name that is too long
        return False


def is_file(name: str) -> bool:
    """Whether there is a file of this name; of a name that no file system takes there is none."""
    try:
        return Path(name).is_file()
    except OSError:
        return False
