"""What a task is: a world, how its examples look, the group sizes and the recipe of both stages."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from iml_bench.spec.base import Spec
from iml_bench.spec.recipe import Recipe

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"


class LabelGridWorld(Spec):
    """Entities are grids of labels (paper, Fig. 5): the label of each cell is one attribute."""

    kind: Literal["label-grid"] = "label-grid"
    rows: int = Field(default=2, ge=1, le=8)
    cols: int = Field(default=2, ge=1, le=8)
    labels: int = Field(default=10, ge=2, le=26)

    @property
    def n_attributes(self) -> int:
        """Cells of the grid."""
        return self.rows * self.cols


class ProfileWorld(Spec):
    """Entities are profiles: several attributes, each with one of a few real-word values."""

    kind: Literal["profiles"] = "profiles"
    attributes: int = Field(default=6, ge=2, le=6)
    values: int = Field(default=10, ge=2, le=10)
    """Values an attribute can take; the first of its list."""

    @property
    def n_attributes(self) -> int:
        """Attributes of a profile."""
        return self.attributes


class DigitGridRender(Spec):
    """Examples are pictures: a grid of handwritten digits is the alias, a strip of squares the tag."""

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
    tag_square_px: int = Field(default=2, ge=1)
    """Side of one black or white square of the tag."""
    tag_rows: int = Field(default=2, ge=1)
    """Rows of squares in the tag's strip, which is as wide as the canvas."""
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


class TextRender(Spec):
    """Examples are short texts: tag and alias are random strings of letters."""

    kind: Literal["text"] = "text"
    alias_letters: int = Field(default=5, ge=2, le=12)
    tag_letters: int = Field(default=6, ge=2, le=12)
    spelling: Literal["word", "letters"] = "word"
    """Whether the task's own tokenizer reads a tag or an alias as one token or letter by letter."""
    attribute_names: bool = True
    """Whether a definition names each attribute before its value."""
    question: str = "Q: What is the {attribute} of {alias}?\nA:"
    """How an attribute is asked for; the answer follows after a space."""

    @model_validator(mode="after")
    def _askable(self) -> Self:
        asked = self.question.replace("{attribute}", "", 1).replace("{alias}", "", 1)
        if len(self.question) - len(asked) != len("{attribute}{alias}") or "{" in asked or "}" in asked:
            raise ValueError("question: it holds {attribute} and {alias} once each, and no other braces")
        return self


World = Annotated[LabelGridWorld | ProfileWorld, Field(discriminator="kind")]
Render = Annotated[DigitGridRender | TextRender, Field(discriminator="kind")]


class Groups(Spec):
    """How many entities each group has (the table in the README)."""

    reliable: int = Field(ge=1)
    unreliable: int = Field(ge=1)
    undefined: int = Field(default=0, ge=0)
    named: int = Field(default=0, ge=0)
    new_reliable: int = Field(ge=1)
    new_unreliable: int = Field(ge=1)
    new_fresh: int = Field(default=0, ge=0)
    new_undefined: int = Field(default=0, ge=0)

    @property
    def total(self) -> int:
        """Entities of all groups."""
        return sum(self.model_dump().values())


class TaskSpec(Spec):
    """A task: what is shown to a model in both stages and what it is asked."""

    name: str = Field(pattern=NAME_PATTERN)
    version: int = Field(ge=1)
    """Raised whenever the generated data or the scoring changes; scores of two versions never mix."""
    description: str
    model: str
    """The model entry that is run when none is named."""
    world: World
    render: Render
    groups: Groups
    alpha: float = Field(default=1.0, ge=0, le=1)
    """Share of stage-1 definitions whose tag tells the truth about them; 0.5 is the null control."""
    heldout: int = Field(default=1, ge=1)
    """Questions about each stage-1 entity that are never trained, and are asked after stage 1."""
    recipe: Recipe
    smoke: dict[str, Any] = {}
    """Overrides that make the task small enough for a test; ``--smoke`` applies them."""

    @property
    def modality(self) -> Literal["vision", "text"]:
        """``vision`` or ``text``: what a model must be able to read."""
        return "vision" if self.render.kind == "digit-grid" else "text"

    @property
    def label(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.world.kind == "label-grid") != (self.render.kind == "digit-grid"):
            raise ValueError(f"a {self.world.kind!r} world cannot be shown as {self.render.kind!r}")
        if self.heldout >= self.world.n_attributes:
            raise ValueError(f"heldout: {self.heldout} of {self.world.n_attributes} questions leaves none to train on")
        if self.groups.named:
            raise ValueError(f"groups.named: the entities of a {self.world.kind!r} world have no real names")
        if (self.recipe.loss_on is None) != (self.modality == "vision"):
            raise ValueError("recipe.loss_on: text tasks say text or answer, vision tasks leave it null")
        if isinstance(self.render, DigitGridRender) and isinstance(self.world, LabelGridWorld):
            _check_canvas(self.world, self.render)
        for name in ("reliable", "unreliable"):
            _check_derangement(name, getattr(self.groups, name), self.alpha)
        return self


def n_false(group: str, size: int, alpha: float) -> int:
    """Definitions of a stage-1 group that are false: tags tell the truth about a share ``alpha``."""
    truthful = round(alpha * size)
    return size - truthful if group == "reliable" else truthful


def _check_derangement(group: str, size: int, alpha: float) -> None:
    if n_false(group, size, alpha) == 1:
        raise ValueError(
            f"groups.{group}: {size} entities at alpha {alpha} leave one false definition, "
            "which has no other to be exchanged with; change the size or alpha"
        )


def _check_canvas(world: LabelGridWorld, render: DigitGridRender) -> None:
    height = world.rows * render.cell_px + (0 if render.tag_over else render.strip_px)
    width = world.cols * render.cell_px
    if height > render.canvas[0] or width > render.canvas[1]:
        raise ValueError(
            f"render.canvas: {render.canvas[0]}x{render.canvas[1]} px is too small "
            f"for a grid that needs {height}x{width}"
        )
