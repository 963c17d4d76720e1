"""Hostile records and entries: refused in a sentence each, and nothing they meet breaks on them.

Hypothesis makes some 320 cases: 260 of them must be refused, of 60 it is only asked that nothing breaks.
"""

from __future__ import annotations

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
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from making import command

from iml_bench.board import build_rows
from iml_bench.cli.tables import print_rows
from iml_bench.paths import data_root
from iml_bench.records import SCHEMA_VERSION, Store
from iml_bench.registry import MODELS
from iml_bench.runtime import Runtime
from iml_bench.spec import CellSpec, cell_key
from iml_bench.streams import Streams
from iml_bench.submit import check_submission, find_submission

RESULTS = data_root() / "leaderboard" / "results"
GOOD = sorted((RESULTS / "mlp-m").glob("vision@1-*-seed0.json"))[0]
PLAIN: dict[str, Any] = json.loads(GOOD.read_text())
Json = dict[str, Any]

MEANING = (
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "mlp-m</td><b>", "&lt;x&gt;<i>", "javascript:<x>"),
    *("=HYPERLINK('http://x')", "+1+1", "-2+3", "@SUM(A1)", "=cmd|' /C calc'!A0"),
    *("../../etc/passwd", "/etc/passwd", "..\\..\\x", "a/../../b", "~root", ".", "..", "CON", "x\u0000y"),
    *("two\nlines", "bell\x07", "\x1b[31mred", "\u202egnp.exe", "\ud800", "x" * 300, "x" * 200_000, " ", ""),
)
"""Texts that a browser, a spreadsheet, a shell or a terminal would take for more than a text."""


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value of plain data that holds no other, with where it stands."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for key, part in inside:
        found = True
        yield from leaves(part, (*path, key))
    if not found:
        yield path, value


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
        place = Path(root) / "results" / "mlp-m"
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


def refusals(path: Path) -> list[str]:
    """The sentences of everything that does not pass; each is one line of moderate length that can be printed."""
    before = sorted(part for part in path.parent.rglob("*"))
    checks = check_submission(find_submission(path), [], Runtime(device="cpu"))
    assert sorted(part for part in path.parent.rglob("*")) == before, "a check writes nothing"
    sentences = [failure.problem for check in checks for failure in check.failures]
    for text in sentences:
        assert text.isprintable() and 10 < len(text) < 1200 and "Traceback" not in text, text[:2000]
    assert all(check.passed != bool(check.failures) for check in checks)
    return sentences


def _survives(folder: Path) -> None:
    """What everybody does with a folder of records can be done with this one."""
    stored, problems = Store(folder).scan()
    assert all(text.isprintable() for text in problems)
    rows = build_rows(stored)
    json.dumps([row.model_dump(mode="json") for row in rows], allow_nan=False)
    from rich.console import Console

    print_rows(rows, Console(file=io.StringIO(), width=160))


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


@settings(max_examples=60)
@given(st.sampled_from(LABELS), st.sampled_from(MEANING) | st.sampled_from(MEANING).map(lambda text: "mlp-m" + text))
def test_labels_that_mean_something_elsewhere(label: str, text: str) -> None:
    if text == PLAIN["cell"]["model"].get(label, ""):
        return
    refused(record_writer(changed(("cell", "model", label), text)))


MADE = [path for path in TEXTS if path[0] == "provenance"] + [("timing", "started"), ("items", "file")]


@settings(max_examples=40)
@given(st.sampled_from(MADE), st.sampled_from([text for text in MEANING if set("<=+@\n\x07\x1b\ud800") & set(text)]))
def test_texts_about_the_run_that_mean_something_elsewhere(path: tuple[Any, ...], text: str) -> None:
    refused(record_writer(changed(path, text)))


@settings(max_examples=15)
@given(st.sampled_from(TEXTS), st.integers(100_001, 10_000_000))
def test_texts_without_end(path: tuple[Any, ...], length: int) -> None:
    refused(record_writer(changed(path, "a" * length)))


@settings(max_examples=25)
@given(st.sampled_from(NUMBERS), st.sampled_from(["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 30]))
def test_numbers_that_are_none(path: tuple[Any, ...], number: str) -> None:
    text = json.dumps(changed(path, "@number@")).replace('"@number@"', number)
    refused(record_writer(text))


@settings(max_examples=25)
@given(st.sampled_from(COUNTS), st.integers(-(2**63), -1))
def test_negative_counts(path: tuple[Any, ...], count: int) -> None:
    refused(record_writer(changed(path, count)))


@settings(max_examples=15)
@given(st.text("0123456789abcdef", min_size=64, max_size=64) | st.text(max_size=70))
def test_wrong_keys(key: str) -> None:
    refused(record_writer(changed(("key",), key)))


@settings(max_examples=10)
@given(st.integers(SCHEMA_VERSION + 1, 2**70) | st.sampled_from(["3", 3.0, True, None, 0, -1, [2]]))
def test_schemas_of_the_future(version: Any) -> None:
    refused(record_writer(changed(("schema_version",), version)))


@settings(max_examples=20)
@given(
    st.sampled_from(["iml", "iml_nats", "lift_reliable", "stage1_gap", "iml_se_items"]),
    st.floats(-1, 1, allow_nan=False).filter(lambda by: abs(by) > 1e-9),
)
def test_a_score_that_is_not_that_of_the_items(score: str, by: float) -> None:
    found = refused(record_writer(changed(("scores", score), PLAIN["scores"][score] + by)))
    assert score in " ".join(found)


@settings(max_examples=15)
@given(st.integers(0, len(good_items()) - 1), st.sampled_from(["match", "match and scores", "all but likelihood"]))
def test_one_flipped_outcome(row: int, forged: str) -> None:
    """The digest is refreshed; where the scores are, too, the predicted answer or the log-likelihood tells."""
    from iml_bench.records import columns_of
    from iml_bench.stats import score_items

    table = good_items()
    match, said, right = (table[name].to_list() for name in ("exact_match", "predicted", "gold"))
    # Forging all of it makes a wrong answer of one that was more likely than all others together.
    if forged == "all but likelihood":
        likely = table["log_likelihood"].to_list()
        row = max((r for r in range(len(match)) if match[r]), key=lambda r: likely[r])
        said[row] = next(text for text in right if text != right[row])
    match[row] = not match[row]
    table = table.with_columns(pl.Series("exact_match", match), pl.Series("predicted", said))
    record = changed(("smoke",), False)
    if forged != "match":
        record["scores"] = score_items(columns_of(table)).model_dump()
    refused(with_items(table, record))


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
    assert "2,050 rows, and the record says 1,000,000" in sentence


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
    assert f"are not those of vision@1 with seed {seed}" in alone
    assert "data_digest" in alone
    shutil.copyfile(GOOD, path.with_name(GOOD.name))
    shutil.copyfile(GOOD.with_suffix(".parquet"), path.with_name(GOOD.name).with_suffix(".parquet"))
    assert "one is a copy of the other" in " ".join(refusals(tmp_path / "results"))
    _survives(tmp_path)


def test_another_models_outcomes(tmp_path: Path) -> None:
    record = changed(("cell", "model"), MODELS.get("mlp-l").model_dump(mode="json"))
    cell = CellSpec.model_validate(record["cell"])
    path = Store(tmp_path / "results").path_of(cell)
    path.parent.mkdir(parents=True)
    record["key"] = cell_key(cell)
    record["items"]["file"] = path.with_suffix(".parquet").name
    path.write_text(json.dumps(record))
    shutil.copyfile(GOOD.with_suffix(".parquet"), path.with_suffix(".parquet"))
    board = Store(RESULTS).scan()[0]
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
    record = changed(("cell", "task", "groups", "reliable"), 10**9)
    record["changes"] = {"alpha": PLAIN["cell"]["task"]["alpha"], "groups.reliable": 10**9}
    record["changes"] = {key: value for key, value in record["changes"].items() if (key, value) != ("alpha", 1.0)}
    record["key"] = cell_key(CellSpec.model_validate(record["cell"]))
    assert "is not generated for a check" in " ".join(refused(record_writer(record)))


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside" / GOOD.name
    outside.parent.mkdir()
    shutil.copyfile(GOOD, outside)
    place = tmp_path / "results" / "mlp-m"
    place.mkdir(parents=True)
    (place / GOOD.name).symlink_to(outside)
    (tmp_path / "results" / "folder").symlink_to(outside.parent)
    (place / "void.json").symlink_to(tmp_path / "nothing")
    assert all(sentence.endswith("it is a link") for sentence in refusals(tmp_path / "results"))
    assert len(refusals(tmp_path / "results")) == 2
    (place / GOOD.name).unlink()
    (place / "void.json").unlink()
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


@settings(max_examples=60)
@given(st.sampled_from([path for path, _ in LEAVES]), JSON)
def test_anything_anywhere_breaks_nothing(path: tuple[Any, ...], value: Any) -> None:
    """Some of these are harmless (another description); what is not refused must still do no harm."""
    with folder_with(record_writer(changed(path, value))) as folder:
        refusals(folder)
        _survives(folder)


ENTRY: Json = {"source": "ref:mlp?hidden=77", "modality": "vision", "family": "mlp", "architecture": "perceptron"}
BOMB = "a: &a [x,x,x]\n" + "".join(f"{b}: &{b} [*{a},*{a},*{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))


def entry_refusals(text: str | bytes, name: str = "fine") -> list[str]:
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / f"{name}.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return refusals(path)


def test_the_good_entry_passes() -> None:
    assert entry_refusals(yaml.safe_dump({"name": "fine", **ENTRY})) == []


@settings(max_examples=40)
@given(
    st.sampled_from(["family", "architecture", "notes", "licence", "size"]),
    st.sampled_from([text for text in MEANING if set("<=+@\n\x07\x1b\ud800\u202e") & set(text) or len(text) > 1000]),
)
def test_entries_that_mean_something_elsewhere(field: str, text: str) -> None:
    assert entry_refusals(json.dumps({"name": "fine", **ENTRY, field: text}))


@pytest.mark.parametrize("name", ["A", "-x", ".x", "a b", "a<b>", "=1+1", "x" * 80, "mlp-m", "\u202egnp"])
def test_names_that_are_not_plain_or_taken(name: str) -> None:
    assert entry_refusals(yaml.safe_dump({"name": name, **ENTRY}, allow_unicode=True), name)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", "- " * 5000, "[" * 5000, "\x00", BOMB, "x" * 10_000_000, b"\xff\xfe\x00", "a: !!python/none"),
        "!!python/object/apply:os.system ['true']",
        *(f"{{name: fine, source: '{source}'}}" for source in ("x:y", "timm:", "ref:mlp?a=[[[", "hf:a?b=2020-99-99")),
        *(yaml.safe_dump({"name": "fine", **ENTRY, "size": value}) for value in (float("nan"), -1, ["x"], None)),
        yaml.safe_dump({"name": "fine", **ENTRY, "more": 1}),
        yaml.safe_dump({"name": "other", **ENTRY}),
        yaml.safe_dump({"name": "fine", **ENTRY, "source": "ref:mlp?hidden=128"}),
        yaml.safe_dump({"name": "fine", **ENTRY, "source": "ref:mlp?hidden=" + "1" * 2000}),
    ],
)
def test_files_that_are_no_entry(text: str | bytes) -> None:
    assert len(entry_refusals(text)) == 1


def test_the_command_line_says_the_same_and_writes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "results" / "mlp-m"
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
