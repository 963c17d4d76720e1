"""Rows and comparisons, from records alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from making import item_rows, small_task, write_failure, write_result

from iml_bench.board import LeaderboardTask, build_rows, compare_models, first_labels, ranked
from iml_bench.errors import UsageError
from iml_bench.records import Store, Stored
from iml_bench.registry import MODELS, TASKS
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
    assert row.internalised
    assert row.scores["discernment"].mean == pytest.approx(0.3 / 0.8)
    assert sum(row.by_seed("discernment").values()) / 3 == pytest.approx(0.3 / 0.8)


def test_one_seed_has_a_blank_interval_with_the_reason(tmp_path: Path) -> None:
    _fill(tmp_path, "mlp-m", [0.2])
    (row,) = build_rows(_stored(tmp_path))
    assert row.score is not None and row.score.low is None and row.score.high is None
    assert "one seed" in row.reasons["iml_low"]
    assert row.internalised is None and row.ranks == {}


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
    found = ranked(rows, {})
    assert [row.ranks for row in found] == [{}, {}, {}]
    assert [row.unranked for row in found] == ["ranks need 8 seeds"] * 2 + [None]


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
    second = TaskSpec.model_validate(TASKS.get("vision").model_dump() | {"version": 7})
    _fill(tmp_path, "mlp-m", [0.3])
    _fill(tmp_path, "mlp-s", [0.3], task=second)
    with pytest.raises(UsageError, match="vision@2 and 'mlp-s' on vision@7; scores of different task versions"):
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


EIGHT = {"mlp-m": [0.2, 0.3], "mlp-s": [0.5, 0.6], "mlp-l": [0.5, 0.6], "mlp-xs": [0.2, 0.3]}


def test_ranked_rows_say_who_is_apart_and_a_stranger_moves_nobody(tmp_path: Path) -> None:
    for model, pair in EIGHT.items():
        _fill(tmp_path, model, pair * 4)
    stored = _stored(tmp_path)
    rows, models = build_rows(stored), first_labels(stored)
    task = LeaderboardTask("vision", rows[0].task_version, "vision", {}, None, tuple(range(8)))
    own = task._replace(models=tuple(MODELS.get(name) for name in ("mlp-m", "mlp-s", "mlp-l")))
    found = {row.model: row for row in ranked(rows, models, (own,))}
    ranks = {name: (row.ranks["iml"].low, row.ranks["iml"].high) for name, row in found.items()}
    assert ranks == {"mlp-s": (1, 2), "mlp-l": (1, 2), "mlp-m": (3, 3), "mlp-xs": (3, 4)}
    assert found["mlp-s"].apart["iml"] == tuple(sorted(found[name].model_key for name in ("mlp-m", "mlp-xs")))
    assert set(found["mlp-m"].ranks) == {"iml", "discernment"}
    compared = compare_models(list(found.values()), ["mlp-m", "mlp-s", "mlp-l"])
    assert {(row.first, row.second): row.separated for row in compared} == {
        ("mlp-m", "mlp-s"): True,
        ("mlp-m", "mlp-l"): True,
        ("mlp-s", "mlp-l"): False,
    }


def test_a_row_whose_seeds_fall_in_two_heaps_says_so(tmp_path: Path) -> None:
    _fill(tmp_path, "mlp-m", [0.1, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 0.4])
    (row,) = build_rows(_stored(tmp_path))
    assert row.heaps is not None
    assert (row.heaps.median, row.heaps.low, row.heaps.high) == pytest.approx((0.25, 0.1, 0.5))


def test_discernment_is_not_measurable_without_uptake(tmp_path: Path) -> None:
    for seed in range(3):
        write_result(tmp_path, "mlp-m", seed, table=item_rows(0.1, base=0.0))
    (row,) = build_rows(_stored(tmp_path))
    assert "discernment" not in row.scores and "not measurable" in row.reasons["discernment"]
    assert row.by_seed("discernment") == {}
