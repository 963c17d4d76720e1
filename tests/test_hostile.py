"""Hostile records and entries: refused in a sentence each, and nothing they meet breaks on them.

Hypothesis makes 203 cases here and 40 entries in ``test_hostile_entries``. Of 30 it is only asked that nothing breaks;
all others must be refused.
"""

from __future__ import annotations

import atexit
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hostile import MEANING, leaves, refusals
from hypothesis import given, settings
from hypothesis import strategies as st
from making import command, copy_records, scored, shipped, short_records, write_result
from rich.console import Console

from iml_bench.board import build_board, leaderboard_tasks
from iml_bench.cli.tables import print_rows
from iml_bench.paths import data_root
from iml_bench.records import SCHEMA_VERSION, Store
from iml_bench.registry import MODELS, TASKS, changes_of
from iml_bench.runtime import Runtime
from iml_bench.site.build import build_site
from iml_bench.spec import CellSpec, apply_overrides, cell_key
from iml_bench.streams import Streams
from iml_bench.submit import check_submission, find_submission

RESULTS = data_root() / "leaderboard" / "results"
MADE = Path(tempfile.mkdtemp(prefix="iml-bench-hostile-"))
atexit.register(shutil.rmtree, MADE, ignore_errors=True)
GOOD = copy_records(sorted(Store(short_records(MADE / "short")).scan()[0])[:1], MADE / "good")[0]
"""A real, short record, without the seal that would say at once that it was changed."""
PLAIN: dict[str, Any] = json.loads(GOOD.read_text())
Json = dict[str, Any]
ENTRIES = [row.spec for row in MODELS.list() if row.spec is not None]
REQUIRED = leaderboard_tasks()

LEAVES = list(leaves(PLAIN))
TEXTS = [path for path, value in LEAVES if isinstance(value, str)]
NUMBERS = [path for path, value in LEAVES if isinstance(value, int | float) and not isinstance(value, bool)]
PRESETS = ("cell", "task", "smoke")
"""Overrides that were not applied; any plain value may stand there."""
COUNTS = [
    path
    for path in NUMBERS
    if isinstance(dict(LEAVES)[path], int) and path[:3] != PRESETS and path[:1] not in (("changes",), ("scores",))
]


MARKUP = ("<script>alert", "<img src=x", "</td><b>", "<i>", "javascript:<x>")
"""Of ``MEANING``, what a browser would act on if it stood in a page as it is."""


def changed(path: tuple[Any, ...], value: Any) -> Json:
    """The good record with one value changed."""
    record: Json = json.loads(GOOD.read_text())
    holder = record
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return record


@contextmanager
def folder_with(write: Callable[[Path], None]) -> Iterator[Path]:
    """A folder of results with the good record's place, which ``write`` fills."""
    with tempfile.TemporaryDirectory() as root:
        place = Path(root) / "results" / "mlp-xs"
        place.mkdir(parents=True)
        write(place)
        yield place.parent


def record_writer(record: Json | str | bytes, items: bytes | None = None) -> Callable[[Path], None]:
    """Writes a record, and its items as they were or others."""

    def write(place: Path) -> None:
        raw = json.dumps(record) if isinstance(record, dict) else record
        (place / GOOD.name).write_bytes(raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass"))
        parquet = GOOD.with_suffix(".parquet")
        (place / parquet.name).write_bytes(parquet.read_bytes() if items is None else items)

    return write


def with_items(table: pl.DataFrame, record: Json | None = None, **more: Any) -> Callable[[Path], None]:
    """Writes a record whose items are ``table``, with their digest and number of rows as they should be."""
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    raw = buffer.getvalue()
    record = record or json.loads(GOOD.read_text())
    record["items"] |= {"rows": len(table), "sha256": hashlib.sha256(raw).hexdigest()} | more
    return record_writer(record, raw)


def good_items() -> pl.DataFrame:
    return pl.read_parquet(GOOD.with_suffix(".parquet"))


def _survives(folder: Path) -> None:
    """What everybody does with a folder of records can be done with this one: tables, files of data, the page."""
    stored, problems = Store(folder).scan()
    assert all(text.isprintable() for text in problems)
    board = build_board(stored, ENTRIES, REQUIRED)
    json.dumps(board.model_dump(mode="json"), allow_nan=False)
    print_rows(board.rows, Console(file=io.StringIO(), width=160))
    files = build_site(board, stored, ENTRIES, REQUIRED, problems)
    for name, content in files.items():
        if name.endswith(".html"):
            found = [markup for markup in MARKUP if markup in content.decode()]
            assert not found, f"{name} holds {found[0]!r} unescaped"
    shown = [name for name in files if ".." in Path(name).parts or name.startswith("/") or not name.isprintable()]
    assert not shown, "a file outside the page's folder"


def refused(write: Callable[[Path], None]) -> list[str]:
    """The sentences, of which there is at least one."""
    with folder_with(write) as folder:
        found = refusals(folder)
        _survives(folder)
    assert found
    return found


def test_the_good_record_passes() -> None:
    with folder_with(record_writer(PLAIN)) as folder:
        assert refusals(folder) == []
        _survives(folder)


LABELS = ("name", "family", "architecture", "notes", "licence", "size", "source", "digest", "modality", "tokenizer")


@settings(max_examples=45)
@given(st.sampled_from(LABELS), st.sampled_from(MEANING) | st.sampled_from(MEANING).map(lambda text: "mlp-m" + text))
def test_labels_that_mean_something_elsewhere(label: str, text: str) -> None:
    if text == PLAIN["cell"]["model"].get(label, ""):
        return
    assert len(refused(record_writer(changed(("cell", "model", label), text)))) == 1


MADE = [path for path in TEXTS if path[0] == "provenance"] + [("timing", "started"), ("items", "file")]


@settings(max_examples=30)
@given(st.sampled_from(MADE), st.sampled_from([text for text in MEANING if set("<=+@\n\x07\x1b\ud800") & set(text)]))
def test_texts_about_the_run_that_mean_something_elsewhere(path: tuple[Any, ...], text: str) -> None:
    assert len(refused(record_writer(changed(path, text)))) == 1


@settings(max_examples=12)
@given(st.sampled_from(TEXTS), st.integers(100_001, 10_000_000))
def test_texts_without_end(path: tuple[Any, ...], length: int) -> None:
    assert len(refused(record_writer(changed(path, "a" * length)))) == 1


@settings(max_examples=20)
@given(st.sampled_from(NUMBERS), st.sampled_from(["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 30]))
def test_numbers_that_are_none(path: tuple[Any, ...], number: str) -> None:
    text = json.dumps(changed(path, "@number@")).replace('"@number@"', number)
    assert len(refused(record_writer(text))) == 1


@settings(max_examples=20)
@given(st.sampled_from(COUNTS), st.integers(-(2**63), -1))
def test_negative_counts(path: tuple[Any, ...], count: int) -> None:
    assert len(refused(record_writer(changed(path, count)))) == 1


@settings(max_examples=12)
@given(st.text("0123456789abcdef", min_size=64, max_size=64) | st.text(max_size=70))
def test_wrong_keys(key: str) -> None:
    assert len(refused(record_writer(changed(("key",), key)))) == 1


@settings(max_examples=10)
@given(st.integers(SCHEMA_VERSION + 1, 2**70) | st.sampled_from(["4", 4.0, True, None, 0, -1, [2]]))
def test_schemas_of_the_future(version: Any) -> None:
    assert len(refused(record_writer(changed(("schema_version",), version)))) == 1


@settings(max_examples=12)
@given(
    st.sampled_from(["iml", "iml_nats", "uptake", "stage1_gap", "iml_se_items"]),
    st.floats(-1, 1, allow_nan=False).filter(lambda by: abs(by) > 1e-9),
)
def test_a_score_that_is_not_that_of_the_items(score: str, by: float) -> None:
    found = refused(record_writer(changed(("scores", score), PLAIN["scores"][score] + by)))
    assert score in " ".join(found)


@settings(max_examples=12)
@given(st.integers(0, len(good_items()) - 1), st.sampled_from(["match", "match and scores"]))
def test_one_flipped_outcome(row: int, forged: str) -> None:
    """The digest is refreshed; where the scores are, too, the predicted answer tells."""
    table = good_items()
    match = table["exact_match"].to_list()
    match[row] = not match[row]
    table = table.with_columns(pl.Series("exact_match", match))
    record = changed(("smoke",), False)
    if forged != "match":
        record["scores"] = scored(table).model_dump()
    refused(with_items(table, record))


def test_a_flipped_outcome_with_all_but_its_likelihood(tmp_path: Path) -> None:
    """An answer that was more likely than all others together is called wrong, by another predicted answer too."""
    (path,) = copy_records(shipped("mlp-xs", seeds="0"), tmp_path)
    table = pl.read_parquet(path.with_suffix(".parquet"))
    match, said, likely = (table[name].to_list() for name in ("exact_match", "predicted", "log_likelihood"))
    row = max((row for row, right in enumerate(match) if right), key=lambda row: likely[row])
    match[row], said[row] = False, next(text for text in table["gold"] if text != said[row])
    table = table.with_columns(pl.Series("exact_match", match), pl.Series("predicted", said))
    table.write_parquet(path.with_suffix(".parquet"))
    record = json.loads(path.read_text()) | {"scores": scored(table).model_dump()}
    record["items"]["sha256"] = hashlib.sha256(path.with_suffix(".parquet").read_bytes()).hexdigest()
    path.write_text(json.dumps(record))
    assert "answers are no exact match, though more likely than all others together" in " ".join(refusals(path))


BROKEN: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "a row less": lambda table: table.head(len(table) - 1),
    "rows twice": lambda table: pl.concat([table, table.head(5)]),
    "other order": lambda table: table.reverse(),
    "no outcome": lambda table: table.drop("exact_match"),
    "a column more": lambda table: table.with_columns(pl.lit("x").alias("more")),
    "gaps": lambda table: table.with_columns(pl.lit(None, pl.Float64).alias("log_likelihood")),
    "nan": lambda table: table.with_columns(pl.lit(float("nan")).alias("log_likelihood")),
    "infinite": lambda table: table.with_columns(pl.lit(float("-inf")).alias("log_likelihood")),
    "certain beyond doubt": lambda table: table.with_columns(pl.lit(0.5).alias("log_likelihood")),
    "numbers for texts": lambda table: table.with_columns(pl.lit(1).alias("gold")),
    "long answers": lambda table: table.with_columns(pl.lit("x" * 20_000).alias("predicted")),
    "other answers": lambda table: table.with_columns(pl.lit("Z").alias("gold")),
    "other tags": lambda table: table.with_columns(pl.lit("reliable").alias("tag")),
    "no rows": lambda table: table.head(0),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_items_that_are_not_the_tasks(broken: str) -> None:
    refused(with_items(BROKEN[broken](good_items())))


@pytest.mark.parametrize("raw", [b"", b"PAR1", b"PAR1" + b"\xff" * 200 + b"PAR1", None])
def test_items_that_are_no_table(raw: bytes | None) -> None:
    raw = GOOD.with_suffix(".parquet").read_bytes()[:-100] + b"PAR1" if raw is None else raw
    record = changed(("items", "sha256"), hashlib.sha256(raw).hexdigest())
    (sentence,) = refused(record_writer(record, raw))
    assert "it is not a Parquet file" in sentence


def test_a_number_of_rows_that_is_not_the_tables() -> None:
    (sentence,) = refused(with_items(good_items(), rows=10**6))
    assert f"{len(good_items()):,} rows, and the record says 1,000,000" in sentence


@pytest.mark.parametrize("seed", [1, 7])
def test_a_seed_that_is_a_copy_of_another(seed: int, tmp_path: Path) -> None:
    """Key, streams and digest are those of the claimed seed: the items and the data are not."""
    record = changed(("cell", "seed"), seed)
    cell = CellSpec.model_validate(record["cell"])
    record |= {"key": cell_key(cell), "streams": Streams(seed).as_dict()}
    path = Store(tmp_path / "results").path_of(cell)
    path.parent.mkdir(parents=True)
    record["items"]["file"] = path.with_suffix(".parquet").name
    path.write_text(json.dumps(record))
    shutil.copyfile(GOOD.with_suffix(".parquet"), path.with_suffix(".parquet"))
    alone = " ".join(refusals(path))
    assert f"are not those of vision@2 with seed {seed}" in alone
    assert "data_digest" in alone
    shutil.copyfile(GOOD, path.with_name(GOOD.name))
    shutil.copyfile(GOOD.with_suffix(".parquet"), path.with_name(GOOD.name).with_suffix(".parquet"))
    assert "one is a copy of the other" in " ".join(refusals(tmp_path / "results"))
    _survives(tmp_path)


def test_another_models_outcomes(tmp_path: Path) -> None:
    record = changed(("cell", "model"), MODELS.get("mlp-l").model_dump(mode="json")) | {"parameters": 339_496}
    cell = CellSpec.model_validate(record["cell"])
    path = Store(tmp_path / "results").path_of(cell)
    path.parent.mkdir(parents=True)
    record["key"] = cell_key(cell)
    record["items"]["file"] = path.with_suffix(".parquet").name
    path.write_text(json.dumps(record))
    shutil.copyfile(GOOD.with_suffix(".parquet"), path.with_suffix(".parquet"))
    board = Store(GOOD.parent).scan()[0]
    checks = check_submission(find_submission(path), board, Runtime(device="cpu"))
    (failure,) = [failure for check in checks for failure in check.failures]
    assert "one is a copy of the other" in failure.problem


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"null", b"[]", b'{"schema_version": 1, "cell": 1}'),
        *(GOOD.read_bytes()[:-40], GOOD.read_bytes() * 2, GOOD.read_bytes().decode().encode("utf-16")),
        *(b'{"cell": 1, "cell": 2, "schema_version": 1}', b" " * 6_000_000, b"9" * 10_000),
    ],
)
def test_files_that_are_no_record(raw: bytes) -> None:
    (sentence,) = refused(record_writer(raw))
    assert GOOD.name in sentence


def test_a_giant_world_is_not_generated() -> None:
    record = changed(("cell", "task", "groups", "reliable"), 10**6)
    record["changes"] = {**PLAIN["changes"], "groups.reliable": 10**6}
    record["key"] = cell_key(CellSpec.model_validate(record["cell"]))
    assert "is not generated for a check" in " ".join(refused(record_writer(record)))


def test_a_change_that_is_said_may_still_be_hostile(tmp_path: Path) -> None:
    task = apply_overrides(TASKS.get("text"), {"render.question": "<script>{attribute} {alias}"})
    path = write_result(tmp_path, "neox-m", task=task, changes=changes_of(task))
    assert "changes.render.question: '<script>{attribute} {alias}' holds < or >" in " ".join(refusals(path))
    _survives(tmp_path)


def test_every_library_is_looked_at() -> None:
    libraries = {"<b>": "1", **PLAIN["provenance"]["libraries"]}
    (sentence,) = refused(record_writer(changed(("provenance", "libraries"), libraries)))
    assert sentence.startswith("provenance.libraries: '<b>' holds < or >")


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside" / GOOD.name
    outside.parent.mkdir()
    shutil.copyfile(GOOD, outside)
    place = tmp_path / "results" / "mlp-xs"
    place.mkdir(parents=True)
    (place / GOOD.name).symlink_to(outside)
    (tmp_path / "results" / "folder").symlink_to(outside.parent)
    (place / "void.json").symlink_to(tmp_path / "nothing")
    assert all(sentence.endswith("it is a link") for sentence in refusals(tmp_path / "results"))
    assert len(refusals(tmp_path / "results")) == 3
    (place / GOOD.name).unlink()
    (place / "void.json").unlink()
    (tmp_path / "results" / "folder").unlink()
    shutil.copyfile(GOOD, place / GOOD.name)
    (place / GOOD.name).with_suffix(".parquet").symlink_to(GOOD.with_suffix(".parquet"))
    (sentence,) = refusals(tmp_path / "results")
    assert sentence.endswith("it is a link")
    _survives(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30)
@given(st.sampled_from([path for path, _ in LEAVES]), JSON)
def test_anything_anywhere_breaks_nothing(path: tuple[Any, ...], value: Any) -> None:
    """Some of these are harmless (another description); what is not refused must still do no harm."""
    with folder_with(record_writer(changed(path, value))) as folder:
        refusals(folder)
        _survives(folder)


def test_the_command_line_says_the_same_and_writes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "results" / "mlp-xs"
    place.mkdir(parents=True)
    hostile = changed(("cell", "model", "name"), "<script>\x1b[31m")
    record_writer(hostile)(place)
    (place / "void.json").write_bytes(b"[" * 100_000)
    before = sorted(tmp_path.rglob("*"))
    found = command("submit", "--check", str(tmp_path), cwd=tmp_path)
    assert found.returncode == 1
    assert "Traceback" not in found.stdout + found.stderr
    assert "\x1b" not in found.stdout and "void.json is not a record of iml-bench: it is nested" in found.stdout
    shown = command("leaderboard", "--records", str(tmp_path), cwd=tmp_path)
    assert shown.returncode == 0 and shown.stderr.count("left out: ") == 2
    assert sorted(tmp_path.rglob("*")) == before
