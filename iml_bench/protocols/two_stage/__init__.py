"""The paper's protocol: what stage 1 makes a tag worth, and what stage 2 makes of it (paper section 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from iml_bench.errors import UsageError
from iml_bench.protocols.base import Design, Examples, Protocol, Reading, Step, Volume, ZeroControl
from iml_bench.protocols.items import Columns
from iml_bench.protocols.measures import Measure
from iml_bench.protocols.two_stage import references
from iml_bench.protocols.two_stage.design import (
    NEW_GROUPS,
    SHARED_TAGS,
    STAGE1_GROUPS,
    TwoStageDesign,
    branches_of,
    build_design,
)
from iml_bench.protocols.two_stage.measures import MEASURES, mean_uptake, slices
from iml_bench.protocols.two_stage.schedule import PHASES, digested, schedule
from iml_bench.protocols.two_stage.spec import TwoStageTask, n_false
from iml_bench.protocols.two_stage.volume import volume
from iml_bench.spec.task import TaskSpec
from iml_bench.streams import Streams
from iml_bench.worlds.base import World


class TwoStage(Protocol):
    """Today's one, two and three stages, and definitions in context."""

    name = "two-stage"
    version = 2
    spec = TwoStageTask
    phases = PHASES
    own_measures: tuple[Measure, ...] = MEASURES
    uptake = staticmethod(mean_uptake)
    sweep: Mapping[str, Any] = {"until": "stage1"}
    chosen_by = "reliable"

    def schedule(self, task: TaskSpec) -> tuple[Step, ...]:
        """See ``schedule``."""
        return schedule(cast(TwoStageTask, task))

    def volume(self, task: TaskSpec) -> Volume:
        """See ``volume``."""
        return volume(cast(TwoStageTask, task))

    def digested(self, task: TaskSpec) -> tuple[Step, ...]:
        """See ``schedule.digested``."""
        return digested(cast(TwoStageTask, task))

    def design(self, task: TaskSpec, world: World, streams: Streams) -> TwoStageDesign:
        """See ``build_design``."""
        return build_design(cast(TwoStageTask, task), world, streams)

    def slices(self, items: Columns) -> dict[str, float]:
        """See ``measures.slices``."""
        return slices(items)

    def control(self, task: TaskSpec) -> Mapping[str, Any]:
        """``alpha`` one half makes the tags worthless; where stage 1 has no definitions it changes nothing."""
        own = cast(TwoStageTask, task)
        if not own.groups.reliable + own.groups.unreliable:
            return {}
        both = {} if own.alpha_unreliable is None else {"alpha_unreliable": None}
        return {} if own.alpha == 0.5 and not both else {"alpha": 0.5, **both}

    def attitudes(self, task: TaskSpec) -> Mapping[str, Mapping[str, str]]:
        """See ``references.attitudes``."""
        return references.attitudes(cast(TwoStageTask, task))

    def reads(self, task: TaskSpec) -> Mapping[str, Reading]:
        """See ``references.reads``."""
        return references.reads(cast(TwoStageTask, task))

    def zero_controls(self, task: TaskSpec) -> tuple[ZeroControl, ...]:
        """See ``references.zero_controls``."""
        return references.zero_controls(cast(TwoStageTask, task))

    def panels(self, design: Design) -> list[tuple[str, Examples]]:
        """One definition under each tag, and one question."""
        assert isinstance(design, TwoStageDesign)
        old, new = (design.definitions(design.members(*groups), 0) for groups in (STAGE1_GROUPS, NEW_GROUPS))
        found = []
        for index, tag in enumerate(SHARED_TAGS):
            examples = new if tag == "fresh" else old
            rows = np.flatnonzero(examples.tag == index)[:1]
            if len(rows):
                example = Examples(*(column[rows] for column in examples))
                truth = "true" if example.entity[0] == example.content[0] else "false"
                found.append((f"{truth} definition, {tag} tag", example))
        trained = design.trained("stage1")
        rows = np.flatnonzero(~trained.is_definition)[:1]
        return [*found, ("question", Examples(*(column[rows] for column in trained)))]

    def audit(self, task: TaskSpec, world: World, design: Design) -> Iterator[tuple[str, Callable[[], str]]]:
        """Nothing asked was trained on; false definitions are false, and as many as alpha says."""
        assert isinstance(task, TwoStageTask) and isinstance(design, TwoStageDesign)
        yield "nothing asked was trained on", lambda: _no_leak(design)
        yield "false definitions are false", lambda: _false_definitions(task, world, design)


def _no_leak(design: TwoStageDesign) -> str:
    trained = design.trained("stage1")
    asked = {pair for pair in zip(trained.entity.tolist(), trained.asked.tolist(), strict=True) if pair[1] >= 0}
    for stage in (1, 2):
        questions = design.asked(stage)
        shared = asked & set(zip(questions.entity.tolist(), questions.asked.tolist(), strict=True))
        if shared:
            raise UsageError(f"{len(shared)} questions of stage {stage} were trained on")
    return f"{len(design.asked(1))} held out, {len(design.asked(2))} about new entities"


def _false_definitions(task: TwoStageTask, world: World, design: TwoStageDesign) -> str:
    values, found = world.kinds, []
    for name in ("reliable", "unreliable"):
        members = design.members(name)
        false = int((values[members] != values[design.claim[members]]).any(axis=1).sum())
        wanted = n_false(task, name)
        if false != wanted:
            raise UsageError(f"{false} definitions of {name} are false and not {wanted}")
        found.append(f"{false} of {len(members)} of {name}")
    for branch in branches_of(task):
        examples = design.trained("stage2", branch)
        if not (examples.entity == examples.content).all():
            raise UsageError("a stage-2 definition is false")
    return ", ".join(found)


TWO_STAGE = TwoStage()
