"""Rows and comparisons, from records alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from making import small_task, write_failure, write_result

from iml_bench.board import build_rows, compare_models
from iml_bench.errors import UsageError
from iml_bench.records import Store, Stored
from iml_bench.registry import TASKS
from iml_bench.spec import TaskSpec


def _stored(root: Path) -> list[Stored]:
    return Store(root).scan()[0]


def _fill(root: Path, model: str, scores: list[float], **more: object) -> None:
    for seed, iml in enumerate(scores):
        write_result(root, model, seed, iml, **more)  # type: ignore[arg-type]


def test_a_row_is_the_mean_over_seeds_with_its_interval(tmp_path: Path) -> None:
    _fill(tmp_path, "mlp-m", [0.2, 0.3, 0.4])
    (row,) = build_rows(_stored(tmp_path))
    assert row.score is not None and row.score == row.scores["iml"]
    assert (row.score.mean, row.score.n) == (pytest.approx(0.3), 3)
    assert row.score.low is not None and row.score.high is not None and row.score.low < 0.3 < row.score.high
    assert [seed["iml"] for seed in row.per_seed] == pytest.approx([0.2, 0.3, 0.4])
    assert row.normalised == pytest.approx(0.3 / 0.9)
    assert row.internalised


def test_one_seed_has_a_blank_interval_with_the_reason(tmp_path: Path) -> None:
    _fill(tmp_path, "mlp-m", [0.2])
    (row,) = build_rows(_stored(tmp_path))
    assert row.score is not None and row.score.low is None and row.score.high is None
    assert "one seed" in row.reasons["iml_low"]
    assert row.tier is None


def test_settings_are_never_mixed(tmp_path: Path) -> None:
    null = TaskSpec.model_validate(TASKS.get("vision").model_dump() | {"alpha": 0.5})
    _fill(tmp_path, "mlp-m", [0.2, 0.3])
    _fill(tmp_path, "mlp-m", [0.0, 0.1], task=null)
    rows = build_rows(_stored(tmp_path))
    assert sorted((str(row.changes), round(row.mean("iml") or 0, 3)) for row in rows) == [
        ("{'alpha': 0.5}", 0.05),
        ("{}", 0.25),
    ]


def test_references_come_last_and_are_not_ranked(tmp_path: Path) -> None:
    _fill(tmp_path, "oracle", [0.5, 0.5])
    _fill(tmp_path, "mlp-s", [0.2, 0.2])
    _fill(tmp_path, "mlp-m", [0.4, 0.4])
    rows = build_rows(_stored(tmp_path))
    assert [row.model for row in rows] == ["mlp-m", "mlp-s", "oracle"]
    assert [row.tier for row in rows] == [1, 2, None]


def test_failed_cells_are_counted_and_explained(tmp_path: Path) -> None:
    write_result(tmp_path, "mlp-m", 0, 0.2)
    write_failure(tmp_path, "mlp-m", 1)
    write_failure(tmp_path, "mlp-s", 0)
    rows = {row.model: row for row in build_rows(_stored(tmp_path))}
    assert (rows["mlp-m"].n_seeds, rows["mlp-m"].failed_seeds) == (1, (1,))
    assert rows["mlp-s"].scores == {}
    assert "nan at step 7" in rows["mlp-s"].reasons["iml"]


def test_compare_pairs_shared_seeds(tmp_path: Path) -> None:
    _fill(tmp_path, "mlp-m", [0.3, 0.4, 0.5])
    _fill(tmp_path, "mlp-s", [0.2, 0.2, 0.4, 0.5])
    (row,) = compare_models(build_rows(_stored(tmp_path)), ["mlp-m", "mlp-s"])
    assert row.seeds == (0, 1, 2)
    assert row.difference.mean == pytest.approx(0.4 / 3)
    assert row.p is not None and row.p_holm == row.p


def test_compare_refuses_other_task_versions(tmp_path: Path) -> None:
    second = TaskSpec.model_validate(TASKS.get("vision").model_dump() | {"version": 2})
    _fill(tmp_path, "mlp-m", [0.3])
    _fill(tmp_path, "mlp-s", [0.3], task=second)
    with pytest.raises(UsageError, match="vision@1 and 'mlp-s' on vision@2; scores of different task versions"):
        compare_models(build_rows(_stored(tmp_path)), ["mlp-m", "mlp-s"])


def test_compare_refuses_other_settings_and_other_tasks(tmp_path: Path) -> None:
    _fill(tmp_path, "mlp-m", [0.3])
    _fill(tmp_path, "mlp-s", [0.3], task=small_task())
    with pytest.raises(UsageError, match="share no seed with the same settings"):
        compare_models(build_rows(_stored(tmp_path)), ["mlp-m", "mlp-s"])
    _fill(tmp_path, "neox-s", [0.3], task=TASKS.get("text"))
    with pytest.raises(UsageError, match="no task in common"):
        compare_models(build_rows(_stored(tmp_path)), ["mlp-m", "neox-s"])


def test_compare_suggests_the_nearest_name(tmp_path: Path) -> None:
    _fill(tmp_path, "mlp-m", [0.3])
    with pytest.raises(UsageError, match="did you mean 'mlp-m'"):
        compare_models(build_rows(_stored(tmp_path)), ["mlpm", "mlp-m"])
