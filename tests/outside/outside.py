"""Another package: a world, a protocol, a measure, a probe and an executor, all in this one file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field

from iml_bench.protocols.base import BELIEVES, NONE, REJECTS, Ask, Design, Examples, Ints, Protocol, Step
from iml_bench.protocols.items import Columns
from iml_bench.protocols.measures import Measure
from iml_bench.run.executors.inline import InlineExecutor
from iml_bench.spec import TaskSpec, WorldSpec
from iml_bench.streams import Streams
from iml_bench.worlds import World, draw_distinct


class ColourWorld(WorldSpec):
    """Entities are flags of three stripes."""

    kind: Literal["colours"] = "colours"
    colours: int = Field(default=5, ge=2, le=6)

    @property
    def n_attributes(self) -> int:
        return 3

    def build(self, n: int, streams: Streams, data: Path | None) -> World:
        words = ("red", "blue", "green", "white", "black", "gold")[: self.colours]
        values = draw_distinct(streams.generator("contents"), n, [self.colours] * 3, "flags")
        return World(attributes=("top", "middle", "bottom"), vocabulary=(words,) * 3, values=values)


class FrozenTask(TaskSpec):
    """Nothing is trained: a definition under one of two tags stands before every question about its alias."""

    protocol: Literal["frozen-in-context"] = "frozen-in-context"
    entities: int = Field(default=8, ge=4, multiple_of=2)

    @property
    def group_sizes(self) -> dict[str, int]:
        return {"true": self.entities // 2, "false": self.entities // 2}


@dataclass(frozen=True, kw_only=True)
class FrozenDesign(Design):
    """What is said of the second half of the entities is true of another one."""

    claim: Ints

    def trained(self, phase: str, branch: int = 0) -> Examples:
        raise KeyError(phase)

    def asked(self, stage: int, branch: int = 0, which: str = "fact") -> Examples:
        entity, asked = (part.reshape(-1) for part in np.mgrid[: len(self.group), :3])
        return Examples(entity, entity, self.group[entity], asked, self.claim[entity])

    def shown(self, branch: int) -> tuple[Ints, Ints]:
        return self.group, self.claim


def _share(items: Columns, group: str) -> float:
    return float(items["exact_match"][items["group"] == group].mean())


class Frozen(Protocol):
    """Which of two sources does a model believe that was never trained to?"""

    name = "frozen-in-context"
    spec = FrozenTask
    own_measures = (
        Measure(
            name="in_context_trust",
            label="trust in context",
            heading="trust",
            description="exact match of what an honest source said minus that of what a lying source said",
            of=lambda items: _share(items, "true") - _share(items, "false"),
            shown="headline",
        ),
    )

    def attitudes(self, task: TaskSpec) -> Mapping[str, Mapping[str, str]]:
        return {"oracle": {"honest": BELIEVES, "lying": REJECTS}}

    def schedule(self, task: TaskSpec) -> tuple[Step, ...]:
        return (Ask(1),)

    def design(self, task: TaskSpec, world: World, streams: Streams) -> FrozenDesign:
        n = task.n_entities
        group = np.repeat([0, 1], n // 2)
        claim = np.where(group == 0, np.arange(n), np.roll(np.arange(n), 1))
        return FrozenDesign(groups=("true", "false"), tags=("honest", "lying"), group=group, claim=claim)

    def slices(self, items: Columns) -> dict[str, float]:
        return {group: _share(items, group) for group in ("true", "false")}

    def panels(self, design: Design) -> list[tuple[str, Examples]]:
        return [("question", Examples(*(column[:1] for column in design.asked(1))))]


FROZEN = Frozen()

ANSWERED = Measure(
    name="answered",
    label="answers of one letter or more",
    heading="answered",
    description="share of the questions that got an answer at all",
    of=lambda items: float(np.mean([bool(text) for text in items["predicted"]])),
    low=0.0,
    protocol="two-stage",
)


class Gradients:
    """How hard each definition pulls at the network, under each tag."""

    description = "norm of the gradient of every definition's loss under each tag"

    def __call__(self, setting: Any, learner: Any, moment: str) -> pl.DataFrame:
        from iml_bench.modalities.base import Indices

        claims = setting.design.shown(0)[1]
        rows = []
        for entity in np.flatnonzero(claims != NONE)[:4].tolist():
            for tag, name in enumerate(setting.design.tags):
                one = Examples(*(np.array([value]) for value in (entity, claims[entity], tag, NONE, NONE)))
                feed = setting.feed(one, evaluation=False)
                noise = np.zeros((1, feed.noise), dtype=np.float32)
                indices = Indices.of(np.array([0]), setting.device)
                for parameter in learner.trainable().values():
                    parameter.grad = None
                learner.losses(feed, indices, _tensor(noise, setting.device)).sum().backward()
                pulls = [float((p.grad**2).sum()) for p in learner.trainable().values() if p.grad is not None]
                rows.append({"entity": entity, "tag": name, "norm": sum(pulls) ** 0.5})
        return pl.DataFrame(rows)


def _tensor(array: np.ndarray[Any, Any], device: Any) -> Any:
    import torch

    return torch.from_numpy(array).to(device)


GRADIENTS = Gradients()


class BackwardsExecutor(InlineExecutor):
    """The last cell first."""

    def run(self, groups: Any, runtime: Any, listen: Any) -> None:
        sys.stderr.write("backwards\n")
        places = list(range(len(groups)))[::-1]

        def told(event: Any) -> None:
            listen(event._replace(job=places[event.job]))

        super().run([groups[place] for place in places], runtime, told)
