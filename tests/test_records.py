"""Records: written whole or not at all, read as untrusted input."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from making import RESULTS, draft_of, entry, item_rows, scored, write_failure, write_result

from iml_bench.errors import UsageError
from iml_bench.records import (
    SCHEMA_VERSION,
    Store,
    Stored,
    as_named,
    latest_by_key,
    read_items,
    read_record,
    record_path,
)
from iml_bench.registry import TASKS
from iml_bench.spec import CellSpec, cell_key
from iml_bench.spec.seeds import LIMIT
from iml_bench.submit.single import place_problems


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write_result(tmp_path, iml=0.3)
    record = read_record(path)
    items = read_items(Stored(path, record))
    assert record.status == "done"
    assert record.key == cell_key(record.cell)
    assert items.equals(item_rows(0.3))
    assert record.scores == scored(items)


def test_a_failed_cell_keeps_its_traceback_and_has_no_scores(tmp_path: Path) -> None:
    record = read_record(write_failure(tmp_path))
    assert record.status == "failed"
    assert record.error is not None and record.error.traceback
    assert record.scores is None


def test_a_kill_before_the_json_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[Path] = []
    original = os.link

    def killed(source: Path, target: Path) -> None:
        if target.suffix == ".json":
            raise KeyboardInterrupt
        placed.append(target)
        original(source, target)

    monkeypatch.setattr(os, "link", killed)
    with pytest.raises(KeyboardInterrupt):
        write_result(tmp_path)
    monkeypatch.undo()
    assert [path.suffix for path in placed] == [".parquet"]
    assert Store(tmp_path).scan() == ([], [])
    path = write_result(tmp_path)
    assert sorted(found.name for found in path.parent.iterdir()) == sorted([path.name, path.stem + ".parquet"])


def test_a_later_success_goes_before_an_earlier_failure(tmp_path: Path) -> None:
    write_failure(tmp_path / "a")
    write_result(tmp_path / "b")
    stored = Store(tmp_path / "b").scan()[0] + Store(tmp_path / "a").scan()[0]
    assert [entry.record.status for entry in latest_by_key(stored).values()] == ["done"]


def _tampered(path: Path, **fields: object) -> Path:
    """A record with other fields, as older versions wrote them: without a seal."""
    data = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in data.items() if name != "seal"}))
    return path


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = _tampered(write_result(tmp_path), schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(
        UsageError, match=f"schema {SCHEMA_VERSION + 1} .* reads up to {SCHEMA_VERSION}; install a newer"
    ):
        read_record(path)


@pytest.mark.parametrize("text", ["not json", "[1]", "{}", '{"a": NaN}', '{"schema_version": 1}'])
def test_a_file_that_is_no_record_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is not a record of iml-bench"):
        read_record(path)


def test_a_changed_specification_does_not_fit_its_key(tmp_path: Path) -> None:
    path = write_result(tmp_path)
    cell = json.loads(path.read_text())["cell"]
    cell["seed"] = 99
    with pytest.raises(UsageError, match="key does not belong"):
        read_record(_tampered(path, cell=cell))


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a valid record"):
        read_record(_tampered(write_result(tmp_path), surprise=1))


def test_changed_items_are_noticed(tmp_path: Path) -> None:
    path = write_result(tmp_path, iml=0.3)
    item_rows(0.4).write_parquet(path.with_suffix(".parquet"))
    with pytest.raises(UsageError, match="is not the file"):
        read_items(Stored(path, read_record(path)))
    path.with_suffix(".parquet").unlink()
    with pytest.raises(UsageError, match="is missing"):
        read_items(Stored(path, read_record(path)))


def test_scan_names_what_it_cannot_read(tmp_path: Path) -> None:
    write_result(tmp_path)
    (tmp_path / "notes.json").write_text("{}")
    stored, problems = Store(tmp_path).scan()
    assert len(stored) == 1
    assert len(problems) == 1 and "notes.json" in problems[0]


def test_a_hostile_model_name_stays_inside_the_folder(tmp_path: Path) -> None:
    path = write_result(tmp_path / "out", entry=entry("../../<b>evil</b>", "ref:mlp"))
    assert path.resolve().is_relative_to((tmp_path / "out").resolve())


LONG_TASK = "t" * 200


def test_names_of_records_are_what_they_were(tmp_path: Path) -> None:
    cell = read_record(write_result(tmp_path, seed=3)).cell
    assert str(record_path(cell)) == f"mlp-m/vision@2-{cell_key(cell)[:12]}-seed3.json"
    shipped, problems = Store(RESULTS).scan()
    assert problems == []
    assert all(stored.path == Store(RESULTS).path_of(stored.record.cell) for stored in shipped)


@pytest.mark.parametrize("model", ["m" * 200, "模型" * 100, "Ünï/cödé", "...", "é" * 200])
@pytest.mark.parametrize("task", ["vision", "t" * 70, LONG_TASK, "t" * 400])
def test_every_name_fits_a_file_and_its_temporary_ones(task: str, model: str) -> None:
    spec = TASKS.get("vision").model_copy(update={"name": task, "version": 99999})
    cells = [CellSpec(task=spec, model=entry(model, "ref:mlp"), seed=seed) for seed in (LIMIT - 1, 0)]
    first, other = (record_path(cell) for cell in cells)
    assert first != other
    assert task in first.name or len(task) > 200
    assert first.parts == (first.parent.name, first.name) and first.parent.name not in ("", ".", "..")
    assert re.fullmatch(r"[A-Za-z0-9._@-]+", first.parent.name + first.name)
    assert len(f"{first.stem}.{'0' * 8}.parquet") <= 255 >= len(first.name)


@pytest.mark.parametrize("task", ["t" * 70, LONG_TASK])
@pytest.mark.parametrize("model", ["m" * 200, "模型" * 100])
def test_records_with_long_names_are_written_and_read_back(tmp_path: Path, task: str, model: str) -> None:
    spec = TASKS.get("vision").model_copy(update={"name": task})
    path = write_result(tmp_path, task=spec, entry=entry(model, "ref:mlp"))
    (stored,), problems = Store(tmp_path).scan()
    assert (stored.path, problems, list(place_problems(stored))) == (path, [], [])
    assert read_items(stored).equals(item_rows(0.3)) and stored.record.cell.task.name == task
    moved = path.rename(path.with_name("t.json"))
    assert list(place_problems(stored._replace(path=moved))) == [f"a record of this cell is named {path.name!r}"]


def test_a_record_under_another_name_is_told_where_its_items_lie(tmp_path: Path) -> None:
    stored = Stored(path := write_result(tmp_path), read_record(path))
    assert as_named(stored, path.name) == path.read_bytes()
    renamed = tmp_path / "other.json"
    renamed.write_bytes(as_named(stored, renamed.name))
    assert read_record(renamed).items.file == "other.parquet"  # type: ignore[union-attr]


def test_a_draft_becomes_the_record_that_says_the_same(tmp_path: Path) -> None:
    record = read_record(write_result(tmp_path / "a", seed=2, parameters=7))
    again = read_record(Store(tmp_path / "b").write(draft_of(record), item_rows(0.3)))
    assert again.model_dump(exclude={"items"}) == record.model_dump(exclude={"items"})
