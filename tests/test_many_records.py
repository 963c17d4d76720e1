"""What is worked out once for many records: it is what each would have by itself, and it is never out of date."""

from __future__ import annotations

import gc
import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import small_cell, write_failure, write_result

import iml_bench.records.store
from iml_bench.errors import UsageError
from iml_bench.records import Store, Stored, read_record
from iml_bench.registry import TASKS
from iml_bench.run import plan as planning
from iml_bench.run.plan import KnownModels, Request, cells_by_model, cells_of, plan
from iml_bench.spec import (
    ModelEntry,
    apply_overrides,
    asked_for,
    cell_key,
    digest_of,
    identity,
    model_key,
    parse_source,
    task_key,
)
from iml_bench.spec.base import remembered
from iml_bench.spec.written import read_yaml
from iml_bench.untrusted import DEEPEST, LONGEST, _all_plain, _find_problem, check_plain, read_bytes

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.sampled_from(["", "a", "\n", "\x00", "\x1f", "\x7f", "\x9f", "\ud800", "x" * LONGEST, "x" * (LONGEST + 1)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b\x00", ""]), inner, max_size=3),
    max_leaves=12,
)


def told(value: Any) -> str | None:
    try:
        _find_problem(value)
    except UsageError as error:
        return str(error)
    return None


@settings(max_examples=300, deadline=None)
@given(PLAIN)
def test_the_quick_look_finds_what_the_long_one_does(value: Any) -> None:
    assert _all_plain(value) == (told(value) is None)


@pytest.mark.parametrize("depth", [DEEPEST - 1, DEEPEST, DEEPEST + 1])
@pytest.mark.parametrize("inner", [0, [], {}, [0], {"a": 0}, {1: 2}])
@pytest.mark.parametrize("around", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_the_depth_is_the_same(depth: int, inner: Any, around: Callable[[Any], Any]) -> None:
    for _ in range(depth):
        inner = around(inner)
    if told(inner) is None:
        check_plain(inner)
    else:
        with pytest.raises(UsageError, match="nested too deep"):
            check_plain(inner)


def test_a_file_that_grows_while_it_is_read_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, shorter = tmp_path / "file", tmp_path / "shorter"
    path.write_bytes(b"12345678")
    shorter.write_bytes(b"123")
    before = shorter.lstat()
    monkeypatch.setattr(Path, "lstat", lambda self: before)
    assert read_bytes(path, 8) == read_bytes(path, 100) == b"12345678"
    with pytest.raises(UsageError, match="it has 8 bytes, and no more than 7 are read"):
        read_bytes(path, 7)


def many(root: Path) -> list[Path]:
    task = TASKS.get("vision")
    other = apply_overrides(task, {"alpha": 0.75})
    return [
        write_result(root, model, seed, task=one)
        for model in ("mlp-m", "mlp-s")
        for one in (task, other)
        for seed in (0, 1)
    ]


def test_records_that_are_read_together_share_what_they_have_in_common(tmp_path: Path) -> None:
    paths = many(tmp_path)
    stored, problems = Store(tmp_path).scan()
    assert (stored, problems) == ([Stored(path, read_record(path)) for path in sorted(paths)], [])
    assert [one.record.model_dump_json() for one in stored] == [
        read_record(one.path).model_dump_json() for one in stored
    ]
    cells = [one.record.cell for one in stored]
    assert len({id(cell.task) for cell in cells}) == len({id(cell.model) for cell in cells}) == 2
    assert len({id(one.record.provenance) for one in stored}) == 1
    for cell in cells:
        data = identity(cell)
        assert cell_key(cell) == digest_of(data)
        assert task_key(cell) == digest_of({"task": data["task"], "protocol": data["protocol"]})
        assert model_key(cell) == digest_of(data["model"])


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["cell"]["task"].update(version="x"),
        lambda data: data["cell"]["task"].update(surprise=1),
        lambda data: data["cell"]["model"].update(source="none:at-all"),
        lambda data: data["provenance"].update(cores=0),
        lambda data: data["cell"].pop("task"),
        lambda data: data["cell"].update(model=None),
        lambda data: data.update(cell=[]),
        lambda data: data.update(provenance="a machine"),
        lambda data: data["cell"].update(seed=5),
        lambda data: data["cell"]["task"].update(alpha=0.25),
    ],
)
def test_a_broken_record_among_others_is_told_of_as_by_itself(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    path, *_ = many(tmp_path)
    data = json.loads(path.read_bytes())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError) as alone:
        read_record(path)
    stored, problems = Store(tmp_path).scan()
    assert (len(stored), problems) == (7, [str(alone.value)])


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the records that stores read."""
    found: list[str] = []

    def watched(path: Path, *more: Any) -> Any:
        found.append(path.name)
        return read_record(path, *more)

    monkeypatch.setattr(iml_bench.records.store, "read_record", watched)
    return found


def test_a_file_that_was_just_written_is_not_relied_on(tmp_path: Path, read: list[str]) -> None:
    many(tmp_path)
    store = Store(tmp_path)
    assert store.scan() == store.scan()
    assert len(read) == 16


def test_who_scans_again_reads_what_has_changed(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iml_bench.records.store, "SETTLED", -(10**18))
    paths, store = many(tmp_path), Store(tmp_path)
    first = store.scan()
    read.clear()
    assert (store.scan(), read) == (first, [])

    newer = write_result(tmp_path, "mlp-l", 0)
    read.clear()
    assert len(store.scan()[0]) == 9 and read == [newer.name]
    paths[0].unlink()
    read.clear()
    assert len(store.scan()[0]) == 8 and read == []

    raw = paths[1].read_bytes()
    exchanged = tmp_path / "exchanged"
    exchanged.write_bytes(raw)
    exchanged.replace(paths[1])
    assert len(store.scan()[0]) == 8 and read == [paths[1].name]
    paths[2].write_bytes(paths[2].read_bytes().replace(b'"seed": 0', b'"seed": 1', 1))
    read.clear()
    stored, problems = store.scan()
    assert (len(stored), len(problems), read) == (7, 1, [paths[2].name])
    assert (store.scan()[1], read) == (problems, [paths[2].name] * 2), "what cannot be used is read every time"


def test_the_record_of_a_failure_is_read_every_time(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iml_bench.records.store, "SETTLED", -(10**18))
    path, store = write_failure(tmp_path, seed=0), Store(tmp_path)
    assert [one.record.status for one in store.scan()[0]] == ["failed"]
    assert [one.record.status for one in store.scan()[0]] == ["failed"]
    assert read == [path.name] * 2
    assert write_result(tmp_path, seed=0) == path
    assert [one.record.status for one in store.scan()[0]] == ["done"]


def test_a_record_that_goes_while_the_folder_is_read_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, *_ = many(tmp_path)

    class Gone(os.PathLike[str]):
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.entry, self.name, self.path = entry, entry.name, entry.path

        def __fspath__(self) -> str:
            return self.path

        def is_dir(self, **how: bool) -> bool:
            return self.entry.is_dir(**how)

        def stat(self, **how: bool) -> os.stat_result:
            if self.path == str(path):
                path.unlink()
            return Path(self.path).stat(**how)

    class Listing:
        def __init__(self, folder: Path) -> None:
            self.entries = scandir(folder)

        def __enter__(self) -> list[Gone]:
            return [Gone(entry) for entry in self.entries]

        def __exit__(self, *_: object) -> None:
            self.entries.close()

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", Listing)
    stored, problems = Store(tmp_path).scan()
    assert len(stored) == 7
    assert problems == [f"{path} is not a record of iml-bench: No such file or directory"]


def test_what_is_remembered_is_of_one_object_and_goes_with_it() -> None:
    asked: list[str] = []

    @remembered
    def name_of(entry: ModelEntry) -> str:
        asked.append(entry.name)
        return entry.name

    model = small_cell("mlp-xs").model
    assert name_of(model) == name_of(model) == "mlp-xs" and asked == ["mlp-xs"]
    copied = model.model_copy(update={"name": "other"})
    assert name_of(copied) == "other"
    assert name_of(model.model_copy()) == "mlp-xs" and len(asked) == 3
    assert model == model.model_copy() and "name_of" not in repr(model.__dict__)
    gone = weakref.ref(copied)
    del copied
    gc.collect()
    assert gone() is None


def test_nobody_changes_what_others_get() -> None:
    source = parse_source("ref:mlp?hidden=[1, 2]")
    source.options["hidden"].append(3)
    source.options["depth"] = 4
    assert parse_source("ref:mlp?hidden=[1, 2]").options == {"hidden": [1, 2]}
    data = read_yaml(b"a: {b: [1]}")
    data["a"]["b"].append(2)
    assert read_yaml(b"a: {b: [1]}") == {"a": {"b": [1]}}
    cell = small_cell("mlp-xs")
    key = cell_key(cell)
    identity(cell)["model"]["source"] = asked_for(cell.model)["source"] = "another"
    assert cell_key(cell) == digest_of(identity(cell)) == key
    assert asked_for(cell.model)["source"] == cell.model.source


def test_a_plan_looks_every_model_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []
    find = planning.find_model

    def watched(name: str, *given: Any, **more: Any) -> ModelEntry:
        asked.append((name, dict(more["fields"])))
        return find(name, *given, **more)

    monkeypatch.setattr(planning, "find_model", watched)
    requests = [
        Request("vision", ("mlp-s", "ref:mlp?depth=3"), (0, 1), {"alpha": alpha}, fields, references=False)
        for alpha in (0.5, 0.75)
        for fields in ({}, {"hidden": 16})
    ]
    jobs = plan(requests, Path("out"))
    assert len(jobs) == len({cell_key(job.cell) for job in jobs}) == 16
    assert asked == [(name, fields) for fields in ({}, {"hidden": 16}) for name in ("mlp-s", "ref:mlp?depth=3")]
    apart = [cell_key(cell) for request in requests for cell, _ in cells_of(request)]
    assert [cell_key(job.cell) for job in jobs] == apart
    plan(requests, Path("out"))
    assert len(asked) == 4 + 8 + 4, "a later plan looks again: files may have changed"


def test_cells_by_model_are_those_of_each_model() -> None:
    request = Request("vision", ("mlp-s", "mlp-m", "mlp-s"), (3, 1), {"alpha": 0.5})
    found = cells_by_model(request, KnownModels())
    assert {name: [(cell.model.name, cell.seed) for cell, _ in cells] for name, cells in found.items()} == {
        "mlp-s": [("mlp-s", 3), ("mlp-s", 1)],
        "mlp-m": [("mlp-m", 3), ("mlp-m", 1)],
    }
    assert all(said == {"alpha": 0.5} for cells in found.values() for _, said in cells)
