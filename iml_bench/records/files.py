"""Files that take their place whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


class Replacing:
    """A temporary file beside ``path`` that takes its place, flushed to disk, when the block ends well."""

    def __init__(self, path: Path) -> None:
        """Args: path: where the file shall stand."""
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.temporary.unlink(missing_ok=True)
            return
        with open(self.temporary, "rb+") as file:
            os.fsync(file.fileno())
        self.temporary.replace(self.path)
