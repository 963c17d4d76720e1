"""The package as a library: the same numbers as the command line, frames, options, and nothing imported too early."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import polars as pl
import pytest
from making import command, copy_records, item_rows, shipped, write_failure, write_result

import iml_bench
from iml_bench.cli.run import run as run_command
from iml_bench.errors import UsageError
from iml_bench.library.options import RunOptions, seeds_of
from iml_bench.records import Stored, read_record
from iml_bench.registry import TASKS
from iml_bench.run.display import RunDisplay
from iml_bench.run.executors.base import Event
from iml_bench.run.session import Standing
from iml_bench.runtime import StageProgress
from iml_bench.sources import find_model
from iml_bench.spec import apply_overrides, vary_model

EXAMPLE = Path(__file__).with_name("library_example.py")


def test_a_script_of_ten_lines_gives_the_numbers_of_the_command_line(tmp_path: Path) -> None:
    """Without a ``__main__`` guard, although it has two worker processes."""
    out, records = tmp_path / "out", tmp_path / "records"
    copy_records(shipped("mlp-m") + shipped("convnet-s"), records)
    script = [sys.executable, str(EXAMPLE), str(out), str(records)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("12 cells: 0 done already, 12 to run; 2 workers") == 1
    *table, board, versus, scores = done.stdout.splitlines()
    rows = json.loads(command("leaderboard", "--records", str(records), "--json").stdout)["rows"]
    assert json.loads(board) == {row["model"]: row["scores"]["iml"]["mean"] for row in rows if not row["reference"]}
    compared = json.loads(command("compare", "mlp-m", "convnet-s", "--records", str(records), "--json").stdout)
    assert json.loads(versus) == [row["difference"]["mean"] for row in compared] != []
    computed, recorded = json.loads(scores)
    assert computed == recorded
    arguments = ["run", "--task", "vision", "--model", "mlp-xs", "--model", "mlp-s", "--seeds", "2", "--smoke"]
    again = command(*arguments, "--out", str(out), "--json")
    assert "12 done already, 0 to run" in again.stderr
    shown = {row["model"]: row["scores"]["iml"]["mean"] for row in json.loads(again.stdout)}
    for model in ("mlp-xs", "mlp-s"):
        assert any(f'"{model}"' in line or model in line for line in table)
        means = iml_bench.read(out).cells.filter(model=model)["iml"].mean()
        assert means == pytest.approx(shown[model], abs=1e-12)


def test_what_was_done_before_is_returned_too_and_progress_can_be_silenced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask: dict[str, Any] = {"smoke": True, "out": tmp_path, "workers": 1, "progress": False}
    first = iml_bench.run("vision", "oracle", 1, **ask)
    both = iml_bench.run("vision", "oracle", (0, 1), **ask)
    assert capsys.readouterr() == ("", "")
    assert [one in list(both) for one in first] == [True] * 4 and len(both) == 8
    assert both.cells.filter(model="oracle")["iml"].to_list() == [1.0, 1.0]
    assert [record.cell.seed for record in both[:2].records] == [0, 1]
    assert repr(both) == "<8 records: .cells, .items>"


def test_the_library_takes_what_the_command_line_takes() -> None:
    """But for what only a command can do: print JSON, and start itself again in several processes."""
    named = {"setting": "set", "checkpointing": "gradient_checkpointing"}
    options = {named.get(name, name) for name in inspect.signature(run_command).parameters}
    own = {name for name in inspect.signature(iml_bench.run).parameters if name != "options"}
    assert options - {"as_json", "processes"} == {*get_type_hints(RunOptions), *own} - {"progress"}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "option": ({"alhpa": 0.5}, "unknown option 'alhpa': did you mean 'alpha'? (run takes small, data, out,"),
    "twice": ({"alpha": 0.5, "set": {"alpha": 1}}, "alpha is set twice"),
    "field": ({"set": {"alhpa": 1}}, "unknown field 'alhpa': did you mean 'alpha'?"),
    "device": ({"device": "gpu"}, "--device 'gpu' is none of"),
    "workers": ({"workers": 0}, "--workers 0: give 1"),
    "executor": (
        {"executor": "rey"},
        "unknown executor 'rey': did you mean 'ray'? (there are local, inline, processes, slurm, ray)",
    ),
    "micro-batch": ({"micro_batch": 0}, "--micro-batch 0: it is at least 1"),
    "curve": ({"curve": 1001}, "--curve 1001: it is at least 0 and at most 1000"),
    "seeds": ({"seeds": []}, "are no seeds"),
    "no seeds": ({"seeds": "few"}, "--seeds 'few' names no seed"),
    "negative": ({"seeds": [-1]}, "are no seeds"),
    "model": ({"model": "mlpm"}, "unknown model 'mlpm': did you mean 'mlp-m'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    options, sentence = WRONG[case]
    with pytest.raises(UsageError, match=re.escape(sentence)):
        iml_bench.run("vision", out=tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_seeds_are_a_number_a_text_or_a_list() -> None:
    assert [seeds_of(given) for given in (3, "3-4", [7, 1], range(2, 4))] == [(0, 1, 2), (3, 4), (7, 1), (2, 3)]


def test_a_cell_is_a_row_with_what_varies_and_every_score(tmp_path: Path) -> None:
    base = TASKS.get("vision")
    text = apply_overrides(TASKS.get("text"), {"recipe.lr": 0.5})
    wide = vary_model(find_model("mlp-m"), {"hidden": 32})
    for seed, (alpha, batch) in enumerate(((1.0, 16), (0.5, 16), (0.5, 64))):
        task = apply_overrides(base, {"alpha": alpha, "recipe.batch_size": batch, "exact_match": "strict"})
        write_result(tmp_path, seed=seed, task=task, iml=0.1 * seed, entry=wide if seed else None)
    write_result(tmp_path, "neox-m", task=text)
    write_failure(tmp_path, "mlp-s", 9)
    results = iml_bench.read([tmp_path])
    cells = results.cells.sort("seed", "task")
    varied = ["alpha", "recipe.lr", "recipe.batch_size", "model.hidden"]
    start = cells.columns.index("smoke") + 1
    assert sorted(cells.columns[start : start + 4]) == sorted(varied)
    seen = cells.filter(task="vision")["seed", "alpha", "recipe.batch_size", "model", "model.hidden", "iml", "status"]
    hidden, default = find_model("mlp-m").parsed.options["hidden"], base.recipe.batch_size
    small = find_model("mlp-s").parsed.options["hidden"]
    assert seen.rows() == [
        (0, 1.0, 16, "mlp-m", hidden, 0.0, "done"),
        (1, 0.5, 16, "mlp-m?hidden=32", 32, pytest.approx(0.1), "done"),
        (2, 0.5, 64, "mlp-m?hidden=32", 32, pytest.approx(0.2), "done"),
        (9, 1.0, default, "mlp-s", small, None, "failed"),
    ]
    for one, row in zip(results, results.cells.iter_rows(named=True), strict=True):
        scores = one.record.scores.model_dump() if one.record.scores else {}
        assert {name: row[name] for name in scores if name not in ("exact_match", "reasons")} == {
            name: value for name, value in scores.items() if name not in ("exact_match", "reasons")
        }
        assert (row["key"], row["file"]) == (one.record.key, str(one.path))
    assert cells.filter(status="failed")["error"].to_list() == ["CellError: the loss was nan at step 7 of stage1"]
    assert cells.to_pandas()["alpha"].tolist() == cells["alpha"].to_list()
    assert results.items.to_pandas().shape == results.items.shape


def test_items_carry_their_cell_and_what_an_older_file_lacks_is_null(tmp_path: Path) -> None:
    null = apply_overrides(TASKS.get("vision"), {"alpha": 0.5, "exact_match": "strict"})
    write_result(tmp_path, seed=0, iml=0.3)
    write_result(tmp_path, seed=1, iml=0.1, task=null, table=item_rows(0.1).drop("set"))
    write_failure(tmp_path, seed=2)
    results = iml_bench.read(tmp_path)
    items = results.items
    assert items.columns[:6] == ["task", "version", "model", "seed", "alpha", "key"]
    assert items.group_by("seed", "alpha").len().sort("seed").rows() == [(0, 1.0, 63), (1, 0.5, 63)]
    assert items.filter(seed=1)["set"].null_count() == 63 and items.filter(seed=0)["set"].null_count() == 0
    for one in results:
        if one.record.scores is not None:
            assert iml_bench.score(items.filter(key=one.record.key)) == one.record.scores
            assert iml_bench.score(one.path) == iml_bench.score(one.path.with_suffix(".parquet")) == one.record.scores
    with pytest.raises(UsageError, match="items of 2 cells; score one at a time"):
        iml_bench.score(items)
    with pytest.raises(UsageError, match="there is no column 'stage'"):
        iml_bench.score(pl.DataFrame({"tag": ["reliable"]}))
    with pytest.raises(UsageError, match="there is no row"):
        iml_bench.score(items.filter(seed=7, key="x").drop("key"))
    with pytest.raises(UsageError, match="cannot be read as a per-item file"):
        iml_bench.score(tmp_path / "nothing.parquet")


def test_a_field_with_the_name_of_another_column_is_the_tasks(tmp_path: Path) -> None:
    strict = TASKS.get("text")
    normalised = apply_overrides(strict, {"exact_match": "normalised"})
    for seed, task in enumerate((strict, normalised)):
        write_result(tmp_path, "neox-m", seed, task=task)
    items = iml_bench.read(tmp_path).items
    assert items.schema["exact_match"] == pl.Boolean
    assert set(items["seed", "task.exact_match"].rows()) == {(0, "strict"), (1, "normalised")}


def test_nothing_read_is_empty_frames(tmp_path: Path) -> None:
    results = iml_bench.read(tmp_path)
    assert (len(results.cells), len(results.items)) == (0, 0)
    assert {"task", "alpha", "key"} & {*results.cells.columns} == {"task", "key"}
    assert iml_bench.board(results).rows == ()


def test_of_several_records_of_a_cell_a_done_one_counts_and_what_is_none_is_warned_about(tmp_path: Path) -> None:
    write_failure(tmp_path / "a")
    write_result(tmp_path / "b")
    (tmp_path / "b" / "none.json").write_text("{}")
    with pytest.warns(UserWarning, match="left out: .*none.json is not a record"):
        results = iml_bench.read([tmp_path / "a", str(tmp_path / "b")])
    assert results.cells["status"].to_list() == ["done"] and len(results.problems) == 1
    with pytest.raises(UsageError, match="'/nowhere' is not a folder"):
        iml_bench.read("/nowhere")


def test_records_are_taken_in_every_form(tmp_path: Path) -> None:
    for model, iml in (("mlp-m", 0.3), ("mlp-s", 0.1)):
        for seed in (0, 1):
            write_result(tmp_path, model, seed, iml=iml)
    results = iml_bench.read(tmp_path)
    forms: list[Any] = [tmp_path, str(tmp_path), [tmp_path], results, list(results)]
    assert len({iml_bench.board(form).model_dump_json() for form in forms}) == 1
    (versus,) = iml_bench.compare("mlp-m", "mlp-s", records=results, task="vision")
    assert versus.difference.mean == pytest.approx(0.2)
    with pytest.raises(UsageError, match="there are no records of task 'text' here"):
        iml_bench.compare("mlp-m", "mlp-s", records=results, task="text")
    assert iml_bench.board([]).rows == ()


def test_what_can_be_named_is_the_command_lines_list() -> None:
    for frame, verb in ((iml_bench.tasks(), "tasks"), (iml_bench.models(), "models")):
        rows = json.loads(command(verb, "--json").stdout)
        assert [{name: row[name] for name in rows[0]} for row in frame.to_dicts()] == rows


def test_every_name_is_there_and_stays_a_function() -> None:
    for name in iml_bench.__all__:
        assert getattr(iml_bench, name).__doc__ and name in dir(iml_bench)
    for room in ("run.plan", "board.rows", "models"):
        import_module(f"iml_bench.{room}")
    assert all(inspect.isfunction(function) for function in (iml_bench.run, iml_bench.board, iml_bench.models))
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        _ = iml_bench.rum  # type: ignore[attr-defined]
    assert Path(iml_bench.__file__).with_name("py.typed").is_file()


def test_reading_and_listing_import_no_torch(tmp_path: Path) -> None:
    write_result(tmp_path)
    for call in ("", "read({!r}).items", "board({!r})", "tasks()", "score(iml_bench.read({!r}).items)", "run"):
        code = f"import sys, iml_bench\n{f'iml_bench.{call}'.format(str(tmp_path)) if call else ''}\n"
        code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        if not call:
            code += "assert 'polars' not in sys.modules and 'pydantic' not in sys.modules\n"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("where", ["terminal", "notebook", "file"])
def test_progress_is_bars_on_a_terminal_and_lines_elsewhere(
    where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What a notebook shows is on stdout: it paints stderr red."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: where == "notebook")
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm"}.items() if where == "terminal" else ():
        monkeypatch.setenv(name, value)
    stored = Stored(path := write_result(tmp_path), read_record(path))
    job: Any = type("Job", (), {"cell": stored.record.cell, "changes": {}})
    with RunDisplay([job]) as display:
        display.begin(Standing(1, (0,), 0, 1, tmp_path))
        display(Event("start", 0))
        display(Event("progress", 0, StageProgress("stage1", 3, 9, 0.25, 5, 20)))
        assert [bar.completed for bar in display.progress.tasks] == ([5] if where == "terminal" else [])
        display(Event("failed", 0, message="CellError: no luck"))
    out, err = capsys.readouterr()
    shown, other = (out, err) if where == "notebook" else (err, out)
    assert "1 cells: 0 done already, 1 to run" in shown and "FAILED CellError: no luck" in shown
    assert (other, display.failures) == ("", {0: "CellError: no luck"})
