"""What was found and done, as a learner or a modality says it and a record keeps it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from iml_bench.spec.base import Line, LongLine, Share, Spec

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class StageOutcome(Spec):
    """What one stage of training did."""

    name: Line
    steps: Count
    final_loss: float | None
    """Mean loss since the last look; null for a learner that has none."""
    micro_batch: Positive | None
    """Examples per process and forward pass at the end; smaller than asked for where memory ran out."""
    accumulation: Positive | None
    """Forward passes per process and optimiser step at the end."""
    first_micro_batch: Positive | None = None
    """``micro_batch`` when the cell began: where it is another, memory ran out on the way, nobody knows when. Null
    in older records."""


class CurvePoint(Spec):
    """Exact match at one moment of training: one point of a learning curve."""

    phase: Line
    fold: Count
    step: Count
    exact_match: dict[Line, Share] = Field(max_length=100)
    """By what was shown, as in ``Scores.exact_match``."""


class Audit(Spec):
    """How a model reads the texts of a cell, found before anything is trained."""

    reader: Line
    """What turns texts into numbers: the kind of the tokenizer."""
    vocabulary: Count
    """How many tokens it knows."""
    classes: Count
    """One more than the largest token id."""
    texts: Count
    """Texts that were read for the audit and written again."""
    tokens: dict[Line, tuple[Count, Count]] = Field(max_length=20)
    """Fewest and most tokens, by what is read: an alias, a tag, an answer with its end."""
    notes: tuple[LongLine, ...] = Field(default=(), max_length=20)
    """What becomes of the texts, where it is not what was written and changes no meaning: spaces, capitals, signs."""
