"""Suites: the file format, the cells it stands for, what they are called, and the verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from making import small_task

from iml_bench.errors import UsageError
from iml_bench.paths import data_root
from iml_bench.plan import Request, changes_of, plan
from iml_bench.records import Store
from iml_bench.registry import TASKS
from iml_bench.spec import TaskSpec, apply_overrides

OUT = Path("results")


def asked_for(name: str, data: Path, **how: Any) -> tuple[TaskSpec, dict[str, Any]]:
    """A task as it is run, and how its record says that it differs."""
    data.write_text("name\n")
    given = data if TASKS.get(name).world.kind in ("cvdb", "trex") else None
    job = plan([Request(name, ("neox-xs" if name.startswith("text") else "mlp-xs",), (0,), data=given, **how)], OUT)[0]
    return job.cell.task, job.changes


@pytest.mark.parametrize("name", sorted(TASKS.origins))
def test_what_a_task_is_called_is_told_from_the_task_alone(name: str, tmp_path: Path) -> None:
    few = {"recipe.lr": 0.5, "groups.new_undefined": 7}
    for overrides, expected in (({}, {}), (few, few)):
        task, said = asked_for(name, tmp_path / "data.csv", overrides=overrides)
        assert said == changes_of(task) == expected
        if TASKS.get(name).small:
            task, said = asked_for(name, tmp_path / "data.csv", overrides=overrides, small=True)
            assert said == changes_of(task) == {"setting": "small", **expected}
    task, said = asked_for(name, tmp_path / "data.csv", smoke=True)
    assert said == changes_of(task)
    assert "setting" not in said


def test_the_small_setting_is_called_so_however_it_was_asked_for(tmp_path: Path) -> None:
    base = TASKS.get("text-sets")
    assert asked_for("text-sets", tmp_path / "x", overrides=base.small)[1] == {"setting": "small"}
    full = {path: value for path, value in base.model_dump()["groups"].items() if f"groups.{path}" in base.small}
    back = {f"groups.{path}": value for path, value in full.items()}
    back |= {f"world.{path}": getattr(base.world, path) for path in ("largest", "listed", "questions")}
    task, said = asked_for("text-sets", tmp_path / "x", overrides={**back, "heldout": base.heldout}, small=True)
    assert said == changes_of(task)
    assert "setting" not in said
    assert apply_overrides(base, said) == task


def test_what_is_no_part_of_the_identity_is_no_change() -> None:
    task = apply_overrides(TASKS.get("vision"), {"description": "in other words", "model": "mlp-s", "alpha": 0.5})
    assert changes_of(task) == {"alpha": 0.5}
    assert changes_of(small_task(), small_task()) == {}


def test_a_task_that_is_not_registered_needs_something_to_compare_with(vision_task: TaskSpec) -> None:
    assert changes_of(apply_overrides(vision_task, {"alpha": 0.5}), vision_task) == {"alpha": 0.5}
    with pytest.raises(UsageError, match="unknown task 'small-vision'"):
        changes_of(vision_task)


def test_the_shipped_records_say_how_their_tasks_differ() -> None:
    stored, problems = Store(data_root() / "leaderboard" / "results").scan()
    assert not problems
    different = {entry.record.cell.task.model_dump_json(): entry.record for entry in stored}
    assert len(different) > 4
    for record in different.values():
        assert changes_of(record.cell.task) == record.changes
