"""What a grid of a suite controls: a number that must be zero, within a margin that is stated beforehand."""

from __future__ import annotations

from pydantic import Field

from iml_bench.spec.base import Spec
from iml_bench.spec.task import NAME_PATTERN


class Control(Spec):
    """The mean of a measure over the seeds of a grid is equivalent to 0, for each of its models."""

    measure: str
    """One of the measures of the task's protocol."""
    margin: float = Field(ge=0)
    """In the measure's unit. It passes where the 90 % interval over seeds lies within it (two one-sided tests at 5 %)
    and fails where the whole interval lies beyond it; 0: every seed must read exactly 0."""
    mirror_of: str | None = Field(default=None, pattern=NAME_PATTERN)
    """Another grid of the suite, of the same task, models and seeds: each seed's value is added to the value that the
    same seed has there, and the sums are what must be zero."""
