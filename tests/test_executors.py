"""What holds of every executor, of those of this package and of one that is written here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from making import CPU, command, small_task

from iml_bench.errors import UsageError
from iml_bench.extensions import EXECUTORS
from iml_bench.records import Store, Stored, latest_by_key
from iml_bench.run.executors.base import Event, Executor, Groups, Listener, carry_out, distinct
from iml_bench.run.executors.choose import Where, choose_executor
from iml_bench.run.job import Job, check_job
from iml_bench.runtime import Runtime
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, cell_key


class BackwardExecutor:
    """The last job first: the least that an executor of another package has to do."""

    def __init__(self, workers: int | None = None) -> None:
        pass

    def width(self, runtime: Runtime) -> int:
        return 1

    def run(self, groups: Groups, runtime: Runtime, listen: Listener) -> None:
        for job in distinct(groups):
            check_job(job, runtime)
        jobs = [job for group in groups for job in group]
        for index in reversed(range(len(jobs))):
            carry_out(index, jobs[index], runtime, listen)


EVERY: dict[str, Callable[[], Executor]] = {
    "local": lambda: EXECUTORS.get("local")(workers=2),
    "inline": lambda: EXECUTORS.get("inline")(workers=None),
    "processes": lambda: EXECUTORS.get("processes")(workers=2),
    "of another package": BackwardExecutor,
}
every_executor = pytest.mark.parametrize("name", EVERY)


def job(out: Path, model: str, seed: int = 0) -> Job:
    """A cell at smoke size."""
    return Job(CellSpec(task=small_task(), model=find_model(model), seed=seed), {}, True, out)


def carried_out(name: str, jobs: list[Job], out: Path) -> tuple[list[Event], list[Stored | None]]:
    """What an executor tells, and the records that it leaves, in the order of the jobs."""
    told: list[Event] = []
    EVERY[name]().run([[one] for one in jobs], CPU, told.append)
    known = latest_by_key(Store(out).scan()[0])
    return told, [known.get(cell_key(one.cell)) for one in jobs]


@every_executor
def test_a_failing_cell_keeps_its_error_and_stops_no_other(name: str, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "mlp-xs"), job(tmp_path, "python:models_for_tests:diverging"), job(tmp_path, "oracle")]
    told, records = carried_out(name, jobs, tmp_path)
    assert [one and one.record.status for one in records] == ["done", "failed", "done"]
    error = records[1].record.error if records[1] else None
    assert error is not None and "the loss was nan at step 8 of stage1" in error.message
    assert "Traceback" in error.traceback
    for index, end in enumerate(("done", "failed", "done")):
        kinds = [event.kind for event in told if event.job == index]
        assert (kinds[0], kinds[-1]) == ("start", end) and set(kinds[1:-1]) <= {"progress"}
    trained = [event.progress for event in told if event.job == 0 and event.progress]
    assert trained[-1].step == trained[-1].total
    assert {event.message for event in told if event.message} == {f"{error.kind}: {error.message}"}


@every_executor
def test_what_cannot_be_had_is_found_before_the_first_cell(name: str, tmp_path: Path) -> None:
    told: list[Event] = []
    jobs = [job(tmp_path / "out", "mlp-xs"), job(tmp_path / "out", "timm:inception_v3")]
    with pytest.raises(UsageError, match="cannot take images of 32x32"):
        EVERY[name]().run([[one] for one in jobs], CPU, told.append)
    assert told == [] and list(tmp_path.iterdir()) == []


def test_every_executor_gives_the_same_outcomes_and_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    before, found = dict(os.environ), {}
    for name in EVERY:
        jobs = [job(tmp_path / name, "mlp-xs", seed) for seed in (0, 1)]
        _, records = carried_out(name, jobs, tmp_path / name)
        found[name] = [one.record.items.sha256 for one in records if one and one.record.items]
        if name in EXECUTORS.origins:
            assert (torch.get_num_threads(), dict(os.environ)) == (2, before)
    assert len(found["inline"]) == 2 and set(map(tuple, found.values())) == {tuple(found["inline"])}
    torch.set_num_threads(1)


def test_each_different_pair_of_task_and_model_is_checked_once(tmp_path: Path) -> None:
    jobs = [job(tmp_path, model, seed) for model in ("mlp-xs", "mlp-s") for seed in range(3)]
    assert sorted((one.cell.model.name, one.cell.seed) for one in distinct([jobs[:2], jobs[2:]])) == [
        ("mlp-s", 0),
        ("mlp-xs", 0),
    ]


def test_a_worker_that_dies_leaves_the_record_of_a_failure(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "python:models_for_tests:dying"), job(tmp_path, "oracle")]
    _, records = carried_out("processes", jobs, tmp_path)
    assert [one and one.record.status for one in records] == ["failed", "done"]
    assert records[0] and records[0].record.error and "exit code -9" in records[0].record.error.message


def width(name: str | None, workers: int | None, jobs: int) -> int:
    return choose_executor(Where(name, workers), CPU, jobs).width(CPU)


def test_one_worker_or_one_job_runs_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [width(None, 1, 9), width(None, 4, 1), width(None, 4, 0), width("inline", None, 9)] == [1] * 4
    assert [width(None, 4, 2), width(None, 4, 3), width("processes", 3, 1), width("local", 2, 9)] == [2, 3, 3, 2]
    with pytest.raises(UsageError, match="--workers 2: executor 'inline' runs one cell at a time"):
        width("inline", 2, 9)
    for variable, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(variable, value)
    assert width(None, None, 9) == 1
    for name, workers in ((None, 2), ("processes", 2)):
        with pytest.raises(UsageError, match="processes that share every batch run one cell at a time"):
            width(name, workers, 9)


def test_an_executor_that_does_not_exist_is_one_sentence(tmp_path: Path) -> None:
    for verb in (["run", "--task", "vision"], ["suite", "run", "smoke"]):
        done = command(*verb, "--smoke", "--executor", "proceses", "--out", "out", cwd=tmp_path)
        assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
        assert (
            "unknown executor 'proceses': did you mean 'processes'? (there are local, inline, processes, slurm, ray)"
            in done.stderr
        )
