"""Texts of a task with what a model must answer, as lines."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from iml_bench.protocols.base import Examples

if TYPE_CHECKING:
    from iml_bench.modalities.text.renderer import TextRenderer


def text_lines(renderer: TextRenderer, panels: list[tuple[str, Examples]]) -> list[str]:
    """Each example as ``what is given -> what follows`` below its title."""
    lines = []
    for title, example in panels:
        given, rest = renderer.parts(*(int(column[0]) for column in example))
        lines += [f"{title}:", *textwrap.wrap(f"    {given} ->{rest}".rstrip(), 100, subsequent_indent="    "), ""]
    return lines
