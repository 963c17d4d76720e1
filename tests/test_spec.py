"""Specifications: what they refuse, and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from iml_bench.errors import UsageError
from iml_bench.protocols.two_stage.spec import TwoStageTask, n_false
from iml_bench.spec import (
    CellSpec,
    ModelEntry,
    StageRecipe,
    SuiteSpec,
    TaskSpec,
    apply_overrides,
    canonical_json,
    cell_key,
    parse,
)

Changes = dict[str, Any]


def test_specifications_are_frozen(cells: dict[str, CellSpec]) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        cells["vision"].task.alpha = 0.5  # type: ignore[misc]


def test_canonical_json_is_sorted_and_refuses_nan() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5,null]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


REFUSED: dict[str, tuple[str, Changes, str]] = {
    "extra field": ("vision", {"task.colour": 1}, "task.colour: there is no such field"),
    "extra recipe field": (
        "text",
        {"task.recipe.momentum": 0.9},
        "task.recipe.momentum: there is no such field",
    ),
    "alpha above 1": (
        "vision",
        {"task.alpha": 1.5},
        "task.alpha: input should be less than or equal to 1 (given: 1.5)",
    ),
    "alpha below 0": ("vision", {"task.alpha": -0.1}, "task.alpha: input should be greater than or equal to 0"),
    "nan": ("vision", {"task.alpha": float("nan")}, "task.alpha: input should be a finite number"),
    "infinity": ("vision", {"task.recipe.lr": float("inf")}, "task.recipe.lr: input should be a finite number"),
    "a word for a number": ("vision", {"task.recipe.lr": "fast"}, "task.recipe.lr: input should be a valid number"),
    "half an entity": (
        "vision",
        {"task.groups.reliable": 8.5},
        "task.groups.reliable: input should be a valid integer",
    ),
    "no new entities": ("vision", {"task.groups.new_reliable": 0}, "input should be greater than or equal to 1"),
    "steps and epochs": (
        "vision",
        {"task.recipe.stage1.epochs": 2},
        "task.recipe.stage1: a stage has either steps or epochs, exactly one of them",
    ),
    "neither steps nor epochs": (
        "vision",
        {"task.recipe.stage2.steps": None},
        "task.recipe.stage2: a stage has either steps or epochs, exactly one of them",
    ),
    "unknown optimiser": (
        "vision",
        {"task.recipe.optimizer": "lion"},
        "task.recipe.optimizer: input should be 'adamw'",
    ),
    "no questions left": ("vision", {"task.heldout": 4}, "task: heldout: 4 of 4 questions leaves none to train on"),
    "profiles as pictures": (
        "vision",
        {"task.world": {"kind": "profiles"}},
        "task: a 'profiles' world cannot be shown as 'digit-grid'",
    ),
    "real names": (
        "text",
        {"task.groups.named": 2},
        "task: groups.named: the entities of a 'profiles' world have no real",
    ),
    "loss on pictures": ("vision", {"task.recipe.loss_on": "text"}, "vision tasks leave it null"),
    "no loss on text": ("text", {"task.recipe.loss_on": None}, "recipe.loss_on: text tasks say text or answer"),
    "one false definition": (
        "vision",
        {"task.groups.unreliable": 1},
        "groups.unreliable: 1 entities at alpha 1.0 leave one false definition",
    ),
    "digit larger than cell": (
        "vision",
        {"task.render.digit_px": 15},
        "a digit of 15 px does not fit a cell of 14 px",
    ),
    "canvas too small": (
        "vision",
        {"task.render.canvas": [31, 32]},
        "task: render.canvas: 31x32 px is too small for a grid that needs 32x28",
    ),
    "tags that cannot differ": (
        "vision",
        {"task.render.tag_square_px": 16, "task.render.tag_rows": 1},
        "the tag's strip has fewer than 3 squares",
    ),
    "question without alias": (
        "text",
        {"task.render.question": "{attribute}?"},
        "render.question: it holds {attribute} and {alias} once each, and no other braces",
    ),
    "question with a third brace": (
        "text",
        {"task.render.question": "{attribute} {alias} {x}"},
        "render.question: it holds {attribute} and {alias} once each, and no other braces",
    ),
    "name with a space": ("vision", {"task.name": "my task"}, "task.name: string should match pattern"),
    "negative seed": ("vision", {"seed": -1}, "seed: input should be greater than or equal to 0"),
    "own tokenizer of a network": (
        "text",
        {"model.tokenizer": "own"},
        "model: tokenizer: only an hf: or gguf: model brings a tokenizer of its own",
    ),
    "unknown scheme": (
        "vision",
        {"model.source": "tim:resnet18"},
        "model.source: unknown model source 'tim': did you mean 'timm'?",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_specification_is_refused_with_one_sentence(case: str, cells: dict[str, CellSpec]) -> None:
    kind, changed, message = REFUSED[case]
    data = cells[kind].model_dump(mode="json")
    for path, value in changed.items():
        *parents, field = path.split(".")
        section = data
        for parent in parents:
            section = section[parent]
        section[field] = value
    with pytest.raises(UsageError) as caught:
        parse(CellSpec, data, "cell.yaml")
    told = str(caught.value)
    assert told.startswith("cell.yaml: ")
    assert message in told
    assert "\n" not in told


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UsageError, match=r"^a\.yaml: source: field required$"):
        parse(ModelEntry, {"name": "a", "modality": "text", "family": "f", "architecture": "x"}, "a.yaml")


def test_a_suite_needs_a_grid_and_a_grid_models_and_seeds() -> None:
    grid = {"task": "vision", "models": ["mlp-m"], "seeds": 1}
    for grids in ([], [{**grid, "models": []}], [{**grid, "seeds": 0}], [{**grid, "seed": 1}]):
        with pytest.raises(ValidationError):
            SuiteSpec.model_validate({"name": "s", "description": "d", "grids": grids})
    assert SuiteSpec.model_validate({"name": "s", "description": "d", "grids": [grid]}).grids[0].axes == {}


@pytest.mark.parametrize(
    ("stage", "n", "batch", "steps"),
    [
        (StageRecipe(steps=7), 100, 10, 7),
        (StageRecipe(epochs=1), 100, 10, 10),
        (StageRecipe(epochs=1), 101, 10, 11),
        (StageRecipe(epochs=2), 101, 10, 22),
        (StageRecipe(epochs=2), 7, 10, 2),
        (StageRecipe(epochs=2.5), 100, 10, 25),
        (StageRecipe(epochs=2.5), 101, 10, 28),
        (StageRecipe(epochs=0.1), 300, 10, 3),
        (StageRecipe(epochs=1.1), 100, 10, 11),
        (StageRecipe(epochs=0.001), 100, 10, 1),
    ],
)
def test_epochs_are_whole_steps_each_as_the_papers_trainer_counts_them(
    stage: StageRecipe, n: int, batch: int, steps: int
) -> None:
    assert stage.total_steps(n, batch) == steps


@pytest.mark.parametrize(
    ("group", "size", "alpha", "false"),
    [
        ("reliable", 8, 1.0, 0),
        ("unreliable", 8, 1.0, 8),
        ("reliable", 8, 0.5, 4),
        ("unreliable", 8, 0.5, 4),
        ("reliable", 8, 0.75, 2),
        ("unreliable", 8, 0.75, 6),
        ("reliable", 8, 0.0, 8),
        ("unreliable", 8, 0.0, 0),
    ],
)
def test_alpha_is_the_share_of_definitions_whose_tag_tells_the_truth(
    text_task: TaskSpec, group: str, size: int, alpha: float, false: int
) -> None:
    task = apply_overrides(text_task, {f"groups.{group}": size, "alpha": alpha})
    assert isinstance(task, TwoStageTask)
    assert n_false(task, group) == false


def test_the_unreliable_tag_may_vary_alone(text_task: TaskSpec) -> None:
    """Its own share stands in place of alpha, and is no part of the key of a task that does not use it."""
    own = apply_overrides(text_task, {"alpha_unreliable": 0.75})
    assert isinstance(own, TwoStageTask)
    assert (n_false(own, "reliable"), n_false(own, "unreliable")) == (0, 6)
    model = ModelEntry(name="m", source="ref:mlp", modality="text", family="mlp", architecture="perceptron")
    keys = [cell_key(CellSpec(task=task, model=model, seed=0)) for task in (text_task, own)]
    assert keys[0] != keys[1]
    same = text_task.model_copy(update={"alpha_unreliable": None})
    assert cell_key(CellSpec(task=same, model=model, seed=0)) == keys[0]


def test_modality_follows_the_renderer(vision_task: TaskSpec, text_task: TaskSpec) -> None:
    assert (vision_task.modality, text_task.modality) == ("vision", "text")
    assert vision_task.label == "small-vision@1"
    assert vision_task.groups.total == 33
