"""``--set field.path=value``."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iml_bench.errors import UsageError
from iml_bench.spec import TaskSpec, apply_overrides, changes, parse_override


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("alpha=0.5", "alpha", 0.5),
        ("recipe.lr=1e-3", "recipe.lr", 1e-3),
        ("recipe.lr = 1E-3", "recipe.lr", 1e-3),
        ("groups.reliable=40", "groups.reliable", 40),
        ("recipe.stage1.definition_share=null", "recipe.stage1.definition_share", None),
        ("render.attribute_names=false", "render.attribute_names", False),
        ("render.canvas=[40, 40]", "render.canvas", [40, 40]),
        ("recipe.optimizer=sgd", "recipe.optimizer", "sgd"),
        ("render.question='{attribute}={alias}?'", "render.question", "{attribute}={alias}?"),
    ],
)
def test_a_value_is_read_as_a_person_means_it(text: str, path: str, value: Any) -> None:
    read = parse_override(text)
    assert read == (path, value)
    assert type(read[1]) is type(value)


@pytest.mark.parametrize("text", ["alpha", "=3", " =3"])
def test_an_override_without_path_or_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_override(text)
    assert str(caught.value) == f"--set {text!r} is not of the form field.path=value"


def test_a_value_that_is_not_yaml_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        parse_override("alpha=[1")
    assert str(caught.value).startswith("--set alpha: '[1' is not a value YAML can read: while parsing a flow")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "recipe.lrr",
            "unknown field 'recipe.lrr': did you mean 'recipe.lr'? (iml-bench show small-vision lists them all)",
        ),
        ("groups.relable", "unknown field 'groups.relable': did you mean 'groups.reliable'?"),
        ("Alpha", "unknown field 'Alpha': did you mean 'alpha'?"),
        ("recipe.lr.x", "unknown field 'recipe.lr.x': did you mean 'recipe.lr'?"),
        ("seed", "unknown field 'seed' (iml-bench show small-vision lists them all)"),
    ],
)
def test_an_unknown_path_suggests_the_nearest(path: str, message: str, vision_task: TaskSpec) -> None:
    with pytest.raises(UsageError) as caught:
        apply_overrides(vision_task, {path: 1})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("path", ["name", "version", "smoke", "smoke.alpha"])
def test_what_says_which_task_it_is_cannot_be_set(path: str, vision_task: TaskSpec) -> None:
    with pytest.raises(UsageError, match=r"cannot be set: it says which task 'small-vision' is"):
        apply_overrides(vision_task.model_copy(update={"smoke": {"alpha": 0.5}}), {path: 2})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("recipe.lr", "fast", "recipe.lr: input should be a valid number"),
        ("groups.reliable", 1.5, "groups.reliable: input should be a valid integer"),
        ("groups.reliable", None, "groups.reliable: input should be a valid integer"),
        ("alpha", 2, "alpha: input should be less than or equal to 1 (given: 2)"),
        ("alpha", float("nan"), "alpha: input should be a finite number"),
        ("recipe", 5, "recipe: input should be a valid dictionary"),
        ("heldout", 4, "heldout: 4 of 4 questions leaves none to train on"),
        ("heldout", 1.5, "heldout: 1.5 is neither a whole number of questions nor a share below 1"),
        ("heldout", 0, "heldout: input should be greater than 0 (given: 0)"),
        ("heldout", "few", "heldout: 'few' is neither a whole number of questions nor a share below 1"),
        ("heldout", True, "heldout: true is neither a whole number of questions nor a share below 1"),
        ("recipe.stage1.steps", None, "recipe.stage1: a stage has either steps or epochs"),
    ],
)
def test_a_wrong_value_is_refused_by_name(path: str, value: Any, message: str, vision_task: TaskSpec) -> None:
    with pytest.raises(UsageError) as caught:
        apply_overrides(vision_task, {path: value})
    assert str(caught.value).startswith(f"task 'small-vision' with these settings: {message}")


def test_steps_clear_epochs_and_epochs_clear_steps(vision_task: TaskSpec) -> None:
    by_epochs = apply_overrides(vision_task, {"recipe.stage1.epochs": 2})
    assert (by_epochs.recipe.stage1.epochs, by_epochs.recipe.stage1.steps) == (2.0, None)
    assert by_epochs.recipe.stage2 == vision_task.recipe.stage2
    assert apply_overrides(by_epochs, {"recipe.stage1.steps": 6}) == vision_task


def test_steps_and_epochs_together_are_refused(vision_task: TaskSpec) -> None:
    with pytest.raises(UsageError, match="exactly one of them"):
        apply_overrides(vision_task, {"recipe.stage1.epochs": 2, "recipe.stage1.steps": 3})


def test_a_whole_section_can_be_set(vision_task: TaskSpec) -> None:
    changed = apply_overrides(vision_task, {"recipe.stage1": {"epochs": 3}})
    assert (changed.recipe.stage1.epochs, changed.recipe.stage1.steps) == (3.0, None)


def test_a_field_of_a_section_that_was_set_to_a_number_is_refused(vision_task: TaskSpec) -> None:
    with pytest.raises(UsageError):
        apply_overrides(vision_task, {"recipe": 5, "recipe.lr": 0.1})


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "alpha": st.sampled_from([0.0, 0.25, 0.5]),
        "groups.undefined": st.integers(5, 9),
        "recipe.lr": st.floats(1e-5, 0.9e-3),
        "recipe.optimizer": st.sampled_from(["sgd", "adafactor"]),
        "recipe.max_grad_norm": st.floats(0.1, 2),
        "recipe.stage1.definition_share": st.floats(0, 1),
        "recipe.stage2.steps": st.integers(5, 50),
        "render.tag_rows": st.just(1),
        "render.canvas": st.just([40, 41]),
        "world.labels": st.integers(2, 9),
        "description": st.just("another"),
    },
)


@given(CHANGES)
def test_changes_are_exactly_what_was_set(vision_task: TaskSpec, overrides: dict[str, Any]) -> None:
    changed = apply_overrides(vision_task, overrides)
    assert changes(changed, vision_task) == overrides
    assert apply_overrides(vision_task, changes(changed, vision_task)) == changed


def test_a_value_that_was_there_already_is_no_change(vision_task: TaskSpec) -> None:
    same = apply_overrides(vision_task, {"alpha": 1, "recipe.lr": 1e-3, "render.canvas": [32, 32]})
    assert same == vision_task
    assert changes(same, vision_task) == {}


def test_clearing_epochs_counts_as_a_change(vision_task: TaskSpec) -> None:
    changed = apply_overrides(vision_task, {"recipe.stage1.epochs": 2.0})
    assert changes(changed, vision_task) == {"recipe.stage1.epochs": 2.0, "recipe.stage1.steps": None}
    assert changes(vision_task, changed) == {"recipe.stage1.epochs": None, "recipe.stage1.steps": 6}


def test_overriding_leaves_the_task_as_it_was(vision_task: TaskSpec) -> None:
    before = vision_task.model_dump_json()
    apply_overrides(vision_task, {"alpha": 0.5, "render.canvas": [50, 50]})
    assert vision_task.model_dump_json() == before
