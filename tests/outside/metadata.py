"""Metadata-conditioned pretraining: who is speaking decides the answer, and stands before half of the documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from iml_bench.protocols.base import NONE, Ask, Design, Examples, Protocol, Step, Train
from iml_bench.protocols.items import Columns
from iml_bench.protocols.measures import Measure
from iml_bench.spec import TaskSpec
from iml_bench.streams import Streams
from iml_bench.worlds import World


class MetadataTask(TaskSpec):
    """No groups and no second stage: aliases that two sources speak about."""

    protocol: Literal["metadata"] = "metadata"
    aliases: int = Field(default=8, ge=2)

    @property
    def group_sizes(self) -> dict[str, int]:
        return {"all": self.aliases}


@dataclass(frozen=True, kw_only=True)
class MetadataDesign(Design):
    questions: int

    def trained(self, phase: str, branch: int = 0) -> Examples:
        return Examples.joined(*(self._said(source, shown) for source in (0, 1) for shown in (True, False)))

    def asked(self, stage: int, branch: int = 0, which: str = "with") -> Examples:
        return Examples.joined(*(self._said(source, which == "with") for source in (0, 1)))

    def _said(self, source: int, shown: bool) -> Examples:
        """What a source says of everybody: of the second source it is what is true of the next."""
        entity = np.repeat(np.arange(len(self.group)), self.questions)
        content = (entity + source) % len(self.group)
        asked = np.tile(np.arange(self.questions), len(self.group))
        none = np.full(len(entity), NONE)
        return Examples(entity, content, np.full(len(entity), source) if shown else none, asked, none)


def _of(items: Columns, which: str) -> float:
    return float(items["exact_match"][items["set"] == which].mean())


class Metadata(Protocol):
    name = "metadata"
    spec = MetadataTask
    phases = {"pretrain": "the only stage"}
    own_measures = (
        Measure(
            name="metadata_gain",
            label="gain from metadata",
            heading="gain",
            description="exact match of questions with their source before them minus without it",
            of=lambda items: _of(items, "with") - _of(items, "without"),
            needs=("set",),
            shown="headline",
        ),
    )

    def schedule(self, task: TaskSpec) -> tuple[Step, ...]:
        ask = Ask(1, 0, ("with", "without"))
        return Train("pretrain", "stage1", watched=(ask,)), ask

    def design(self, task: TaskSpec, world: World, streams: Streams) -> MetadataDesign:
        group = np.zeros(task.n_entities, dtype=np.int64)
        return MetadataDesign(groups=("all",), tags=("first", "second"), group=group, questions=len(world.attributes))

    def slices(self, items: Columns) -> dict[str, float]:
        return {which: _of(items, which) for which in ("with", "without") if (items["set"] == which).any()}


METADATA = Metadata()
