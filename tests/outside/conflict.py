"""One alias, two definitions: stage 1 says what two tags are worth, stage 2 shows a true and a false one of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from iml_bench.protocols.base import BELIEVES, FACTS, NONE, Ask, Design, Examples, Keep, Protocol, Restore, Step, Train
from iml_bench.protocols.items import Columns
from iml_bench.protocols.measures import Measure
from iml_bench.spec import TaskSpec
from iml_bench.streams import Streams
from iml_bench.worlds import World


class ConflictTask(TaskSpec):
    """How many aliases each tag teaches in stage 1, and how many are contested in stage 2."""

    protocol: Literal["conflict"] = "conflict"
    taught: int = Field(default=8, ge=2)
    contested: int = Field(default=8, ge=2)

    @property
    def group_sizes(self) -> dict[str, int]:
        return {"reliable": self.taught, "unreliable": self.taught, "contested": self.contested}


@dataclass(frozen=True, kw_only=True)
class ConflictDesign(Design):
    questions: int

    def trained(self, phase: str, branch: int = 0) -> Examples:
        if phase == "stage1":
            true, false = self.members("reliable"), self.members("unreliable")
            taught = [self._defined(true, true, 0), self._defined(false, np.roll(false, 1), 1)]
            return Examples.joined(*taught, self._asked("reliable"), self._asked("unreliable"))
        who = self.members("contested")
        # In branch 0 the true definition stands under the reliable tag, in branch 1 under the unreliable one.
        return Examples.joined(self._defined(who, who, branch), self._defined(who, np.roll(who, 1), 1 - branch))

    def asked(self, stage: int, branch: int = 0, which: str = FACTS) -> Examples:
        return self._asked("contested")

    def _defined(self, who: np.ndarray, content: np.ndarray, tag: int) -> Examples:
        none = np.full(len(who), NONE)
        return Examples(who, content, np.full(len(who), tag), none, none)

    def _asked(self, group: str) -> Examples:
        who = np.repeat(self.members(group), self.questions)
        asked = np.tile(np.arange(self.questions), len(who) // self.questions)
        none = np.full(len(who), NONE)
        return Examples(who, who, none, asked, none)


def _sides(items: Columns) -> float:
    """How much more often the truth is answered when the reliable tag stands on it."""
    exact, branch = items["exact_match"].astype(float), items["fold"]
    return float(exact[branch == 0].mean() - exact[branch == 1].mean())


class Conflict(Protocol):
    name = "conflict"
    spec = ConflictTask
    phases = {"stage1": "stage 1", "conflict": "the contradictory definitions"}
    own_measures = (
        Measure(
            name="conflict",
            label="siding with the reliable tag",
            heading="conflict",
            description="exact match when the reliable tag stands on the true definition minus on the false one",
            of=_sides,
            shown="headline",
        ),
    )

    def attitudes(self, task: TaskSpec) -> Mapping[str, Mapping[str, str]]:
        return {"oracle": {"reliable": BELIEVES}}

    def schedule(self, task: TaskSpec) -> tuple[Step, ...]:
        each = ((Restore("shared"), Train("conflict", "stage2", b, (Ask(2, b),)), Ask(2, b)) for b in (0, 1))
        return Train("stage1", "stage1", watched=(Ask(1),)), Keep("shared"), *(step for one in each for step in one)

    def design(self, task: TaskSpec, world: World, streams: Streams) -> ConflictDesign:
        sizes = list(task.group_sizes.values())
        group = streams.generator("split").permutation(np.repeat(np.arange(3), sizes))
        names = tuple(task.group_sizes)
        return ConflictDesign(
            groups=names, tags=("reliable", "unreliable"), group=group, questions=len(world.attributes)
        )

    def slices(self, items: Columns) -> dict[str, float]:
        exact, branch = items["exact_match"].astype(float), items["fold"]
        return {f"branch {b}": float(exact[branch == b].mean()) for b in (0, 1) if (branch == b).any()}


CONFLICT = Conflict()
