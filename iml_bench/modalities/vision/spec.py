"""Pictures, as a specification."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from iml_bench.spec.render import RenderSpec
from iml_bench.worlds.grids import LabelGridWorld

if TYPE_CHECKING:
    from iml_bench.spec.task import TaskSpec

LARGEST_CANVAS: Final = 2**20
"""Pixels of a picture that is drawn only to check a record."""


class DigitGridRender(RenderSpec):
    """Examples are pictures: a grid of handwritten digits is the alias, a strip of squares the tag."""

    modality: ClassVar[str] = "vision"
    kind: Literal["digit-grid"] = "digit-grid"
    source: Literal["sklearn", "mnist"] = "sklearn"
    """Where the handwritten digits come from: scikit-learn's bundled 8x8 digits, or MNIST."""
    canvas: tuple[int, int] = (32, 32)
    """Height and width of an image, in pixels."""
    cell_px: int = Field(default=14, ge=4)
    """Side of a grid cell; the asked cell's frame is drawn on its border."""
    digit_px: int = Field(default=12, ge=4)
    """Side to which a digit's picture is resized; it stands in the middle of its cell."""
    frame_px: int = Field(default=1, ge=1)
    """Width of the asked cell's frame."""
    tag_square_px: int = Field(default=2, ge=1)
    """Side of one black or white square of the tag."""
    tag_rows: int = Field(default=2, ge=1)
    """Rows of squares in the tag's strip, which is as wide as the canvas."""
    tag_code: Literal["free", "balanced"] = "free"
    """``balanced``: all tags are equally bright everywhere, and any two differ in equally many squares (``tags``).
    ``free``: every square is black or white at random, so that tags differ in brightness, which a network sees."""
    tag_over: bool = False
    """The strip is drawn over the digits' top edge (as in the paper) instead of above them."""
    eval_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of each digit's pictures kept for evaluation; MNIST uses its own test set instead."""

    @property
    def tag_bits(self) -> int:
        """Squares in a tag."""
        return self.tag_rows * (self.canvas[1] // self.tag_square_px)

    @property
    def strip_px(self) -> int:
        """Height of the tag's strip."""
        return self.tag_rows * self.tag_square_px

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.digit_px > self.cell_px:
            raise ValueError(f"a digit of {self.digit_px} px does not fit a cell of {self.cell_px} px")
        if 2 * self.frame_px >= self.cell_px:
            raise ValueError(f"a frame of {self.frame_px} px covers a cell of {self.cell_px} px")
        if self.strip_px >= self.canvas[0]:
            raise ValueError(f"the tag's strip of {self.strip_px} px covers the canvas")
        if self.tag_bits < 3:
            raise ValueError("the tag's strip has fewer than 3 squares")
        return self

    def check(self, task: TaskSpec) -> None:
        """See ``RenderSpec.check``: labels of a grid fit the canvas, and nothing is for texts only."""
        if not isinstance(task.world, LabelGridWorld):
            raise ValueError(f"a {task.world.kind!r} world cannot be shown as {self.kind!r}")
        if task.recipe.loss_on is not None:
            raise ValueError("recipe.loss_on: text tasks say text or answer, vision tasks leave it null")
        if task.exact_match != "strict":
            raise ValueError("exact_match: vision tasks leave it as it is")
        world = task.world
        height = world.rows * self.cell_px + (0 if self.tag_over else self.strip_px)
        width = world.cols * self.cell_px
        if height > self.canvas[0] or width > self.canvas[1]:
            raise ValueError(
                f"render.canvas: {self.canvas[0]}x{self.canvas[1]} px is too small "
                f"for a grid that needs {height}x{width}"
            )

    def missing(self, data_dir: Path | None) -> str | None:
        """See ``RenderSpec.missing``."""
        return "needs MNIST (--data-dir DIR)" if self.source == "mnist" and data_dir is None else None

    def too_large(self) -> str | None:
        """See ``RenderSpec.too_large``."""
        height, width = self.canvas
        too_large = height * width > LARGEST_CANVAS
        return f"pictures of {height}x{width} are not drawn for a check" if too_large else None
