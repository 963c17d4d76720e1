"""Records that are damaged when a run reads them again: said, never believed, run again and kept aside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import CPU, draft_of, item_rows, write_result
from test_session import jobs

from iml_bench.errors import UsageError
from iml_bench.records import Draft, Store, Stored, damage_of, read_items, read_record
from iml_bench.run.display import RunDisplay
from iml_bench.run.session import Session, Standing

TABLE = item_rows(0.3)


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Draft:
    return draft_of(read_record(write_result(tmp_path_factory.mktemp("one"))))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "another number": lambda path: path.write_bytes(path.read_bytes().replace(b"2", b"3", 1)),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00" * 50),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: path.symlink_to(path.rename(path.with_name("elsewhere"))),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("which", [".json", ".parquet"])
def test_a_damaged_record_is_said_run_again_and_kept(tmp_path: Path, which: str, damage: str) -> None:
    planned = jobs(tmp_path, "oracle")
    (one,) = Session(tmp_path, CPU).run(planned)
    whole = one.record.model_dump(exclude={"timing"})
    DAMAGE[damage](one.path.with_suffix(which))
    said: list[Standing] = []
    (again,) = Session(tmp_path, CPU).run(planned, begin=said.append)
    assert again.record.model_dump(exclude={"timing", "items"}) == {k: v for k, v in whole.items() if k != "items"}
    assert damage_of(again) is None and again.path == one.path
    if (which, damage) != (".json", "gone"):
        assert str(one.path.with_suffix("")) in said[0].broken[0]
        # A record whose very items were made again is whole again.
        assert damage == "gone" or [*tmp_path.rglob("*.broken")]
    assert Store(tmp_path).scan()[1] == []
    assert Session(tmp_path, CPU).run(planned, begin=said.append) and said[1].to_do == ()


def test_other_items_in_place_of_those_that_are_gone(tmp_path: Path, draft: Draft) -> None:
    path = Store(tmp_path).write(draft, TABLE)
    before = path.read_bytes()
    path.with_suffix(".parquet").unlink()
    other = TABLE.with_columns(log_likelihood=pl.col("log_likelihood") - 1e-9)
    assert Store(tmp_path).write(draft, other) == path
    assert read_items(Stored(path, read_record(path))).equals(other)
    assert [one.read_bytes() for one in tmp_path.rglob("*.broken")] == [before]


def test_the_display_counts_many_broken_records(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    RunDisplay([]).begin(Standing(7, tuple(range(7)), 0, 1, tmp_path, tuple(f"file{n} is broken" for n in range(7))))
    said = capsys.readouterr().err
    assert "file4 is broken; its cell is run again" in said and "file5" not in said and "and so of 2 more" in said


def test_a_record_of_a_newer_version_is_not_replaced(tmp_path: Path) -> None:
    planned = jobs(tmp_path, "oracle")
    (one,) = Session(tmp_path, CPU).run(planned)
    data = {name: value for name, value in json.loads(one.path.read_text()).items() if name != "seal"}
    one.path.write_text(json.dumps(data | {"schema_version": 99}))
    before = one.path.read_bytes()
    with pytest.raises(UsageError, match="install a newer iml-bench"):
        Session(tmp_path, CPU).run(planned)
    assert one.path.read_bytes() == before and len([*one.path.parent.iterdir()]) == 2


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, draft: Draft) -> Stored:
    path = Store(tmp_path_factory.mktemp("written")).write(draft, TABLE)
    return Stored(path, read_record(path))


@given(st.data())
def test_no_changed_byte_is_believed(tmp_path_factory: pytest.TempPathFactory, written: Stored, data: Any) -> None:
    root = tmp_path_factory.mktemp("changed")
    for source in (written.path, written.path.with_suffix(".parquet")):
        raw = bytearray(source.read_bytes())
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255).filter(lambda value, now=raw[at]: value != now))
        cut = data.draw(st.none() | st.integers(0, len(raw)))
        changed = root / source.name
        changed.write_bytes(bytes(raw if cut is None else source.read_bytes()[:cut]))
    try:
        record = read_record(root / written.path.name)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert record == written.record, "only what says the same is read"
    whole = (root / written.path.with_suffix(".parquet").name).read_bytes()
    items = written.record.items
    assert items is not None
    same = hashlib.sha256(whole).hexdigest() == items.sha256
    assert (damage_of(Stored(root / written.path.name, written.record)) is None) == same
    Store(root).scan()
