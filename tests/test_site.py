"""The pages: what they say is what the board holds, whatever names the records bring."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from posixpath import normpath
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
from making import command, entry, write_result
from reading_pages import Element, Page, data_of
from site_records import HOSTILE, REQUIRED, entries, read, write_records

from iml_bench.board import Board, compare_models, words
from iml_bench.records import Store, Stored, as_named, read_items, read_record
from iml_bench.registry import TASKS
from iml_bench.site.build import build_site
from iml_bench.site.names import slug, unique_slugs
from iml_bench.stats import Interval
from iml_bench.submit.single import place_problems

COLUMNS = {"iml_rank", "discernment_rank", "n_seeds", "chance", "iml"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of records."""
    folder = tmp_path_factory.mktemp("records")
    write_records(folder)
    return folder


@pytest.fixture(scope="module")
def board(root: Path) -> Board:
    """Their board."""
    return read(root)[1]


@pytest.fixture(scope="module")
def files(root: Path) -> dict[str, bytes]:
    """Their pages."""
    return _build(root)


@pytest.fixture(scope="module")
def pages(files: Mapping[str, bytes]) -> dict[str, Page]:
    """The pages, parsed."""
    return {name: Page(content) for name, content in files.items() if name.endswith(".html")}


def _build(root: Path) -> dict[str, bytes]:
    stored, board, left_out = read(root)
    return build_site(board, stored[::-1], entries(), REQUIRED, left_out)


def _rows(board: Board) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["task_key"], row["model_key"]): row for row in board.model_dump(mode="json")["rows"]}


def test_built_again_elsewhere_it_is_byte_identical(root: Path, files: Mapping[str, bytes], tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "of another name")
    program = (
        "import sys, hashlib, pathlib; sys.path.insert(0, sys.argv[1]); from test_site import _build\n"
        "files = _build(pathlib.Path(sys.argv[2]))\n"
        "print(hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path / "of another name")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""},
    )
    assert done.stdout.strip() == hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()


def test_every_number_is_the_boards(pages: Mapping[str, Page], board: Board) -> None:
    rows, seen = _rows(board), set()
    for name, page in pages.items():
        for cell in page.find("td", "data-column"):
            where, column = cell.context, cell.attributes["data-column"]
            if "data-model-key" not in where:
                continue
            row = rows[where["data-task-key"], where["data-model-key"]]
            if column.endswith("_rank"):
                _check_rank(cell, row["ranks"].get(column.removesuffix("_rank")))
                seen.add((name, where["data-task-key"], where["data-model-key"], None, column))
                continue
            if "data-seed" in where:
                row = next(seed for seed in row["per_seed"] if seed["seed"] == int(where["data-seed"]))
            group = column.removeprefix("exact_match.")
            interval = row["exact_match"][group] if group != column else row.get("scores", {}).get(column)
            expected = interval["mean"] if interval else row.get(column)
            assert json.loads(cell.attributes["data-value"]) == expected, (name, column)
            bounds = interval or {"low": None}
            if "data-low" in cell.attributes:
                shown = {end: json.loads(cell.attributes[f"data-{end}"]) for end in ("low", "high")}
                assert shown == {end: bounds[end] for end in shown}, (name, column)
                assert "nothing" in cell.said or all(f"{abs(bound):.2f}" in cell.said for bound in shown.values())
            else:
                assert bounds["low"] is None or column == "iml_se_items", (name, column)
            if isinstance(expected, float):
                digits = 3 if column == "iml_se_items" else 2
                assert f"{abs(expected):.{digits}f}" in cell.said
            elif expected is None:
                assert not any(letter.isdigit() for letter in cell.said)
            else:
                written = words.count(expected) if column == "parameters" and not row["reference"] else str(expected)
                assert cell.said.split()[0] == written or (row["reference"] and cell.said == words.NOT_MEASURED)
            seen.add((name, where["data-task-key"], where["data-model-key"], where.get("data-seed"), column))
    index = {entry[1:] for entry in seen if entry[0] == "index.html"}
    shown = {key: COLUMNS | {name for name in row["scores"] if "_se_" not in name} for key, row in rows.items()}
    wanted = {(*key, None, column) for key, row in rows.items() for column in shown[key] if not row["reference"]}
    assert wanted <= index
    on_models = {entry[1:] for entry in seen if entry[0].startswith("models/")}
    for key, row in rows.items():
        assert {(*key, None, f"exact_match.{group}") for group in row["exact_match"]} <= on_models
        assert {(*key, str(seed), "iml") for seed in row["seeds"]} <= on_models
        assert {(*key, None, column) for column in shown[key]} <= on_models


def _check_rank(cell: Element, ranks: dict[str, int] | None) -> None:
    if ranks is None:
        assert (cell.attributes["data-value"], cell.said) == ("null", words.NOT_MEASURED)
        return
    low, high = ranks["low"], ranks["high"]
    assert json.loads(cell.attributes["data-value"]) == [low, high]
    assert cell.said.rstrip("*") == (str(low) if low == high else f"{low}-{high}")
    assert cell.said.endswith("*") is (low == 1)


def test_slopes_are_the_boards(pages: Mapping[str, Page], board: Board) -> None:
    page = pages["index.html"]
    slopes = [c.attributes for c in page.find("td", "data-column") if c.attributes["data-column"] == "slope"]
    assert [json.loads(cell["data-value"]) for cell in slopes] == [row.slope.mean for row in board.families] != []
    assert [json.loads(cell["data-low"]) for cell in slopes] == [row.slope.low for row in board.families]


def test_paired_differences_are_those_of_compare(files: Mapping[str, bytes], board: Board) -> None:
    ((kind, key, found),) = data_of(files["assets/pairs-vision-2.js"])
    assert (kind, key) == ("pairs", "vision-2")
    rows = [row for row in board.rows if row.label == "vision@2"]
    by_slug = dict(zip(found["models"], _in_page_order(files, rows), strict=True))
    shown = {}
    for first, second, *numbers in found["pairs"]:
        pair = frozenset(by_slug[found["models"][position]].model for position in (first, second))
        shown[pair] = (by_slug[found["models"][first]].model, numbers)
    trained = [row for row in rows if not row.reference and row.score is not None]
    expected = compare_models(trained, [row.model for row in trained])
    assert len(expected) == len(trained) * (len(trained) - 1) // 2 > 10
    assert {row.separated for row in expected} == {True, None}
    for row in expected:
        first, (n, difference, low, high, p, apart, text, p_text, apart_text) = shown[
            frozenset((row.first, row.second))
        ]
        sign = 1 if first == row.first else -1
        wanted = row.difference
        assert (n, difference, p) == (row.n_seeds, pytest.approx(sign * wanted.mean), row.p)
        assert (apart, apart_text) == (row.separated, words.apart(row.separated))
        assert wanted.low is not None and wanted.high is not None
        assert [low, high] == pytest.approx(sorted((sign * wanted.low, sign * wanted.high)))
        assert text == words.with_interval(Interval(mean=difference, low=low, high=high, n=n))
        assert p_text == words.p_value(p)


def _in_page_order(files: Mapping[str, bytes], rows: list[Any]) -> list[Any]:
    page = Page(files["index.html"])
    by_key = {(row.task_key, row.model_key): row for row in rows}
    keys = [(r.context["data-task-key"], r.context["data-model-key"]) for r in page.find("tr", "data-model")]
    return [by_key[key] for key in keys if key in by_key]


def test_hostile_names_stay_text(files: Mapping[str, bytes], pages: Mapping[str, Page]) -> None:
    names = [element.said for element in pages["index.html"].find("a", "href")]
    for name in HOSTILE:
        assert name in names
    for path, page in pages.items():
        assert all(e.attributes.get("alt") for e in page.find("img")), path
        assert len(page.find("title")) == 1, path
        assert all("src" in script.attributes for script in page.find("script")), path
        for element in page.elements:
            assert not any(attribute.startswith("on") for attribute in element.attributes), path
            for attribute in ("href", "src"):
                assert not element.attributes.get(attribute, "").startswith("javascript:"), path
    for path, content in files.items():
        if path.startswith(("assets/charts-", "assets/pairs-", "assets/curve")):
            assert b"<" not in content and b"\xe2\x80\xa8" not in content, path
        assert ".." not in Path(path).parts and not path.startswith("/") and len(path) < 160


def test_every_link_leads_somewhere_in_the_folder(files: Mapping[str, bytes], pages: Mapping[str, Page]) -> None:
    ids = {name: {e.attributes["id"] for e in page.elements if "id" in e.attributes} for name, page in pages.items()}
    followed = set()
    for name, page in pages.items():
        for element in page.elements:
            for attribute in ("href", "src"):
                link = element.attributes.get(attribute)
                if link is None or link.startswith(("data:", "https://arxiv.org/")):
                    continue
                address, fragment = urldefrag(link)
                target = normpath(f"{name}/../{unquote(address)}") if address else name
                assert target in files, (name, link)
                assert not fragment or "=" in fragment or fragment in ids[target], (name, link)
                followed.add(target)
    assert {path for path in files if path.startswith(("records/", "models/", "tasks/"))} <= followed


def test_what_is_not_there_is_said(pages: Mapping[str, Page], board: Board) -> None:
    page = pages["index.html"]
    absent = [element.attributes["data-absent"] for element in page.find("li", "data-absent")]
    assert sorted(absent) == sorted(row.model for row in board.absent) and "convnet-s" in absent
    assert "failed on seed 2" in " ".join(element.said for element in page.find("summary"))
    (left_out,) = [element for element in page.find("details", "id") if element.attributes["id"] == "left-out"]
    assert "vision@2: not ranked, ranks need 8 seeds" in page.find("main", "id")[0].said
    assert "<img src=x onerror=alert(1)>.json is not a record of iml-bench: it is not JSON" in left_out.said
    failed = Page.find(pages["models/convnet-s.html"], "tr", "data-seed")
    assert "the loss was nan at step 7" in failed[2].said


def test_nothing_internalised_is_not_ranked_and_comes_last(pages: Mapping[str, Page]) -> None:
    rows = [row for row in pages["index.html"].find("tr", "data-model") if row.context["data-task"] == "vision-2"]
    said = [row.said for row in rows]
    place = next(index for index, text in enumerate(said) if "vit-plain" in text)
    assert "nothing internalised (+0.00)" in said[place]
    assert all("nothing" in text or "failed" in text for text in said[place:]) and place > 5
    cells = [c for c in pages["index.html"].find("td", "data-order") if c.context["data-model"] == "vit-plain"]
    order = {cell.attributes["data-column"]: cell.attributes["data-order"] for cell in cells}
    assert order["iml"] == order["iml_rank"] == order["discernment"] == "" and order["uptake"] == "0.0"


def test_missing_seeds_are_said(pages: Mapping[str, Page]) -> None:
    page = pages["index.html"]
    cells = [c for c in page.find("td", "data-column") if c.attributes["data-column"] == "n_seeds"]
    said = {cell.context.get("data-model"): cell.said for cell in cells if cell.context.get("data-task") == "vision-2"}
    assert (said["convnet-s"], said["mlp-m"]) == ("2 of 3 (1 failed)", "8")


def test_the_records_of_a_page_are_records(files: Mapping[str, bytes], tmp_path: Path, board: Board) -> None:
    for name, content in files.items():
        if name.startswith("records/"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    stored, again, left_out = read(tmp_path / "records")
    assert again == board and left_out == []
    assert all((entry.path.parent / entry.record.items.file).is_file() for entry in stored if entry.record.items)


def test_items_that_are_not_the_recorded_ones_are_not_shipped(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "mlp-m", tmp_path / "mlp-m")
    changed, linked, *_ = sorted(tmp_path.rglob("*.parquet"))
    changed.write_bytes(b"something else")
    target = linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(target)
    files = _build(tmp_path)
    shipped = {Path(name).name for name in files if name.startswith("records/") and name.endswith(".parquet")}
    assert shipped.isdisjoint({changed.name, linked.name}) and len(shipped) == 8


def test_slugs_are_safe_and_unique() -> None:
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("<>") == "x" and len(slug("y" * 300)) == 60
    assert unique_slugs({"aaaaaaaaaa": "One", "bbbbbbbbbb": "one", "c": "two"}) == {
        "aaaaaaaaaa": "one-aaaaaaaa",
        "bbbbbbbbbb": "one-bbbbbbbb",
        "c": "two",
    }


def test_an_empty_board_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    files = _build(tmp_path / "none")
    assert "There are no results yet" in files["index.html"].decode()
    assert Page(files["tasks/vision.html"]).find("img", "src")


@pytest.mark.parametrize("name", ["t" * 70, "t" * 200])
def test_the_records_of_a_built_page_are_a_folder_of_records(name: str, tmp_path: Path) -> None:
    task = TASKS.get("vision").model_copy(update={"name": name})
    for seed in (0, 1):
        write_result(tmp_path / "runs", seed=seed, task=task)
        write_result(tmp_path / "runs", seed=seed, task=task, entry=entry("名" * 200, "ref:mlp?hidden=9"))
    moved = next((tmp_path / "runs").rglob("*.json"))
    stored = Stored(moved, read_record(moved))
    (tmp_path / "runs" / "a b.json").write_bytes(as_named(stored, "a b.json"))
    moved.with_suffix(".parquet").rename(tmp_path / "runs" / "a b.parquet")
    moved.unlink()
    done = command("leaderboard", "build", "--records", "runs", "--out", "page", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    asked = [command("leaderboard", "--json", "--records", folder, cwd=tmp_path) for folder in ("runs", "page/records")]
    assert asked[0].stdout == asked[1].stdout and len(json.loads(asked[0].stdout)["rows"]) == 2
    assert asked[1].stderr == asked[0].stderr
    shipped, problems = Store(tmp_path / "page" / "records").scan()
    assert problems == [] and all(len(read_items(one)) for one in shipped)
    assert [list(place_problems(one)) for one in shipped] == [[]] * 4
