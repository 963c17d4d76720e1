"""The charts as files: what the page draws, for a paper or a slide."""

from __future__ import annotations

from collections.abc import Sequence

from iml_bench.board import Row
from iml_bench.site.charts import VEGA_LITE, Spec, board_charts, themed
from iml_bench.site.names import slug

SCALE = 2.0
"""Pixels of a PNG for each unit of the drawing."""


def draw(rows: Sequence[Row]) -> dict[str, bytes]:
    """The charts of every task as it was run, as SVG and PNG, by file name.

    Args:
        rows: the board's rows, reference rows among them. A task without a trained model has no figure.
    """
    found: dict[str, bytes] = {}
    for label in dict.fromkeys(row.label for row in rows if not row.reference and row.score is not None):
        own = [row for row in rows if row.label == label]
        for kind, spec in board_charts(own, label).items():
            name = own[0].headline.name if kind == "size" else kind
            found |= as_files(f"{slug(label)}-{name}", spec)
    return found


def as_files(name: str, spec: Spec) -> dict[str, bytes]:
    """One chart as SVG and PNG, by file name."""
    import vl_convert

    chart = themed(spec, "light")
    return {
        f"{name}.svg": vl_convert.vegalite_to_svg(chart, vl_version=VEGA_LITE).encode(),
        f"{name}.png": vl_convert.vegalite_to_png(chart, vl_version=VEGA_LITE, scale=SCALE),
    }
