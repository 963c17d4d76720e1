"""Another package adds a world, a protocol, a measure, a probe and an executor by entry points, in one file."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from making import command

from iml_bench.records import Stored, read_record

OUTSIDE = Path(__file__).parent / "outside"
DOCS = Path(__file__).parents[1] / "docs"
TASK = {
    "name": "flags",
    "version": 1,
    "description": "Which of two sources does a frozen model believe?",
    "model": "neox-xs",
    "protocol": "frozen-in-context",
    "world": {"kind": "colours"},
    "render": {"kind": "text"},
    "entities": 8,
    "recipe": {"batch_size": 4, "loss_on": "answer", "stage1": {"steps": 1}},
}


def installed(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line with the package installed."""
    path = os.pathsep.join([str(OUTSIDE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return command(*arguments, cwd=cwd, PYTHONPATH=path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the frozen task and a two-stage task in the new world were run."""
    made = tmp_path_factory.mktemp("outside")
    (made / "flags.yaml").write_text(yaml.safe_dump(TASK))
    groups: dict[str, Any] = dict.fromkeys(("reliable", "unreliable", "new_reliable", "new_unreliable"), 8)
    two = {key: value for key, value in TASK.items() if key not in ("protocol", "entities")}
    two |= {"name": "flags-trained", "groups": groups | {"new_undefined": 4}}
    two["recipe"] = {"batch_size": 8, "loss_on": "answer", "stage1": {"steps": 6}, "stage2": {"steps": 3}}
    (made / "flags-trained.yaml").write_text(yaml.safe_dump(two))
    for name in ("flags", "flags-trained"):
        more = ["--probe", "gradients"] if name != "flags" else []
        done = installed("run", "--task", f"{name}.yaml", "--seeds", "2", "--executor", "backwards", *more, cwd=made)
        assert done.returncode == 0, done.stderr
        assert "backwards\n" in done.stderr
    return made


def records(folder: Path, model: str, task: str) -> list[Stored]:
    paths = sorted((folder / "iml-results" / model).glob(f"{task}@1-*.json"))
    return [Stored(path, read_record(path)) for path in paths]


def test_a_protocol_of_another_package_becomes_records_with_its_own_scores(folder: Path) -> None:
    program = (
        "from test_extend import *\nfrom iml_bench.records import read_items\n"
        f"where = Path({str(folder)!r})\n"
        "found = records(where, 'oracle', 'flags') + records(where, 'neox-xs', 'flags')\n"
        "print(json.dumps([(one.record.cell.task.protocol, one.record.scores.values, len(read_items(one)),\n"
        "    [stage.name for stage in one.record.stages]) for one in found]))\n"
    )
    path = os.pathsep.join([str(OUTSIDE), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [os.sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 4
    assert all(one[0] == "frozen-in-context" and list(one[1]) == ["in_context_trust"] and one[2] == 24 for one in found)
    assert all(one[3] == [] for one in found)
    assert all(one[1]["in_context_trust"] > 0.5 for one in found[:2]), "the oracle believes the honest source"


def test_the_board_and_the_page_show_it(folder: Path) -> None:
    rows = json.loads(installed("leaderboard", "--json", cwd=folder).stdout)["rows"]
    by_task = {row["task"]: set(row["scores"]) for row in rows if row["model"] == "neox-xs"}
    assert by_task["flags"] == {"in_context_trust"}
    assert {"iml", "answered"} <= by_task["flags-trained"], "a measure is added to a protocol that is there"
    sorted_by = installed("leaderboard", "--task", "flags-trained", "--sort", "answered", cwd=folder)
    assert sorted_by.returncode == 0, sorted_by.stderr
    assert "answered" in sorted_by.stdout
    built = installed("leaderboard", "build", "--out", "board", cwd=folder)
    assert built.returncode == 0, built.stderr
    assert "trust" in (folder / "board" / "index.html").read_text()


def test_its_probe_looks_and_leaves_the_outcomes(folder: Path, tmp_path: Path) -> None:
    (path, *_) = sorted((folder / "iml-results" / "neox-xs").glob("flags-trained@1-*-seed0.json"))
    attachments = json.loads(path.read_text())["attachments"]
    assert [(one["name"], one["moment"], one["reason"]) for one in attachments] == [("gradients", "stage1", None)]
    table = pl.read_parquet(path.with_name(attachments[0]["file"]))
    assert set(table["tag"]) == {"reliable", "unreliable", "fresh"}
    assert table["norm"].min() > 0
    plain = ["run", "--task", str(folder / "flags-trained.yaml"), "--seeds", "1", "--out", str(tmp_path)]
    assert installed(*plain, cwd=folder).returncode == 0
    (other,) = (tmp_path / "neox-xs").glob("*.parquet")
    assert other.read_bytes() == path.with_suffix(".parquet").read_bytes()


def test_what_a_task_looks_like_and_whether_it_holds(folder: Path) -> None:
    drawn = installed("show", "flags.yaml", "--picture", "flags.txt", cwd=folder)
    assert drawn.returncode == 0, drawn.stderr
    assert "What is the top of" in (folder / "flags.txt").read_text()
    checked = installed("check", "flags.yaml", cwd=folder)
    assert checked.returncode == 0, checked.stdout
    broken = command("run", "--task", "flags.yaml", cwd=folder)
    assert (broken.returncode, broken.stderr.count("\n")) == (2, 1)
    assert "unknown protocol 'frozen-in-context'" in broken.stderr


RECIPE = {"batch_size": 8, "loss_on": "answer", "stage1": {"steps": 4}}
STAGES = {**RECIPE, "stage2": {"steps": 2}}
GROUPS = dict.fromkeys(("reliable", "unreliable", "new_reliable", "new_unreliable"), 4)
GRIDS = {"world": {"kind": "label-grid"}, "render": {"kind": "caption"}, "model": "python:image_text:build"}
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "conflict": ({"protocol": "conflict", "recipe": STAGES}, "conflict"),
    "metadata": ({"protocol": "metadata", "recipe": RECIPE}, "metadata_gain"),
    "image-text": ({**GRIDS, "groups": GROUPS, "recipe": {**STAGES, "loss_on": None}}, "iml"),
    "a grid in words": ({"world": {"kind": "label-grid"}, "groups": GROUPS, "recipe": STAGES}, "iml"),
}


@pytest.mark.parametrize("which", OTHERS)
def test_each_of_the_other_questions_is_one_file(which: str, tmp_path: Path) -> None:
    changed, headline = OTHERS[which]
    common = {name: TASK[name] for name in ("version", "description", "model", "world", "render")}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"name": "t", **common, **changed}))
    done = installed("run", "--task", "t.yaml", "--seeds", "2", "--curve", "1", "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(installed("leaderboard", "--json", "--records", "iml-results", cwd=tmp_path).stdout)["rows"]
    (row,) = (row for row in rows if not row["reference"])
    assert row["n_seeds"] == 2
    assert next(iter(row["scores"])) == headline
    if which == "conflict":
        (oracle,) = (row for row in rows if row["model"] == "oracle")
        assert oracle["scores"]["conflict"]["mean"] > 0.5, "who believes the reliable tag sides with it"
    again = installed("run", "--task", "t.yaml", "--seeds", "2", "--workers", "1", cwd=tmp_path)
    assert "done already, 0 to run" in again.stderr


@pytest.mark.parametrize("page", ["extend.md", "architecture.md"])
def test_a_page_names_what_exists(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    package = DOCS.parent / "iml_bench"
    named = set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`", text))
    assert len(named) > 5
    missing = sorted(path for path in named if not (package / path).exists() and not (DOCS.parent / path).exists())
    assert missing == []
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(block, page, "exec")
        for module, names in re.findall(r"^from (iml_bench[\w.]*) import ([\w, ]+)$", block, re.MULTILINE):
            found = __import__(module, fromlist=["_"])
            assert all(hasattr(found, name.strip()) for name in names.split(","))
