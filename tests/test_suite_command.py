"""``iml-bench suite``: what it shows, runs, counts and refuses, in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from making import command, write_failure, write_result

from iml_bench.protocols.two_stage import TWO_STAGE
from iml_bench.records import Timing
from iml_bench.registry import SUITES, TASKS
from iml_bench.run.walltime import MEASURED, UNKNOWN
from iml_bench.spec import apply_overrides

REFERENCES = tuple(TWO_STAGE.attitudes(TASKS.get("vision")))


def suite_file(folder: Path, *grids: dict[str, Any]) -> str:
    """The path of a suite of grids of one perceptron on vision and one seed, but for what is given."""
    whole = [{"task": "vision", "models": ["mlp-m"], "seeds": 1, **grid} for grid in grids]
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "description": "d", "grids": whole}))
    return str(path)


WRONG = {
    "field": ([{}, {"axes": {"alhpa": [1]}}], "suite 'mine', grid 2: unknown field 'alhpa': did you mean 'alpha'?"),
    "lengths": (
        [{"name": "sizes", "zip": {"alpha": [1], "recipe.lr": [1, 2]}}],
        "suite 'mine', grid 'sizes': the fields of zip vary together, so they need as many values each: alpha has 1,",
    ),
    "axes and zip": ([{"axes": {"alpha": [1]}, "zip": {"alpha": [1]}}], "alpha stands in both axes and zip"),
    "set and axes": ([{"axes": {"alpha": [1]}, "set": {"alpha": 1}}], "grid 1: alpha stands in both set and axes"),
    "no values": ([{"axes": {"alpha": []}}], "suite 'mine', grid 1: alpha in axes has no values"),
    "value": ([{"axes": {"alpha": [3]}}], "suite 'mine', grid 1: task 'vision' with these settings: alpha: input"),
    "no list": ([{"axes": {"alpha": 1}}], "suite 'mine', grid 1: axes.alpha: input should be a valid"),
    "models as an axis": ([{"axes": {"model": ["mlp-m"]}}], "grid 1: model in axes would change no cell"),
    "task": ([{"task": "visoin"}], "suite 'mine', grid 1: unknown task 'visoin': did you mean 'vision'?"),
    "model": ([{}, {"models": ["mlpm"]}], "suite 'mine', grid 2: unknown model 'mlpm': did you mean 'mlp-m'?"),
    "modality": ([{"models": ["neox-m"]}], "suite 'mine', grid 1: model 'neox-m' reads text"),
    "seeds": ([{"seeds": "few"}], "suite 'mine', grid 1: seeds: 'few' names no seed"),
    "small": ([{"small": True}], "suite 'mine', grid 1: task 'vision' has no small setting"),
    "no variants": ([{"variant": "joint"}], "grid 1: task 'vision' has no variants; leave out the variant 'joint'"),
    "variant": (
        [{"task": "vision-mnist", "variant": "jiont"}],
        "grid 1: unknown variant 'jiont': did you mean 'joint'? (iml-bench show vision-mnist lists them all)",
    ),
    "key": ([{"axis": {}}], "suite 'mine', grid 1: axis: there is no such field"),
    "same name": ([{"name": "a"}, {"name": "a"}], "suite 'mine' has two grids named 'a'"),
    "option": ([{"axes": {"model.hiden": [3]}}], "model 'mlp-m?hiden=3' (ref:mlp?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_suite_is_one_sentence_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    grids, sentence = WRONG[case]
    suite_file(tmp_path, *grids)
    done = command("suite", "run", "mine.yaml", "--smoke", "--workers", "1", "--out", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert sentence in told
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def dry(*arguments: str, out: Path) -> dict[str, Any]:
    """What ``suite run --dry-run`` would do, with two workers."""
    done = command("suite", "run", *arguments, "--dry-run", "--json", "--workers", "2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def took(seconds: float) -> Timing:
    """The timing of a cell that trained for so long."""
    timed = {"stage1": seconds - 1, "stage2/fold0": 1.0}
    return Timing(started="2026-01-01T00:00:00+00:00", ended="2026-01-01T00:00:10+00:00", seconds=timed)


def test_show_counts_every_cell_once(tmp_path: Path) -> None:
    zipped = {"recipe.batch_size": [16, 64], "recipe.lr": [0.5, 0.002]}
    path = suite_file(tmp_path, {"name": "both", "seeds": "3-4", "zip": zipped}, {"seeds": 4})
    shown = json.loads(command("suite", "show", path, "--json").stdout)
    assert [(grid["number"], grid["name"], grid["cells"], grid["reference_cells"]) for grid in shown["grids"]] == [
        (1, "both", 4, 8),  # by itself; in the suite reference learners stand beside the first point of a task
        (2, None, 4, 16),
    ]
    assert (shown["cells"], shown["reference_cells"]) == (7, 8), "seed 3 of the task as it stands is in both"
    text = command("suite", "show", path).stdout
    for words in (
        "grid 1 both: vision@2",
        "recipe.batch_size, recipe.lr: 16, 0.5 | 64, 0.002",
        "3-4",
        "7 cells and 8",
    ):
        assert words in text


def test_show_needs_no_data_file(tmp_path: Path) -> None:
    path = suite_file(tmp_path, {"task": "text-cvdb", "models": ["neox-m"], "small": True, "seeds": 2})
    assert json.loads(command("suite", "show", path, "--json").stdout)["cells"] == 2
    planned = command("suite", "run", path, "--dry-run")
    assert planned.returncode == 0
    assert planned.stdout.endswith("without --data nobody knows which of them are done\n")
    assert "give --data FILE" in command("suite", "run", path).stderr


def test_a_dry_run_counts_what_is_done_and_tells_the_time_from_records(tmp_path: Path) -> None:
    null = apply_overrides(TASKS.get("vision"), {"alpha": 0.5})
    for seed, seconds in enumerate((100, 200, 600)):
        write_result(tmp_path, "mlp-m", seed, task=null, timing=took(seconds))
    write_failure(tmp_path, "mlp-m", 0)  # of another task: it counts for nothing here
    path = suite_file(tmp_path, {"seeds": 8, "set": {"alpha": 0.5}}, {"models": ["mlp-s"], "seeds": 8})
    before = sorted(tmp_path.rglob("*"))
    found = dry(path, out=tmp_path)
    rows = {row["model"]: row for row in found["rows"]}
    mlp = rows["mlp-m"]
    assert (mlp["done"], mlp["failed"], mlp["to_do"], mlp["seeds"]) == (3, 0, 5, list(range(8)))
    assert (mlp["seconds"], mlp["basis"], mlp["changes"]) == (5 * 200.0, MEASURED, {"alpha": 0.5})
    assert rows["sceptic"]["reference"]
    assert (found["cells"], found["done"], found["to_do"], found["failed"]) == (48, 3, 45, 0)
    known = [row["seconds"] for row in found["rows"] if row["seconds"] is not None]
    assert found["seconds"] == pytest.approx(sum(known) / 2, abs=1)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_counts_failed_cells_among_those_to_do(tmp_path: Path) -> None:
    write_failure(tmp_path, "mlp-m", 1)
    path = suite_file(tmp_path, {"seeds": 5})
    shown = command("suite", "run", path, "--dry-run", "--out", str(tmp_path)).stdout
    (line,) = [line.split() for line in shown.splitlines() if " mlp-m " in line]
    assert line[:6] == ["vision@2", "mlp-m", "0-4", "0", "1", "5"]
    assert f"25 cells: 0 done already in {tmp_path}, 25 to run, 1 of them failed before; about " in shown


def test_a_time_that_no_record_tells_is_unknown(tmp_path: Path) -> None:
    path = suite_file(tmp_path, {"set": {"recipe.lr": 0.017}})
    found = dry(path, out=tmp_path / "none")
    assert (found["seconds"], found["unknown"]) == (None, 1), "reference learners are not counted"
    assert {(row["seconds"], row["basis"]) for row in found["rows"]} == {(None, UNKNOWN)}
    shown = command("suite", "run", path, "--dry-run", "--out", str(tmp_path / "none")).stdout
    assert "5 to run; time unknown: no record is of these tasks" in shown
    assert not (tmp_path / "none").exists()


def test_models_of_ones_own_take_the_place_of_a_suites_where_they_fit(tmp_path: Path) -> None:
    two = dry("leaderboard", "--model", "mlp-s", "--model", "neox-xs", "--seeds", "7-8", out=tmp_path)
    rows = [row for row in two["rows"] if "until" not in row["changes"]]  # sweeps come first where there is no choice
    trained = [(row["task"], row["model"], row["seeds"]) for row in rows if not row["reference"]]
    assert trained == [("vision", "mlp-s", [7, 8]), ("text", "neox-xs", [7, 8])]
    one = command("suite", "run", "leaderboard", "--model", "mlp-s", "--dry-run", "--out", str(tmp_path))
    assert [line.split(": none")[0] for line in one.stderr.splitlines()] == [
        "left out: suite 'leaderboard', grid 'text'",
    ]
    none = command("suite", "run", "controls", "--model", "hf:a/b", "--model", "nothing", "--dry-run")
    assert (none.returncode, "unknown model 'nothing'" in none.stderr) == (2, True)


def test_a_suite_takes_up_what_run_has_done(tmp_path: Path) -> None:
    where = ("--out", str(tmp_path), "--workers", "1")
    by_run = command("run", "--task", "vision", "--model", "mlp-xs", "--smoke", "--seeds", "2", *where)
    assert by_run.returncode == 0, by_run.stderr
    done = command("suite", "run", "smoke", "--smoke", "--json", *where)
    assert done.returncode == 0, done.stderr
    assert "20 cells: 10 done already, 10 to run; " in done.stderr
    rows = json.loads(done.stdout)
    assert {(row["task"], row["model"], row["n_seeds"]) for row in rows} == {
        (task, model, 2) for task, own in (("vision", "mlp-xs"), ("text", "neox-xs")) for model in (own, *REFERENCES)
    }
    found = dry("smoke", "--smoke", out=tmp_path)
    assert (found["done"], found["to_do"], found["seconds"]) == (20, 0, 0.0)
    assert {row["basis"] for row in found["rows"]} == {None}
    longer = {row["model"]: row for row in dry("smoke", "--smoke", "--seeds", "3", out=tmp_path)["rows"]}
    assert longer["neox-xs"]["basis"] == MEASURED, "records that a run wrote have wall times"
    assert longer["neox-xs"]["seconds"] > 0


def test_showing_and_planning_import_no_torch(tmp_path: Path) -> None:
    for arguments in (["suite", "show", "leaderboard"], ["suite", "run", "leaderboard", "--dry-run"]):
        code = (
            f"import sys; sys.argv = ['iml-bench', *{arguments!r}]\n"
            "from iml_bench.cli.app import main\n"
            "try: main()\n"
            "except SystemExit as end: assert not end.code\n"
            "from iml_bench.board import leaderboard_tasks\n"
            "assert leaderboard_tasks()\n"
            "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(SUITES.origins))
def test_a_shipped_suite_can_be_shown(name: str) -> None:
    shown = json.loads(command("suite", "show", name, "--json").stdout)
    assert shown["cells"] > 0
    assert len(shown["grids"]) == len(SUITES.get(name).grids)
