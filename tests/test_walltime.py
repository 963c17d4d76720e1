"""How long cells will take, told from records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from making import write_failure, write_result

from iml_bench.records import Store, Timing
from iml_bench.registry import TASKS
from iml_bench.run.plan import Request, plan
from iml_bench.run.walltime import MEASURED, OTHERS, UNKNOWN, Estimate, WallTimes, total_seconds
from iml_bench.spec import apply_overrides

OUT = Path("results")


def took(seconds: float) -> Timing:
    """The timing of a cell that trained for so long."""
    timed = {"stage1": seconds - 1, "stage2/fold0": 1.0}
    return Timing(started="2026-01-01T00:00:00+00:00", ended="2026-01-01T00:00:10+00:00", seconds=timed)


def cell_time(times: WallTimes, model: str, seed: int = 50, **overrides: Any) -> Estimate:
    """The estimate for a cell of vision."""
    (job, *_) = plan([Request("vision", (model,), seeds=(seed,), overrides=overrides)], OUT)
    return times.estimate(job.cell)


def written(root: Path, *results: tuple[str, int, float, int | None]) -> WallTimes:
    """Records of (model, seed, seconds, parameters) on vision."""
    for model, seed, seconds, parameters in results:
        write_result(root, model, seed, timing=took(seconds), parameters=parameters)
    return WallTimes(Store(root).scan()[0])


def test_the_time_of_the_same_task_and_model_is_the_median_over_seeds(tmp_path: Path) -> None:
    times = written(tmp_path, *(("mlp-m", seed, s, 9) for seed, s in enumerate((10, 11, 90))), ("mlp-s", 0, 5, 9))
    assert cell_time(times, "mlp-m") == (11, MEASURED)
    assert cell_time(times, "mlp-m", alpha=0.5) == (None, UNKNOWN)


def test_without_it_the_same_family_tells_and_then_any_trained_model(tmp_path: Path) -> None:
    times = written(
        tmp_path, ("mlp-m", 0, 10, 9), ("mlp-s", 0, 20, 9), ("convnet-s", 0, 90, 9), ("random", 0, 1.5, None)
    )
    assert cell_time(times, "mlp-l") == (15, OTHERS)
    assert cell_time(times, "vit-plain") == (20, OTHERS)
    assert cell_time(times, "oracle") == (1.5, OTHERS)
    only_reference = written(tmp_path / "other", ("random", 0, 1.5, None))
    assert cell_time(only_reference, "mlp-l") == (None, UNKNOWN)


def test_the_most_alike_number_of_parameters_goes_before_the_median(tmp_path: Path) -> None:
    null = apply_overrides(TASKS.get("vision"), {"alpha": 0.5})
    write_result(tmp_path, "vit-plain", 0, task=null, parameters=900)
    times = written(tmp_path, ("mlp-s", 0, 20, 30), ("mlp-m", 0, 10, 100), ("convnet-s", 0, 90, 2000))
    assert cell_time(times, "vit-plain") == (90, OTHERS)


def test_records_without_times_failed_ones_and_later_sources_do_not_count(tmp_path: Path) -> None:
    write_failure(tmp_path / "a", "mlp-m", 0)
    write_result(tmp_path / "a", "mlp-s", 0)
    write_result(tmp_path / "b", "mlp-m", 0, timing=took(30))
    write_result(tmp_path / "c", "mlp-m", 1, timing=took(70))
    a, b, c = (Store(tmp_path / folder).scan()[0] for folder in "abc")
    assert cell_time(WallTimes(a), "mlp-m") == (None, UNKNOWN)
    assert cell_time(WallTimes(a, b, c), "mlp-m") == (30, MEASURED)


def test_workers_share_the_time_but_no_cell() -> None:
    cells = [Estimate(10, MEASURED), Estimate(20, OTHERS), Estimate(None, UNKNOWN), Estimate(50, MEASURED)]
    assert [total_seconds(cells, workers) for workers in (1, 2, 8)] == [80, 50, 50]
    assert total_seconds([Estimate(10, MEASURED)] * 8, 2) == 40
    assert total_seconds([Estimate(None, UNKNOWN)], 2) is None
