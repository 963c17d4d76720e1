"""A picture beside a question in tokens: the modality image-text, its renderer made of the two that are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from iml_bench.modalities.base import Batch, Feed, Indices, Modality, Renderer, Scene
from iml_bench.modalities.trial import CPU, forward, wrong_shape
from iml_bench.modalities.vision.picture import vision_sheet
from iml_bench.modalities.vision.renderer import VisionFeed, VisionRenderer
from iml_bench.modalities.vision.spec import DigitGridRender
from iml_bench.protocols.base import Examples


class CaptionRender(DigitGridRender):
    """Pictures as ``digit-grid`` draws them, and a token that says what is asked of them."""

    kind: Literal["caption"] = "caption"  # type: ignore[assignment]
    modality: ClassVar[str] = "image-text"


class ImageTextShape(NamedTuple):
    """Pixels ``[b, 1, h, w]`` and token ids ``[b, 1]`` in; ``positions`` distributions over ``classes`` out."""

    height: int
    width: int
    tokens: int
    positions: int
    classes: int

    def wrap(self, body: nn.Module) -> nn.Module:
        return ImageTextModel(body, self)

    def check_output(self, entry: Any, model: nn.Module, device: torch.device = CPU) -> None:
        pixels = torch.zeros(2, 1, self.height, self.width, device=device)
        ids = torch.zeros(2, 1, dtype=torch.int64, device=device)
        logits = forward(entry, model, "a picture and a token", {"pixels": pixels, "input_ids": ids})
        expected = (2 * self.positions, self.classes)
        if tuple(logits.shape) != expected:
            raise wrong_shape(entry, "a picture and a token", logits, expected)

    def try_out(self, entry: Any, model: nn.Module) -> None:
        self.check_output(entry, model)


class ImageTextModel(nn.Module):
    def __init__(self, body: nn.Module, shape: ImageTextShape) -> None:
        super().__init__()
        self.body, self.shape = body, shape

    def forward(self, pixels: Tensor, input_ids: Tensor) -> Tensor:
        found: Tensor = self.body(pixels, input_ids)
        return found.view(len(pixels) * self.shape.positions, self.shape.classes)


class ImageTextFeed(VisionFeed):
    def batch(self, rows: Indices, noise: Tensor) -> Batch:
        batch = super().batch(rows, noise)
        asked = torch.from_numpy(self.examples.asked + 1).to(rows.device.device)
        return batch._replace(inputs={**batch.inputs, "input_ids": asked.index_select(0, rows.device)[:, None]})


class ImageTextRenderer(VisionRenderer):
    def feed(self, examples: Examples, *, evaluation: bool) -> VisionFeed:
        return ImageTextFeed(self, examples, self.banks[int(evaluation)])


class ImageText(Modality):
    name = "image-text"

    def renderer(self, scene: Scene) -> Any:
        spec: Any = scene.task.render
        grid: Any = scene.task.world
        return ImageTextRenderer(spec, grid, scene.world, scene.design, scene.streams, scene.device, scene.data_dir)

    def shape(self, renderer: Renderer, feeds: Sequence[Feed]) -> ImageTextShape:
        own: Any = renderer
        return ImageTextShape(*own.spec.canvas, own.cells + 1, own.cells, own.classes)

    def least_log_likelihood(self, task: Any, gold: Sequence[str]) -> Any:
        return np.full(len(gold), -np.log(task.world.labels))

    def drawn(self, setting: Any, panels: list[tuple[str, Examples]]) -> Any:
        return vision_sheet(setting, panels)


IMAGE_TEXT = ImageText()


class Network(nn.Module):
    """A model of the modality: ``python:image_text:build``."""

    def __init__(self, shape: ImageTextShape) -> None:
        super().__init__()
        self.words = nn.Embedding(shape.tokens, 8)
        self.rest = nn.Linear(shape.height * shape.width + 8, shape.positions * shape.classes)

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        found: Tensor = self.rest(torch.cat([pixels.flatten(1), self.words(ids[:, 0])], dim=1))
        return found


def build(shape: ImageTextShape) -> nn.Module:
    return Network(shape)
