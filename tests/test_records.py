"""Records: written whole or not at all, read as untrusted input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from making import item_rows, scored, write_failure, write_result

from iml_bench.errors import UsageError
from iml_bench.records import SCHEMA_VERSION, Store, Stored, latest_by_key, read_items, read_record
from iml_bench.spec import cell_key


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
    replaced: list[Path] = []
    original = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.suffix == ".json":
            raise KeyboardInterrupt
        replaced.append(target)
        return original(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_result(tmp_path)
    monkeypatch.undo()
    assert [path.suffix for path in replaced] == [".parquet"]
    assert Store(tmp_path).scan() == ([], [])
    path = write_result(tmp_path)
    assert sorted(found.name for found in path.parent.iterdir()) == sorted([path.name, path.stem + ".parquet"])


def test_a_later_success_goes_before_an_earlier_failure(tmp_path: Path) -> None:
    write_failure(tmp_path / "a")
    write_result(tmp_path / "b")
    stored = Store(tmp_path / "b").scan()[0] + Store(tmp_path / "a").scan()[0]
    assert [entry.record.status for entry in latest_by_key(stored).values()] == ["done"]


def _tampered(path: Path, **fields: object) -> Path:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
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
    from making import entry

    path = write_result(tmp_path / "out", entry=entry("../../<b>evil</b>", "ref:mlp"))
    assert path.resolve().is_relative_to((tmp_path / "out").resolve())
