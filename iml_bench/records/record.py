"""The versioned result of a cell, as a specification of its own."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from iml_bench.protocols import Scores, bound_problem
from iml_bench.records.attachments import Attachment
from iml_bench.records.provenance import Provenance
from iml_bench.spec import Audit, CellSpec, CurvePoint, Spec, StageOutcome, cell_key, key_with_place
from iml_bench.spec.base import Digest, FileName, Line
from iml_bench.spec.report import Count
from iml_bench.untrusted import fit

SCHEMA_VERSION = 6
"""Version of ``Record``; a record of a newer one is refused, older ones are read.

1: first light. 2: learning curves, entity attribution, sets of questions in the per-item file.
3: scores are those of the protocol at the time, by name; what definitions claimed in the per-item file.
4: a seal over all other fields (``records/reading.py``); files beside it may have part of their digest in the name;
the commit of a model from the hub; the path of local files is no part of the key any more; how the model's tokenizer
reads the texts. 5: at which place a definition states what is asked, in the per-item file. 6: options and scores of
probes.
"""
KEYS_WITH_PLACE: Final = 3
"""The last version whose keys the path of local files was part of."""


MOST_ROWS: Final = 5_000_000

ErrorText = Annotated[str, BeforeValidator(lambda text: fit(text) if isinstance(text, str) else text)]
"""What an exception says, which may be anything, as it may stand in a record."""


class Failure(Spec):
    """Why a cell failed."""

    kind: Line
    message: ErrorText
    traceback: ErrorText


class ItemFile(Spec):
    """The per-item outcomes that the scores were computed from."""

    file: FileName
    """Name of the Parquet file beside the record."""
    rows: int = Field(ge=1, le=MOST_ROWS)
    sha256: Digest


class Timing(Spec):
    """The only part of a record that differs when the same cell is run again on the same machine."""

    started: Line
    """UTC, ISO 8601."""
    ended: Line
    seconds: dict[Line, Annotated[float, Field(ge=0, le=1e9)]] = Field(max_length=100)
    """Wall time by part of the cell: setup, stage1, stage2/fold0, stage2/fold1, evaluation; a learning curve's is
    in that of its phases, too."""


class Draft(Spec):
    """What a record says beside its items and their scores: all that is known when a cell has ended."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION, strict=True)
    key: Digest
    """``cell_key(cell)``; checked whenever a record is read."""
    cell: CellSpec
    """The resolved specification."""
    changes: dict[Line, Any] = Field(max_length=200)
    """The fields in which the task differs from the one that is registered under its name."""
    smoke: bool
    """Whether the task was shrunk for a test; such a record is no result."""
    parameters: Count | None = None
    """Trainable parameters, measured."""
    chance: float | None = Field(default=None, ge=0, lt=1)
    """Exact match of a guess among an attribute's values."""
    data_digest: Digest | None = None
    streams: dict[Line, Count] = Field(max_length=200)
    """The seed of every named random stream."""
    stages: tuple[StageOutcome, ...] = Field(default=(), max_length=100)
    curve: tuple[CurvePoint, ...] = Field(default=(), max_length=10_000)
    """Where it was asked for (``--curve``); it is no part of the identity and changes nothing else."""
    attachments: tuple[Attachment, ...] = Field(default=(), max_length=1000)
    """Tables of probes and weights that lie beside the record; no part of its identity."""
    audit: Audit | None = None
    """How the model reads the cell's texts; null where it reads them with the task's own tokenizer, or none."""
    provenance: Provenance
    timing: Timing
    error: Failure | None = None

    @model_validator(mode="after")
    def _own_key(self) -> Self:
        known = {cell_key(self.cell)}
        if self.schema_version <= KEYS_WITH_PLACE:
            known.add(key_with_place(self.cell))
        if self.key not in known:
            raise ValueError("the key does not belong to the specification; one of them was changed")
        return self

    @property
    def cell_key(self) -> str:
        """The key of the cell by the rule of today, by which cells are found again; ``key`` is that of its time."""
        return self.key if self.schema_version > KEYS_WITH_PLACE else cell_key(self.cell)


class Record(Draft):
    """The result of one cell."""

    status: Literal["done", "failed"]
    scores: Scores | None = None
    items: ItemFile | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.status == "done") != (self.scores is not None and self.items is not None):
            raise ValueError("a done record has scores and items, a failed one has neither")
        problem = bound_problem(self.cell.task, self.scores) if self.scores is not None else None
        if problem is not None:
            raise ValueError(problem)
        return self
