"""Renderers, as specifications: how definitions and questions look."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from iml_bench.spec.base import Spec

Order = Literal[
    "tag-alias-entity",
    "tag-entity-alias",
    "alias-tag-entity",
    "alias-entity-tag",
    "entity-tag-alias",
    "entity-alias-tag",
]
"""Word orders of a definition; the paper's tve, tev, vte, vet, etv and evt."""
ORDERS: tuple[str, ...] = get_args(Order)


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
    delimited: bool = True
    """Whether random strings stand in delimiters, ``<|qwert|>``, or bare, ``qwert``."""
    spelling: Literal["word", "letters"] = "word"
    """Whether the task's own tokenizer reads a tag or an alias as one token or letter by letter."""
    attribute_names: bool = True
    """Profiles only: whether a definition names each attribute before its value."""
    question: str = "Q: What is the {attribute} of {alias}?\nA:"
    """How a question is put; the answer follows after a space. Profiles fill in ``{attribute}`` and
    ``{alias}``; the other worlds have their own questions, which fill in ``{question}``."""
    order: Order = "tag-alias-entity"
    """Word order of a definition that names an entity."""
    tags: Literal["random", "sources", "is-isnt"] = "random"
    """``random``: random strings; ``sources``: an alias "now stands for" its entity according to a source
    that is reliable, unreliable or neither by its name; ``is-isnt``: the definition says that the alias
    is, is not, or perhaps is its entity."""
    tag_words: tuple[str, str, str] | None = None
    """The reliable, unreliable and fresh tag as they stand, instead of random strings."""
    in_context: bool = False
    """Definitions are not trained on but stand before every question about their alias."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.tags != "random" and (self.order != "tag-alias-entity" or self.tag_words is not None):
            raise ValueError(f"tags: {self.tags!r} are whole sentences, which have no order and no tag_words")
        if self.spelling == "letters" and not self.delimited:
            raise ValueError("spelling: only strings in delimiters can be told from words and read letter by letter")
        return self

    def check_question(self, *fields: str) -> None:
        """Raise ``ValueError`` unless ``question`` fills in each of ``fields`` once and nothing else."""
        rest = self.question
        for field in fields:
            rest = rest.replace("{" + field + "}", "", 1)
        filled = sum(len(field) + 2 for field in fields)
        if len(self.question) - len(rest) != filled or "{" in rest or "}" in rest:
            wanted = " and ".join("{" + field + "}" for field in fields)
            raise ValueError(f"render.question: it holds {wanted} once each, and no other braces")


Render = Annotated[DigitGridRender | TextRender, Field(discriminator="kind")]
