"""A folder of records: what is skipped, tried again, resumed, lost and refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from making import CPU, small_task

from iml_bench.errors import UsageError
from iml_bench.protocols.two_stage import TWO_STAGE
from iml_bench.records import Store, Stored
from iml_bench.registry import TASKS
from iml_bench.run.executors.base import Event, Groups, Listener
from iml_bench.run.executors.choose import Where
from iml_bench.run.executors.inline import InlineExecutor
from iml_bench.run.job import Job, record_failure
from iml_bench.run.plan import Request
from iml_bench.run.session import NO_RECORD, Session, Standing
from iml_bench.runtime import Runtime
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec

REFERENCES = tuple(TWO_STAGE.attitudes(TASKS.get("vision")))


class Asked(InlineExecutor):
    """Keeps what it was asked to run, and runs all of it but ``lost`` of the first."""

    def __init__(self, lost: int = 0) -> None:
        super().__init__()
        self.lost, self.asked = lost, []

    def run(self, groups: Groups, runtime: Runtime, listen: Listener) -> None:
        self.asked += [(job.cell.model.name, job.cell.seed) for group in groups for job in group]
        super().run(groups[self.lost :], runtime, lambda event: listen(event._replace(job=event.job + self.lost)))


def jobs(out: Path, *names: str, seeds: Sequence[int] = (0,)) -> list[Job]:
    """Smoke cells of reference learners, which take no time."""
    return [
        Job(CellSpec(task=small_task(), model=find_model(name), seed=seed), {}, True, out)
        for name in names
        for seed in seeds
    ]


def cells(stored: Sequence[Stored]) -> list[tuple[str, int, str]]:
    return [(one.record.cell.model.name, one.record.cell.seed, one.record.status) for one in stored]


def test_what_is_done_is_skipped_and_more_seeds_extend(tmp_path: Path) -> None:
    first, second, third = Asked(), Asked(), Asked()
    session = Session(tmp_path, CPU)
    assert cells(session.run(jobs(tmp_path, "oracle"), first)) == [("oracle", 0, "done")]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    told: list[Event] = []
    both = session.run(jobs(tmp_path, "oracle", seeds=(0, 1)), second, told.append)
    assert cells(both) == [("oracle", 0, "done"), ("oracle", 1, "done")]
    assert {event.job for event in told} == {1}, "an event tells of the place among all jobs"
    assert session.run(jobs(tmp_path, "oracle", seeds=(0, 1)), third) == both
    assert (first.asked, second.asked, third.asked) == ([("oracle", 0)], [("oracle", 1)], [])
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_failed_is_tried_again_and_what_there_is_to_do_is_said_first(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    planned = jobs(tmp_path, "oracle", "random", "gullible")
    Session(tmp_path, CPU).run(planned[:1])
    record_failure(planned[1], datetime.now(UTC), ValueError("no luck"))
    said: list[Standing] = []
    executor = Asked()
    stored = Session(tmp_path, CPU).run(planned, executor, begin=said.append)
    assert executor.asked == [("random", 0), ("gullible", 0)]
    assert {one.record.status for one in stored} == {"done"}
    assert str(said[0]) == (
        f"3 cells: 1 done already, 2 to run, 1 failed before and tried again; 1 worker; records in {tmp_path}"
    )


def test_a_job_that_leaves_no_record_has_failed(tmp_path: Path) -> None:
    told: list[Event] = []
    planned = jobs(tmp_path, "oracle", "random")
    stored = Session(tmp_path, CPU).run(planned, Asked(lost=1), told.append)
    assert cells(stored) == [("random", 0, "done")]
    assert [event for event in told if event.kind == "failed"] == [Event("failed", 0, message=NO_RECORD)]


class Failing(Asked):
    """Says of every cell that it is done, and leaves the record of a failure."""

    def run(self, groups: Groups, runtime: Runtime, listen: Listener) -> None:
        from datetime import UTC, datetime

        for index, (job,) in enumerate(groups):
            record_failure(job, datetime.now(UTC), ValueError("no luck"))
            listen(Event("done", index))


def test_records_have_the_last_word_on_what_failed(tmp_path: Path) -> None:
    told: list[Event] = []
    stored = Session(tmp_path, CPU).run(jobs(tmp_path, "oracle"), Failing(), told.append)
    assert cells(stored) == [("oracle", 0, "failed")]
    assert told[-1] == Event("failed", 0, message="ValueError: no luck")


def test_requests_are_planned(tmp_path: Path) -> None:
    stored = Session(tmp_path, CPU, Where(workers=1)).run([Request("vision", ("oracle",), (3,), smoke=True)])
    assert {one[:2] for one in cells(stored)} == {(name, 3) for name in TWO_STAGE.attitudes(TASKS.get("vision"))}
    assert len(Store(tmp_path).scan()[0]) == len(stored)


def test_a_folder_that_cannot_be_written_is_found_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out, executor = tmp_path / "file" / "out", Asked()
    with pytest.raises(UsageError, match="cannot write records into"):
        Session(out, CPU).run(jobs(out, "oracle"), executor)
    assert executor.asked == []
    with pytest.raises(UsageError, match="cannot run in a session of"):
        Session(tmp_path, CPU).run(jobs(out, "oracle"), executor)
