"""A task's examples drawn as a picture, or written as text: a definition under each tag, and a question."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from iml_bench.errors import UsageError
from iml_bench.modalities import TextRenderer, VisionRenderer, draw_noise
from iml_bench.protocols.two_stage.design import NEW_GROUPS, SHARED_TAGS, STAGE1_GROUPS, Design, Examples
from iml_bench.run.cell import Setting
from iml_bench.runtime import Runtime
from iml_bench.spec import TaskSpec

PANEL, MARGIN, CAPTION = 300, 16, 84
FONT_SIZE = 16


def draw_task(task: TaskSpec, seed: int, path: Path, runtime: Runtime) -> None:
    """Draw a definition under every tag and a question, each with its target, into a PNG.

    What is text in the first place may also be written into a ``.txt``.

    Raises:
        UsageError: when the data is not there or the picture cannot be written.
    """
    setting = Setting(task, seed, torch.device("cpu"), runtime)
    panels = [(title, row) for title, row in _chosen(setting.design)]
    renderer = setting.renderer
    try:
        if isinstance(renderer, VisionRenderer):
            _vision_sheet(setting, renderer, panels).save(path)
            return
        assert isinstance(renderer, TextRenderer)
        lines = _lines(renderer, panels)
        if path.suffix == ".txt":
            path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
        else:
            _text_sheet(lines).save(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write the picture {path}: {error}; give a path that ends in .png") from error


Row = tuple[int, int, int, int, int]
"""One example: a row of ``Examples``."""


def _chosen(design: Design) -> list[tuple[str, Row]]:
    """Titles and examples: one definition per tag, one question."""
    old, new = (design.definitions(design.members(*groups), 0) for groups in (STAGE1_GROUPS, NEW_GROUPS))
    found = []
    for index, tag in enumerate(SHARED_TAGS):
        examples = new if tag == "fresh" else old
        rows = np.flatnonzero(examples.tag == index)
        if len(rows):
            example = _row(examples, int(rows[0]))
            truth = "true" if example[0] == example[1] else "false"
            found.append((f"{truth} definition, {tag} tag", example))
    trained = design.trained("stage1")
    found.append(("question", _row(trained, int(np.flatnonzero(~trained.is_definition)[0]))))
    return found


def _row(examples: Examples, index: int) -> Row:
    entity, content, tag, asked, context = (int(column[index]) for column in examples)
    return entity, content, tag, asked, context


def _vision_sheet(setting: Setting, renderer: VisionRenderer, panels: list[tuple[str, Row]]) -> Image.Image:
    examples = Examples(*(np.array(column) for column in zip(*(row for _, row in panels), strict=True)))
    feed = renderer.feed(examples, evaluation=False)
    noise = torch.from_numpy(draw_noise(setting.streams.generator("render/stage1"), len(panels), feed.noise))
    images = feed.images(torch.arange(len(panels)), noise).numpy()
    sheet = Image.new("RGB", (len(panels) * (PANEL + MARGIN) + MARGIN, PANEL + CAPTION + MARGIN), "white")
    for index, (title, row) in enumerate(panels):
        left = MARGIN + index * (PANEL + MARGIN)
        picture = Image.fromarray(images[index]).resize((PANEL, PANEL), Image.Resampling.NEAREST)
        sheet.paste(picture, (left, MARGIN))
        _write(sheet, left, PANEL + MARGIN + 8, f"{title}\ntarget: {_target(setting, row)}")
    return sheet


def _target(setting: Setting, row: Row) -> str:
    _, content, _, asked, _ = row
    labels = [setting.world.answer(content, index) for index in range(len(setting.world.attributes))]
    if asked >= 0:
        return f"{labels[asked]} (the framed digit's label)"
    cols = setting.task.world.cols  # type: ignore[union-attr]
    return " / ".join(" ".join(labels[start : start + cols]) for start in range(0, len(labels), cols))


def _lines(renderer: TextRenderer, panels: list[tuple[str, Row]]) -> list[str]:
    lines = []
    for title, row in panels:
        given, rest = renderer.parts(*row)
        lines += [f"{title}:", *textwrap.wrap(f"    {given} ->{rest}".rstrip(), 100, subsequent_indent="    "), ""]
    return lines


def _text_sheet(lines: list[str]) -> Image.Image:
    sheet = Image.new("RGB", (960, 2 * MARGIN + len(lines) * (FONT_SIZE + 6)), "white")
    _write(sheet, MARGIN, MARGIN, "\n".join(lines))
    return sheet


def _write(sheet: Image.Image, left: int, top: int, text: str) -> None:
    ImageDraw.Draw(sheet).multiline_text((left, top), text, "black", ImageFont.load_default(FONT_SIZE), spacing=6)
