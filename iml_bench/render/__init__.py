"""Renderers: examples to tensors, the same interface for pictures and for text."""

from pathlib import Path
from typing import Any

import torch

from iml_bench.render.base import Batch, Feed, Renderer, draw_noise
from iml_bench.render.text import TextRenderer
from iml_bench.render.vision import VisionRenderer
from iml_bench.spec import DigitGridRender, LabelGridWorld, TaskSpec
from iml_bench.streams import Streams
from iml_bench.worlds import World

__all__ = ["Batch", "Feed", "Renderer", "TextRenderer", "VisionRenderer", "build_renderer", "draw_noise"]


def build_renderer(
    task: TaskSpec,
    world: World,
    streams: Streams,
    device: torch.device,
    *,
    data_dir: Path | None = None,
    tokenizer: Any = None,
) -> Renderer:
    """The renderer of a task.

    Args:
        task: decides between pictures and text.
        world: the entities to show.
        streams: aliases, tags and the split of pictures are drawn from them.
        device: where examples are rendered.
        data_dir: folder of data sets that are not embedded (MNIST).
        tokenizer: a model's own tokenizer; None for the task's.
    """
    if isinstance(task.render, DigitGridRender):
        assert isinstance(task.world, LabelGridWorld)
        return VisionRenderer(task.render, task.world, world, streams, device, data_dir)
    return TextRenderer(task.render, task.recipe.loss_on or "text", world, streams, device, tokenizer)
