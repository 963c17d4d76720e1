"""A short form of ``benchmarks/faults/run.py``: the faults befall the real command line, once each."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iml_bench.records import Store
from iml_bench.records.guard import MARKER, join, leave

FOLDER = Path(__file__).parents[1] / "benchmarks" / "faults"
sys.path.append(str(FOLDER))
campaign, commands, disks, scene_of = (
    importlib.import_module(name) for name in ("campaign", "commands", "disks", "scene")
)
LEASES = ".iml-bench-leases"
SHORT = (
    "kill -9 of all processes",
    "kill -9 of the first process",
    "kill -9 of a worker",
    "two runs, kill -9 of one",
    "no hard links, kill -9",
    "disk full",
    "disk unmounted",
    "SIGSTOP of a worker, SIGCONT",
    "clock set back or ahead, kill -9",
)
"""Each of the others differs from one of these by little."""


@pytest.fixture(scope="module")
def usual() -> Any:
    """A run that nothing befalls; moments are chosen while it does not write yet, or after one of its first records."""
    return campaign.undisturbed(2)._replace(last=2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("name", SHORT)
def test_a_fault_leaves_everything_as_it_was(name: str, usual: Any) -> None:
    (kind,) = (kind for kind in campaign.KINDS if kind.name == name)
    row = campaign.try_kind(kind, 1, usual, 0)
    if row.skipped:
        pytest.skip(row.skipped)
    assert row.problems == [] and row.fine and set(row.held.values()) == {1}


def scene(tmp_path: Path, usual: Any = None) -> Any:
    return scene_of.Scene(tmp_path, usual, ())


def test_a_torn_record_and_one_that_is_replaced_are_seen(tmp_path: Path) -> None:
    from making import write_result

    here = scene(tmp_path)
    path = write_result(here.out)
    assert here.look() == 1 and here.problems["whole"] == []
    path.write_bytes(path.read_bytes() + b"\n")
    assert here.look() == 1
    assert "a done record was replaced" in here.problems["whole"][0]
    path.with_suffix(".parquet").write_bytes(b"PAR1")
    path.write_bytes(path.read_bytes() + b"\n")
    here.look()
    assert any("is not the file that" in told for told in here.problems["whole"])
    path.write_text("{")
    here.look()
    assert any("is not JSON" in told for told in here.problems["whole"])


def test_what_is_left_is_told(tmp_path: Path) -> None:
    from making import write_result

    here = scene(tmp_path)
    path = write_result(here.out)
    usual = scene_of.Usual((), [], scene_of.records_of(here.out, Store(here.out).scan()[0]), 1.0, 1)
    here.usual = usual
    here._compare_records()
    assert here._unlisted() == [] and not any(here.problems.values())
    (here.out / LEASES).mkdir()
    assert here._unlisted() == [], "an empty folder of leases is fine"
    for name in (MARKER, f"{LEASES}/one", f"{path.parent.name}/.iml-0123456789abcdef.tmp"):
        (here.out / name).touch()
    assert here._unlisted() == [".iml-0123456789abcdef.tmp", MARKER, "one"]
    write_result(here.out, seed=1)
    here.usual = usual._replace(records={name: ({}, "") for name in usual.records})
    here._compare_records()
    assert "other records" in here.problems["whole"][0] and "1 records differ" in here.problems["equal"][0]


def test_cells_that_were_cut_are_not_counted_as_carried_out(tmp_path: Path) -> None:
    here = scene(tmp_path)
    assert here.repeated() == 0
    here.log.write_text("begun a 1\nbegun b 2\nended a 1\nbegun c 1\nbegun b 3\nended b 3\nbegun a 3\nended a 3\n")
    assert here.repeated() == 1, "b was cut in process 2, c in 1, and a was carried out by 1 and by 3"


def test_processes_that_are_left_are_told_of_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "LEAVING", 0.1)
    here = scene(tmp_path)
    left = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={**os.environ, **here.environment}
    )
    assert [str(left.pid) in told for told in commands.left_behind(here.token)] == [True]
    assert left.wait(timeout=20) < 0 and commands.left_behind(here.token) == []
    left.stdin.close()  # type: ignore[union-attr]


def test_what_cannot_be_had_is_skipped_aloud(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise scene_of.CannotError("must be superuser to use mount")

    monkeypatch.setattr(disks, "_mount", refused)
    usual = scene_of.Usual((), [], dict.fromkeys("abcdefgh"), 1.0, 8)
    (kind,) = campaign.chosen(["disk full"])
    row = campaign.try_kind(kind, 3, usual, 0)
    assert row.skipped == "must be superuser to use mount" and row.times == 0
    assert "skipped: disk full: must be superuser" in capsys.readouterr().err
    assert "| disk full | skipped | - |" in campaign.table_of([row])


@pytest.mark.slow
def test_the_script_prints_tables_and_exits_with_1_when_something_does_not_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other scripts are named so as well: it must not take that name among the modules.
    spec = importlib.util.spec_from_file_location("run_faults", FOLDER / "run.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    out = tmp_path / "rows"
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "mutations", "--mutations", "20", "--out", str(out)])
    for problems, status in (([], 0), (["number 0: believed"], 1)):
        rows = campaign.Row(
            "JSON: digits", "digits", 1, {"refused": 1, "as written": 0, "left out": 0, "read": 0}, problems
        )
        if problems:
            monkeypatch.setattr(script, "try_form", lambda *_, rows=rows: [rows])
        with pytest.raises(SystemExit) as ended:
            script.main()
        assert ended.value.code == status
        assert "| JSON: digits |" in capsys.readouterr().out
        told = json.loads(out.read_text())
        assert {"name", "times", "held", "skipped"} <= told[0].keys()
        assert [one for row in told for one in row["problems"]] == problems * len(script.FORMS)


def test_signs_of_the_dead_go_with_the_run_that_lived_on(tmp_path: Path) -> None:
    """Of two runs on one folder one is killed, and the other carries out what it left: none may ever come after it."""
    living = join(tmp_path)
    code = f"import pathlib, iml_bench.records.guard as g; g.join(pathlib.Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / MARKER).read_text().count("\n") == 2
    leave(living)
    assert not (tmp_path / MARKER).exists()
