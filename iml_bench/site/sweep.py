"""A figure of what varies in a suite, as one file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

from iml_bench.board import ClaimVerdict
from iml_bench.site.claim_chart import claim_chart
from iml_bench.site.figures import as_files

FORMATS: Final = (".png", ".svg", ".html")
PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>svg {{ max-width: 100%; height: auto; }}</style></head>
<body>
{svg}
</body>
</html>
"""


def draw_sweep(verdicts: Sequence[ClaimVerdict], suffix: str) -> bytes:
    """The points of some verdicts along one field, a line for each model and measure.

    Args:
        verdicts: of claims along it.
        suffix: one of ``FORMATS``; a page holds the figure and nothing else.
    """
    measures = list(dict.fromkeys(one.measure for one in verdicts))
    grids = {one.grid for one in verdicts}
    title = measures[0] if len(measures) == 1 else "exact match" if any("/" in name for name in measures) else "score"
    verdicts = [
        one.model_copy(
            update={
                "measure": title,
                **({"task": ""} if len(grids) > 1 else {}),
                "model": ", ".join(
                    [one.model, *([one.measure] if len(measures) > 1 else []), *([one.grid] if len(grids) > 1 else [])]
                ),
            }
        )
        for one in verdicts
    ]
    files = as_files("figure", claim_chart(verdicts, joined=True))
    if suffix != ".html":
        return files[f"figure{suffix}"]
    title = html.escape(f"{measures[0]} over {verdicts[0].along}")  # the name of a slice is a record's
    return PAGE.format(title=title, svg=files["figure.svg"].decode()).encode()
