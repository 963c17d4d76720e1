"""Texts of a task with what a model must answer, as lines."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from iml_bench.protocols.base import Examples

if TYPE_CHECKING:
    from iml_bench.modalities.text.renderer import TextRenderer

LEGEND: Final = r"A text is what is given, a space and the target; \n is the line end, which closes every text."


def text_lines(renderer: TextRenderer, panels: list[tuple[str, Examples]]) -> list[str]:
    """Each example below its title: what is given, and its target, which a model is to write after it."""
    lines = []
    for title, example in panels:
        given, rest = renderer.parts(*(int(column[0]) for column in example))
        lines.append(f"{title}:")
        for name, text in (("given", given), ("target", rest.strip(" "))):
            plain = text.replace("\n", r"\n")
            lines += textwrap.wrap(f"    {name:<8}{plain}", 100, subsequent_indent=12 * " ")
        lines.append("")
    return [*lines, LEGEND]
