"""Controls: what a suite says must be zero, the verdict on it, and what a task's check finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from making import CPU, command, made, scored, small_cell, write_failure, write_result
from pydantic import ValidationError

from iml_bench.board import Verdict, verdicts_of
from iml_bench.errors import UsageError
from iml_bench.modalities.vision import renderer
from iml_bench.protocols.two_stage import design
from iml_bench.records import Store
from iml_bench.registry import SUITES, TASKS
from iml_bench.run.cell import run_cell
from iml_bench.run.checks import Step, check_task
from iml_bench.run.suites import suite_requests
from iml_bench.spec import SuiteSpec, TaskSpec, apply_overrides
from iml_bench.stats import equivalence, seeds_to_decide

HALF = {"name": "half", "set": {"alpha": 0.5}, "control": {"measure": "iml", "margin": 0.05}}


def suite_data(*grids: Mapping[str, Any]) -> dict[str, Any]:
    """What a suite of grids of one perceptron on vision and four seeds holds, but for what is given."""
    whole = [{"task": "vision", "models": ["mlp-m"], "seeds": "200-203", **grid} for grid in grids]
    return {"name": "mine", "description": "d", "grids": whole}


def write(root: Path, values: Sequence[float], **overrides: Any) -> None:
    """Records of ``mlp-m`` on vision with these IML, seeds from 200."""
    task = apply_overrides(TASKS.get("vision"), overrides)
    for seed, value in enumerate(values, 200):
        write_result(root, "mlp-m", seed, task=task, table=made(value))


def judged(root: Path, *grids: Mapping[str, Any]) -> list[Verdict]:
    """The verdicts of a suite on the records in a folder."""
    suite = SuiteSpec.model_validate(suite_data(*grids))
    return verdicts_of(suite, suite_requests(suite), Store(root).scan()[0])


CASES = {
    "inside": ([0.01, -0.02, 0.0, 0.015], "pass", "interval lies within the margin"),
    "outside": ([0.2, 0.22, 0.19, 0.21], "fail", "lies wholly outside the margin"),
    "outside below": ([-0.2, -0.22, -0.19, -0.21], "fail", "lies wholly outside the margin"),
    "wide": ([0.1, -0.1, 0.06, -0.05], "undecided", "seeds would decide, if mean and spread stay"),
    "on the margin": ([0.04, 0.06, 0.045, 0.055], "undecided", "no number of seeds is known to decide"),
    "seeds missing": ([0.01, 0.0, 0.01], "undecided", "3 of 4 seeds: seed 203 not run yet"),
    "nothing run": ([], "undecided", "0 of 4 seeds: seed 200 not run yet"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_control_has_a_verdict_and_a_reason(case: str, tmp_path: Path) -> None:
    values, verdict, reason = CASES[case]
    write(tmp_path, values, alpha=0.5)
    write(tmp_path, [0.4] * 4)  # of the task as it stands: it counts for nothing here
    (found,) = judged(tmp_path, HALF)
    assert (found.verdict, found.n_seeds, found.wanted) == (verdict, len(values), 4)
    assert reason in found.reason
    assert (found.control, found.task, found.model) == ("half", "vision@2 alpha=0.5", "mlp-m")
    assert found.per_seed == pytest.approx(dict(enumerate(values, 200)))
    tested = equivalence(values, 0.05)
    assert (found.low, found.high) == pytest.approx((tested.low, tested.high) if tested else (None, None))
    assert found.mean == (pytest.approx(np.mean(values)) if values else None)
    assert (found.seeds_needed is not None) == (case == "wide")
    if case == "wide":
        assert found.seeds_needed == seeds_to_decide(values, 0.05) and found.seeds_needed > 4


def test_one_seed_decides_nothing_and_a_failed_one_is_named(tmp_path: Path) -> None:
    write(tmp_path, [0.0], alpha=0.5)
    (found,) = judged(tmp_path, {**HALF, "seeds": [200]})
    assert (found.verdict, found.reason, found.low) == ("undecided", "one seed has no interval", None)
    write_failure(tmp_path, "mlp-m", 200)
    (found,) = judged(tmp_path, {**HALF, "seeds": [200], "set": {}})
    assert (found.verdict, found.reason) == ("undecided", "0 of 1 seeds: seed 200 failed")


def test_what_must_be_exactly_zero_is_so_in_every_seed(tmp_path: Path) -> None:
    exact = {"name": "same", "set": {"stage2_tags": "identical"}, "control": {"measure": "iml", "margin": 0}}
    write(tmp_path, [0.0] * 3, stage2_tags="identical")
    assert judged(tmp_path, exact)[0].reason == "3 of 4 seeds: seed 203 not run yet"
    (found,) = judged(tmp_path, {**exact, "seeds": [200]})
    assert (found.verdict, found.reason) == ("pass", "exactly 0 in every seed")
    write(tmp_path / "other", [0.0, 0.0, 0.005], stage2_tags="identical")
    (found,) = judged(tmp_path / "other", exact)
    assert (found.verdict, found.reason) == ("fail", "it must be exactly 0 in every seed, and seed 202 has +0.005")


def test_a_measure_that_is_null_is_told_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path, [0.01] * 4, alpha=0.5)
    (found,) = judged(tmp_path, {**HALF, "control": {"measure": "trust", "margin": 0.05}})
    assert found.verdict == "undecided"
    assert found.reason.startswith("0 of 4 seeds: seed 200 the task has no entities in a group that it needs")


MIRROR = {"name": "none", "set": {"alpha": 0.0}, "control": {"measure": "iml", "margin": 0.05, "mirror_of": "all"}}


def test_a_mirror_adds_the_values_of_the_same_seed(tmp_path: Path) -> None:
    write(tmp_path, [0.4, 0.3, 0.5, 0.35], alpha=1.0)
    write(tmp_path, [-0.41, -0.3, -0.485, -0.35], alpha=0.0)
    (found,) = judged(tmp_path, {"name": "all"}, MIRROR)
    assert found.per_seed == pytest.approx({200: -0.01, 201: 0.0, 202: 0.015, 203: 0.0})
    assert (found.verdict, found.control, found.mirror_of) == ("pass", "none", "all")
    write(tmp_path / "half", [0.4, 0.3], alpha=1.0)
    write(tmp_path / "half", [-0.4, -0.3, -0.5, -0.35], alpha=0.0)
    (found,) = judged(tmp_path / "half", {"name": "all"}, MIRROR)
    assert (found.verdict, found.n_seeds, found.reason) == ("undecided", 2, "2 of 4 seeds: seed 202 not run yet")


def test_every_model_at_every_point_is_judged_by_itself(tmp_path: Path) -> None:
    write(tmp_path, [0.01, -0.01, 0.0, 0.005], alpha=0.5, heldout=2)
    grid = {**HALF, "models": ["mlp-m", "mlp-s"], "axes": {"heldout": [1, 2]}}
    found = [(one.task, one.model, one.verdict) for one in judged(tmp_path, grid)]
    assert found == [
        ("vision@2 alpha=0.5", "mlp-m", "undecided"),
        ("vision@2 alpha=0.5", "mlp-s", "undecided"),
        ("vision@2 alpha=0.5 heldout=2", "mlp-m", "pass"),
        ("vision@2 alpha=0.5 heldout=2", "mlp-s", "undecided"),
    ]


@given(st.lists(st.floats(-0.3, 0.3), min_size=2, max_size=12), st.floats(0.01, 0.2))
def test_the_seeds_that_are_needed_decide_and_one_fewer_does_not(values: list[float], margin: float) -> None:
    from scipy import stats

    needed = seeds_to_decide(values, margin)
    if needed is None:
        return
    gap, spread = abs(margin - abs(np.mean(values))), np.std(values, ddof=1)
    half = [stats.t.ppf(0.95, n - 1) * spread / np.sqrt(n) for n in (needed, max(2, needed - 1))]
    assert half[0] < gap
    assert needed == 2 or half[1] >= gap * (1 - 1e-9)


WRONG = {
    "measure": (
        [{**HALF, "control": {"measure": "ilm", "margin": 0.1}}],
        "control.measure: unknown measure 'ilm': did",
    ),
    "margin": ([{**HALF, "control": {"measure": "iml", "margin": -1}}], "grid 'half': control.margin: input should be"),
    "no margin": ([{**HALF, "control": {"measure": "iml"}}], "grid 'half': control.margin: field required"),
    "field": ([{**HALF, "control": {"measure": "iml", "margn": 1}}], "there is no such field; did you mean 'margin'"),
    "no name": (
        [{"control": {"measure": "iml", "margin": 0}}],
        "grid 1: control: its verdict is told by the grid's name",
    ),
    "no mirror": ([{"name": "al"}, MIRROR], "grid 'none': control.mirror_of: unknown grid 'all': did you mean 'al'?"),
    "itself": ([{**MIRROR, "name": "all"}], "control.mirror_of: grid 'all' cannot be its own mirror"),
    "seeds": ([{"name": "all", "seeds": 3}, MIRROR], "are added one by one, and the grids differ in seeds; let only"),
    "models": ([{"name": "all", "models": ["mlp-s"]}, MIRROR], "the grids differ in models"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_control_is_one_sentence(case: str) -> None:
    grids, sentence = WRONG[case]
    with pytest.raises((UsageError, ValidationError)) as caught:
        suite_requests(SuiteSpec.model_validate(suite_data(*grids)))
    assert sentence in str(caught.value)


def test_the_verdict_is_a_verb_and_the_end_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(suite_data(HALF)))
    write(tmp_path / "good", [0.01, -0.01, 0.0, 0.005], alpha=0.5)
    write(tmp_path / "bad", [0.21, 0.2, 0.22, 0.2], alpha=0.5)
    for folder, status, told in (("good", 0, "pass"), ("bad", 1, "FAIL")):
        done = command("suite", "verdict", "mine.yaml", "--records", folder, cwd=tmp_path)
        assert done.returncode == status and told in done.stdout, done.stderr
    fewer = command("suite", "verdict", "mine.yaml", "--records", "good", "--seeds", "200-204", cwd=tmp_path)
    assert (fewer.returncode, "4 of 5 seeds: seed 204 not run yet" in fewer.stdout) == (1, True)
    found = json.loads(command("suite", "verdict", "mine.yaml", "--records", "bad", "--json", cwd=tmp_path).stdout)
    (row,) = found["controls"]
    assert (row["verdict"], row["measure"], row["margin"], row["n_seeds"]) == ("fail", "iml", 0.05, 4)
    none = command("suite", "verdict", "smoke")
    assert (none.returncode, none.stderr) == (
        2,
        "error: suite 'smoke' has no control and no claim (iml-bench suite show smoke)\n",
    )


def test_a_run_of_a_suite_ends_with_its_verdicts(tmp_path: Path) -> None:
    shorter = {"groups.reliable": 8, "groups.unreliable": 8, "recipe.stage1.steps": 2, "recipe.stage2.steps": 2}
    exact = {"name": "same", "set": {**shorter, "stage2_tags": "identical", "crossover": "pair"}}
    path = tmp_path / "mine.yaml"
    grid = {**exact, "models": ["mlp-xs"], "seeds": 1, "control": {"measure": "iml", "margin": 0}}
    path.write_text(yaml.safe_dump(suite_data(grid)))
    done = command("suite", "run", "mine.yaml", "--out", "out", "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "exactly 0 in every seed" in done.stdout
    assert "exactly 0" in command("suite", "show", "mine.yaml", cwd=tmp_path).stdout


def test_the_shipped_controls_have_seeds_of_their_own_and_what_they_must_be() -> None:
    suite = SUITES.get("controls")
    assert len(suite_requests(suite)) == len(suite.grids)
    assert all(min(grid.seeds) >= 200 for grid in suite.grids)
    judged = {grid.name: grid.control for grid in suite.grids if grid.control}
    for task in ("vision", "text"):
        kinds = {name.removeprefix(f"{task}-") for name in judged if name and name.startswith(task)}
        assert kinds == {"untrained", "alpha-half", "alpha-zero", "placebo", "identical"}
        assert judged[f"{task}-identical"].margin == 0  # type: ignore[union-attr]
        assert judged[f"{task}-alpha-zero"].mirror_of == f"{task}-alpha-one"  # type: ignore[union-attr]


@pytest.mark.parametrize(("model", "task"), [("mlp-xs", "vision"), ("neox-xs", "text")])
def test_identical_tags_read_exactly_zero_in_a_network(model: str, task: str) -> None:
    cell = small_cell(model, task=task, stage2_tags="identical", crossover="pair")
    items = run_cell(cell, CPU).items
    scores = scored(items)
    assert (scores["iml"], scores["iml_nats"]) == (0.0, 0.0)
    first, second = (items.filter(stage=2, fold=fold).sort("entity", "attribute") for fold in (0, 1))
    assert first["log_likelihood"].equals(second["log_likelihood"])
    taught = scored(run_cell(small_cell(model, task=task, crossover="pair"), CPU).items)
    assert taught["iml_nats"] != 0.0, "two tags are two trainings"


def white_and_black(rng: np.random.Generator, n: int, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """Tags in place of balanced ones: the first is white and the others are black."""
    return np.where(np.arange(n)[:, None] == 0, 1, np.zeros((n, rows * columns), np.int64))


def step(task: str, name: str) -> Step:
    """One step of the check of a task."""
    return next(found for found in check_task(task, CPU) if found.name == name)


def test_a_check_finds_tags_that_differ_in_brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "an untrained stage 1 reads 0"
    passed = step("vision", name)
    assert passed.passed and "error" in passed.detail and "uptake 0." in passed.detail, passed.detail
    monkeypatch.setattr(renderer, "balanced_tags", white_and_black)
    failed = step("vision", name)
    assert not failed.passed and "errors over items from 0, and more than 3" in failed.detail, failed.detail


def test_a_check_finds_tags_that_are_not_identical(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "identical tags read exactly 0"
    assert step("vision", name).passed
    monkeypatch.setattr(design, "worn_by", lambda task: ("reliable", "unreliable"))
    failed = step("vision", name)
    assert not failed.passed and "not 0" in failed.detail


def test_a_check_finds_a_reference_that_reads_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert step("vision", "oracle reads what it must").passed
    from iml_bench.protocols.two_stage import references

    true_of: Callable[[TaskSpec], Any] = references.attitudes
    monkeypatch.setattr(references, "attitudes", lambda task: true_of(task) | {"oracle": {}})
    wanted = references.reads(TASKS.get("vision"))["oracle"]  # type: ignore[arg-type]
    assert not wanted.exact
    monkeypatch.setattr(references, "reads", lambda task: {"oracle": wanted._replace(value=1.0, exact=True)})
    failed = step("vision", "oracle reads what it must")
    assert not failed.passed and "not 1" in failed.detail
