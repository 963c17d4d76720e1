"""Pictures of a task with what a model must answer, side by side on a sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image, ImageDraw, ImageFont

from iml_bench.modalities.base import draw_noise
from iml_bench.protocols.base import Examples

if TYPE_CHECKING:
    from iml_bench.modalities.vision.renderer import VisionRenderer

PANEL, MARGIN, CAPTION = 300, 16, 84
FONT_SIZE = 16


def vision_sheet(setting: Any, panels: list[tuple[str, Examples]]) -> Image.Image:
    """A picture of each example under its title, with its target.

    Args:
        setting: the data side of a cell (``run.cell.Setting``).
        panels: titles and single examples.
    """
    renderer = cast("VisionRenderer", setting.renderer)
    examples = Examples.joined(*(example for _, example in panels))
    feed = renderer.feed(examples, evaluation=False)
    # The pictures of the first phase that is trained: what a model sees first.
    noise = torch.from_numpy(draw_noise(setting.streams.generator("render/stage1"), len(panels), feed.noise))
    images = feed.images(torch.arange(len(panels)), noise).numpy()
    sheet = Image.new("RGB", (len(panels) * (PANEL + MARGIN) + MARGIN, PANEL + CAPTION + MARGIN), "white")
    for index, (title, example) in enumerate(panels):
        left = MARGIN + index * (PANEL + MARGIN)
        picture = Image.fromarray(images[index]).resize((PANEL, PANEL), Image.Resampling.NEAREST)
        sheet.paste(picture, (left, MARGIN))
        write(sheet, left, PANEL + MARGIN + 8, f"{title}\ntarget: {_target(setting, example)}")
    return sheet


def write(sheet: Image.Image, left: int, top: int, text: str) -> None:
    """Write lines of text onto a sheet."""
    ImageDraw.Draw(sheet).multiline_text((left, top), text, "black", ImageFont.load_default(FONT_SIZE), spacing=6)


def _target(setting: Any, example: Examples) -> str:
    content, asked = int(example.content[0]), int(example.asked[0])
    labels = [setting.world.answer(content, index) for index in range(len(setting.world.attributes))]
    if asked >= 0:
        return f"{labels[asked]} (the framed digit's label)"
    cols = setting.task.world.cols
    return " / ".join(" ".join(labels[start : start + cols]) for start in range(0, len(labels), cols))
