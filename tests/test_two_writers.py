"""Several processes write the record of one cell: one stands, and no reader sees half of another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from making import draft_of, item_rows, write_failure, write_result

from iml_bench.records import Attachments, Draft, Store, Stored, guard, read_items, read_record
from iml_bench.records import files as record_files

OPERATIONS = ("link", "replace", "rename", "unlink", "open", "fsync", "mkdir")


@cache
def tables() -> tuple[pl.DataFrame, ...]:
    """Outcomes of one cell that differ by rounding."""
    return tuple(
        item_rows(0.3).with_columns(log_likelihood=pl.col("log_likelihood") - shift) for shift in (0, 1e-9, 2e-9)
    )


@cache
def draft() -> Draft:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return draft_of(read_record(write_result(Path(folder))))


@cache
def failure() -> Draft:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return draft_of(read_record(write_failure(Path(folder))))


class Turns:
    """Threads that go on one operation at a time, in an order that is given; the rest of them in turn."""

    def __init__(self, works: list[Callable[[], object]], order: list[int], look: Callable[[], None]) -> None:
        self.works, self.order, self.look = works, order, look
        self.ready = [threading.Semaphore(0) for _ in works]
        self.back = threading.Semaphore(0)
        self.over: set[int] = set()
        self.errors: list[BaseException] = []
        self.own = threading.local()

    def wait(self) -> None:
        """Called before every operation of a worker."""
        index = getattr(self.own, "index", None)
        if index is not None:
            self.back.release()
            self.ready[index].acquire()

    def run(self) -> None:
        threads = [threading.Thread(target=self._work, args=[index], daemon=True) for index in range(len(self.works))]
        for thread in threads:
            thread.start()
        order = iter(self.order)
        last = 0
        while len(self.over) < len(self.works):
            living = [index for index in range(len(self.works)) if index not in self.over]
            last = next(order, last + 1)
            self.ready[living[last % len(living)]].release()
            self.back.acquire()
            self.look()

    def _work(self, index: int) -> None:
        self.own.index = index
        self.ready[index].acquire()
        try:
            self.works[index]()
        except BaseException as error:
            self.errors.append(error)
        self.over.add(index)
        self.back.release()


@contextmanager
def stepwise(turns: Turns, *, links: bool = True, locks: bool = True) -> Iterator[None]:
    """Every operation on files waits for its turn."""
    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            real = getattr(os, name)

            def stepped(*arguments: Any, real: Any = real, name: str = name, **more: Any) -> Any:
                turns.wait()
                if name == "link" and not links and hasattr(turns.own, "index"):
                    raise PermissionError(1, "Operation not permitted")
                return real(*arguments, **more)

            patch.setattr(os, name, stepped)
        patch.setattr(guard.time, "sleep", lambda _: turns.wait())
        patch.setattr(guard, "HAS_LOCKS", locks)
        yield


class Reader:
    """Looks at a record as any process may, at any time."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, list[str]()

    def __call__(self) -> None:
        if not self.path.exists():
            assert not self.seen or self.seen == ["failed"], "a done record has gone"
            return
        record = read_record(self.path)
        if record.items is not None:
            assert len(read_items(Stored(self.path, record)))
        now = record.items.sha256 if record.items else "failed"
        if not self.seen or self.seen[-1] != now:
            self.seen.append(now)


def left(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


@example(before="failed", order=[0, 1] * 40, links=True)
@example(before="nothing", order=[0, 1] * 40, links=False)
@given(
    before=st.sampled_from(["nothing", "failed"]),
    order=st.lists(st.integers(0, 2), max_size=80),
    links=st.booleans(),
)
def test_of_three_writers_one_stands_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory, before: str, order: list[int], links: bool
) -> None:
    root = tmp_path_factory.mktemp("records")
    path = Store(root).path_of(draft().cell)
    if before == "failed":
        Store(root).write(failure(), None)
    reader = Reader(path)
    works: list[Callable[[], object]] = [
        lambda: Store(root).write(draft(), tables()[0]),
        lambda: Store(root).write(draft(), tables()[1]),
        lambda: Store(root).write(failure(), None),
    ]
    turns = Turns(works, order, reader)
    with stepwise(turns, links=links):
        turns.run()
    assert turns.errors == []
    assert len([one for one in reader.seen if one != "failed"]) == 1, "the first that is done stands"
    items = read_record(path).items
    assert items is not None
    assert left(root) == sorted([path.name, items.file])


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("before", ["nothing", "failed"])
def test_one_writer_pauses_anywhere_and_the_other_overtakes_it(tmp_path: Path, before: str, locks: bool) -> None:
    for pause in range(20):
        root = tmp_path / str(pause)
        if before == "failed":
            Store(root).write(failure(), None)
        reader = Reader(Store(root).path_of(draft().cell))
        works: list[Callable[[], object]] = [
            lambda root=root: Store(root).write(draft(), tables()[0]),
            lambda root=root: Store(root).write(draft(), tables()[1]),
        ]
        turns = Turns(works, [0] * pause + [1] * 40, reader)
        with stepwise(turns, locks=locks):
            turns.run()
        assert turns.errors == []
        # Without locks and in place of a failure the later one may stand; it is whole all the same.
        assert len([one for one in reader.seen if one != "failed"]) == 1 or (not locks and before == "failed")
        items = read_record(reader.path).items
        assert items is not None and {reader.path.name, items.file} <= {*left(root)}
        if locks:
            assert len(left(root)) == 2


@given(order=st.lists(st.integers(0, 1), max_size=60), links=st.booleans())
def test_without_locks_no_reader_sees_a_torn_pair(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], links: bool
) -> None:
    root = tmp_path_factory.mktemp("records")
    reader = Reader(Store(root).path_of(draft().cell))
    works: list[Callable[[], object]] = [
        lambda: Store(root).write(draft(), tables()[0]),
        lambda: Store(root).write(draft(), tables()[1]),
    ]
    turns = Turns(works, order, reader)
    with stepwise(turns, links=links, locks=False):
        turns.run()
    assert turns.errors == []
    if links:
        assert len(reader.seen) == 1
    assert not [name for name in left(root) if name.endswith((".tmp", ".part", ".broken"))]


@given(order=st.lists(st.integers(0, 1), max_size=60))
def test_two_probes_at_once_are_both_listed(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    root = tmp_path_factory.mktemp("records")
    path = Store(root).write(draft(), tables()[0])

    def probe(name: str) -> None:
        stored = Stored(path, read_record(path))
        made = Attachments(path)
        made.table(name, "initial", pl.DataFrame({"value": [1.0]}))
        Store(path.parent).attach(stored, made)
        made.clear()

    turns = Turns([lambda: probe("one"), lambda: probe("two")], order, Reader(path))
    with stepwise(turns):
        turns.run()
    assert turns.errors == []
    listed = {one.name: one.file for one in read_record(path).attachments}
    assert sorted(listed) == ["one", "two"]
    assert {*listed.values()} <= {*left(root)} and len(left(root)) == 4


def test_a_table_made_again_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = Store(tmp_path).write(draft(), tables()[0])
    for value in (1.0, 2.0, 2.0):
        made = Attachments(path)
        made.table("one", "initial", pl.DataFrame({"value": [value]}))
        Store(path.parent).attach(Stored(path, read_record(path)), made)
        made.clear()
        (listed,) = read_record(path).attachments
        assert listed == made.made[0] and listed.file is not None
        assert pl.read_parquet(path.with_name(listed.file))["value"].to_list() == [value]
    assert len(left(tmp_path)) == 3


def test_a_done_record_is_not_replaced_and_a_failed_one_is(tmp_path: Path) -> None:
    path = Store(tmp_path).write(failure(), None)
    later = failure().model_copy(update={"smoke": True})
    Store(tmp_path).write(later, None)
    assert read_record(path).smoke, "a newer failure replaces an older one"
    Store(tmp_path).write(draft(), tables()[0])
    before = path.read_bytes()
    Store(tmp_path).write(draft(), tables()[1])
    Store(tmp_path).write(failure(), None)
    assert path.read_bytes() == before
    assert left(tmp_path) == sorted([path.name, path.with_suffix(".parquet").name])


def test_items_that_nobody_lists_are_never_written_over(tmp_path: Path) -> None:
    path = Store(tmp_path).path_of(draft().cell)
    path.parent.mkdir(parents=True)
    path.with_suffix(".parquet").write_bytes(b"of somebody who was killed")
    Store(tmp_path).write(draft(), tables()[0])
    record = read_record(path)
    assert record.items is not None and record.items.file == f"{path.stem}.{record.items.sha256[:8]}.parquet"
    assert read_items(Stored(path, record)).equals(tables()[0])
    assert path.with_suffix(".parquet").read_bytes() == b"of somebody who was killed"


def test_only_the_temporary_files_of_the_dead_are_cleared(tmp_path: Path) -> None:
    folder = Store(tmp_path).path_of(draft().cell).parent
    folder.mkdir(parents=True)
    names = {
        ".iml-0123456789abcdef.tmp": 2,
        ".iml-1123456789abcdef.tmp": 0.5,
        ".iml-0123456789abcdef.part": 100,
        ".iml-1123456789abcdef.part": 200,
        ".vision@1-x-seed0.parquet.123.tmp": 2,
        "notes.tmp": 1000,
        "vision@1-x-seed0.parquet": 1000,
    }
    for name, hours in names.items():
        (folder / name).touch()
        then = (folder / name).stat().st_mtime - hours * record_files.HOUR
        os.utime(folder / name, (then, then))
    Store(tmp_path).write(failure(), None)
    kept = [".iml-0123456789abcdef.part", ".iml-1123456789abcdef.tmp", "notes.tmp", "vision@1-x-seed0.parquet"]
    assert [name for name in left(folder) if name in names] == sorted(kept)


WRITER = """
import sys, pathlib
import polars as pl
from iml_bench.records import Draft, Store
from iml_bench.spec import CellSpec, cell_key
root, shift = pathlib.Path(sys.argv[1]), float(sys.argv[2])
draft = Draft.model_validate_json((root / "draft").read_bytes())
table = pl.read_parquet(root / "items").with_columns(log_likelihood=pl.col("log_likelihood") - shift)
drafts = []
for seed in range(40):
    cell = draft.cell.model_copy(update={"seed": seed})
    drafts.append(draft.model_copy(update={"cell": cell, "key": cell_key(cell)}))
print("ready", flush=True)
sys.stdin.readline()
for draft in drafts:
    Store(root / "out").write(draft, table)
"""


def test_two_processes_and_a_reader(tmp_path: Path) -> None:
    (tmp_path / "draft").write_text(draft().model_dump_json())
    tables()[0].write_parquet(tmp_path / "items")
    for seed in range(0, 40, 3):
        write_failure(tmp_path / "out", seed=seed)
    words = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen(
            [*words, shift], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for shift in ("0", "1e-9")
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdin is not None
        assert writer.stdout.readline() == "ready\n", writer.communicate()[1]
    for writer in writers:
        writer.stdin.write("go\n")  # type: ignore[union-attr]
        writer.stdin.flush()  # type: ignore[union-attr]
    stood: dict[str, str] = {}
    running = True
    while running:
        running = any(writer.poll() is None for writer in writers)
        stored, problems = Store(tmp_path / "out").scan()
        assert problems == []
        for one in stored:
            if one.record.items is not None:
                assert len(read_items(one))
                assert stood.setdefault(one.record.key, one.record.items.sha256) == one.record.items.sha256
    assert [writer.communicate()[1] for writer in writers] == ["", ""]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(stood) == 40
    listed = [name for one in stored for name in (one.path.name, one.record.items.file)]  # type: ignore[union-attr]
    assert left(tmp_path / "out") == sorted(listed)


@pytest.mark.slow
def test_two_commands_on_one_folder_both_end_well(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "iml_bench", "run", "--task", "vision", "--model", "mlp-xs", "--smoke"]
    words += ["--seeds", "1", "--device", "cpu", "--workers", "1", "--out", "both", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ended = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ended
    assert json.loads(ended[0][0]) == json.loads(ended[1][0])
    stored, problems = Store(tmp_path / "both").scan()
    assert problems == [] and all(len(read_items(one)) for one in stored)
    listed = [name for one in stored for name in (one.path.name, one.record.items.file)]  # type: ignore[union-attr]
    assert left(tmp_path / "both") == sorted(listed)
