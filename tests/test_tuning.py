"""The tuned ruleset: cells that end after stage 1, the choice, entries, requests, and the views of a board."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from making import CPU, command, entry, small_task, write_result

import iml_bench
from iml_bench.board import Board, LeaderboardTask, build_board, leaderboard_tasks, to_table, view
from iml_bench.errors import DivergedError, UsageError
from iml_bench.library.tuning import store_choice
from iml_bench.protocols import protocol_of
from iml_bench.protocols.items import OPTIONAL
from iml_bench.records import Failure, Record, Store, Stored, read_items, read_record
from iml_bench.registry import MODELS, TASKS, changes_of
from iml_bench.run.cell import ITEM_SCHEMA
from iml_bench.run.command import command_of
from iml_bench.run.job import Job, run_job
from iml_bench.run.plan import Request, plan
from iml_bench.run.suites import suite_requests
from iml_bench.run.sweep import FACTORS, SEEDS, choose, is_sweep, rates, sweep_requests
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, ModelEntry, StageOutcome, SuiteSpec, apply_overrides, parse, vary_model

OWN = TASKS.get("vision").recipe.lr
LABEL = TASKS.get("vision").label
REQUIRED = [LeaderboardTask("vision", TASKS.get("vision").version, "vision", {}, None, (0, 1), "tuned")]
N = 10
"""Held-out questions of a made cell."""


def stage1_items(right: int) -> pl.DataFrame:
    """Held-out questions about ``N`` reliable entities, of which the first are answered rightly."""
    rows = [
        (1, 0, "fact", n, "reliable", "reliable", "a", "x", "x" if n < right else "y", n < right, -0.1)
        for n in range(N)
    ]
    schema = {name: kind for name, kind in ITEM_SCHEMA.items() if name == "set" or name not in OPTIONAL}
    return pl.DataFrame(rows, schema=schema, orient="row")


def write_trial(root: Path, lr: float, seed: int, right: int, loss: float = 1.0, **more: Any) -> Path:
    """The record of a cell of the sweep, with chosen outcomes."""
    task = apply_overrides(TASKS.get("vision"), {"until": "stage1", "recipe.lr": lr})
    stage = StageOutcome(name="stage1", steps=3000, final_loss=loss, micro_batch=64, accumulation=1)
    return write_result(root, seed=seed, task=task, table=stage1_items(right), stages=(stage,), **more)


def write_sweep(root: Path, right: dict[float, int], **more: Any) -> None:
    """A whole sweep; ``right`` is of both seeds, by factor, and 0 where nothing is said."""
    for factor, lr in zip(FACTORS, rates(OWN), strict=True):
        for seed in SEEDS:
            write_trial(root, lr, seed, right.get(factor, 0), **more)


def records(root: Path) -> list[Record]:
    return [one.record for one in Store(root).scan()[0]]


@pytest.mark.parametrize(("task", "model"), [("vision", "mlp-xs"), ("text", "neox-xs")])
def test_a_cell_that_ends_after_stage_1_is_the_first_part_of_the_whole_one(
    task: str, model: str, tmp_path: Path
) -> None:
    found = {}
    for until in ("stage1", "stage2"):
        cell = CellSpec(task=small_task(task, until=until), model=find_model(model), seed=100)
        assert run_job(Job(cell, {}, smoke=True, out=tmp_path), CPU) is None
    for one in Store(tmp_path).scan()[0]:
        found[one.record.cell.task.until] = one  # type: ignore[attr-defined]
    part, whole = found["stage1"], found["stage2"]
    assert read_items(part).equals(read_items(whole).filter(pl.col("stage") == 1))
    assert part.record.data_digest == whole.record.data_digest
    assert [stage.name for stage in part.record.stages] == ["stage1"]
    assert part.record.stages[0].final_loss == whole.record.stages[0].final_loss
    scores = part.record.scores
    assert scores is not None and scores["stage1_gap"] is not None
    for name in ("iml", "uptake", "trust", "distrust", "iml_nats"):
        assert scores[name] is None and "before stage 2" in scores.reasons[name]


def test_a_task_of_one_stage_has_nothing_to_stop_before() -> None:
    with pytest.raises(UsageError, match="until: with one stage"):
        apply_overrides(TASKS.get("vision"), {"stages": 1, "until": "stage1"})
    three = apply_overrides(TASKS.get("vision"), {"stages": 3, "until": "stage1"})
    assert len(protocol_of(three).schedule(three)) == 3 and is_sweep(three)


@given(st.integers(1, 9999), st.integers(1, 8))
def test_learning_rates_are_the_numbers_that_a_person_would_write(digits: int, places: int) -> None:
    written = Decimal(digits).scaleb(-places)
    exact = [written * Decimal(factor) for factor in FACTORS]
    assert list(rates(float(written))) == [float(value) for value in exact]
    assert rates(float(written))[3] == float(written)


def test_the_highest_mean_of_both_seeds_is_chosen(tmp_path: Path) -> None:
    write_sweep(tmp_path, {1 / 8: 4, 1 / 4: 6, 1.0: 5})
    write_trial(tmp_path, OWN * 4, 100, N)  # no cell of the sweep
    write_trial(tmp_path, OWN, 102, N)
    found = choose(OWN, records(tmp_path))
    assert found.lr == OWN / 4 and found.missing == () and len(found.trials) == 10
    assert {trial.match for trial in found.trials if trial.lr == OWN / 4} == {0.6}
    shuffled = records(tmp_path)
    random.Random(0).shuffle(shuffled)
    assert choose(OWN, shuffled) == found


def test_of_equals_the_lower_loss_is_chosen_and_then_the_lower_learning_rate(tmp_path: Path) -> None:
    losses = {OWN / 8: 0.5, OWN / 4: 0.3, OWN / 2: 0.2, OWN: 0.2, OWN * 2: 0.1}
    for lr, loss in losses.items():
        # Equal means of ten questions, and unequal sums of floats.
        pair = {OWN / 4: (1, 7), OWN / 2: (1, 7), OWN: (3, 5)}.get(lr, (3, 3))
        for seed, right in zip(SEEDS, pair, strict=True):
            write_trial(tmp_path, lr, seed, right, loss)
    assert 0.1 + 0.7 != 0.3 + 0.5
    assert choose(OWN, records(tmp_path)).lr == OWN / 2


def test_nothing_is_chosen_while_a_cell_is_missing(tmp_path: Path) -> None:
    write_sweep(tmp_path, {1.0: 5})
    gone = [record for record in records(tmp_path) if (record.cell.task.recipe.lr, record.cell.seed) != (OWN / 8, 101)]
    found = choose(OWN, gone)
    assert (found.lr, found.missing) == (None, ((OWN / 8, 101),))
    assert choose(OWN, []).missing == tuple((lr, seed) for lr in rates(OWN) for seed in SEEDS)


def failed(record: Record, kind: str) -> Record:
    error = Failure(kind=kind, message="the loss was nan at step 7 of stage1", traceback="")
    return record.model_copy(update={"status": "failed", "scores": None, "items": None, "error": error})


def test_a_learning_rate_at_which_training_diverges_is_not_chosen(tmp_path: Path) -> None:
    write_sweep(tmp_path, {2.0: N, 1.0: 5})
    best = [record for record in records(tmp_path) if record.cell.task.recipe.lr == OWN * 2]
    others = [record for record in records(tmp_path) if record.cell.task.recipe.lr != OWN * 2]
    found = choose(OWN, [*others, best[0], failed(best[1], DivergedError.__name__)])
    assert (found.lr, found.missing) == (OWN, ())
    # Any other failure says nothing of the learning rate, and a done record goes before a failed one.
    assert len(choose(OWN, [*others, best[0], failed(best[1], "CellError")]).missing) == 1
    assert choose(OWN, [*others, *best, failed(best[1], DivergedError.__name__)]).lr == OWN * 2
    assert choose(OWN, [failed(record, DivergedError.__name__) for record in records(tmp_path)]).lr is None


def test_a_loss_that_is_no_number_is_told_as_divergence(tmp_path: Path) -> None:
    task = small_task("vision", recipe__optimizer="sgd", recipe__lr=1e30, until="stage1")
    cell = CellSpec(task=task, model=find_model("mlp-xs"), seed=100)
    assert "DivergedError" in (run_job(Job(cell, {}, smoke=True, out=tmp_path), CPU) or "")
    (record,) = records(tmp_path)
    assert record.error is not None and record.error.kind == "DivergedError"


def task_file(path: Path, **overrides: Any) -> Path:
    """A task of one's own at smoke size."""
    plain = small_task("vision", **overrides).model_dump(mode="json", exclude_unset=True)
    path.write_text(yaml.safe_dump(plain | {"name": path.stem, "smoke": {}, "history": {}}))
    return path


def test_what_diverged_is_not_run_again_and_nothing_is_chosen_of_it(tmp_path: Path) -> None:
    task = task_file(tmp_path / "wild.yaml", recipe__optimizer="sgd", recipe__lr=1e30)
    entry = user_entry(tmp_path / "mine.yaml")
    for _ in range(2):
        out = tmp_path / "out"
        found = iml_bench.tune(str(entry), str(task), out=out, workers=1, device="cpu", progress=False)
        assert (found.choice.lr, found.choice.missing, found.entry, found.tuned) == (None, (), None, {})
        assert {trial.match for trial in found.choice.trials} == {None} and len(found.choice.trials) == 10
        started = {one.record.timing.started for one in Store(out).scan()[0]}
        assert len(records(out)) == 10 and started == {record.timing.started for record in records(out)}
        (out / "mine").touch()
    assert MODELS.get(str(entry)).tuned == {}


def test_a_sweep_is_ten_cells_without_reference_learners() -> None:
    jobs = plan(sweep_requests(Request("vision", ("mlp-m",), overrides={"alpha": 0.5})), Path("out"))
    assert [(job.cell.task.recipe.lr, job.cell.seed) for job in jobs] == [(lr, s) for lr in rates(OWN) for s in SEEDS]
    assert all(is_sweep(job.cell.task) and job.cell.model.name == "mlp-m" for job in jobs)
    assert {job.cell.task.alpha for job in jobs} == {1.0}  # type: ignore[attr-defined]


def test_an_entry_says_only_what_a_sweep_can_choose() -> None:
    fields = {"name": "m", "source": "ref:mlp", "modality": "vision", "family": "m", "architecture": "m"}
    tuned = {"vision@2": {"recipe.lr": 5e-4}, "text-sets@2 small": {"recipe.lr": 1}}
    assert parse(ModelEntry, fields | {"tuned": tuned}, "m").tuned["text-sets@2 small"] == {"recipe.lr": 1.0}
    for wrong, why in (
        ({"vision": {"recipe.lr": 1e-3}}, "'vision' is no setting of a task"),
        ({"vision@2": {"recipe.lr": 0}}, "above 0"),
        ({"vision@2": {"alpha": 0.5}}, "nothing else"),
        ({"vision@2": {}}, "nothing else"),
    ):
        with pytest.raises(UsageError, match=why):
            parse(ModelEntry, fields | {"tuned": wrong}, "m")


def user_entry(path: Path, tuned: float | None = None) -> Path:
    lines = ["name: mine", 'source: "ref:mlp?hidden=9"', "modality: vision", "family: mlp", "architecture: x"]
    path.write_text("\n".join([*lines, *([f"tuned:\n  {LABEL}: {{recipe.lr: {tuned!r}}}"] if tuned else [])]) + "\n")
    return path


def test_the_tuned_ruleset_runs_each_model_at_its_own_learning_rate(tmp_path: Path) -> None:
    path = str(user_entry(tmp_path / "mine.yaml", OWN / 4))
    jobs = plan([Request("vision", (path,), (0,), ruleset="tuned")], tmp_path)
    found = {job.cell.model.name: (job.cell.task.recipe.lr, job.changes) for job in jobs}
    assert found.pop("mine") == (OWN / 4, {"recipe.lr": OWN / 4})
    assert set(found) >= {"oracle", "gullible", "random"} and {lr for lr, _ in found.values()} == {OWN}
    assert all(job.cell.model.tuned == {} for job in jobs), "what was tuned stands in the task that ran"
    shared = plan([Request("vision", (path,), (0,))], tmp_path)
    assert {job.cell.task.recipe.lr for job in shared} == {OWN}
    varied = vary_model(MODELS.get(path), {"hidden": 8})
    assert varied.tuned == {}


def test_a_model_without_a_choice_is_told_to_be_tuned(tmp_path: Path) -> None:
    path = str(user_entry(tmp_path / "my model.yaml").rename(tmp_path / "mine.yaml"))
    with pytest.raises(
        UsageError, match=f"no learning rate has been chosen for model 'mine' on {LABEL}: run iml-bench"
    ):
        plan([Request("vision", (path,), ruleset="tuned")], tmp_path)
    with pytest.raises(UsageError, match=r"recipe\.lr is set, and the tuned ruleset takes"):
        plan([Request("vision", (path,), overrides={"recipe.lr": 0.1}, ruleset="tuned")], tmp_path)
    with pytest.raises(UsageError, match="--ruleset 'tunde' is none of shared, tuned"):
        iml_bench.run("vision", ruleset="tunde")
    with pytest.raises(UsageError, match=r"unknown option 'alpha' \(tune takes"):
        iml_bench.tune("mlp-m", "vision", alpha=0.5)  # type: ignore[call-arg]
    assert "--ruleset tuned" in command_of(Request("vision", (path,), ruleset="tuned"))


def test_a_grid_may_ask_for_the_tuned_ruleset(tmp_path: Path) -> None:
    path = str(user_entry(tmp_path / "mine.yaml", OWN / 2))
    grid = {"task": "vision", "models": [path], "seeds": 1, "ruleset": "tuned"}
    suite = parse(SuiteSpec, {"name": "s", "description": "x", "grids": [grid]}, "s")
    assert plan(suite_requests(suite), tmp_path)[0].cell.task.recipe.lr == OWN / 2
    assert {request.ruleset for request in suite_requests(suite, smoke=True)} == {"shared"}
    with pytest.raises(UsageError, match=r"recipe\.lr in axes is what the tuned ruleset chooses"):
        parse(SuiteSpec, {"name": "s", "description": "x", "grids": [grid | {"axes": {"recipe.lr": [1]}}]}, "s")


def test_a_choice_is_written_into_the_entry_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(user_entry(path).read_text().replace("modality: vision", "# mine\nmodality: vision  # pictures"))
    before = path.read_text()
    assert store_choice(str(path), LABEL, 0.00025) == path
    assert path.read_text() == before + f"tuned:\n  {LABEL}: {{recipe.lr: 0.00025}}\n"
    assert store_choice(str(path), "text@2 small", 5e-05) == path
    assert store_choice(str(path), LABEL, 0.001) == path
    tuned = {LABEL: {"recipe.lr": 0.001}, "text@2 small": {"recipe.lr": 5e-05}}
    assert MODELS.get(str(path)).tuned == tuned and path.read_text().startswith(before)
    path.write_text(path.read_text() + "size: 10k\n")  # what follows after
    store_choice(str(path), LABEL, 0.002)
    assert (MODELS.get(str(path)).size, MODELS.get(str(path)).tuned[LABEL]) == ("10k", {"recipe.lr": 0.002})
    path.write_text(yaml.safe_dump(yaml.safe_load(before), default_flow_style=True, width=1000))  # one line, in braces
    assert store_choice(str(path), LABEL, 0.001) == path
    assert MODELS.get(str(path)).tuned == {LABEL: {"recipe.lr": 0.001}}
    assert store_choice("ref:mlp?hidden=9", LABEL, 0.001) is None
    assert [part.name for part in tmp_path.iterdir()] == ["mine.yaml"]


def board(root: Path, ruleset: str | None = None) -> Board:
    return build_board(Store(root).scan()[0], [find_model("mlp-m")], REQUIRED, ruleset)


def shown(board: Board) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(row.label, row.model, row.seeds) for row in board.rows]


def at(lr: float, **more: Any) -> Any:
    return apply_overrides(TASKS.get("vision"), {"recipe.lr": lr, **more})


def test_a_board_is_a_view_of_the_same_records(tmp_path: Path) -> None:
    slow = entry("slow", "ref:mlp?hidden=3")
    write_sweep(tmp_path, {1 / 4: 6})
    write_sweep(tmp_path, {1.0: 6}, entry=slow)
    for seed in (0, 1):
        write_result(tmp_path, seed=seed, iml=0.4, task=at(OWN / 4))
        write_result(tmp_path, seed=seed, iml=0.2)
        write_result(tmp_path, seed=seed, iml=0.1, entry=slow)
        write_result(tmp_path, "oracle", seed=seed, iml=0.5)
    write_result(tmp_path, task=at(OWN / 2))  # neither: nobody chose it
    write_result(tmp_path, task=at(OWN, alpha=0.5))
    write_result(tmp_path, "mlp-s", task=at(OWN / 4))  # no sweep of its own chose it
    both = [("slow", (0, 1)), ("oracle", (0, 1))]

    tuned = board(tmp_path, "tuned")
    assert shown(tuned) == [(f"{LABEL} tuned", *row) for row in [("mlp-m", (0, 1)), *both]]
    assert [row.tuned for row in tuned.rows] == [{"recipe.lr": OWN / 4}, {"recipe.lr": OWN}, {}]
    assert len({row.task_key for row in tuned.rows}) == 1, "they are ranked together"
    assert [row.mean("iml") for row in tuned.rows] == pytest.approx([0.4, 0.1, 0.5])
    assert [(one.model, one.reason) for one in tuned.absent] == [
        ("mlp-s", "its learning rate has not been chosen yet (iml-bench tune)")
    ]
    assert to_table(tuned.rows)["ruleset"].to_list() == ["tuned"] * 3

    shared = board(tmp_path, "shared")
    own = [(LABEL, "mlp-m", (0, 1)), (LABEL, "slow", (0, 1)), (LABEL, "oracle", (0, 1))]
    assert [row for row in shown(shared) if row[0] == LABEL] == own
    assert [row.mean("iml") for row in shared.rows if row.label == LABEL] == pytest.approx([0.2, 0.1, 0.5])
    assert {row.ruleset for row in shared.rows} == {"shared"} and not any(row.tuned for row in shared.rows)
    others = {(row.label, row.model) for row in shared.rows} - {(label, model) for label, model, _ in own}
    changed = {(f"{LABEL} recipe.lr={OWN / 2}", "mlp-m"), (f"{LABEL} recipe.lr={OWN / 4}", "mlp-s")}
    assert others == changed | {(f"{LABEL} alpha=0.5", "mlp-m")}
    assert not any(100 in row.seeds for row in (*shared.rows, *tuned.rows)), "cells of sweeps are no rows"

    default = board(tmp_path)
    assert {row[:2] for row in shown(default)} == {row[:2] for row in shown(tuned)} | {(f"{LABEL} alpha=0.5", "mlp-m")}
    unasked = build_board(Store(tmp_path).scan()[0], [], [])
    assert {row.ruleset for row in unasked.rows} == {"shared"} and len(unasked.rows) == 7
    for path in [path for path in tmp_path.rglob("*.json") if read_record(path).cell.seed in SEEDS]:
        path.unlink()
    assert {row.label for row in board(tmp_path).rows if row.reference} == {LABEL}, "no sweep, no tuned rows"


def test_why_there_is_no_tuned_row_is_said(tmp_path: Path) -> None:
    cut, unrun, wild = (entry(name, f"ref:mlp?hidden={n}") for n, name in enumerate(("cut", "unrun", "wild"), 3))
    write_sweep(tmp_path, {1.0: 5})
    write_result(tmp_path)
    for one in (cut, unrun):
        write_sweep(tmp_path, {1 / 2: 5}, entry=one)
    next(path for path in (tmp_path / "cut").glob("*.json")).unlink()
    write_sweep(tmp_path, {1 / 2: 5}, entry=wild)
    stored = Store(tmp_path).scan()[0]
    stored = [
        one._replace(record=failed(one.record, "DivergedError")) if one.record.cell.model.name == "wild" else one
        for one in stored
    ]
    seen = view(stored, "tuned")
    assert {one.model.name: one.reason for one in seen.lacking} == {
        "cut": "its sweep has 9 of 10 cells",
        "unrun": f"not run yet at the learning rate that its sweep chose, {OWN / 2:g}",
        "wild": "training diverged at every learning rate of its sweep",
    }
    found = build_board(stored, [cut, find_model("mlp-s"), find_model("mlp-m")], REQUIRED, "tuned").absent
    assert {one.model: one.reason for one in found if one.model in ("cut", "mlp-s", "mlp-m")} == {
        "cut": "its sweep has 9 of 10 cells",
        "mlp-s": "its learning rate has not been chosen yet (iml-bench tune)",
        "mlp-m": "1 of 2 seeds",
    }
    with pytest.raises(UsageError, match="--ruleset 'x' is none of shared, tuned"):
        view(stored, "x")


def test_a_record_is_not_changed_by_a_view(tmp_path: Path) -> None:
    write_sweep(tmp_path, {1 / 4: 6})
    path = write_result(tmp_path, task=at(OWN / 4))
    stored = Store(tmp_path).scan()[0]
    (one,) = view(stored, "tuned").stored
    original = next(two for two in stored if two.path == path)
    assert one.record.key == original.record.key and one.record.cell != original.record.cell
    assert original.record.cell.task.recipe.lr == OWN / 4 and read_record(path) == original.record


def test_the_board_says_which_ruleset_it_asks_for() -> None:
    asked = {grid.task: grid.ruleset for grid in iml_bench.registry.SUITES.get("leaderboard").grids}
    assert {task.task: task.ruleset for task in leaderboard_tasks()} == asked


def test_models_are_compared_by_their_tuned_rows_where_both_have_one(tmp_path: Path) -> None:
    slow = entry("slow", "ref:mlp?hidden=3")
    for one, best in ((None, 1 / 4), (slow, 1 / 2)):
        write_sweep(tmp_path, {best: 6}, entry=one)
        for seed, iml in ((0, 0.3), (1, 0.4)):
            write_result(tmp_path, seed=seed, iml=iml, task=at(OWN * best), entry=one)
    (found,) = iml_bench.compare("mlp-m", "slow", records=tmp_path, ruleset="tuned")
    assert (found.ruleset, found.label, found.n_seeds) == ("tuned", f"{LABEL} tuned", 2)
    with pytest.raises(UsageError, match="unknown model among the records 'mlp-m'"):
        iml_bench.compare("mlp-m", "slow", records=tmp_path, ruleset="shared")


def test_show_prints_what_was_tuned(tmp_path: Path) -> None:
    path = user_entry(tmp_path / "mine.yaml", 0.0005)
    said = command("show", str(path)).stdout
    assert yaml.safe_load(said)["tuned"] == {LABEL: {"recipe.lr": 0.0005}}
    assert "'mine.yaml'" in command("show", "mine.yaml", cwd=tmp_path / "..").stderr
    assert command("show", "mlp-m", "--picture", "x.png").stderr == (
        "error: --picture draws a task's examples, not a model\n"
    )


def test_changes_of_a_sweep_are_said(tmp_path: Path) -> None:
    task = apply_overrides(TASKS.get("vision"), {"until": "stage1"})
    assert changes_of(task) == {"until": "stage1"}
    stored = Stored(path := write_trial(tmp_path, OWN, 100, 3), read_record(path))
    assert stored.record.changes == {"until": "stage1"}
