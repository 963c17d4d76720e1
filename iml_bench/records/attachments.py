"""What lies beside a record and is no part of its outcomes: tables of probes, and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from iml_bench.records.files import Replacing
from iml_bench.spec import Spec
from iml_bench.spec.base import Digest, Line

if TYPE_CHECKING:
    import polars as pl

FileName = Annotated[str, Field(pattern=r"^\w[\w@.+-]*\.(parquet|safetensors)$", max_length=255)]
"""Of a file beside the record: never a path."""


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

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.file is None) != (self.sha256 is None) or (self.file is None) == (self.reason is None):
            raise ValueError("an attachment has a file with its digest, or the reason why there is none")
        return self


class Attachments:
    """Writes the attachments of one record while its cell runs."""

    def __init__(self, record: Path, *, writes: bool = True) -> None:
        """Args:
        record: the path of the record, which need not exist yet.
        writes: False in processes other than the first, which make the same tables.
        """
        self.record, self.writes = record, writes
        self.made: list[Attachment] = []

    def table(self, name: str, moment: str, table: pl.DataFrame) -> None:
        """File a probe's table as Parquet."""
        self._file("probe", name, moment, "parquet", lambda path: table.write_parquet(path, statistics=False))

    def weights(self, moment: str, tensors: Mapping[str, Any]) -> None:
        """File weights on the host as safetensors.

        Args:
            moment: when they were taken.
            tensors: by name, as ``Learner.snapshot`` gives them.
        """
        from safetensors.torch import save_file

        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        self._file("weights", "weights", moment, "safetensors", lambda path: save_file(whole, path))

    def missing(self, name: str, moment: str, reason: str) -> None:
        """Note that a probe has no table, and why."""
        line = "".join(sign for sign in reason if sign.isprintable())[:200] or "no reason was given"
        self.made.append(Attachment(kind="probe", name=name, moment=moment, file=None, sha256=None, reason=line))

    def _file(self, kind: Literal["probe", "weights"], name: str, moment: str, suffix: str, write: Any) -> None:
        if not self.writes:
            return
        # The stem's end has the key and the seed; file systems take 255 bytes, temporary name included.
        stem = f"{self.record.stem[-140:]}.{name}-{moment.replace('/', '-')}"
        path = self.record.with_name(f"{stem[:210]}.{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with Replacing(path) as temporary:
            write(temporary)
            temporary.chmod(0o644)  # safetensors makes files that only their owner may read
            with temporary.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.made.append(Attachment(kind=kind, name=name, moment=moment, file=path.name, sha256=digest))
