"""Which GPU each worker process has, on GPUs that ``nvidia-smi`` pretends; nothing here needs one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from making import command

import iml_bench
from iml_bench.errors import UsageError
from iml_bench.run.executors import slots
from iml_bench.run.executors.base import default_workers
from iml_bench.run.executors.choose import Where, choose_executor
from iml_bench.run.executors.processes import ProcessExecutor
from iml_bench.run.executors.slots import VISIBLE, Gpu, Places, gpus, gpus_told, places
from iml_bench.runtime import Runtime

TOLD = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aaaa)
  MIG 3g.40gb     Device  0: (UUID: MIG-1111)
  MIG 3g.40gb     Device  1: (UUID: MIG-2222)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-bbbb)
"""
TWO = (Gpu("GPU-aaaa"), Gpu("GPU-bbbb"))


def pretend(monkeypatch: pytest.MonkeyPatch, *there: Gpu, visible: str | None = None) -> None:
    monkeypatch.setattr(slots, "_listed", lambda: there)
    monkeypatch.delenv(VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)


def test_what_nvidia_smi_tells_is_read() -> None:
    assert gpus_told(TOLD) == (Gpu("GPU-aaaa", ("MIG-1111", "MIG-2222")), Gpu("GPU-bbbb"))
    assert gpus_told("GPU 0: Some card\nGPU 1: Some card (UUID: none)\n") == (Gpu("0"), Gpu("1"))
    assert gpus_told("No devices were found\n") == ()


def test_instances_stand_for_the_gpu_that_they_are_cut_from(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, *gpus_told(TOLD))
    assert gpus() == ("MIG-1111", "MIG-2222", "GPU-bbbb")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ("GPU-aaaa", "GPU-bbbb")),
        ("1", ("1",)),
        ("1, 0", ("1", "0")),
        ("GPU-bbbb", ("GPU-bbbb",)),
        ("MIG-1111,0", ("MIG-1111", "0")),
        ("0,7,1", ("0",)),
        ("0,-1,1", ("0",)),
        ("-1", ()),
        ("", ()),
        ("NoDevFiles", ()),
        ("1,1", ()),
    ],
)
def test_what_the_environment_allows_is_respected(
    visible: str | None, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, *TWO, visible=visible)
    assert gpus() == expected


def test_the_environment_cannot_name_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, visible="0,1")
    assert gpus() == ()


def test_one_cell_a_gpu_is_the_default_and_gpus_come_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, *TWO)
    assert places(Runtime(cells_per_gpu=2)) == ("GPU-aaaa", "GPU-bbbb", "GPU-aaaa", "GPU-bbbb")
    assert [default_workers(Runtime(cells_per_gpu=cells)) for cells in (1, 3)] == [2, 6]
    assert places(Runtime(device="cpu", cells_per_gpu=2)) == ()
    pretend(monkeypatch, TWO[0])
    assert choose_executor(Where(), Runtime(), 9).width(Runtime()) == 1
    assert default_workers(Runtime(device="cuda")) == 1
    pretend(monkeypatch)
    assert default_workers(Runtime(device="cuda")) == 1
    assert default_workers(Runtime(device="cpu")) == len(os.sched_getaffinity(0))


def test_more_workers_than_places_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, *TWO)
    for device in ("auto", "cuda"):
        with pytest.raises(UsageError, match=r"5 cells side by side find 2 places on 2 GPUs .* give --cells-per-gpu 3"):
            ProcessExecutor(5).width(Runtime(device=device))  # type: ignore[arg-type]
    assert ProcessExecutor(5).width(Runtime(cells_per_gpu=3)) == 5
    assert ProcessExecutor(5).width(Runtime(device="cpu")) == 5


def test_cells_cannot_share_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch)
    for options, why in (
        ({"cells_per_gpu": 2}, "--cells-per-gpu 2: no NVIDIA GPU is found here; leave it out"),
        ({"cells_per_gpu": 2, "device": "cpu"}, "--cells-per-gpu 2: not with --device cpu; leave it out"),
        ({"cells_per_gpu": 0}, "--cells-per-gpu 0: give 1"),
    ):
        with pytest.raises(UsageError, match=why):
            iml_bench.run("vision", out=tmp_path / "out", **options)  # type: ignore[arg-type]
    for verb in (["run", "--task", "vision"], ["suite", "run", "smoke"], ["tune", "mlp-xs", "--task", "vision"]):
        done = command(*verb, "--cells-per-gpu", "2", "--device", "cpu", "--out", "out", cwd=tmp_path)
        assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", []), done.stderr
        assert "--cells-per-gpu 2: not with --device cpu" in done.stderr


def test_processes_that_share_a_batch_share_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, *TWO)
    for variable, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(variable, value)
    assert default_workers(Runtime(cells_per_gpu=2)) == 1
    with pytest.raises(UsageError, match="processes that share every batch run one cell at a time"):
        slots.check_cells_per_gpu(Runtime(cells_per_gpu=2))


def test_a_process_that_is_killed_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    kept = Places(["GPU-aaaa", "GPU-bbbb"])
    try:
        assert [kept.take(holder.pid), kept.take(os.getpid()), kept.take(os.getpid())] == ["GPU-aaaa", "GPU-bbbb", None]
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has waited for it
        assert kept.take(os.getpid()) == "GPU-aaaa"
    finally:
        holder.kill()
        holder.wait()
    monkeypatch.setattr(slots, "PATIENCE", 0.0)
    with pytest.raises(RuntimeError, match="no place on a GPU became free"):
        slots.take_place(kept)


@pytest.fixture
def pretended(tmp_path: Path) -> dict[str, str]:
    """An environment with an ``nvidia-smi``, and in which every process that imports torch writes what it sees then."""
    tools, seen = tmp_path / "tools", tmp_path / "seen"
    tools.mkdir(), seen.mkdir()
    program = tools / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'GPU 0: Card (UUID: GPU-aaaa)\\nGPU 1: Card (UUID: GPU-bbbb)\\n'\n")
    program.chmod(0o755)
    (tools / "sitecustomize.py").write_text(
        textwrap.dedent(
            f"""
            import os, sys

            class Looking:
                def find_spec(self, name, path=None, target=None):
                    if name == "torch":
                        with open(f"{seen}/{{os.getpid()}}", "w") as file:
                            file.write(os.environ.get("{VISIBLE}", "all"))

            sys.meta_path.insert(0, Looking())
            """
        )
    )
    return {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join((str(tools), str(Path(__file__).parent), *filter(None, sys.path))),
        "SEEN": str(seen),
    }


def seen(pretended: dict[str, str]) -> Counter[str]:
    return Counter(path.read_text() for path in Path(pretended["SEEN"]).iterdir())


def test_each_worker_sees_its_own_gpu_before_torch_is_imported(tmp_path: Path, pretended: dict[str, str]) -> None:
    arguments = [
        "run",
        "--task",
        "vision",
        "--model",
        "mlp-xs",
        "--smoke",
        "--seeds",
        "3",
        "--out",
        str(tmp_path / "o"),
    ]
    done = command(*arguments, "--cells-per-gpu", "2", **pretended)
    assert done.returncode == 0, done.stderr
    assert "4 workers; records in" in done.stderr
    found = seen(pretended)
    assert (found["GPU-aaaa"], found["GPU-bbbb"]) == (2, 2) and {*found} <= {"GPU-aaaa", "GPU-bbbb", "all"}


def test_the_worker_after_one_that_died_has_its_place(tmp_path: Path, pretended: dict[str, str]) -> None:
    arguments = ["run", "--task", "vision", "--smoke", "--seeds", "1", "--out", str(tmp_path / "o")]
    arguments += ["--model", "python:models_for_tests:dying", "--model", "mlp-xs", "--executor", "processes"]
    done = command(*arguments, **pretended, **{VISIBLE: "1"})
    assert done.returncode == 1 and "exit code -9" in done.stderr, done.stderr
    assert seen(pretended)["1"] >= 2, "one place, and a worker after the other"
