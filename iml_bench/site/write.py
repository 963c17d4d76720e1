"""Puts the files of a page into a folder, and never over anything else than an earlier page."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from iml_bench.errors import UsageError

MARKER = "iml-bench-site.txt"
"""A file that says that a folder was written here, and may be replaced by a later one."""


def check_out(out: Path) -> None:
    """See that a folder may be written.

    Raises:
        UsageError: when it is something else than a new or empty folder or an earlier page.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise UsageError(f"--out {str(out)!r} is not a folder; give one that is new or empty")
    if any(out.iterdir()) and not (out / MARKER).is_file():
        raise UsageError(f"--out {str(out)!r} holds files that were not written here; give one that is new or empty")


def write_site(files: Mapping[str, bytes], out: Path) -> None:
    """Write a page beside ``out`` and exchange the two, so that a cut leaves the earlier one whole.

    Args:
        files: by relative path, as ``build_site`` makes them.
        out: the folder; an earlier page there is replaced.

    Raises:
        UsageError: when the folder may not be replaced or cannot be written.
    """
    check_out(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UsageError(f"cannot write into {str(out.parent)!r}: {error.strerror}; give another --out DIR") from error
    new, old = made / "new", made / "old"
    try:
        new.mkdir()
        (new / MARKER).write_bytes(b"Made by iml-bench leaderboard; a later build or export replaces this folder.\n")
        for name, content in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if out.is_dir():
            out.rename(old)
        new.rename(out)
    except OSError as error:
        if old.is_dir() and not out.exists():
            old.rename(out)
        raise UsageError(f"cannot write {str(out)!r}: {error.strerror}; give another --out DIR") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
