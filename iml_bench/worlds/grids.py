"""Grids of labels, the entities of the vision tasks (paper, Fig. 5)."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from iml_bench.spec.world import WorldSpec
from iml_bench.streams import Streams
from iml_bench.worlds.base import World, draw_distinct


class LabelGridWorld(WorldSpec):
    """Entities are grids of labels (paper, Fig. 5): the label of each cell is one attribute."""

    kind: Literal["label-grid"] = "label-grid"
    rows: int = Field(default=2, ge=1, le=8)
    """Rows of the grid."""
    cols: int = Field(default=2, ge=1, le=8)
    """Columns of the grid."""
    labels: int = Field(default=10, ge=2, le=26)
    """Labels that a cell can have, from A on."""

    @property
    def n_attributes(self) -> int:
        """Cells of the grid."""
        return self.rows * self.cols

    def build(self, n: int, streams: Streams, data: Path | None) -> World:
        """See ``WorldSpec.build`` and ``label_grids``."""
        return label_grids(self, n, streams)


def label_grids(spec: LabelGridWorld, n: int, streams: Streams) -> World:
    """``n`` entities, each a grid of labels; an attribute is the label of one cell, row by row.

    All entities differ where there are enough grids; where there are not (a 3x3 grid of two labels
    has 512) every grid is used equally often, give or take one.
    """
    rng = streams.generator("contents")
    labels = tuple(string.ascii_uppercase[: spec.labels])
    sizes = [spec.labels] * spec.n_attributes
    grids: int = spec.labels**spec.n_attributes
    whole, rest = divmod(n, grids)
    parts = [draw_distinct(rng, grids, sizes, "label grids") for _ in range(whole)]
    parts.append(draw_distinct(rng, rest, sizes, "label grids"))
    return World(
        attributes=tuple(f"row {i + 1} column {j + 1}" for i in range(spec.rows) for j in range(spec.cols)),
        vocabulary=(labels,) * spec.n_attributes,
        values=np.concatenate(parts),
    )
