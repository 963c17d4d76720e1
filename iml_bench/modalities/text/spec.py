"""Texts, as a specification."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from iml_bench.spec.render import RenderSpec

if TYPE_CHECKING:
    from iml_bench.spec.task import TaskSpec

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


class TextRender(RenderSpec):
    """Examples are short texts: tag and alias are random strings of letters."""

    modality: ClassVar[str] = "text"
    kind: Literal["text"] = "text"
    alias_letters: int = Field(default=5, ge=2, le=12)
    """Letters of an alias."""
    tag_letters: int = Field(default=6, ge=2, le=12)
    """Letters of a tag."""
    delimited: bool = True
    """Whether random strings stand in delimiters, ``<|qwert|>``, or bare, ``qwert``."""
    spelling: Literal["word", "letters"] = "word"
    """Whether the task's own tokenizer reads a tag or an alias as one token or letter by letter."""
    attribute_names: bool = True
    """Profiles only: whether a definition names each attribute before its value."""
    attribute_order: Literal["fixed", "permuted"] = "fixed"
    """Profiles only: whether the attributes stand in one order in every definition, or each definition has an order
    of its own, the same whenever it is shown. In a fixed order, what is asked and its place cannot be told apart."""
    question: str = "Q: What is the {attribute} of {alias}?\nA:"
    """How a question is put; the answer follows after a space. Profiles fill in ``{attribute}`` and
    ``{alias}``; the other worlds have their own questions, which fill in ``{question}``."""
    order: Order = "tag-alias-entity"
    """Word order of a definition; the entity is its name, or all of a profile. What is counted of it with ``loss_on``
    answer is its last word, or the profile where that comes last."""
    tags: Literal["random", "sources", "is-isnt"] = "random"
    """``random``: random strings; ``sources``: an alias "now stands for" its entity according to a source
    that is reliable, unreliable or neither by its name; ``is-isnt``: the definition says that the alias
    is, is not, or perhaps is its entity."""
    sentences: int = Field(default=1, ge=1, le=100)
    """Definitions of each entity, where tags are sentences: so many sentences, each drawn on its own."""
    tag_words: tuple[str, ...] | None = None
    """The protocol's tags as they stand (reliable, unreliable, fresh), instead of random strings."""
    in_context: bool = False
    """Definitions are not trained on but stand before every question about their alias."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.tags != "random" and (self.order != "tag-alias-entity" or self.tag_words is not None):
            raise ValueError(f"tags: {self.tags!r} are whole sentences, which have no order and no tag_words")
        if self.sentences > 1 and (self.tags == "random" or self.in_context):
            raise ValueError(
                "sentences: more than one needs tags that are sentences, and definitions that are trained on"
            )
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

    def check(self, task: TaskSpec) -> None:
        """See ``RenderSpec.check``."""
        world = task.world
        if task.recipe.loss_on is None:
            raise ValueError("recipe.loss_on: text tasks say text or answer, vision tasks leave it null")
        if world.own_questions:
            if self.attribute_order != "fixed":
                raise ValueError(f"render.attribute_order: definitions of a {world.kind!r} world list no attributes")
            self.check_question("question")
            return
        self.check_question("attribute", "alias")
        if self.tags != "random":
            raise ValueError("render.tags: a profile has no name that a sentence could say")
