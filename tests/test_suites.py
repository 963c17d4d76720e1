"""Suites: the file format, the cells it stands for, what they are called, and the verbs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from making import small_task
from pydantic import ValidationError

from iml_bench.board import leaderboard_tasks
from iml_bench.errors import UsageError
from iml_bench.paths import data_root
from iml_bench.protocols.two_stage import TWO_STAGE
from iml_bench.records import Store
from iml_bench.registry import SUITES, TASKS, changes_of
from iml_bench.run.job import Job
from iml_bench.run.plan import Request, plan
from iml_bench.run.suites import suite_requests
from iml_bench.sources import find_model
from iml_bench.spec import (
    Grid,
    ModelEntry,
    SuiteSpec,
    TaskSpec,
    apply_overrides,
    cell_key,
    parse,
    parse_seeds,
    show_seeds,
    task_key,
    vary_model,
)

REFERENCES = tuple(TWO_STAGE.attitudes(TASKS.get("vision")))

OUT = Path("results")


def asked_for(name: str, data: Path, **how: Any) -> tuple[TaskSpec, dict[str, Any]]:
    """A task as it is run, and how its record says that it differs."""
    data.write_text("name\n")
    given = data if TASKS.get(name).world.kind in ("cvdb", "trex") else None
    job = plan([Request(name, ("neox-xs" if name.startswith("text") else "mlp-xs",), (0,), data=given, **how)], OUT)[0]
    return job.cell.task, job.changes


@pytest.mark.parametrize("name", sorted(TASKS.origins))
def test_what_a_task_is_called_is_told_from_the_task_alone(name: str, tmp_path: Path) -> None:
    few = {"recipe.lr": 0.5, "groups.undefined": 7}
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


@pytest.mark.parametrize("size", [{}, {"small": True}], ids=["full", "small"])
def test_a_variant_is_called_by_its_name_in_either_size(size: dict[str, Any], tmp_path: Path) -> None:
    base, called = TASKS.get("vision-mnist"), {"setting": "small"} if size else {}
    plain, _ = asked_for("vision-mnist", tmp_path / "x", **size)
    task, said = asked_for("vision-mnist", tmp_path / "x", variant="joint", **size)
    assert task == apply_overrides(plain, base.variants["joint"])
    assert task.stages == 1 and plain.stages == 2
    assert said == changes_of(task) == {**called, "variant": "joint"}
    by_hand = asked_for("vision-mnist", tmp_path / "x", overrides=base.variants["joint"], **size)
    assert by_hand == (task, said)
    more, said = asked_for("vision-mnist", tmp_path / "x", variant="joint", overrides={"alpha": 0.5}, **size)
    assert (said, more.alpha) == ({**called, "variant": "joint", "alpha": 0.5}, 0.5)
    taken_back, said = asked_for("vision-mnist", tmp_path / "x", variant="joint", overrides={"stages": 2}, **size)
    assert (taken_back, said) == (plain, called)


@pytest.mark.parametrize("name", sorted(TASKS.origins))
def test_every_variant_is_a_task_in_every_size(name: str) -> None:
    base = TASKS.get(name)
    for size in (base, apply_overrides(base, base.small), apply_overrides(base, base.smoke)):
        for variant, overrides in base.variants.items():
            assert apply_overrides(size, overrides) != size, variant


def test_a_suite_runs_a_variant() -> None:
    grid = {"task": "vision-mnist", "models": ["mlp-xs"], "small": True, "variant": "joint", "seeds": 1}
    (request,) = suite_requests(SuiteSpec.model_validate({"name": "s", "description": "d", "grids": [grid]}))
    (job,) = (job for job in plan([request], OUT) if not job.cell.model.is_reference)
    assert job.changes == {"setting": "small", "variant": "joint"}
    assert job.cell.task.stages == 1


def test_a_variant_has_a_plain_name() -> None:
    data = TASKS.get("vision-mnist").model_dump() | {"variants": {"Joint training": {"stages": 1}}}
    with pytest.raises(UsageError, match=r"^a\.yaml: variants: 'Joint training' is no name; give small letters"):
        parse(TaskSpec, data, "a.yaml")


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


def suite_data(*grids: dict[str, Any]) -> dict[str, Any]:
    """What a suite file holds."""
    whole = [{"task": "vision", "models": ["mlp-m"], "seeds": 1, **grid} for grid in grids]
    return {"name": "mine", "description": "d", "grids": whole}


def suite(*grids: dict[str, Any]) -> SuiteSpec:
    """A suite of grids of one perceptron on vision and one seed, but for what is given."""
    return SuiteSpec.model_validate({**suite_data(*grids), "name": "s"})


def cells_of(*grids: dict[str, Any], **how: Any) -> list[Job]:
    """The jobs of trained models."""
    jobs = plan(suite_requests(suite(*grids), **how), OUT)
    return [job for job in jobs if not job.cell.model.is_reference]


def test_axes_are_crossed_and_every_combination_is_another_cell() -> None:
    axes = {"alpha": [1.0, 0.5], "recipe.lr": [0.1, 0.2, 0.3]}
    jobs = cells_of({"seeds": 2, "set": {"heldout": 2}, "axes": axes})
    assert [(job.changes, job.cell.seed) for job in jobs] == [
        ({"heldout": 2, "recipe.lr": lr} | ({"alpha": 0.5} if alpha == 0.5 else {}), seed)
        for alpha in (1.0, 0.5)
        for lr in (0.1, 0.2, 0.3)
        for seed in (0, 1)
    ]
    assert len({cell_key(job.cell) for job in jobs}) == 2 * 3 * 2
    every = plan(suite_requests(suite({"seeds": 2, "axes": axes})), OUT)
    assert len(every) == 2 * 3 * 2 + 2 * len(REFERENCES), "reference learners stand beside the first point"


def test_zipped_fields_vary_together_and_are_crossed_with_the_axes() -> None:
    together = {"recipe.batch_size": [16, 32], "recipe.stage1.steps": [400, 200]}
    jobs = cells_of({"axes": {"alpha": [1.0, 0.5]}, "zip": together})
    found = [(job.cell.task.alpha, job.cell.task.recipe.batch_size, job.cell.task.recipe.stage1.steps) for job in jobs]
    assert found == [(1.0, 16, 400), (1.0, 32, 200), (0.5, 16, 400), (0.5, 32, 200)]


def test_a_grid_in_which_nothing_varies_is_the_task_as_it_stands() -> None:
    (job,) = cells_of({})
    assert (job.cell.task, job.cell.seed, job.changes) == (TASKS.get("vision"), 0, {})


@pytest.mark.parametrize(
    ("written", "seeds"), [(3, (0, 1, 2)), ("3", (0, 1, 2)), ("100-102", (100, 101, 102)), ("4,1", (4, 1)), ([7], (7,))]
)
def test_seeds_are_written_as_on_the_command_line(written: Any, seeds: tuple[int, ...]) -> None:
    assert Grid(task="vision", models=("mlp-m",), seeds=written).seeds == seeds
    assert set(parse_seeds(show_seeds(seeds) if len(seeds) > 1 else f"{seeds[0]}-{seeds[0]}")) == set(seeds)


@pytest.mark.parametrize("written", ["", "few", "-1", "0", "3-2", "4294967296-4294967297", True, [-1], [2**32], []])
def test_what_names_no_seed_is_refused(written: Any) -> None:
    with pytest.raises(ValidationError, match="seeds"):
        Grid(task="vision", models=("mlp-m",), seeds=written)


def test_the_small_setting_of_a_grid_gives_way_to_smoke() -> None:
    grid = {"task": "text-sets", "models": ["neox-m"], "small": True, "set": {"recipe.lr": 0.5}}
    (job,) = cells_of(grid)
    assert job.changes == {"setting": "small", "recipe.lr": 0.5}
    (job,) = cells_of(grid, smoke=True)
    assert job.smoke
    assert job.cell.task == small_task("text-sets", recipe__lr=0.5)


def test_smoke_decides_how_long_the_stages_are() -> None:
    varied = {"recipe.batch_size": [8, 32], "recipe.stage1.steps": [10**6, 10**5], "recipe.stage2.epochs": [50, 60]}
    jobs = cells_of({"zip": varied}, smoke=True)
    assert [job.cell.task for job in jobs] == [small_task(recipe__batch_size=size) for size in (8, 32)]


def test_a_models_options_vary_under_names_that_say_so() -> None:
    jobs = cells_of({"models": ["mlp-m", "ref:mlp?depth=3", "convnet-s"], "axes": {"model.hidden": [32, 128]}})
    original = find_model("mlp-m")
    found = [job.cell.model for job in jobs]
    assert [(model.name, model.source) for model in found[:2]] == [
        ("mlp-m?hidden=32", original.source.replace("hidden=128", "hidden=32")),
        ("ref:mlp?depth=3&hidden=32", "ref:mlp?depth=3&hidden=32"),
    ]
    assert found[0].family == original.family
    assert found[3] == original.model_copy(update={"tuned": {}}), (
        "with the value it has anyway it is the entry itself, and its cell that of any run"
    )
    keys = {cell_key(job.cell) for job in plan([Request("vision", ("mlp-m",), seeds=(0,))], OUT)}
    assert cell_key(jobs[3].cell) in keys
    assert len({cell_key(job.cell) for job in jobs}) == 6
    assert all(job.changes == {} for job in jobs)


def test_of_an_entrys_own_fields_the_source_and_the_tokenizer_vary(tmp_path: Path) -> None:
    entry = ModelEntry(
        name="m", source="hf:a/b?revision=r1", modality="text", family="f", architecture="x", tokenizer="own", size="1B"
    )
    other = vary_model(entry, {"revision": "r2", "tokenizer": "task"})
    assert (other.source, other.tokenizer, other.size) == ("hf:a/b?revision=r2", "task", "")
    assert other.name == "m?revision=r2&tokenizer=task"
    file = tmp_path / "nets.py"
    file.write_text("def build(shape): ...\n")
    (job,) = cells_of({"axes": {"model.source": [f"python:{file}:build"]}})
    assert job.cell.model.digest is not None
    assert (job.cell.model.family, job.cell.model.source) == ("mlp", f"python:{file}:build")
    with pytest.raises(UsageError, match=r"suite 's', grid 1: model 'neox-m' with .*: tokenizer: only an hf: or gguf:"):
        cells_of({"task": "text", "models": ["neox-m"], "set": {"model.tokenizer": "own"}})


def test_reference_learners_stay_as_they_are() -> None:
    jobs = plan(suite_requests(suite({"models": ["mlp-m", "oracle"], "axes": {"model.hidden": [16, 32]}})), OUT)
    references = [job.cell.model for job in jobs if job.cell.model.is_reference]
    assert references == [find_model(name) for name in REFERENCES]


def test_a_model_that_no_grid_of_a_suite_is_for_is_refused() -> None:
    with pytest.raises(UsageError, match="suite 's' has no task for model 'neox-m', which reads text"):
        suite_requests(suite({}), models=("mlp-m", "neox-m"))


def test_a_file_for_a_suite_that_reads_none_is_refused() -> None:
    with pytest.raises(UsageError, match="no task of suite 's' reads a file"):
        suite_requests(suite({}), data=Path(__file__))


def test_the_leaderboard_says_what_a_row_needs() -> None:
    needed = {(task.task, task.version, task.modality): task for task in leaderboard_tasks()}
    assert list(needed) == [("vision", 2, "vision"), ("text", 2, "text")]
    requests = suite_requests(SUITES.get("leaderboard"))
    assert {task.ruleset for task in needed.values()} == {request.ruleset for request in requests} == {"tuned"}
    jobs = plan([replace(request, ruleset="shared") for request in requests], OUT)
    assert {(task.task, task.task_key, str(task.changes)) for task in needed.values()} == {
        (job.cell.task.name, task_key(job.cell), str(job.changes)) for job in jobs
    }
    assert {task.seeds for task in needed.values()} == {tuple(range(8))}
    models = {job.cell.model.name for job in jobs}
    for family in ("mlp", "convnet", "neox", "llama"):
        sizes = {name.removeprefix(f"{family}-") for name in models if name.startswith(f"{family}-")}
        assert sizes >= {"xs", "s", "m"}, "growth with size needs three"


def test_a_leaderboard_task_of_other_data_has_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = [
        {"task": "text-cvdb", "models": ["neox-m"], "small": True},
        {"axes": {"model.hidden": [8, 16], "alpha": [1.0, 0.5]}},
        {"seeds": "1-2"},
    ]
    monkeypatch.setattr(SUITES, "get", lambda name: suite(*grids))
    found = leaderboard_tasks()
    assert [(task.task, task.changes, task.seeds) for task in found] == [
        ("text-cvdb", {"setting": "small"}, (0,)),
        ("vision", {}, (0, 1, 2)),
        ("vision", {"alpha": 0.5}, (0,)),
    ]
    assert [task.task_key is None for task in found] == [True, False, False]


def test_the_batch_size_suite_shows_as_many_examples_everywhere() -> None:
    recipes = [request.overrides for request in suite_requests(SUITES.get("batch-size"))]
    assert [recipe["recipe.batch_size"] for recipe in recipes] == [16, 64, 256]
    for stage in ("stage1", "stage2"):
        assert len({recipe["recipe.batch_size"] * recipe[f"recipe.{stage}.steps"] for recipe in recipes}) == 1
