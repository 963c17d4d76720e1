"""A task's examples drawn as a picture, or written as text: what its protocol shows, as its modality draws it."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from iml_bench.errors import UsageError
from iml_bench.modalities.vision.picture import FONT_SIZE, MARGIN, write
from iml_bench.run.cell import Setting
from iml_bench.runtime import Runtime
from iml_bench.spec import TaskSpec


def draw_task(task: TaskSpec, seed: int, path: Path, runtime: Runtime) -> None:
    """Draw a definition under every tag and a question, each with its target, into a PNG.

    What is text in the first place may also be written into a ``.txt``.

    Raises:
        UsageError: when the data is not there or the picture cannot be written.
    """
    setting = Setting(task, seed, torch.device("cpu"), runtime)
    drawn = setting.modality.drawn(setting, setting.protocol.panels(setting.design))
    try:
        if isinstance(drawn, Image.Image):
            drawn.save(path)
        elif path.suffix == ".txt":
            path.write_bytes(("\n".join(drawn).rstrip() + "\n").encode())
        else:
            _text_sheet(drawn).save(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write the picture {path}: {error}; give a path that ends in .png") from error


def _text_sheet(lines: list[str]) -> Image.Image:
    sheet = Image.new("RGB", (960, 2 * MARGIN + len(lines) * (FONT_SIZE + 6)), "white")
    write(sheet, MARGIN, MARGIN, "\n".join(lines))
    return sheet
