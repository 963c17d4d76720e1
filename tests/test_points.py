"""The points of a suite: what varies as columns, as a figure, and two of them set against each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from making import command, made, write_result
from scipy import stats as scipy_stats

from iml_bench.board import compare_points, judge, points_of
from iml_bench.board.sweeps import sweep_claims
from iml_bench.records import Store
from iml_bench.registry import SUITES, TASKS
from iml_bench.run.display import RunDisplay
from iml_bench.run.plan import Request, plan
from iml_bench.run.suites import suite_requests
from iml_bench.site.sweep import draw_sweep
from iml_bench.spec import SuiteSpec, apply_overrides

BATCH = {"recipe.batch_size": [16, 64, 256], "recipe.stage1.steps": [12000, 3000, 750]}
VALUES: dict[int, tuple[float, ...]] = {16: (0.3, 0.32, 0.35, 0.3), 64: (0.2, 0.25, 0.2, 0.2), 256: (0.1, 0.12, 0.1, 0)}
SHIFT = {"mlp-m": 0.0, "mlp-s": 0.05}


def write(root: Path, model: str, values: Sequence[float], **overrides: Any) -> None:
    """Records on vision with these IML, seeds from 0."""
    task = apply_overrides(TASKS.get("vision"), overrides)
    for seed, value in enumerate(values):
        write_result(root, model, seed, task=task, table=made(value), parameters=1000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A suite along two axes, one of them zipped, and its records, of the largest batch for one model only."""
    grid = {"name": "sizes", "task": "vision", "models": [*SHIFT], "seeds": 4, "zip": BATCH, "axes": {"alpha": [1.0]}}
    plain = {"name": "plain", "task": "vision", "models": ["mlp-m"], "seeds": 4}
    whole = {"name": "mine", "description": "d", "grids": [grid, plain]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(whole))
    for (batch, values), steps in zip(VALUES.items(), BATCH["recipe.stage1.steps"], strict=True):
        for model, shift in SHIFT.items():
            if (batch, model) != (256, "mlp-s"):
                fields = {"recipe.batch_size": batch, "recipe.stage1.steps": steps}
                write(tmp_path / "records", model, [value + shift for value in values], **fields)
    return tmp_path


def test_a_table_has_what_varies_as_columns_with_the_task_s_own_values(folder: Path) -> None:
    asked = ("suite", "table", "mine.yaml", "--records", "records")
    rows = json.loads(command(*asked, "--json", cwd=folder).stdout)
    assert [(row["fields"]["recipe.batch_size"], row["model"]) for row in rows] == [
        (batch, model) for batch in VALUES for model in SHIFT
    ]
    default = next(row for row in rows if row["fields"]["recipe.batch_size"] == 64)
    assert default["fields"] == {"alpha": 1.0, "recipe.batch_size": 64, "recipe.stage1.steps": 3000}
    assert (default["task"], default["row"]["scores"]["iml"]["mean"]) == ("vision@2", pytest.approx(0.2125))
    assert rows[-1]["row"] is None
    shown = command(*asked, cwd=folder).stdout.splitlines()
    assert shown[0] == "sizes: vision@2".ljust(len(shown[0]))
    assert shown[1].split()[:6] == ["model", "alpha", "batch_size", "steps", "seeds", "IML"]
    assert shown[2].split()[:6] == ["mlp-m", "1", "16", "12000", "4", "+0.32"]
    assert shown[-2].split()[:7] == ["mlp-s", "1", "256", "750", "0", "of", "4"] and "not run yet" in shown[-2]


def test_a_run_ends_with_the_same_table(folder: Path) -> None:
    done = command("suite", "run", "mine.yaml", "--model", "mlp-m", "--seeds", "4", "--out", "records", cwd=folder)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[2].split()[:6] == ["mlp-m", "1", "16", "12000", "4", "+0.32"]
    assert [line.split()[0] for line in shown if line.startswith("vision@2")] == ["vision@2"]
    assert sum(line.startswith("mlp-m ") for line in shown) == 3, "the plain grid's row is one of the points"


def test_two_points_are_compared_for_every_model_that_has_both(folder: Path) -> None:
    asked = ("--suite", "mine.yaml", "--records", "records")
    both = ("recipe.batch_size=16", "recipe.batch_size=64")
    rows = json.loads(command("compare", *both, *asked, "--json", cwd=folder).stdout)
    assert [row["first"] for row in rows] == ["mlp-m recipe.batch_size=16", "mlp-s recipe.batch_size=16"]
    expected = scipy_stats.ttest_rel(VALUES[16], VALUES[64])
    assert rows[0]["p"] == pytest.approx(expected.pvalue) and rows[0]["difference"]["n"] == 4
    assert rows[0]["p_holm"] == pytest.approx(2 * expected.pvalue)
    far = command("compare", "recipe.batch_size=16", "recipe.batch_size=256", *asked, "--json", cwd=folder)
    assert [row["first"] for row in json.loads(far.stdout)] == ["mlp-m recipe.batch_size=16"]
    shown = command("compare", *both, *asked, "--measure", "uptake", cwd=folder).stdout
    assert "uptake, paired on shared seeds" in shown


def test_points_are_compared_at_each_value_of_what_neither_names(tmp_path: Path) -> None:
    axes = {"alpha": [1.0, 0.5], "recipe.batch_size": [16, 64]}
    grid = {"name": "g", "task": "vision", "models": ["mlp-m"], "seeds": 4, "axes": axes}
    suite = SuiteSpec.model_validate({"name": "s", "description": "d", "grids": [grid]})
    for alpha in axes["alpha"]:
        for batch in axes["recipe.batch_size"]:
            values = [alpha / 4 + batch / 800 + seed * 0.005 for seed in range(4)]
            write(tmp_path, "mlp-m", values, alpha=alpha, **{"recipe.batch_size": batch})
    points = points_of(suite, suite_requests(suite), Store(tmp_path).scan()[0])
    found = compare_points(suite, points, {"recipe.batch_size": 64}, {"recipe.batch_size": 16}, None)
    assert [(one.changes, round(one.difference.mean, 3)) for one in found] == [({}, 0.06), ({"alpha": 0.5}, 0.06)]


WRONG = {
    "one": (["recipe.batch_size=16"], "with --suite two points are compared"),
    "field": (["recipe.batch=16", "recipe.batch=64"], "unknown field that varies 'recipe.batch': did you mean"),
    "same": (["alpha=1.0", "alpha=1.0"], "two points are two values of the same fields"),
    "other": (["alpha=1.0", "recipe.batch_size=16"], "two points are two values of the same fields"),
    "value": (["recipe.batch_size=16", "recipe.batch_size=17"], "no grid of suite 'mine' has both"),
    "measure": (["recipe.batch_size=16", "recipe.batch_size=64", "--measure", "ilm"], "unknown measure 'ilm'"),
    "task": (["recipe.batch_size=16", "recipe.batch_size=64", "--task", "vision"], "--suite says the task"),
    "data": (
        ["recipe.batch_size=16", "recipe.batch_size=64", "--data", "mine.yaml"],
        "no task of suite 'mine' reads a",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_two_points_is_one_sentence(case: str, folder: Path) -> None:
    words, sentence = WRONG[case]
    done = command("compare", *words, "--suite", "mine.yaml", "--records", "records", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("suffix", [".svg", ".png", ".html"])
def test_a_figure_shows_every_seed_along_a_field(suffix: str, folder: Path) -> None:
    asked = ("suite", "plot", "mine.yaml", "--x", "recipe.batch_size", "--records", "records")
    done = command(*asked, "--y", "iml", "--y", "uptake", "--out", f"f{suffix}", cwd=folder)
    assert (done.returncode, done.stdout) == (0, f"f{suffix}\n"), done.stderr
    drawn = (folder / f"f{suffix}").read_bytes()
    if suffix == ".png":
        assert drawn.startswith(b"\x89PNG")
        return
    text = drawn.decode()
    assert all(name in text for name in ("mlp-m, iml", "mlp-s, uptake", "recipe.batch_size"))
    assert text.count("<path") > 2 * sum(len(values) for values in VALUES.values())
    assert suffix == ".svg" or "<script" not in text


def test_a_slice_of_a_strange_record_is_text_in_a_figure(folder: Path) -> None:
    suite = SUITES.get(str(folder / "mine.yaml"))
    stored = Store(folder / "records").scan()[0]
    asked = sweep_claims(suite, "alpha", [], None, stored)
    whole = judge(suite.model_copy(update={"claims": asked}), suite_requests(suite), stored).verdicts
    strange = [one.model_copy(update={"measure": "<script>alert(1)</script>"}) for one in whole]
    page = draw_sweep(strange, ".html").decode()
    assert "<script" not in page and "&lt;script&gt;" in page


BAD_PLOTS = {
    "format": (["--x", "alpha", "--out", "f.gif"], "--out 'f.gif' ends in none of .png, .svg, .html"),
    "field": (["--x", "alhpa", "--out", "f.svg"], "unknown field that varies 'alhpa': did you mean 'alpha'?"),
    "measure": (["--x", "alpha", "--y", "ilm", "--out", "f.svg"], "unknown measure 'ilm': did you mean 'iml'?"),
    "grid": (["--x", "alpha", "--grid", "size", "--out", "f.svg"], "unknown grid 'size': did you mean 'sizes'?"),
    "nothing": (["--x", "alpha", "--y", "iml_attribution", "--out", "f.svg"], "there is nothing to draw"),
    "folder": (["--x", "alpha", "--out", "none/f.svg"], "--out 'none/f.svg' cannot be written: No such file"),
}


@pytest.mark.parametrize("case", BAD_PLOTS)
def test_what_is_wrong_with_a_figure_is_one_sentence(case: str, folder: Path) -> None:
    words, sentence = BAD_PLOTS[case]
    before = sorted(folder.rglob("*"))
    done = command("suite", "plot", "mine.yaml", *words, "--records", "records", cwd=folder)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout
    assert sentence in done.stderr and done.stderr.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_a_suite_in_which_nothing_varies_has_no_table() -> None:
    done = command("suite", "table", "leaderboard")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing varies in suite 'leaderboard'" in done.stderr


def test_progress_names_what_varies(tmp_path: Path) -> None:
    requests = [
        Request("vision", ("mlp-xs",), (0,), {"alpha": alpha, "recipe.stage1.steps": 5}) for alpha in (0.5, 1.0)
    ]
    requests += [Request("text", ("neox-xs",), (0,), {"recipe.stage1.steps": 5})]
    display = RunDisplay(plan(requests, tmp_path), quiet=True)
    names = [display._name(place) for place in range(3)]
    assert names == [
        "vision@2 mlp-xs alpha=0.5 seed 0",
        "vision@2 mlp-xs alpha=1.0 seed 0",
        "text@2 neox-xs alpha=1.0 seed 0",
    ]
