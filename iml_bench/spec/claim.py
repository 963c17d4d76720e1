"""What a suite claims about its cells, stated before they are run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from iml_bench.errors import UsageError, unknown
from iml_bench.extensions import PROBES
from iml_bench.spec.base import Spec
from iml_bench.spec.task import NAME_PATTERN

PARAMETERS: Final = "parameters"
"""Stands for a field: points are then the models of a family, by their number of trained parameters."""

Estimand = Literal["mean", "difference", "slope", "trend", "symmetry"]
Direction = Literal["up", "down", "none"]
Scale = Literal["linear", "log2", "log10"]

NEEDS: Final[dict[str, int]] = {"mean": 0, "difference": 2, "slope": 3, "trend": 3, "symmetry": 2}
"""Points that each estimand is about, at least; 0: each point is judged by itself."""


class Claim(Spec):
    """A number that follows from a measure in every seed, and what its mean over seeds is said to be.

    ``mean`` is the measure itself, at each point of the grid. The others are about one field that varies: the
    ``difference`` of two of its values, second minus first; the least-squares ``slope`` of the measure on it; the
    ``trend``, which is the rise from the first to the last value by least squares on their order alone; and
    ``symmetry``, the mean of what the measure is at a value and at one minus it, added. Whatever else varies in the
    grid, and each model, is judged by itself.
    """

    name: str = Field(pattern=NAME_PATTERN)
    says: str = Field(min_length=1)
    """The claim in a sentence."""
    grid: str = Field(pattern=NAME_PATTERN)
    """The grid of the suite whose cells it is about."""
    measure: str
    """One of the measures of the grid's task."""
    estimand: Estimand
    along: str | None = None
    """The field that varies, as the grid has it, or ``parameters``; or, of a slope, a score of one of the grid's probes
    (``alignment.gap``), whose mean over seeds then places each point of the grid, whatever its model."""
    between: tuple[Any, Any] | None = None
    """Of a difference: the two values of the field, first the one that is taken away."""
    scale: Scale = "linear"
    """Of a slope: per unit of the field, per doubling, or per tenfold."""
    at: dict[str, Any] = {}
    """Values of other fields that vary: only these points are judged."""
    direction: Direction
    """``up``: above zero, ``down``: below it, ``none``: within delta of it."""
    delta: float = Field(gt=0)
    """The smallest effect worth caring about, in the unit of the estimand."""

    @property
    def is_along_score(self) -> bool:
        """Whether it is along what a probe found, and not along a field."""
        return (self.along or "").partition(".")[0] in PROBES.origins

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.along is None) != (self.estimand == "mean"):
            more = "is about no field; leave along out" if self.along else "is along a field; say which (along)"
            raise ValueError(f"a {self.estimand} {more}")
        if (self.between is None) == (self.estimand == "difference"):
            raise ValueError("between is the two values of a difference, and only of one")
        if self.scale != "linear" and self.estimand != "slope":
            raise ValueError(f"scale is of a slope; a {self.estimand} has none")
        if self.estimand == "symmetry" and self.direction != "none":
            raise ValueError("a symmetry is claimed to be zero: direction is none")
        return self


def check_claim(claim: Claim, varied: Mapping[str, Sequence[Any]], listing: str) -> None:
    """Whether what a claim is about varies in its grid.

    Args:
        claim: what is checked.
        varied: the values of every field that varies in the grid, with the models as ``parameters``; and by the score
            of a probe that the claim is along, every model at every point.
        listing: the command that lists them.

    Raises:
        UsageError: when it does not, or not enough.
    """
    fields = {path: values for path, values in varied.items() if path != PARAMETERS}
    for path, value in claim.at.items():
        if path not in fields:
            raise unknown("field", path, fields, listing)
        if value not in fields[path]:
            raise UsageError(f"at: {path} is never {value!r} in grid {claim.grid!r}")
    if claim.along is None:
        return
    if claim.along not in varied:
        raise unknown("field", claim.along, varied, listing)
    values = varied[claim.along]
    if claim.is_along_score:
        if claim.estimand != "slope" or claim.scale != "linear":
            raise UsageError(f"along {claim.along}, which is measured, there can be a linear slope only")
    elif claim.along != PARAMETERS and claim.estimand in ("slope", "symmetry"):
        _check_numbers(claim, values)
    lacking = [value for value in claim.between or () if value not in values]
    if claim.estimand == "symmetry":
        lacking = [1 - value for value in values if not any(math.isclose(1 - value, other) for other in values)]
    if lacking:
        raise UsageError(f"{claim.estimand}: {claim.along} is never {lacking[0]!r} in grid {claim.grid!r}")
    if len(values) < NEEDS[claim.estimand]:
        raise UsageError(
            f"a {claim.estimand} needs {NEEDS[claim.estimand]} values of {claim.along}, and grid {claim.grid!r} has "
            f"{len(values)}"
        )


def _check_numbers(claim: Claim, values: Sequence[Any]) -> None:
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (claim.scale != "linear" and value <= 0):
            wanted = "a number" if claim.scale == "linear" else "a number above 0"
            raise UsageError(f"a {claim.estimand} along {claim.along} needs numbers, and {value!r} is not {wanted}")
