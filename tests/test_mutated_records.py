"""A short form of the mutations of ``benchmarks/faults/run.py``: damaged records are refused and never believed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from iml_bench.records import reading

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "faults"))
mutations, readers = (importlib.import_module(name) for name in ("mutations", "readers"))
SAME = ("white space", "truncation", "seals gone")
"""What may say the same: a record's last line may have no end, and older records have no seals."""
JSON, PARQUET, SEALED, FITTED = mutations.FORMS


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    return mutations.Bench(tmp_path)


@pytest.mark.parametrize(
    ("form", "number"), [(JSON, 60), (PARQUET, 60), (SEALED, 30), (FITTED, 30)], ids=lambda one: str(one)[:20]
)
def test_damaged_records_are_refused_and_never_believed(form: Any, number: int) -> None:
    rows = mutations.try_form(form, number, 1)
    assert [problem for row in rows for problem in row.problems] == []
    assert sum(row.times for row in rows) == number
    if not form.fits:
        assert all(row.held["read"] == 0 for row in rows)
        assert all(row.held["as written"] == 0 for row in rows if row.what not in SAME)


def test_what_is_believed_is_found(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = bench.files[".json"].replace(b'"iml": 0.', b'"iml": 0.1', 1)
    assert raw != bench.files[".json"]
    assert bench.believed(bench.see({".json": raw})) == []
    monkeypatch.setattr(reading, "_sealed", lambda data: (data.pop("seal"), data["timing"].pop("seal")) != ())
    found = bench.believed(bench.see({".json": raw}))
    assert {"leaderboard shows something else", "show shows something else", "fields differ: ['scores']"} <= {*found}
    monkeypatch.undo()
    monkeypatch.setattr(reading, "_content", lambda path, *_: path.read_bytes())
    assert "other items are read" in bench.believed(bench.see({".parquet": bench.other.read_bytes()}))


def test_what_raises_and_what_is_no_sentence_is_found(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(path: Path) -> None:
        raise ValueError("no sentence\nat all")

    monkeypatch.setattr(readers, "damage_of", careless)
    assert [one.split(":")[0] for one in bench.see({}).raised] == ["items"]
    bad = ["two\nlines", "a \x1b[31m sign", "x" * 2000, "Traceback (most recent call last):", ""]
    assert readers.bad_sentences([*bad, "FILE is not a record"]) == bad
