"""Pictures: a grid of digits is the alias, a strip of squares the tag, a frame asks about a cell.

::

    definition             question
    #.##.#..##..#.##       ................     tag strip (blank on a question)
    . 3 3  . 0 7 ...       . 3 3 .|-----|..     the alias: the same digits, other pictures
    . 3 3  . 0 7 ...       . 3 3 .| 0 7 |..
    . 1 1  . 9 9 ...       . 1 1 .|-9-9-|..     framed: what is this cell's label?
    target: all labels     target: that label
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iml_bench.modalities.base import Batch, Indices, to_device
from iml_bench.modalities.vision.digits import DigitBank, load_banks
from iml_bench.modalities.vision.spec import DigitGridRender
from iml_bench.modalities.vision.tags import balanced_tags
from iml_bench.protocols.base import NONE, Design, Examples
from iml_bench.streams import Streams
from iml_bench.worlds import World, draw_distinct
from iml_bench.worlds.grids import LabelGridWorld


class VisionRenderer:
    """Renders examples as images of shape ``[b, 1, height, width]``, all work on the device."""

    def __init__(
        self,
        spec: DigitGridRender,
        grid: LabelGridWorld,
        world: World,
        design: Design,
        streams: Streams,
        device: torch.device,
        data_dir: Path | None = None,
    ) -> None:
        """Draw aliases and tags, load the digits and put all of it on ``device``.

        Args:
            spec: sizes, in pixels.
            grid: rows, columns and number of labels.
            world: the labels of every entity.
            design: which tags there are.
            streams: ``aliases``, ``tags`` and ``pictures`` are used.
            device: where images are made.
            data_dir: see ``load_banks``.
        """
        self.spec, self.grid, self.world, self.device = spec, grid, world, device
        self.cells, self.n_tags = grid.n_attributes, len(design.tags)
        self.classes = grid.labels
        n = len(world.values)
        aliases = draw_distinct(streams.generator("aliases"), n, [10] * self.cells, "digit grids")
        rng = streams.generator("tags")
        if spec.tag_code == "balanced":
            tags = balanced_tags(rng, self.n_tags, spec.tag_rows, spec.tag_bits // spec.tag_rows)
        else:
            tags = draw_distinct(rng, self.n_tags, [2] * spec.tag_bits, "tags")
        self.aliases = torch.from_numpy(aliases).to(device)
        self.labels = torch.from_numpy(world.values).to(device)
        self.banks = tuple(
            DigitBank(*(part.to(device) for part in bank)) for bank in load_banks(spec, streams, data_dir)
        )
        self.keep, self.ink = (part.to(device) for part in self._decorations(tags))

    def feed(self, examples: Examples, *, evaluation: bool) -> VisionFeed:
        """See ``Renderer.feed``."""
        return VisionFeed(self, examples, self.banks[int(evaluation)])

    def value_classes(self, attribute: int, value: int) -> list[int]:
        """See ``Renderer.value_classes``."""
        return [value]

    def spell(self, classes: list[int]) -> str:
        """See ``Renderer.spell``."""
        return " ".join(self.world.vocabulary[0][index] for index in classes)

    @property
    def grid_origin(self) -> tuple[int, int]:
        """Top and left of the grid: centred in what the tag's strip leaves."""
        top = 0 if self.spec.tag_over else self.spec.strip_px
        height, width = self.spec.canvas
        free_rows = height - top - self.grid.rows * self.spec.cell_px
        return top + free_rows // 2, (width - self.grid.cols * self.spec.cell_px) // 2

    def _decorations(self, tags: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> tuple[Tensor, Tensor]:
        """What is drawn over the digits: one layer per tag, then one per framed cell.

        Returns:
            ``keep`` and ``ink``, both ``[tags + cells, height, width]`` uint8: a pixel becomes
            ``pixel * keep + ink``.
        """
        spec, cell = self.spec, self.spec.cell_px
        keep = torch.ones(self.n_tags + self.cells, *spec.canvas, dtype=torch.uint8)
        ink = torch.zeros_like(keep)
        squares = torch.from_numpy(tags * 255).to(torch.uint8).view(self.n_tags, spec.tag_rows, -1)
        strip = squares.repeat_interleave(spec.tag_square_px, 1).repeat_interleave(spec.tag_square_px, 2)
        keep[: self.n_tags, : spec.strip_px, : strip.shape[2]] = 0
        ink[: self.n_tags, : spec.strip_px, : strip.shape[2]] = strip
        top, left = self.grid_origin
        for index in range(self.cells):
            y, x = top + index // self.grid.cols * cell, left + index % self.grid.cols * cell
            frame = torch.ones(cell, cell, dtype=torch.bool)
            frame[spec.frame_px : -spec.frame_px, spec.frame_px : -spec.frame_px] = False
            keep[self.n_tags + index, y : y + cell, x : x + cell][frame] = 0
            ink[self.n_tags + index, y : y + cell, x : x + cell][frame] = 255
        return keep, ink


class VisionFeed:
    """Examples of one stage as images; see ``Feed``."""

    lengths = None

    def __init__(self, renderer: VisionRenderer, examples: Examples, bank: DigitBank) -> None:
        """Look up everything about each example that no random draw changes."""
        self.renderer, self.examples, self.bank = renderer, examples, bank
        self.noise = renderer.cells
        device, cells = renderer.device, renderer.cells
        layer = np.where(examples.asked == NONE, examples.tag, renderer.n_tags + examples.asked)
        self.layer = torch.from_numpy(layer).to(device)
        digits = renderer.aliases[torch.from_numpy(examples.entity).to(device)]
        self.first_picture, self.n_pictures = bank.start[digits], bank.available[digits]
        self.targets = renderer.labels[torch.from_numpy(examples.content).to(device)]
        self.asked = (examples.asked[:, None] == np.arange(cells)) | (examples.asked[:, None] == NONE)
        self.answer = torch.from_numpy(self.asked).to(device)
        self.weights = self.answer.float() / self.answer.sum(1, keepdim=True)
        self.mass = self.weights.sum(1)

    def images(self, rows: Tensor, noise: Tensor) -> Tensor:
        """``[b, height, width]`` uint8."""
        renderer, grid = self.renderer, self.renderer.grid
        cell = renderer.spec.cell_px
        first, count = self.first_picture.index_select(0, rows), self.n_pictures.index_select(0, rows)
        picture = first + (noise * count).long()
        cells = self.bank.pictures.index_select(0, picture.view(-1)).view(-1, grid.rows, grid.cols, cell, cell)
        canvas = torch.zeros(len(rows), *renderer.spec.canvas, dtype=torch.uint8, device=rows.device)
        top, left = renderer.grid_origin
        height, width = grid.rows * cell, grid.cols * cell
        canvas[:, top : top + height, left : left + width] = cells.transpose(2, 3).reshape(-1, height, width)
        layer = self.layer.index_select(0, rows)
        return canvas.mul_(renderer.keep.index_select(0, layer)).add_(renderer.ink.index_select(0, layer))

    def batch(self, rows: Indices, noise: Tensor) -> Batch:
        """See ``Feed.batch``; pixels are scaled to [-1, 1], and ``k`` is all cells of all images."""
        pixels = self.images(rows.device, noise)[:, None].float().mul_(2 / 255).sub_(1)
        targets, weights = (column.index_select(0, rows.device) for column in (self.targets, self.weights))
        return Batch({"pixels": pixels}, targets.flatten(), weights.flatten())

    def answered(self, rows: Indices) -> tuple[Tensor, Tensor]:
        """See ``Feed.answered``."""
        # On the host, which knows it: it would have to wait for the device to learn how many there are.
        position = to_device(np.flatnonzero(self.asked[rows.host]), rows.device.device)
        return position, position // self.renderer.cells

    def owners(self, rows: Indices) -> Tensor:
        """See ``Feed.owners``."""
        cells = self.renderer.cells
        return torch.arange(len(rows.host) * cells, device=rows.device.device) // cells

    def fingerprint(self, rows: Tensor, noise: Tensor) -> bytes:
        """See ``Feed.fingerprint``: the images, then what is asked of them."""
        asked = torch.where(self.answer[rows], self.targets[rows], NONE).to(torch.int8)
        return self.images(rows, noise).cpu().numpy().tobytes() + asked.cpu().numpy().tobytes()
