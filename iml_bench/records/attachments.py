"""What lies beside a record and is no part of its outcomes: tables of probes, and weights."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from iml_bench.records.files import Temporary, reason_of
from iml_bench.spec import Spec
from iml_bench.spec.base import Digest, Line

if TYPE_CHECKING:
    import polars as pl

FileName = Annotated[str, Field(pattern=r"^\w[\w@.+-]*\.(parquet|safetensors)$", max_length=255)]
"""Of a file beside the record: never a path."""
Number = Annotated[float, Field(allow_inf_nan=False)]
MOST: Final = 100
"""Options, scores and reasons of one attachment."""


def by_content(name: str, digest: str) -> str:
    """A file's name with the beginning of its SHA-256: where the plain name is that of other content already."""
    path = Path(name)
    return f"{path.stem}.{digest[:8]}{path.suffix}"


class Attachment(Spec):
    """One file beside a record, or the reason why it is not there. Never part of the key."""

    kind: Literal["probe", "weights"]
    name: Line
    """The probe's, or ``weights``."""
    moment: Line
    """``initial``, or the training step after which it was made (``stage1``, ``stage2/fold0``)."""
    file: FileName | None
    """Null where there is none."""
    sha256: Digest | None
    reason: Line | None = None
    """Why there is no file."""
    options: dict[Line, int | float | bool | str] = Field(default={}, max_length=MOST)
    """Of a probe: what it was asked with, other than its defaults."""
    scores: dict[Line, Number | None] = Field(default={}, max_length=MOST)
    """Of a probe: numbers that follow from its table, null where they cannot be had."""
    reasons: dict[Line, Line] = Field(default={}, max_length=MOST)
    """Why a score is null."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.file is None) != (self.sha256 is None) or (self.file is None) == (self.reason is None):
            raise ValueError("an attachment has a file with its digest, or the reason why there is none")
        if self.file is None and self.scores:
            raise ValueError("scores follow from a table, and there is none")
        return self


class Attachments:
    """Makes the attachments of one record while its cell runs; they get their names when the record is put in place."""

    def __init__(
        self, record: Path, *, writes: bool = True, make_folder: Callable[[Path], object] = os.makedirs
    ) -> None:
        """Args:
        record: the path of the record, which need not exist yet.
        writes: False in processes other than the first, which make the same tables.
        make_folder: makes the record's folder where there is none; ``Store.attachments`` gives the store's way.
        """
        self.record, self.writes, self.make_folder = record, writes, make_folder
        self.made: list[Attachment] = []
        self.waiting: dict[str, Temporary] = {}
        """The files, by the names in ``made``; who puts them in place may have to name them otherwise."""
        self.lost: list[str] = []
        """What could not be written, and why."""

    def table(
        self,
        name: str,
        moment: str,
        table: pl.DataFrame,
        scores: Mapping[str, tuple[float | None, str]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """File a probe's table as Parquet, with its scores, each with the reason why it is null."""

        def write(path: Path) -> None:
            # In memory first: polars takes no path that is not UTF-8, and says little of a full disk.
            content = io.BytesIO()
            table.write_parquet(content, statistics=False)
            path.write_bytes(content.getvalue())

        said = {
            "options": dict(options or {}),
            "scores": {score: value for score, (value, _) in (scores or {}).items()},
            "reasons": {score: why for score, (value, why) in (scores or {}).items() if value is None and why},
        }
        self._file("probe", name, moment, "parquet", write, said)

    def weights(self, moment: str, tensors: Mapping[str, Any]) -> None:
        """File weights on the host as safetensors.

        Args:
            moment: when they were taken.
            tensors: by name, as ``Learner.snapshot`` gives them.
        """
        from safetensors.torch import save_file

        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        self._file("weights", "weights", moment, "safetensors", lambda path: save_file(whole, path))

    def missing(
        self,
        name: str,
        moment: str,
        reason: str,
        kind: Literal["probe", "weights"] = "probe",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Note that there is no table, or no weights, and why."""
        line = "".join(sign for sign in reason if sign.isprintable())[:200] or "no reason was given"
        said = {"kind": kind, "name": name, "moment": moment, "reason": line, "options": dict(options or {})}
        self.made.append(Attachment(file=None, sha256=None, **said))

    def clear(self) -> None:
        """Remove the files that no record took over."""
        for file in self.waiting.values():
            file.remove()
        self.waiting = {}

    def _file(
        self,
        kind: Literal["probe", "weights"],
        name: str,
        moment: str,
        suffix: str,
        write: Callable[[Path], object],
        said: Mapping[str, Any] | None = None,
    ) -> None:
        if not self.writes:
            return
        file = Temporary(self.record.parent, ".part")
        try:
            if not self.record.parent.is_dir():
                self.make_folder(self.record.parent)
            write(file.path)
            file.path.chmod(0o644)  # safetensors makes files that only their owner may read
            with file.path.open("rb+") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
                os.fsync(content.fileno())
        except Exception as error:  # each library has its own for a full disk
            file.remove()
            reason = reason_of(error) if isinstance(error, OSError) else str(error) or type(error).__name__
            self.missing(name, moment, f"it cannot be written: {reason}", kind)
            self.lost.append(f"{name} after {moment} cannot be written: {reason}")
            return
        except BaseException:
            file.remove()
            raise
        # The stem's end has the key and the seed; file systems take 255 bytes, temporary name included.
        stem = f"{self.record.stem[-140:]}.{name}-{moment.replace('/', '-')}"[:210]
        title = f"{stem}.{suffix}"
        if title in self.waiting:
            title = by_content(title, digest)
        self.waiting[title] = file
        self.made.append(Attachment(kind=kind, name=name, moment=moment, file=title, sha256=digest, **(said or {})))
