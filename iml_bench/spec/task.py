"""What a task is: a protocol, a world, how its examples look, and the recipe of its stages."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from iml_bench.extensions import PROTOCOLS
from iml_bench.spec.open import OpenSpec
from iml_bench.spec.recipe import Recipe
from iml_bench.spec.render import RenderSpec
from iml_bench.spec.world import WorldSpec

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"


class TaskSpec(OpenSpec):
    """What every task says; each protocol adds its own fields (groups, tags, branches) in a subclass.

    Validating plain data gives the subclass of the protocol that they name.
    """

    kinds: ClassVar = PROTOCOLS
    named_by: ClassVar[str] = "protocol"
    default_kind: ClassVar[str | None] = "two-stage"

    name: str = Field(pattern=NAME_PATTERN)
    version: int = Field(ge=1)
    """Raised whenever the generated data or the scoring changes; scores of two versions never mix."""
    history: dict[int, str] = {}
    """What each version brought; shown on the task's page."""
    description: str
    model: str
    """The model entry that is run when none is named."""
    protocol: str = "two-stage"
    """Who is shown what and asked what, in which order: a name among ``extensions.PROTOCOLS``."""
    world: SerializeAsAny[WorldSpec]
    render: SerializeAsAny[RenderSpec]
    exact_match: Literal["strict", "normalised"] = "strict"
    """``strict``: every token of the answer is the most likely one; ``normalised``: the generated answer
    is one of the right ones but for case, articles and punctuation."""
    recipe: Recipe
    variants: dict[str, dict[str, Any]] = {}
    """Overrides by name, of other forms of the task; ``--variant NAME`` applies one, after those of its size."""
    small: dict[str, Any] = {}
    """Overrides that make the task small enough for one GPU or a patient CPU; ``--small`` applies them."""
    smoke: dict[str, Any] = {}
    """Overrides that make the task small enough for a test; ``--smoke`` applies them."""

    @classmethod
    def of_kind(cls, name: str) -> type[OpenSpec]:
        """The task format of a protocol."""
        found: type[OpenSpec] = cls.kinds.get(name).spec
        return found

    @property
    def modality(self) -> str:
        """``vision``, ``text``, ...: what a model must be able to read."""
        return self.render.modality

    @property
    def label(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    @abstractmethod
    def group_sizes(self) -> dict[str, int]:
        """Entities of each group of the protocol; one without groups has a single one."""

    @property
    def n_entities(self) -> int:
        """Entities of all groups."""
        return sum(self.group_sizes.values())

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if any(version > self.version for version in self.history):
            raise ValueError(f"history: it names a version after {self.version}, the task's own")
        for variant in self.variants:
            if not re.match(NAME_PATTERN, variant):
                raise ValueError(f"variants: {variant!r} is no name; give small letters, digits, . _ -")
        self.render.check(self)
        self.world.check(self)
        return self
