"""Disks that are full, gone or broken while a run writes, and records that are damaged when it reads them again."""

from __future__ import annotations

import errno
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from making import CPU, draft_of, item_rows, small_task, write_failure, write_result

from iml_bench.cli.outcome import carry_out_and_show
from iml_bench.errors import UsageError
from iml_bench.library.running import Work
from iml_bench.records import Attachments, Draft, Store, Stored, WriteError, damage_of, read_items, read_record
from iml_bench.records.guard import MARKER, join, leave
from iml_bench.run import job as running
from iml_bench.run.executors.base import Event, Groups, Listener
from iml_bench.run.executors.choose import Where
from iml_bench.run.executors.inline import InlineExecutor
from iml_bench.run.job import Job, record_failure, run_job
from iml_bench.run.session import Session
from iml_bench.runtime import Runtime
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec

TABLE = item_rows(0.3)
OPERATIONS = ("link", "replace", "rename", "open", "fsync", "mkdir", "write")
CODES = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOENT, errno.EPERM, errno.EDQUOT)


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Draft:
    return draft_of(read_record(write_result(tmp_path_factory.mktemp("one"))))


@contextmanager
def failing(at: int, code: int, *, ever_after: bool = False) -> Iterator[list[str]]:
    """The operation ``at`` on files fails, and those after it, too, where that is asked for."""
    done: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in (*OPERATIONS, *(["unlink"] if ever_after else [])):
            real = getattr(os, name)

            def counted(*arguments: Any, real: Any = real, name: str = name, **more: Any) -> Any:
                done.append(name)
                if len(done) - 1 == at or (ever_after and len(done) > at):
                    raise OSError(code, os.strerror(code))
                return real(*arguments, **more)

            patch.setattr(os, name, counted)
        yield done


def files(root: Path) -> set[str]:
    return {path.name for path in root.rglob("*") if path.is_file()}


def scene(root: Path, before: str, draft: Draft) -> Path:
    path = Store(root).path_of(draft.cell)
    if before == "failed":
        write_failure(root)
    if before == "broken":
        path.parent.mkdir(parents=True)
        path.write_text("{")
    if before == "no items":
        Store(root).write(draft, TABLE)
        path.with_suffix(".parquet").write_bytes(b"PAR1")
    return path


@example(before="no items", at=5, code=errno.ENOSPC, ever_after=False)
@given(
    before=st.sampled_from(["nothing", "failed", "broken", "no items"]),
    at=st.integers(0, 16),
    code=st.sampled_from(CODES),
    ever_after=st.booleans(),
)
def test_whatever_operation_fails_the_old_or_the_new_stands(
    tmp_path_factory: pytest.TempPathFactory, draft: Draft, before: str, at: int, code: int, ever_after: bool
) -> None:
    root = tmp_path_factory.mktemp("records")
    path = scene(root, before, draft)
    kept = path.read_bytes() if path.exists() else None
    problem = None
    with failing(at, code, ever_after=ever_after):
        try:
            Store(root).write(draft, TABLE)
        except WriteError as error:
            problem = str(error)
    assert problem is None or ("cannot be written: " in problem and "\n" not in problem)
    stands = Store(root).standing(path)
    if isinstance(stands, Stored) and stands.record.status == "done":
        assert read_items(stands).equals(TABLE)
    else:
        assert problem is not None
        aside = [one.read_bytes() for one in root.rglob("*.json.broken")]
        assert kept is None or kept in ([path.read_bytes()] if path.exists() else aside), "what stood there is lost"
        if before in ("nothing", "failed") and not ever_after:
            assert not [name for name in files(root) if name.endswith(".parquet")], "items without a record"
    if not ever_after:
        assert not [name for name in files(root) if name.startswith(".")]
    Store(root).write(draft, TABLE)
    (one,), problems = Store(root).scan()
    assert problems == [] and damage_of(one) is None, "the next try ends well"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file gets larger than so many bytes: what is written in part is not believed."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 500, 3500])
def test_a_file_that_is_written_in_part_leaves_nothing(tmp_path: Path, draft: Draft, size: int) -> None:
    with largest_file(size), pytest.raises(WriteError, match="cannot be written: File too large"):
        Store(tmp_path).write(draft, TABLE)
    assert files(tmp_path) == set()


def jobs(out: Path, *names: str, seeds: tuple[int, ...] = (0,)) -> tuple[Job, ...]:
    return tuple(
        Job(CellSpec(task=small_task(), model=find_model(name), seed=seed), {}, True, out)
        for name in names
        for seed in seeds
    )


class Meanwhile(InlineExecutor):
    """Something happens to the folder when a cell has begun."""

    def __init__(self, place: int, happens: Callable[[], object]) -> None:
        super().__init__()
        self.place, self.happens = place, happens

    def run(self, groups: Groups, runtime: Runtime, listen: Listener) -> None:
        def heard(event: Event) -> None:
            if event.kind == "start" and event.job == self.place:
                self.happens()
            listen(event)

        super().run(groups, runtime, heard)


def told(out: Path, planned: tuple[Job, ...], place: int, happens: Callable[[], object]) -> dict[int, str]:
    """What a session says of its failed cells."""
    found: dict[int, str] = {}

    def listen(event: Event) -> None:
        if event.kind == "failed":
            found[event.job] = event.message or ""

    Session(out, CPU).run(planned, Meanwhile(place, happens), listen)
    return found


def test_a_folder_that_is_removed_midway_is_not_made_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = told(out, jobs(out, "oracle", "random", "gullible"), 1, lambda: shutil.rmtree(out))
    assert {*found} == {0, 1, 2} and found[0] == "it left no record"
    assert all("is not the folder that this run began in" in found[place] for place in (1, 2))
    assert not out.exists()


def test_another_folder_under_the_path_is_noticed_and_left_alone(tmp_path: Path) -> None:
    """As when a disk is unmounted: the folder below its mount point is there."""
    out, away = tmp_path / "out", tmp_path / "away"

    def unmount() -> None:
        out.rename(away)
        out.mkdir()

    found = told(out, jobs(out, "oracle", "random", "gullible"), 1, unmount)
    assert {*found} == {0, 1, 2}
    assert [*out.iterdir()] == []
    assert len(Store(away).scan()[0]) == 1


def test_what_was_done_before_and_is_gone_is_said(tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = jobs(out, "oracle", "random")
    Session(out, CPU).run(planned[:1])
    found = told(out, planned, 0, lambda: next(out.rglob("*oracle*/*.json")).unlink())
    assert found == {0: "its record is not there any more"}


def test_a_full_disk_stops_no_other_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = Store.write, []

    def full(self: Store, *arguments: Any, **more: Any) -> Path:
        calls.append(arguments)
        if len(calls) == 2:
            with largest_file(600):
                return write(self, *arguments, **more)
        return write(self, *arguments, **more)

    monkeypatch.setattr(Store, "write", full)
    found = told(tmp_path, jobs(tmp_path, "oracle", "random", "gullible"), 0, lambda: None)
    assert {*found} == {1} and "cannot be written: File too large" in found[1]
    assert found[1].startswith(f"it left no record: {tmp_path}/random/vision@2-")
    assert len(Store(tmp_path).scan()[0]) == 2 and len(calls) == 3


def test_the_command_names_the_file_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> Path:
        raise WriteError("DIR/FILE.json cannot be written: No space left on device")

    monkeypatch.setattr(Store, "write", full)
    work = Work(jobs(tmp_path, "oracle", "random"), CPU, tmp_path, Where("inline"))
    assert carry_out_and_show(work, None, as_json=True) == 1
    said = capsys.readouterr().err
    assert said.count("DIR/FILE.json cannot be written: No space left on device") == 4  # as it goes, and at the end
    assert "Traceback" not in said and [*tmp_path.iterdir()] == []


def test_a_failure_that_cannot_be_recorded_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (job,) = jobs(tmp_path / "file" / "out", "oracle")
    message = record_failure(job, datetime.now(UTC), ValueError("no luck"))
    assert message is not None and message.startswith("ValueError: no luck; it left no record: WriteError: ")
    assert "Not a directory" in (run_job(job, CPU) or "")


def test_a_failure_beside_a_done_record_is_none(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "oracle")
    assert run_job(job, CPU) is None
    assert record_failure(job, datetime.now(UTC), ValueError("no luck")) is None


def test_weights_that_cannot_be_written_cost_no_outcome(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "mlp-xs")
    keeping = Runtime(device="cpu", keep=True, probes=(("losses", "initial"),))
    with largest_file(30_000):
        message = run_job(job, keeping)
    assert message is not None and message.startswith("it is done, but weights after stage1 cannot be written: ")
    (one,), problems = Store(tmp_path).scan()
    assert problems == [] and damage_of(one) is None
    assert {attachment.file is None for attachment in one.record.attachments if attachment.kind == "weights"} == {True}
    assert all(attachment.reason for attachment in one.record.attachments if attachment.kind == "weights")
    listed = {attachment.file for attachment in one.record.attachments if attachment.file}
    assert one.record.items is not None
    assert files(tmp_path) == listed | {one.path.name, one.record.items.file}


def test_the_attachments_of_a_cell_that_fails_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(cell: CellSpec, runtime: Runtime, attachments: Attachments) -> None:
        attachments.table("one", "initial", pl.DataFrame({"value": [1.0]}))
        assert files(tmp_path), "made while the cell runs"
        raise ValueError("no luck")

    monkeypatch.setattr(importlib.import_module("iml_bench.run.cell"), "run_cell", made)
    (job,) = jobs(tmp_path, "oracle")
    assert run_job(job, CPU) == "ValueError: no luck"
    assert files(tmp_path) == {Store(tmp_path).path_of(job.cell).name}


def test_usage_errors_leave_neither_folder_nor_marker(tmp_path: Path) -> None:
    class Refusing(InlineExecutor):
        def run(self, groups: Groups, runtime: Runtime, listen: Listener) -> None:
            assert (tmp_path / "a" / "b" / MARKER).is_file()
            raise UsageError("no such model")

    out = tmp_path / "a" / "b"
    with pytest.raises(UsageError, match="no such model"):
        Session(out, CPU).run(jobs(out, "oracle"), Refusing())
    assert [*tmp_path.iterdir()] == []
    assert Session(out, CPU).run(jobs(out, "oracle")) and not (out / MARKER).exists()


def test_a_run_that_ends_does_not_take_the_sign_of_another(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second = join(out), join(out)
    leave(first)
    Store(out, second.text).check()
    with pytest.raises(WriteError, match="is not the folder"):
        Store(out, first.text).check()
    leave(second)
    assert [*out.iterdir()] == []


def test_the_sign_of_a_run_that_was_killed_is_taken_out_by_the_next(tmp_path: Path) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", f"import pathlib, iml_bench.records.guard as g; g.join(pathlib.Path({str(tmp_path)!r}))"]
    )
    assert killed.wait() == 0 and (tmp_path / MARKER).read_text().strip()
    leave(join(tmp_path))
    assert not (tmp_path / MARKER).exists()
    (tmp_path / MARKER).write_text(f"{'0' * 32} {'1' * 16} {killed.pid}\n")
    leave(join(tmp_path))
    assert "1" * 16 in (tmp_path / MARKER).read_text(), "of another machine nothing is known"


def test_the_same_cell_gives_the_same_record_but_for_its_timing(tmp_path: Path, draft: Draft) -> None:
    later = draft.model_copy(update={"timing": draft.timing.model_copy(update={"seconds": {"setup": 1.0}})})
    paths = [Store(tmp_path / name).write(one, TABLE) for name, one in (("a", draft), ("b", later))]
    one, other = (json.loads(path.read_text()) for path in paths)
    assert one != other and one.pop("timing") != other.pop("timing") and one == other
    raw = paths[1].read_text().replace('"setup": 1.0', '"setup": 7.0')
    paths[1].write_text(raw)
    with pytest.raises(UsageError, match="it was changed after it was written"):
        read_record(paths[1])


def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    out = Path("out")
    found = told(out, jobs(out, "oracle", "random"), 1, lambda: os.chdir("elsewhere"))
    assert found == {} and len(Store(tmp_path / "out").scan()[0]) == 2
    assert [*(tmp_path / "elsewhere").iterdir()] == []


def test_files_that_change_after_planning_fail_their_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "net.py"
    source.write_text("def build(task):\n    return 1\n")
    entry = find_model(f"python:{source}:build", small_task())
    assert entry.digest is not None
    job = Job(CellSpec(task=small_task(), model=entry, seed=0), {}, True, tmp_path / "out")
    running.check_unchanged(job.cell, CPU)
    source.write_text("def build(task):\n    return None\n")
    message = run_job(job, CPU)
    assert message is not None and "have changed since the run was planned; give the command again" in message
    source.unlink()
    assert "UsageError" in (run_job(job, CPU) or "")
    world = small_task("text-trex").world
    table = tmp_path / "table"
    table.write_text("one")
    task = small_task("text-trex").model_copy(update={"world": world.identified("text-trex", table)})
    cell = CellSpec(task=task, model=find_model("neox-xs"), seed=0)
    running.check_unchanged(cell, Runtime(device="cpu", data=table))
    table.write_text("other")
    with pytest.raises(UsageError, match="has changed since the run was planned"):
        running.check_unchanged(cell, Runtime(device="cpu", data=table))
