"""The steps of the two-stage protocol, in its four forms.

::

    two stages   train stage1, ask 1, keep;  per branch: restore, train stage2, ask 2
    three        the same, stage 1 in two parts: its definitions, then its questions
    one          keep;  per branch: restore, train joint, ask 1, ask 2
    in context   train joint, ask 1;  per branch: ask 2

With ``until: stage1`` two or three stages end with ask 1.
"""

from __future__ import annotations

from typing import Final

from iml_bench.protocols.base import FACTS, Ask, Keep, Restore, Step, Train
from iml_bench.protocols.two_stage.design import ATTRIBUTIONS, CLAIMS, branches_of
from iml_bench.protocols.two_stage.spec import TwoStageTask

PHASES: Final = {
    "stage1": "stage 1",
    "stage1-definitions": "the definitions of stage 1, where they come on their own",
    "stage1-questions": "the questions of stage 1, where they come on their own",
    "stage2": "stage 2, the same in all branches",
    "joint": "the only stage, the same in all branches",
}
"""Every phase, and when it is trained."""
KEPT: Final = "shared"
"""The weights that all branches start from."""


def question_sets(task: TwoStageTask) -> tuple[str, ...]:
    """The sets of questions that a task asks."""
    return (FACTS, ATTRIBUTIONS, CLAIMS) if task.attribution else (FACTS,)


def schedule(task: TwoStageTask) -> tuple[Step, ...]:
    """All steps of a task, see the module."""
    sets = question_sets(task)
    branches = branches_of(task)
    if task.in_context:
        joint = Train("joint", "stage1", watched=(Ask(1), Ask(2)))
        return joint, Ask(1, 0, sets), *(Ask(2, branch, sets) for branch in branches)
    if task.stages == 1:
        return Keep(KEPT), *(step for branch in branches for step in _joint(branch, sets))
    parts = ("stage1",) if task.stages == 2 else ("stage1-definitions", "stage1-questions")
    shared = tuple(Train(phase, "stage1", watched=(Ask(1),)) for phase in parts)
    if task.until == "stage1":
        return *shared, Ask(1)
    second = (step for branch in branches for step in _second(branch, sets))
    return *shared, Ask(1, 0, sets), Keep(KEPT), *second


def digested(task: TwoStageTask) -> tuple[Step, ...]:
    """What the data digest covers, whatever the number of stages: as two stages show it, and facts alone."""
    second = (Train("stage2", "stage2", branch) for branch in branches_of(task))
    return Train("stage1", "stage1"), *second, Ask(1), Ask(2)


def _joint(branch: int, sets: tuple[str, ...]) -> tuple[Step, ...]:
    train = Train("joint", "stage1", branch, watched=(Ask(1, branch), Ask(2, branch)))
    return Restore(KEPT), train, Ask(1, branch, sets), Ask(2, branch, sets)


def _second(branch: int, sets: tuple[str, ...]) -> tuple[Step, ...]:
    return Restore(KEPT), Train("stage2", "stage2", branch, watched=(Ask(2, branch),)), Ask(2, branch, sets)
