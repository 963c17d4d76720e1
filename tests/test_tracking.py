"""``--track``: one run for every trained cell, steps that never go back, scores at the end."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking as trackers
from making import CPU, small_cell

from iml_bench.records import Store
from iml_bench.run.job import Job, run_job
from iml_bench.run.tracking import tracked
from iml_bench.runtime import Runtime, StageProgress
from iml_bench.spec import CellSpec, cell_key


class Fake:
    """A tracker that keeps what it is told."""

    requires_logging_directory = False
    runs: list[Fake]

    def __init__(self, project: str, **named: str) -> None:
        self.project, self.named, self.logged, self.finished = project, named, [], 0
        self.config: dict[str, Any] = {}

    def start(self) -> None:
        self.runs.append(self)

    def store_init_configuration(self, config: dict[str, Any]) -> None:
        self.config = config

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    """The runs that are begun in place of those of Weights & Biases."""
    begun: list[Fake] = []
    fake = type("FakeOfTest", (Fake,), {"runs": begun})
    monkeypatch.setitem(trackers.LOGGER_TYPE_TO_CLASS, "wandb", fake)
    return begun


def run(cell: CellSpec, out: Path, track: str = "wandb") -> str | None:
    runtime = Runtime(device="cpu", track=track, track_dir=out / "tracking")
    return run_job(Job(cell, {}, smoke=True, out=out), runtime)


def test_every_trained_cell_is_one_run_whose_steps_never_go_back(runs: list[Fake], tmp_path: Path) -> None:
    cells = [small_cell("mlp-xs", seed) for seed in (0, 1)]
    assert [run(cell, tmp_path) for cell in (*cells, small_cell("oracle"))] == [None] * 3
    assert len(runs) == 2, "a reference row is no run"
    for cell, begun in zip(cells, runs, strict=True):
        name = f"{cell.task.label}/mlp-xs/seed{cell.seed}-{cell_key(cell)[:12]}"
        assert (begun.project, begun.named, begun.finished) == ("iml-bench", {"name": name}, 1)
        assert begun.config == {"task": cell.task.label, "model": "mlp-xs", "seed": cell.seed, "key": cell_key(cell)}
        *losses, (last, scores) = begun.logged
        steps = [step for step, _ in losses]
        assert all(before < after for before, after in pairwise(steps))
        recipe = cell.task.recipe
        assert last == steps[-1] == (recipe.stage1.steps or 0) + 4 * (recipe.stage2.steps or 0)
        assert list(dict.fromkeys(name for _, values in losses for name in values)) == ["stage1/loss", "stage2/loss"]
        stored = {one.record.key: one.record.scores for one in Store(tmp_path).scan()[0]}[cell_key(cell)]
        assert stored is not None
        assert scores["iml"] == stored["iml"] and scores["exact_match/reliable"] == stored.exact_match["reliable"]
        assert "iml_attribution" not in scores, "what is not measured is not logged"


def test_tracking_changes_no_outcome(runs: list[Fake], tmp_path: Path) -> None:
    run(small_cell("mlp-xs"), tmp_path / "tracked")
    run_job(Job(small_cell("mlp-xs"), {}, smoke=True, out=tmp_path / "plain"), CPU)
    one, other = (Store(tmp_path / name).scan()[0][0].record for name in ("tracked", "plain"))
    assert one.items == other.items and one.stages == other.stages


def test_the_run_of_a_cell_that_fails_is_ended(runs: list[Fake], tmp_path: Path) -> None:
    message = run(small_cell("python:models_for_tests:diverging"), tmp_path)
    assert message is not None and "nan" in message
    (begun,) = runs
    assert begun.finished == 1 and "iml" not in {name for _, values in begun.logged for name in values}


def test_only_the_first_of_several_processes_tracks(runs: list[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    heard: list[StageProgress] = []
    progress = StageProgress("stage1", 1, 2, 0.5)
    with tracked(small_cell("mlp-xs"), Runtime(track="wandb", report=heard.append)) as tracker:
        tracker.loss(progress)
    assert (runs, heard) == ([], [progress])


def test_steps_are_those_of_the_whole_cell(runs: list[Fake]) -> None:
    heard: list[StageProgress] = []
    with tracked(small_cell("mlp-xs"), Runtime(track="wandb", report=heard.append)) as tracker:
        for stage, step, done in (("stage1", 1, 1), ("stage2", 2, 3), ("stage2", 4, 5), ("stage2", 2, 7)):
            tracker.loss(StageProgress(stage, step, 9, 0.5, done, 20))
    assert [step for step, _ in runs[0].logged] == [1, 3, 5, 7]
    assert len(heard) == 4, "who listened before still hears of it"


def test_tensorboard_shows_one_run_per_cell(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cells = [small_cell("mlp-xs"), small_cell("mlp-xs", recipe__batch_size=8)]
    for cell in (*cells, small_cell("oracle")):
        assert run(cell, tmp_path, "tensorboard") is None
    folders = {path.parent for path in (tmp_path / "tracking").rglob("events*")}
    name = "vision@2/mlp-xs/seed0-{}"
    assert folders == {tmp_path / "tracking" / name.format(cell_key(cell)[:12]) for cell in cells}
    for folder in folders:
        found = EventAccumulator(str(folder)).Reload()
        stage1, stage2 = ([one.step for one in found.Scalars(f"stage{stage}/loss")] for stage in (1, 2))
        assert stage1 == sorted(set(stage1)) and stage2 == sorted(set(stage2)) and stage1[-1] < stage2[0]
        (iml,) = found.Scalars("iml")
        assert iml.step == stage2[-1]
