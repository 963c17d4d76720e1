"""What a suite is: a named grid of cells."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from iml_bench.spec.base import Spec
from iml_bench.spec.task import NAME_PATTERN


class Grid(Spec):
    """Cells of one task: every model with every combination of the axes, and every seed."""

    task: str
    models: tuple[str, ...] = Field(min_length=1)
    seeds: int = Field(ge=1)
    """Seeds 0 to this, exclusive."""
    set: dict[str, Any] = {}
    """Overrides that hold for the whole grid, as ``--set`` takes them."""
    axes: dict[str, tuple[Any, ...]] = {}
    """Fields that vary; all combinations are run."""


class SuiteSpec(Spec):
    """A suite; a YAML file in ``benchmarks/``."""

    name: str = Field(pattern=NAME_PATTERN)
    description: str
    grids: tuple[Grid, ...] = Field(min_length=1)
