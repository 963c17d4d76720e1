"""The charts as files: what the page draws, for a paper or a slide."""

from __future__ import annotations

from collections.abc import Sequence

from iml_bench.board import Row
from iml_bench.site.charts import VEGA_LITE, board_charts, themed
from iml_bench.site.names import slug

SCALE = 2.0
"""Pixels of a PNG for each unit of the drawing."""


def draw(rows: Sequence[Row]) -> dict[str, bytes]:
    """The charts of every task as it was run, as SVG and PNG, by file name.

    Args:
        rows: the board's rows, reference rows among them. A task without a trained model has no figure.
    """
    import vl_convert

    found: dict[str, bytes] = {}
    for label in dict.fromkeys(row.label for row in rows if not row.reference and row.score is not None):
        own = [row for row in rows if row.label == label]
        for kind, spec in board_charts(own, label).items():
            name = own[0].headline.name if kind == "size" else kind
            chart = themed(spec, "light")
            svg = vl_convert.vegalite_to_svg(chart, vl_version=VEGA_LITE)
            found[f"{slug(label)}-{name}.svg"] = svg.encode()
            found[f"{slug(label)}-{name}.png"] = vl_convert.vegalite_to_png(chart, vl_version=VEGA_LITE, scale=SCALE)
    return found
