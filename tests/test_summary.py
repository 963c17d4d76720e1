"""What rows come to over tasks and families, and what is absent."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from making import entry, write_failure, write_result

from iml_bench.board import Board, LeaderboardTask, build_board, model_index, to_csv, to_table
from iml_bench.records import Store
from iml_bench.registry import MODELS, TASKS
from iml_bench.spec import ModelEntry, TaskSpec
from iml_bench.stats import slopes

SECOND = TaskSpec.model_validate(TASKS.get("vision").model_dump() | {"name": "second"})
VERSION = TASKS.get("vision").version
ONE = LeaderboardTask("vision", VERSION, "vision", {}, None, (0, 1, 2))
TWO = LeaderboardTask("second", VERSION, "vision", {}, None, (0, 1, 2))


def board(root: Path, *entries: ModelEntry, required: tuple[LeaderboardTask, ...] = (ONE, TWO)) -> Board:
    return build_board(Store(root).scan()[0], entries, required)


def fill(root: Path, scores: list[float], **more: Any) -> None:
    for seed, iml in enumerate(scores):
        write_result(root, seed=seed, iml=iml, **more)


def test_other_settings_and_versions_do_not_stand_in(tmp_path: Path) -> None:
    fill(tmp_path, [0.2, 0.3, 0.4], task=TaskSpec.model_validate(SECOND.model_dump() | {"version": 7}))
    fill(tmp_path, [0.2, 0.3, 0.4], changes={"alpha": 0.5})
    absent = board(tmp_path, MODELS.get("mlp-m")).absent
    assert {row.task: row.reason for row in absent} == dict.fromkeys(
        (f"vision@{VERSION}", f"second@{VERSION}"), "not run yet"
    )


def test_absent_models_have_a_reason(tmp_path: Path) -> None:
    fill(tmp_path, [0.2, 0.3, 0.4])
    fill(tmp_path, [0.2], model="mlp-s")
    write_failure(tmp_path, "mlp-s", 1)
    wanted = [MODELS.get(name) for name in ("mlp-m", "mlp-s", "convnet-s", "neox-s", "oracle")]
    hub = entry("far", "hf:somewhere/far").model_copy(update={"modality": "any"})
    found = {row.model: row.reason for row in board(tmp_path, *wanted, hub, required=(ONE,)).absent}
    assert found == {
        "mlp-s": "failed on seed 1",
        "convnet-s": "not run yet",
        "far": "not run yet; its weights come from a hub",
    }


def test_smoke_results_are_on_no_board(tmp_path: Path) -> None:
    fill(tmp_path, [0.2, 0.3, 0.4], smoke=True)
    assert board(tmp_path).rows == ()


def family(root: Path, sizes: dict[int, list[float]]) -> None:
    for parameters, scores in sizes.items():
        model = ModelEntry(
            name=f"m{parameters}",
            source=f"ref:mlp?hidden={parameters}",
            modality="vision",
            family="m",
            architecture="m",
        )
        fill(root, scores, entry=model, parameters=parameters)


def test_the_slope_of_a_family_is_per_tenfold_parameters(tmp_path: Path) -> None:
    family(tmp_path, {100: [0.0, 0.1], 1000: [0.1, 0.3], 10000: [0.2, 0.5]})
    (slope,) = [one for one in board(tmp_path).families if one.measure == "IML"]
    assert slope.slope.mean == pytest.approx(0.15)
    assert slope.parameters == (100, 1000, 10000)
    assert slope.slope.low is not None and slope.slope.low < 0.1 < 0.2 < (slope.slope.high or 0)


def test_two_sizes_have_no_slope(tmp_path: Path) -> None:
    family(tmp_path, {100: [0.0, 0.1], 1000: [0.1, 0.3]})
    assert board(tmp_path).families == ()


@given(
    intercept=st.floats(-1, 1),
    slope=st.floats(-1, 1),
    sizes=st.lists(st.integers(1, 10**9), min_size=3, max_size=6, unique=True),
)
def test_points_on_a_line_have_its_slope(intercept: float, slope: float, sizes: list[int]) -> None:
    found = slopes([(size, {7: intercept + slope * float(np.log10(size))}) for size in sizes])
    assert found[7] == pytest.approx(slope, abs=1e-6 / float(np.ptp(np.log10(sizes))))


def test_a_slope_needs_seeds_that_all_sizes_have() -> None:
    assert list(slopes([(10, {0: 0.1, 1: 0.2}), (100, {1: 0.3}), (1000, {1: 0.4, 2: 0.5})])) == [1]
    assert slopes([(10, {0: 0.1}), (100, {1: 0.3}), (1000, {2: 0.5})]) == {}


def test_the_table_and_the_csv_hold_the_rows(tmp_path: Path) -> None:
    fill(tmp_path, [0.2, 0.3, 0.4])
    fill(tmp_path, [0.2], model="oracle")
    rows = board(tmp_path).rows
    table = to_table(rows)
    assert table["iml"].to_list() == [row.mean("iml") for row in rows]
    assert table["exact_match/new_reliable"].to_list() == [row.exact_match["new_reliable"].mean for row in rows]
    first = next(csv.DictReader(io.StringIO(to_csv(rows))))
    assert (first["model"], float(first["iml"]), first["seeds"]) == ("mlp-m", rows[0].mean("iml"), "0 1 2")
    assert to_table([]).is_empty()


def test_a_name_that_looks_like_a_formula_is_text_in_the_csv(tmp_path: Path) -> None:
    fill(tmp_path, [0.2], entry=entry('=HYPERLINK("x")', "ref:mlp?hidden=3"))
    (line,) = csv.DictReader(io.StringIO(to_csv(board(tmp_path).rows)))
    assert line["model"] == '\'=HYPERLINK("x")'


def test_the_model_index_tells_settings_apart(tmp_path: Path) -> None:
    null = TaskSpec.model_validate(TASKS.get("vision").model_dump() | {"alpha": 0.5})
    fill(tmp_path, [0.2, 0.3, 0.4])
    fill(tmp_path, [0.0, 0.0, 0.1], task=null)
    rows = board(tmp_path).rows
    (index,) = yaml.safe_load(model_index(rows))["model-index"]
    found = {
        result["dataset"]["name"]: {metric["type"]: metric["value"] for metric in result["metrics"]}
        for result in index["results"]
    }
    assert {name: metrics["iml"] for name, metrics in found.items()} == {row.label: row.mean("iml") for row in rows}
    assert set(found) == {f"vision@{VERSION}", f"vision@{VERSION} alpha=0.5"}
