"""Pictures, as the runner sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from iml_bench.modalities.base import Feed, Modality, Renderer, Scene
from iml_bench.modalities.vision.model import VisionShape
from iml_bench.modalities.vision.picture import vision_sheet
from iml_bench.modalities.vision.renderer import VisionRenderer
from iml_bench.modalities.vision.spec import DigitGridRender
from iml_bench.protocols.base import Examples
from iml_bench.spec import TaskSpec
from iml_bench.worlds.grids import LabelGridWorld

if TYPE_CHECKING:
    from PIL import Image


class Vision(Modality):
    """Grids of handwritten digits as images, read by image classifiers."""

    name = "vision"

    def renderer(self, scene: Scene) -> VisionRenderer:
        """See ``Modality.renderer``."""
        task = scene.task
        spec, grid = cast(DigitGridRender, task.render), cast(LabelGridWorld, task.world)
        return VisionRenderer(spec, grid, scene.world, scene.design, scene.streams, scene.device, scene.data_dir)

    def shape(self, renderer: Renderer, feeds: Sequence[Feed]) -> VisionShape:
        """See ``Modality.shape``: all examples of a task have one size."""
        own = cast(VisionRenderer, renderer)
        height, width = own.spec.canvas
        return VisionShape(height, width, 1, own.cells, own.classes)

    def least_log_likelihood(self, task: TaskSpec, gold: Sequence[str]) -> NDArray[np.float64]:
        """See ``Modality.least_log_likelihood``: an answer is one label."""
        return np.full(len(gold), -np.log(cast(LabelGridWorld, task.world).labels))

    def spells_uniquely(self) -> bool:
        """See ``Modality.spells_uniquely``: a label is a class."""
        return True

    def drawn(self, setting: Any, panels: list[tuple[str, Examples]]) -> Image.Image:
        """See ``Modality.drawn``: a sheet of pictures."""
        return vision_sheet(setting, panels)


VISION = Vision()
