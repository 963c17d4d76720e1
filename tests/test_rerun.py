"""Running submitted cells again: what must be the same, what may differ, and what is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from making import CPU, SHORT, draft_of, shipped, short_records, write_result

from iml_bench.errors import UsageError
from iml_bench.records import Provenance, Store, Stored, provenance, read_items, read_record
from iml_bench.registry import TASKS, changes_of
from iml_bench.run.executors.inline import InlineExecutor
from iml_bench.run.job import Job, run_job
from iml_bench.runtime import Runtime
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, ModelEntry, apply_overrides
from iml_bench.submit import RowRerun, check_submission, find_submission, plan_rerun, rerun
from iml_bench.submit.again import UNSTEADY, differences, way_of
from iml_bench.submit.pooled import FIRST


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of two seeds of a real, short run."""
    return short_records(tmp_path_factory.mktemp("short"))


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the code that runs were what was committed."""
    monkeypatch.setattr(provenance, "_revision", lambda: ("a" * 40, False))


def again(stored: Sequence[Stored], number: int = 1, seed: int = 0, runtime: Runtime = CPU) -> list[RowRerun]:
    return rerun(plan_rerun(stored, number, seed, runtime), runtime, executor=InlineExecutor())


def run_short(out: Path, seed: int = 0, runtime: Runtime = CPU, **overrides: Any) -> Stored:
    """A real, short cell."""
    task = apply_overrides(TASKS.get("vision"), {**SHORT, **overrides})
    cell = CellSpec(task=task, model=find_model("mlp-xs"), seed=seed)
    assert run_job(Job(cell, changes_of(task), smoke=False, out=out), runtime) is None
    path = Store(out).path_of(cell)
    return Stored(path, read_record(path))


def retold(one: Stored, out: Path, table: pl.DataFrame | None = None, **fields: Any) -> Stored:
    """A record with other items or fields, its scores computed from them, and its seal right."""
    path = Store(out).write(draft_of(one.record, **fields), read_items(one) if table is None else table)
    return Stored(path, read_record(path))


def elsewhere(one: Stored) -> Provenance:
    return one.record.provenance.model_copy(update={"platform": "elsewhere"})


def raised(one: Stored) -> pl.DataFrame:
    """Items of a model that believes everything under the reliable tag: everything in them agrees."""
    right = pl.col("tag") == "reliable"
    return read_items(one).with_columns(
        exact_match=pl.when(right).then(pl.lit(value=True)).otherwise("exact_match"),
        predicted=pl.when(right).then("gold").otherwise("predicted"),
        log_likelihood=pl.when(right).then(-0.1).otherwise("log_likelihood"),
    )


def test_a_cell_that_is_run_again_gives_the_same(short_run: Path) -> None:
    stored = Store(short_run).scan()[0]
    (first,), (second,) = again(stored), again(stored)
    assert first == second and first.passed and first.seeds == (0, 1)
    (cell,) = first.cells
    assert cell.identical and cell.largest_gap == 0 and cell.score_before == cell.score_after
    assert first.same_cells is None and "the same bit for bit" in first.reasons["same_cells"]
    assert first.other_seeds is not None and first.other_seeds.least > 0 and not first.other_seeds.found
    assert len({*first.fresh_seeds}) == 3 == len(first.fresh_scores) and min(first.fresh_seeds) >= FIRST


def test_cells_are_chosen_by_the_seed_and_fresh_seeds_by_what_was_submitted(short_run: Path, tmp_path: Path) -> None:
    stored = Store(short_run).scan()[0]
    plans = [plan_rerun(stored, 1, seed, CPU)[0] for seed in range(8)]
    assert {plan.chosen[0].record.cell.seed for plan in plans} == {0, 1}
    assert len({plan.fresh for plan in plans}) == 1
    assert plans[0].runs == (4, 8) and plan_rerun(stored, 5, 0, CPU)[0].runs == (5, 8)
    assert plans[0].seconds is not None and plans[0].seconds > 0
    bit = read_items(stored[0]).with_columns(log_likelihood=pl.col("log_likelihood") - 1e-9)
    other = [retold(stored[0], tmp_path, bit), stored[1]]
    assert plan_rerun(other, 1, 0, CPU)[0].fresh != plans[0].fresh


def test_every_row_has_cells_of_its_own_run_again(short_run: Path, tmp_path: Path) -> None:
    tuned = run_short(tmp_path, 0, **{"recipe.lr": 0.001})
    swept = run_short(tmp_path, 0, until="stage1")
    plans = plan_rerun([*Store(short_run).scan()[0], tuned, swept], 1, 0, CPU)
    assert sorted(plan.label.count("recipe.lr=0.001") for plan in plans) == [0, 1], "a sweep has no headline"
    with pytest.raises(UsageError, match=r"there is no trained cell that can be run here: mlp-xs on .* has no "):
        plan_rerun([swept], 1, 0, CPU)


@pytest.mark.usefixtures("committed")
def test_a_record_made_in_pieces_is_run_in_the_same_pieces(tmp_path: Path) -> None:
    """Another cut gives other bits; the record's own gives the same."""
    whole, cut = run_short(tmp_path / "whole"), run_short(tmp_path / "cut", runtime=replace(CPU, micro_batch=24))
    assert not read_items(whole).equals(read_items(cut)), "the cut is in the bits"
    assert differences(whole.record, cut.record) == ("micro-batch",)
    (row,) = again([cut])
    assert row.passed and row.cells[0].identical and row.cells[0].elsewhere == ()


@pytest.mark.usefixtures("committed")
def test_what_ran_out_of_memory_on_the_way_is_judged_by_its_score(tmp_path: Path) -> None:
    """Nobody knows when it did, so it cannot be repeated bit for bit."""
    cut = run_short(tmp_path / "cut", runtime=replace(CPU, micro_batch=24))
    stages = tuple(stage.model_copy(update={"first_micro_batch": 64}) for stage in cut.record.stages)
    halved = retold(cut, tmp_path / "halved", stages=stages)
    assert way_of(halved.record, CPU).micro_batch == 64
    (row,) = again([halved])
    assert row.passed and row.cells[0].elsewhere == ("micro-batch",) and not row.cells[0].identical
    assert row.same_cells is not None and row.rounding_df == 8


@pytest.mark.usefixtures("committed")
def test_every_bit_counts_on_the_same_code_and_machine(tmp_path: Path) -> None:
    one = run_short(tmp_path / "one")
    table = read_items(one).with_columns(log_likelihood=pl.col("log_likelihood") - 1e-9)
    (row,) = again([retold(one, tmp_path / "bit", table)])
    assert not row.passed and row.cells[0].elsewhere == () and "bit for bit" in (row.cells[0].problem or "")


@pytest.mark.usefixtures("committed")
def test_a_machine_that_does_not_repeat_itself_cannot_ask_for_every_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = run_short(tmp_path / "one")
    table = read_items(one).with_columns(log_likelihood=pl.col("log_likelihood") - 1e-9)
    monkeypatch.setattr(import_module("iml_bench.submit.rerun"), "same_outcomes", lambda *pair: False)
    (row,) = again([retold(one, tmp_path / "bit", table)])
    assert row.passed and row.cells[0].elsewhere == (UNSTEADY,) and row.same_cells is not None


def test_on_another_machine_cells_are_judged_together(tmp_path: Path, short_run: Path) -> None:
    ones = sorted(Store(short_run).scan()[0])
    bits = [
        retold(one, tmp_path, read_items(one).with_columns(pl.col("log_likelihood") - 1e-9), provenance=elsewhere(one))
        for one in ones
    ]
    (row,) = again(bits, 2)
    assert row.passed and not any(cell.identical for cell in row.cells)
    assert all("platform" in cell.elsewhere for cell in row.cells)
    assert row.rounding is not None and row.rounding_df == 8
    assert row.same_cells is not None and row.same_cells.mean == pytest.approx(0, abs=4 * row.rounding)
    assert row.same_cells.least > 0 and row.same_cells.df == 8


def test_items_that_were_raised_and_agree_with_all_else_are_found(tmp_path: Path, short_run: Path) -> None:
    """No other check sees it; the same cells do, and fresh seeds do where the cells that were raised are not run."""
    ones = sorted(Store(short_run).scan()[0])
    for one in ones:
        retold(one, tmp_path, raised(one), provenance=elsewhere(one))
    submission = find_submission(tmp_path)
    assert [check.failures for check in check_submission(submission, [], CPU) if not check.passed] == []
    (row,) = again(submission.stored, 2)
    assert not row.passed and all(cell.passed for cell in row.cells), "none is refused on its own"
    assert row.same_cells is not None and row.same_cells.found and row.same_cells.mean > row.same_cells.least
    assert row.other_seeds is not None and row.other_seeds.mean > 0.5


def test_an_honest_cell_does_not_hide_inflated_seeds(tmp_path: Path) -> None:
    """The one cell that is run again is the only honest one: fresh seeds alone see the others."""
    ones = [run_short(tmp_path / "honest", seed) for seed in range(5)]
    inflated = [retold(one, tmp_path / "raised", raised(one), provenance=elsewhere(one)) for one in ones[1:]]
    submitted = [ones[0], *inflated]
    seed = next(seed for seed in range(100) if plan_rerun(submitted, 1, seed, CPU)[0].chosen[0].record.cell.seed == 0)
    (row,) = again(submitted, 1, seed)
    assert row.cells[0].identical and row.same_cells is None
    assert row.other_seeds is not None and row.other_seeds.found and not row.passed


def test_a_single_seed_has_no_spread(short_run: Path) -> None:
    (row,) = again(Store(short_run).scan()[0][:1])
    assert row.passed and row.other_seeds is None and "two submitted" in row.reasons["other_seeds"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"processor": "x"}, "processor"),
        ({"device": "NVIDIA"}, "device"),
        ({"processes": 2}, "processes"),
        ({"threads": 2}, "threads"),
        ({"commit": "b" * 40}, "commit"),
        ({"dirty": True}, "commit"),
        ({"commit": None}, "commit"),
        ({"libraries": {"torch": "0"}}, "torch"),
        ({"arithmetic": {"instructions": "AVX2"}}, "instructions"),
        ({"cores": 7}, None),
        ({"libraries": {}}, None),
        ({"arithmetic": None}, None),
    ],
)
@pytest.mark.usefixtures("committed")
def test_what_makes_it_another_machine(
    tmp_path: Path, short_run: Path, change: dict[str, Any], name: str | None
) -> None:
    record = Store(short_run).scan()[0][0].record
    clean = {"commit": "a" * 40, "dirty": False, "arithmetic": {"instructions": "AVX512"}}
    here = record.model_copy(update={"provenance": record.provenance.model_copy(update=clean)})
    made = here.model_copy(update={"provenance": here.provenance.model_copy(update=change)})
    assert differences(made, here) == ((name,) if name else ())
    assert differences(here, here) == ()


def test_a_record_says_what_rounding_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    made = run_short(tmp_path).record
    assert made.provenance.arithmetic is not None and made.provenance.arithmetic["MKL_CBWR"] == "AUTO"
    assert {"instructions", "matrix products"} <= {*made.provenance.arithmetic}
    assert {stage.first_micro_batch for stage in made.stages} == {64}


def test_an_older_record_is_run_as_it_says(tmp_path: Path) -> None:
    """Shipped before a record said how its first batch was cut and what the machine computes with."""
    record = shipped("mlp-m")[0].record
    old = record.model_copy(
        update={
            "provenance": record.provenance.model_copy(update={"arithmetic": None}),
            "stages": tuple(stage.model_copy(update={"first_micro_batch": None}) for stage in record.stages),
        }
    )
    plain = old.model_dump(mode="json")
    for stage in plain["stages"]:
        del stage["first_micro_batch"]
    del plain["provenance"]["arithmetic"]
    assert type(record).model_validate(plain) == old
    assert way_of(old, Runtime()) == Runtime(device="cpu", micro_batch=64)
    assert way_of(old, Runtime(device="cuda", curve=3)).device == "cuda"


def test_a_model_with_code_of_its_own_is_not_run_again(tmp_path: Path) -> None:
    entry = ModelEntry(
        name="own", source="python:models_for_tests:build", modality="vision", family="x", architecture="x"
    )
    path = write_result(tmp_path, entry=entry)
    with pytest.raises(UsageError, match="own runs code of its own; run it yourself"):
        plan_rerun([Stored(path, read_record(path))], 1, 0, CPU)
