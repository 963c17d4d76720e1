"""What a task is: a world, how its examples look, the group sizes and the recipe of both stages."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from iml_bench.spec.base import Spec
from iml_bench.spec.recipe import Recipe
from iml_bench.spec.render import DigitGridRender, Render, TextRender
from iml_bench.spec.world import NAMED, LabelGridWorld, SetsWorld, World

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"


class Groups(Spec):
    """How many entities each group has (the table in the README)."""

    reliable: int = Field(ge=1)
    unreliable: int = Field(ge=1)
    undefined: int = Field(default=0, ge=0)
    named: int = Field(default=0, ge=0)
    random_tag: int = Field(default=0, ge=0)
    """Stage 1: questions and true definitions, each under a random tag of its own."""
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
    history: dict[int, str] = {}
    """What each version brought; shown on the task's page."""
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
    stages: Literal[1, 2, 3] = 2
    """1: everything jointly; 2: as in the README; 3: stage 1 is split into its definitions and then its
    questions. Each stage before the last takes ``recipe.stage1``."""
    exact_match: Literal["strict", "normalised"] = "strict"
    """``strict``: every token of the answer is the most likely one; ``normalised``: the generated answer
    is one of the right ones but for case, articles and punctuation."""
    attribution: bool = False
    """Whether it is also asked which entity an alias stands for (worlds with real names)."""
    recipe: Recipe
    small: dict[str, Any] = {}
    """Overrides that make the task small enough for one GPU or a patient CPU; ``--small`` applies them."""
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
        if any(version > self.version for version in self.history):
            raise ValueError(f"history: it names a version after {self.version}, the task's own")
        if self.heldout >= self.world.n_attributes:
            raise ValueError(f"heldout: {self.heldout} of {self.world.n_attributes} questions leaves none to train on")
        if (self.recipe.loss_on is None) != (self.modality == "vision"):
            raise ValueError("recipe.loss_on: text tasks say text or answer, vision tasks leave it null")
        if self.world.kind not in NAMED:
            for field, given in (("groups.named", self.groups.named), ("attribution", self.attribution)):
                if given:
                    raise ValueError(f"{field}: the entities of a {self.world.kind!r} world have no real names")
        if isinstance(self.render, TextRender):
            _check_text(self, self.render)
        elif self.exact_match != "strict" or self.groups.random_tag:
            raise ValueError("exact_match, groups.random_tag: vision tasks leave them as they are")
        if isinstance(self.render, DigitGridRender) and isinstance(self.world, LabelGridWorld):
            _check_canvas(self.world, self.render)
        for name in ("reliable", "unreliable"):
            _check_derangement(name, getattr(self.groups, name), self.alpha)
        return self


def n_false(group: str, size: int, alpha: float) -> int:
    """Definitions of a stage-1 group that are false: tags tell the truth about a share ``alpha``."""
    truthful = round(alpha * size)
    return size - truthful if group == "reliable" else truthful


def _check_text(task: TaskSpec, render: TextRender) -> None:
    if task.world.kind == "profiles":
        render.check_question("attribute", "alias")
        if render.order != "tag-alias-entity" or render.tags != "random":
            raise ValueError("render.order, render.tags: a profile has no name; its definitions have one form")
    else:
        render.check_question("question")
    if isinstance(task.world, SetsWorld):
        if task.heldout != task.world.questions // 2:
            raise ValueError(f"heldout: half the questions of this world are held out, {task.world.questions // 2}")
        if not render.order.endswith("entity") or render.tags != "random":
            raise ValueError("render.order, render.tags: a definition of a number ends with it, under a plain tag")
    if render.in_context and task.stages != 1:
        raise ValueError("render.in_context: definitions are not trained on, so there is one stage; set stages=1")
    if task.groups.random_tag and render.tags != "random":
        raise ValueError("groups.random_tag: needs render.tags random")


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
