"""What a task of the two-stage protocol says beside what every task says."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from iml_bench.spec.base import Spec
from iml_bench.spec.task import TaskSpec

MOST: Final = 10**6
"""Entities of a group; no machine holds the examples of more."""
SQUARE: Final = ("new_reliable", "new_unreliable", "new_fresh", "new_undefined")
"""The groups of new entities, each named after its place in the first branch."""


class Groups(Spec):
    """How many entities each group has (the table in the README)."""

    reliable: int = Field(ge=0, le=MOST)
    """Stage 1: questions and definitions; with none here and in ``unreliable`` stage 1 says nothing of tags, and only
    what they mean by themselves can be read (``render.tags``)."""
    unreliable: int = Field(ge=0, le=MOST)
    undefined: int = Field(default=0, ge=0, le=MOST)
    named: int = Field(default=0, ge=0, le=MOST)
    random_tag: int = Field(default=0, ge=0, le=MOST)
    """Stage 1: questions and true definitions, each under a random tag of its own."""
    new_reliable: int = Field(ge=1, le=MOST)
    new_unreliable: int = Field(ge=1, le=MOST)
    new_fresh: int = Field(default=0, ge=0, le=MOST)
    new_undefined: int = Field(default=0, ge=0, le=MOST)

    @property
    def total(self) -> int:
        """Entities of all groups."""
        return sum(self.model_dump().values())


class TwoStageTask(TaskSpec):
    """A task of the paper's protocol: stage 1 says what each tag is worth, stage 2 shows new definitions under both."""

    protocol: Literal["two-stage"] = "two-stage"
    groups: Groups
    alpha: float = Field(default=1.0, ge=0, le=1)
    """Share of stage-1 definitions whose tag tells the truth about them; 0.5 is the null control."""
    alpha_unreliable: float | None = Field(default=None, ge=0, le=1)
    """The same share of the unreliable tag alone, so that one tag can vary while the other is fixed: 1 is always false,
    0 always true. Null: ``alpha``."""
    heldout: int | float = Field(default=1, gt=0)
    """Questions about each stage-1 entity that are never trained, and are asked after stage 1: how many, or a share
    below 1 of all questions. Of a share each entity has its part, rounded so that they add up to the share of all
    (rounded up, largest remainders first), but at least one; and at least one is left to train on."""
    stages: Literal[1, 2, 3] = 2
    """1: everything jointly; 2: as in the README; 3: stage 1 is split into its definitions and then its
    questions. Each stage before the last takes ``recipe.stage1``."""
    until: Literal["stage1", "stage2"] = "stage2"
    """``stage1``: nothing is trained or asked after the questions of stage 1. Learning rates are chosen by such
    cells, which have no score of stage 2 that could be looked at."""
    crossover: Literal["pair", "square"] = "pair"
    """How the new entities change places between the branches of stage 2. ``pair``: two branches, in which the
    reliable and the unreliable group have exchanged their tags. ``square``: four branches, a Latin square: each of
    four equal groups is under the reliable, the unreliable and a fresh tag once, and once not defined at all, so
    that every measure is within entities."""
    stage2_tags: Literal["taught", "placebo", "identical"] = "taught"
    """What the new definitions wear. ``taught``: the tags of stage 1. ``placebo``: two tags that stage 1 never
    showed stand in their places, so that there is nothing to believe. ``identical``: the reliable tag stands in both
    places, so that IML is exactly 0 between the branches of a pair; those of a square differ in who is not defined, and
    it is 0 on average. Both are controls."""
    attribution: bool = False
    """Whether it is also asked which entity an alias stands for (worlds with real names)."""

    @property
    def group_sizes(self) -> dict[str, int]:
        """See ``TaskSpec.group_sizes``."""
        return self.groups.model_dump()

    @property
    def in_context(self) -> bool:
        """Whether definitions stand before the questions about their alias instead of being trained on."""
        return bool(getattr(self.render, "in_context", False))

    @field_validator("heldout", mode="before")
    @classmethod
    def _count_or_share(cls, value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole and not (isinstance(value, float) and value < 1):
            raise ValueError(f"{value!r} is neither a whole number of questions nor a share below 1")
        return value

    @model_validator(mode="after")
    def _fits_the_protocol(self) -> Self:
        if self.recipe.stage2 is None:
            raise ValueError("recipe.stage2: this protocol has a second stage; say how long it is")
        if self.heldout >= self.world.n_attributes:
            raise ValueError(f"heldout: {self.heldout} of {self.world.n_attributes} questions leaves none to train on")
        if not self.world.named:
            for field, given in (("groups.named", self.groups.named), ("attribution", self.attribution)):
                if given:
                    raise ValueError(f"{field}: the entities of a {self.world.kind!r} world have no real names")
        if self.until == "stage1" and self.stages == 1:
            raise ValueError("until: with one stage (stages=1) there is nothing to stop before")
        if self.in_context and self.stages != 1:
            raise ValueError("render.in_context: definitions are not trained on, so there is one stage; set stages=1")
        if self.groups.random_tag and getattr(self.render, "tags", None) != "random":
            raise ValueError("groups.random_tag: needs texts with render.tags random")
        for name in ("reliable", "unreliable"):
            _check_derangement(self, name)
        if not any(size for name, size in self.group_sizes.items() if not name.startswith("new_")):
            raise ValueError("groups: stage 1 shows nobody; give one of its groups entities")
        return self

    @model_validator(mode="after")
    def _tags_can_be_worn(self) -> Self:
        words = getattr(self.render, "tag_words", None)
        if words is not None and len(words) != 3:
            raise ValueError("render.tag_words: three words, the reliable, the unreliable and the fresh tag")
        if words is not None and not all(word.strip() and word.isprintable() for word in words):
            raise ValueError("render.tag_words: each is a word or some, in one line")
        if words is not None and len({*words}) < len(words):
            raise ValueError("render.tag_words: no two are the same")
        if self.stage2_tags == "placebo" and (words is not None or getattr(self.render, "tags", "random") != "random"):
            raise ValueError("stage2_tags: placebo needs tags that can be drawn, and those of this task are given")
        return self

    @model_validator(mode="after")
    def _square(self) -> Self:
        sizes = [getattr(self.groups, name) for name in SQUARE]
        if self.crossover == "square" and len({*sizes}) > 1:
            told = ", ".join(f"{name} {size}" for name, size in zip(SQUARE, sizes, strict=True))
            raise ValueError(
                f"crossover: a square has four groups of one size, and here they are {told}; set all four, or "
                "crossover to pair"
            )
        return self


def n_false(task: TwoStageTask, group: str) -> int:
    """Definitions of a stage-1 group that are false: its tag tells the truth about a share of them."""
    size = task.group_sizes[group]
    truthful = round(_alpha_of(task, group) * size)
    return size - truthful if group == "reliable" else truthful


def _alpha_of(task: TwoStageTask, group: str) -> float:
    own = task.alpha_unreliable if group == "unreliable" else None
    return task.alpha if own is None else own


def _check_derangement(task: TwoStageTask, group: str) -> None:
    if n_false(task, group) == 1:
        raise ValueError(
            f"groups.{group}: {task.group_sizes[group]} entities at alpha {_alpha_of(task, group)} leave one false "
            "definition, which has no other to be exchanged with; change the size or alpha"
        )
