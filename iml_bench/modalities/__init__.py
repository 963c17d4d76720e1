"""Renderers: examples to tensors, the same interface for pictures and for text."""

from pathlib import Path

import torch

from iml_bench.modalities.base import Batch, Feed, Indices, Renderer, draw_noise, to_device
from iml_bench.modalities.text.renderer import TextRenderer
from iml_bench.modalities.text.tokens import Form
from iml_bench.modalities.vision.renderer import VisionRenderer
from iml_bench.protocols.two_stage.design import Design
from iml_bench.spec import DigitGridRender, LabelGridWorld, TaskSpec
from iml_bench.streams import Streams
from iml_bench.worlds import World

__all__ = [
    "Batch",
    "Feed",
    "Form",
    "Indices",
    "Renderer",
    "TextRenderer",
    "VisionRenderer",
    "build_renderer",
    "draw_noise",
    "to_device",
]


def build_renderer(
    task: TaskSpec,
    world: World,
    design: Design,
    streams: Streams,
    device: torch.device,
    *,
    data_dir: Path | None = None,
    form: Form = Form(),
) -> Renderer:
    """The renderer of a task.

    Args:
        task: decides between pictures and text.
        world: the entities to show.
        design: who is in which group.
        streams: aliases, tags and the split of pictures are drawn from them.
        device: where examples are rendered.
        data_dir: folder of data sets that are not embedded (MNIST).
        form: how a language model reads.
    """
    if isinstance(task.render, DigitGridRender):
        assert isinstance(task.world, LabelGridWorld)
        return VisionRenderer(task.render, task.world, world, streams, device, data_dir)
    return TextRenderer(task.render, task.recipe.loss_on or "text", world, design, streams, device, form)
