"""Handing in tuned rows: from ``tune`` to ``submit --check`` on the command line, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from making import write_result
from test_tuning import LABEL, OWN, at, failed, stage1_items, write_sweep, write_trial

import iml_bench
from iml_bench.paths import PACKAGE, data_root
from iml_bench.records import Store, Stored
from iml_bench.registry import MODELS, TASKS
from iml_bench.spec import ModelEntry, apply_overrides
from iml_bench.submit.tuned import diverged, sweep_problems


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of its own whose task ``vision`` is small, with a model that was tuned and run in it."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("tasks", "benchmarks", "leaderboard/models"):
        shutil.copytree(data_root() / folder, root / folder)
    shutil.copytree(PACKAGE, root / iml_bench.__name__, ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".git").mkdir()
    for path in (root / "leaderboard" / "models").glob("*.yaml"):  # nothing has been chosen in it
        path.write_text(path.read_text().partition("tuned:")[0])
    task = TASKS.get("vision")
    small = apply_overrides(task, task.smoke).model_dump(mode="json", exclude_unset=True) | {"smoke": {}}
    (root / "tasks" / "vision.yaml").write_text(yaml.safe_dump(small))
    grid = {"task": "vision", "models": ["mlp-xs"], "seeds": 2, "ruleset": "tuned"}
    suite = {"name": "leaderboard", "description": "one task", "grids": [grid]}
    (root / "benchmarks" / "leaderboard.yaml").write_text(yaml.safe_dump(suite))
    done(root, "models", "add", "mine", "--source", "ref:mlp?hidden=9", "--family", "mlp")
    return root


def ask(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line of a checkout."""
    return subprocess.run(
        [sys.executable, "-m", "iml_bench", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def done(root: Path, *arguments: str) -> str:
    found = ask(root, *arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_from_a_sweep_to_a_tuned_row_of_the_leaderboard(checkout: Path) -> None:
    refused = ask(checkout, "run", "--task", "vision", "--model", "mine", "--ruleset", "tuned")
    assert refused.returncode == 2 and "run iml-bench tune mine --task vision first" in refused.stderr
    assert not (checkout / "iml-results").exists()
    assert "10 cells: 0 done already" in done(checkout, "tune", "mine", "--task", "vision", "--dry-run")
    assert not (checkout / "iml-results").exists()

    said = done(checkout, "tune", "mine", "--task", "vision", "--workers", "1")
    entry = checkout / "leaderboard" / "models" / "mine.yaml"
    chosen = yaml.safe_load(entry.read_text())["tuned"][LABEL]["recipe.lr"]
    assert f"chosen: {chosen!r}; written into" in said and chosen in [OWN * f for f in (1 / 8, 1 / 4, 1 / 2, 1, 2)]
    again = ask(checkout, "tune", "mine", "--task", "vision", "--json")
    assert "10 done already, 0 to run" in again.stderr and f'"lr": {chosen!r}' in again.stdout

    # The suite asks for tuned rows, and chooses the learning rate of a model that has none first.
    said = done(checkout, "suite", "run", "leaderboard", "--model", "mine", "--model", "mlp-xs", "--workers", "1")
    table = said[said.index(f"{LABEL} tuned") :]
    assert "mine" in table and "mlp-xs" in table and "recipe.lr" not in table, "tuned rows stand in one table"
    assert yaml.safe_load((entry.parent / "mlp-xs.yaml").read_text())["tuned"][LABEL]
    said = done(checkout, "leaderboard")
    assert f"{LABEL} tuned" in said and "mine" in said and f"{chosen:g}" in said
    said = done(checkout, "submit", "mine")
    assert "FAIL" not in said and f"{LABEL} tuned" in said and "12 records written" in said

    results = str(checkout / "leaderboard" / "results" / "mine")
    assert "FAIL" not in done(checkout, "submit", "--check", results)
    assert "FAIL" not in done(checkout, "submit", "--check", "leaderboard")
    other = next(OWN * factor for factor in (1 / 8, 1 / 4) if OWN * factor != chosen)
    entry.write_text(entry.read_text().replace(f"{chosen!r}", f"{other!r}"))
    wrong = ask(checkout, "submit", "--check", results)
    assert wrong.returncode == 1
    assert f"the entry 'mine' says recipe.lr {other!r} for {LABEL}, and its sweep chooses recipe.lr {chosen!r}" in (
        wrong.stdout
    )


def problems(root: Path, others: Path | None = None, entries: tuple[Path, ...] = ()) -> list[str]:
    board = Store(others).scan()[0] if others else []
    return [problem for _, problem in sweep_problems(Store(root).scan()[0], board, entries)]


def tuned_entry(tmp_path: Path, lr: float | None) -> Path:
    plain = MODELS.get("mlp-m").model_dump(mode="json", exclude_defaults=True, exclude={"tuned"})
    path = tmp_path / "entries" / "mlp-m.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(plain | ({"tuned": {LABEL: {"recipe.lr": lr}}} if lr else {})))
    return path


def test_a_sweep_its_rows_and_its_entry_agree(tmp_path: Path) -> None:
    entry = tuned_entry(tmp_path, OWN / 2)
    write_sweep(tmp_path / "new", {1 / 2: 5})
    write_result(tmp_path / "new", task=at(OWN / 2))
    write_result(tmp_path / "new")  # a shared row beside it
    assert problems(tmp_path / "new", entries=(entry,)) == []
    # The sweep may be on the leaderboard already.
    write_sweep(tmp_path / "old", {1 / 2: 5})
    write_result(tmp_path / "row", task=at(OWN / 2))
    assert problems(tmp_path / "row", tmp_path / "old", (entry,)) == []


def test_a_shared_row_alone_needs_no_sweep(tmp_path: Path) -> None:
    write_result(tmp_path / "new")
    write_result(tmp_path / "new", task=apply_overrides(TASKS.get("vision"), {"alpha": 0.5, "recipe.lr": 1e-5}))
    assert problems(tmp_path / "new", entries=(tuned_entry(tmp_path, None),)) == []


def test_an_incomplete_sweep_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    entry = tuned_entry(tmp_path, None)
    write_sweep(tmp_path / "new", {1 / 2: 5})
    gone = [one for one in Store(tmp_path / "new").scan()[0] if one.record.cell.task.recipe.lr == OWN / 8]
    gone[0].path.unlink()
    (problem,) = problems(tmp_path / "new", entries=(entry,))
    assert problem == (
        f"the sweep of mlp-m on {LABEL} is not complete, it lacks {OWN / 8:g} seed {gone[0].record.cell.seed} "
        "(iml-bench tune)"
    )


def test_a_row_at_another_learning_rate_is_refused(tmp_path: Path) -> None:
    entry = tuned_entry(tmp_path, OWN / 2)
    write_sweep(tmp_path / "new", {1 / 2: 5})
    write_result(tmp_path / "new", task=at(OWN / 4))
    assert problems(tmp_path / "new", entries=(entry,)) == [
        f"it was run at {OWN / 4!r}, and the sweep of mlp-m on {LABEL} chooses {OWN / 2!r}"
    ]
    write_result(tmp_path / "alone", task=at(OWN / 4))
    assert problems(tmp_path / "alone", entries=(tuned_entry(tmp_path, None),)) == [
        f"its learning rate is not the task's own, and no sweep of mlp-m on {LABEL} chose it (iml-bench tune)"
    ]


@pytest.mark.parametrize(("says", "told"), [(OWN / 4, repr(OWN / 4)), (None, None)])
def test_an_entry_that_says_something_else_is_refused(tmp_path: Path, says: float | None, told: str | None) -> None:
    write_sweep(tmp_path / "new", {1 / 2: 5})
    (problem,) = problems(tmp_path / "new", entries=(tuned_entry(tmp_path, says),))
    what = f"recipe.lr {told}" if told else "no learning rate"
    assert problem == f"the entry 'mlp-m' says {what} for {LABEL}, and its sweep chooses recipe.lr {OWN / 2!r}"


def test_an_entry_that_says_what_no_sweep_chose_is_refused_where_its_rows_are(tmp_path: Path) -> None:
    entry = tuned_entry(tmp_path, OWN / 4)
    assert problems(tmp_path / "nothing", entries=(entry,)) == [], "it comes with its records, or later"
    write_result(tmp_path / "new")
    assert problems(tmp_path / "new", entries=(entry,)) == [
        f"the entry 'mlp-m' says recipe.lr {OWN / 4!r} for {LABEL}, and no sweep is there that chose it"
    ]


def test_what_ends_early_and_is_no_cell_of_the_sweep_is_refused(tmp_path: Path) -> None:
    write_sweep(tmp_path / "new", {1 / 2: 5})
    write_trial(tmp_path / "new", OWN, 7, 3)
    entry = tuned_entry(tmp_path, OWN / 2)
    assert problems(tmp_path / "new", entries=(entry,)) == [
        f"it ends after stage 1 and is no cell of the sweep of {LABEL}"
    ]


def test_cells_that_diverged_are_evidence(tmp_path: Path) -> None:
    write_sweep(tmp_path / "new", {2.0: 9, 1 / 2: 5})
    entry = tuned_entry(tmp_path, OWN / 2)
    stored = [
        one._replace(record=failed(one.record, "DivergedError")) if one.record.cell.task.recipe.lr == OWN * 2 else one
        for one in Store(tmp_path / "new").scan()[0]
    ]
    assert sum(diverged(one.record) for one in stored) == 2
    assert list(sweep_problems(stored, [], (entry,))) == []
    row = Stored(tmp_path / "row.json", failed(stored[0].record, "CellError"))
    assert not diverged(row.record)


def test_another_model_has_its_own_sweep(tmp_path: Path) -> None:
    write_sweep(tmp_path / "new", {1 / 2: 5})
    other = ModelEntry(name="other", source="ref:mlp?hidden=3", modality="vision", family="x", architecture="x")
    write_result(tmp_path / "new", task=at(OWN / 2), entry=other)
    found = problems(tmp_path / "new", entries=(tuned_entry(tmp_path, OWN / 2),))
    assert found == [
        f"its learning rate is not the task's own, and no sweep of other on {LABEL} chose it (iml-bench tune)"
    ]


def test_the_made_items_are_what_they_say() -> None:
    assert stage1_items(4)["exact_match"].mean() == 0.4
