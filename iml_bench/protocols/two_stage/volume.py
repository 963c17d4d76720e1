"""How many examples a cell of the two-stage protocol trains on and asks, from the sizes of its groups alone."""

from __future__ import annotations

from iml_bench.protocols.base import Ask, Train, Volume
from iml_bench.protocols.two_stage.design import ATTRIBUTIONS, CLAIMS, NEW_GROUPS, STAGE1_GROUPS, roles_of
from iml_bench.protocols.two_stage.schedule import schedule
from iml_bench.protocols.two_stage.spec import TwoStageTask, n_false
from iml_bench.worlds import ATTRIBUTION


def volume(task: TwoStageTask) -> Volume:
    """The examples of all steps; exact where every entity has every attribute."""
    shown = _shown(task)
    trained = asked = 0.0
    for step in schedule(task):
        if isinstance(step, Train):
            stage = task.recipe.stage1 if step.recipe == "stage1" else task.recipe.stage2
            assert stage is not None
            steps = stage.steps and stage.steps * task.recipe.batch_size
            trained += steps or (stage.epochs or 0) * shown[step.phase]
        elif isinstance(step, Ask):
            asked += sum(_asked(task, step.stage, which) for which in step.sets)
    return Volume(trained, asked)


def _shown(task: TwoStageTask) -> dict[str, float]:
    """Examples of one pass over each phase."""
    sizes, each = task.group_sizes, getattr(task.render, "sentences", 1)
    definitions = each * sum(sizes[name] for name in ("reliable", "unreliable", "random_tag"))
    questions = sum(sizes[name] for name in STAGE1_GROUPS) * (task.world.asked_about_each - _heldout(task))
    new = each * sum(size for size, role in zip(_new(task), roles_of(task)[0], strict=True) if role >= 0)
    return {
        "stage1": definitions + questions,
        "stage1-definitions": definitions,
        "stage1-questions": questions,
        "stage2": new,
        "joint": questions if task.in_context else definitions + questions + new,
    }


def _new(task: TwoStageTask) -> list[int]:
    return [task.group_sizes[name] for name in NEW_GROUPS]


def _heldout(task: TwoStageTask) -> float:
    whole = isinstance(task.heldout, int)
    return task.heldout if whole else task.heldout * task.world.asked_about_each


def _asked(task: TwoStageTask, stage: int, which: str) -> float:
    sizes = task.group_sizes
    old = sum(sizes[name] for name in STAGE1_GROUPS)
    if which == CLAIMS:
        return len(ATTRIBUTION) * sum(n_false(task, name) for name in ("reliable", "unreliable")) if stage == 1 else 0
    if which == ATTRIBUTIONS:
        return len(ATTRIBUTION) * (old - sizes["named"] if stage == 1 else sum(_new(task)))
    return old * _heldout(task) if stage == 1 else sum(_new(task)) * task.world.asked_about_each
