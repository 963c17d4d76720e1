"""What a record says of its training is held against the recipe: stages, steps, the pieces of a batch, curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from making import CPU, small_cell

from iml_bench.records import Record, Store, read_record
from iml_bench.registry import changes_of
from iml_bench.run.job import Job, run_job
from iml_bench.submit import check_submission, find_submission
from iml_bench.submit.generated import Generator
from iml_bench.submit.single import training_problems

EPOCHS = {
    f"recipe__{stage}__{field}": value
    for stage, epochs in (("stage1", 1.5), ("stage2", 3.0))
    for field, value in (("steps", None), ("epochs", epochs))
}
IN_CONTEXT = {"stages": 1, "render__in_context": True}


def with_stage(record: Record, index: int, **fields: Any) -> Record:
    """The record, one of its stages told otherwise."""
    stages = list(record.stages)
    stages[index] = stages[index].model_copy(update=fields)
    return record.model_copy(update={"stages": tuple(stages)})


def problems(record: Record, *, known: bool = True) -> list[str]:
    return list(training_problems(record, Generator(CPU)(record.cell) if known else None))


def ran(root: Path, model: str, task: str, curve: int = 0, **overrides: Any) -> Record:
    cell = small_cell(model, task=task, **overrides)
    assert run_job(Job(cell, {}, smoke=True, out=root), replace(CPU, curve=curve)) is None
    return read_record(Store(root).path_of(cell))


@pytest.mark.parametrize(
    ("model", "task", "form"),
    [
        ("mlp-xs", "vision", {"stages": 1}),
        ("mlp-xs", "vision", {"stages": 2}),
        ("mlp-xs", "vision", {"stages": 3}),
        ("neox-xs", "text-cities", IN_CONTEXT),
    ],
)
@pytest.mark.parametrize("length", [{}, EPOCHS])
def test_every_phase_has_the_steps_of_the_recipe(
    tmp_path: Path, model: str, task: str, form: dict[str, Any], length: dict[str, Any]
) -> None:
    record = ran(tmp_path, model, task, **form, **length)
    assert problems(record) == []
    for index, stage in enumerate(record.stages):
        for steps in (stage.steps - 1, stage.steps + 1, 0):
            (sentence,) = problems(with_stage(record, index, steps=steps))
            assert sentence == f"stages: {stage.name} has {steps} steps, and the recipe {stage.steps}"
    assert problems(record.model_copy(update={"stages": record.stages[1:]}))[0].startswith("stages: it says")


def test_steps_of_epochs_follow_from_the_examples_alone(tmp_path: Path) -> None:
    record = ran(tmp_path, "mlp-xs", "vision", **EPOCHS)
    task, size = record.cell.task, record.cell.task.groups
    trained = size.reliable + size.unreliable + (size.reliable + size.unreliable + size.undefined) * 3
    new = size.new_reliable + size.new_unreliable + size.new_fresh  # of four equal groups, three in every branch
    expected = [-(-n * share // task.recipe.batch_size) for n, share in ((trained, 1.5), *[(new, 3)] * 4)]
    assert [stage.steps for stage in record.stages] == expected
    assert problems(with_stage(record, 0, steps=3), known=False) == [], "not known without the data"


def test_a_reference_learner_takes_no_steps(tmp_path: Path) -> None:
    record = ran(tmp_path, "oracle", "vision", **EPOCHS)
    assert problems(record) == []
    assert problems(with_stage(record, 1, steps=1)) == ["stages: stage2 has 1 steps, and the recipe 0"]
    (sentence,) = problems(with_stage(record, 1, final_loss=0.1))
    assert "has a loss and a micro-batch where a network is trained, and only there" in sentence


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"micro_batch": 17, "accumulation": 1}, "stage2 took 1 times 17 examples a step"),
        ({"micro_batch": 5, "accumulation": 3}, "stage2 took 3 times 5 examples a step"),
        ({"micro_batch": 5, "accumulation": 5}, "gives each process 16"),
        ({"final_loss": None}, "stage2 has a loss and a micro-batch where a network is trained"),
        ({"micro_batch": None}, "stage2 has a loss and a micro-batch where a network is trained"),
        ({"name": "stage3"}, "stages: it says stage1, stage2, stage3, stage2, stage2, and vision@2 has stage1, stage2"),
        ({"micro_batch": 5, "accumulation": 4}, None),
        ({"first_micro_batch": 15}, "stage2 took 15 examples together in the beginning and 16 in the end"),
        ({"first_micro_batch": 17}, "stage2 took 17 examples together in the beginning and 16 in the end"),
        ({"first_micro_batch": None}, None),
    ],
)
def test_the_pieces_of_a_batch_make_up_the_batch(tmp_path: Path, fields: dict[str, Any], reason: str | None) -> None:
    record = ran(tmp_path, "mlp-xs", "vision")
    found = problems(with_stage(record, 2, **fields))
    assert [sentence for sentence in found if reason is None or reason not in sentence] == []
    assert bool(found) == (reason is not None)


def test_a_cut_that_the_recipe_fixes_is_the_one_that_was_made(tmp_path: Path) -> None:
    record = ran(tmp_path, "mlp-xs", "vision", **{"recipe.micro_batch": 5})
    assert problems(record) == []
    (sentence,) = problems(with_stage(record, 2, micro_batch=8, accumulation=2))
    assert "stage2 took 8 examples together, and recipe.micro_batch is 5" in sentence


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"phase": "joint"}, "curve: the task has no phase 'joint' in fold 0"),
        ({"fold": 1}, "curve: the task has no phase 'stage1' in fold 1"),
        ({"step": 0}, "curve: it has a point at step 0 of stage1, which has 30 steps"),
        ({"step": 31}, "curve: it has a point at step 31 of stage1, which has 30 steps"),
    ],
)
def test_the_points_of_a_curve_lie_in_the_training(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    record = ran(tmp_path, "mlp-xs", "vision", curve=2, recipe__stage1__steps=30)
    assert len(record.curve) == 2 * 5 and problems(record) == []
    wrong = record.curve[0].model_copy(update=fields)
    assert problems(record.model_copy(update={"curve": (*record.curve[1:], wrong)})) == [reason]


@pytest.mark.parametrize("length", [{}, EPOCHS], ids=["steps", "epochs"])
def test_steps_that_are_not_the_recipes_fail_a_submission(tmp_path: Path, length: dict[str, Any]) -> None:
    cell = small_cell("mlp-xs", **length)
    assert run_job(Job(cell, changes_of(cell.task), smoke=False, out=tmp_path), CPU) is None
    path = Store(tmp_path).path_of(cell)
    record = read_record(path)

    def told() -> list[str]:
        checks = check_submission(find_submission(path), [], CPU)
        found = [failure.problem for check in checks for failure in check.failures]
        return [sentence for sentence in found if sentence.startswith("stages")]

    assert told() == []
    right = record.stages[0].steps
    path.write_text(with_stage(record, 0, steps=right + 1).model_dump_json())
    assert told() == [f"stages: stage1 has {right + 1} steps, and the recipe {right}"]
