"""Cells on a real Ray, in a network namespace of their own: where another network is, a loopback address hangs."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml
from engines_for_tests import PAIR, VARIABLE, outcomes
from making import command, heed_signals

from iml_bench.spec import Needs

TESTS = Path(__file__).parent
PATIENCE = 240.0
"""Seconds in which anything that is waited for happens, on a machine that is busy with much else."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "200"}
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
common = {"object_store_memory": 80_000_000, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2, **common})
node = cluster.add_node(num_cpus=2, **common)
print(cluster.address, node.all_processes["raylet"][0].process.pid, flush=True)
for line in sys.stdin:
    cluster.remove_node(node, allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""
pytestmark = [pytest.mark.engines, pytest.mark.slow]
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'iml-bench[ray]'"
)


@pytest.fixture(scope="module")
def inside() -> Iterator[list[str]]:
    """The words before a command that runs it in a network that has nothing but a loopback."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.skip("there is no unshare, nsenter or ip here to make a network of its own for Ray")
    script = "ip link set lo up && echo up && exec sleep 3600"
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "up\n":
            pytest.skip("unshare --net makes no network of its own for Ray here; it needs root")
        yield ["nsenter", "--target", str(holder.pid), "--net"]
    finally:
        holder.kill()
        holder.wait()


def run(inside: Sequence[str], *words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command line in that network."""
    done = subprocess.run(
        [*inside, sys.executable, "-m", "iml_bench", "run", "--task", "vision", *words],
        env=os.environ | QUIET | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=2 * PATIENCE,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


class Cluster:
    """A cluster of two nodes, of which one can be removed."""

    def __init__(self, inside: Sequence[str]) -> None:
        program = [*inside, sys.executable, "-c", CLUSTER]
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            program, env=os.environ | QUIET | {"PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        address, number = self._line().split()
        self.environment = {"RAY_ADDRESS": address, "PYTHONPATH": path}
        self.raylet = int(number)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def remove_node(self) -> None:
        """Kill the second node and all of its workers."""
        assert self.process.stdin is not None
        self.process.stdin.write("remove\n")
        self.process.stdin.flush()
        assert self._line() == "removed\n"

    def end(self) -> None:
        """Shut all of it down."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="module")
def cluster(inside: list[str]) -> Iterator[Cluster]:
    made = Cluster(inside)
    yield made
    made.end()


def written_entry(folder: Path, **fields: Any) -> str:
    (folder / "pair.yaml").write_text(yaml.safe_dump({**PAIR, **fields}))
    return "pair.yaml"


def holders(out: Path) -> list[int]:
    """The processes that have cells."""
    found = []
    for path in (out / ".iml-bench-leases").glob("*.lease"):
        try:
            found.append(json.loads(path.read_text())["pid"])
        except (OSError, ValueError):
            continue
    return found


def until(reached: Any, process: subprocess.Popen[str]) -> None:
    """Wait for something while a command runs."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr and process.stderr.read()
        time.sleep(0.02)


@needs_ray
def test_a_mixed_grid_on_a_cluster_that_is_started_for_it(inside: list[str], tmp_path: Path) -> None:
    words = ["--smoke", "--model", "mlp-xs", "--model", written_entry(tmp_path), "--seeds", "1", "--workers", "1"]
    for name in ("local", "ray"):
        done = run(inside, *words, "--executor", name, "--out", name, cwd=tmp_path)
        assert (done.returncode, "FAILED" in done.stderr) == (0, False), done.stderr
    assert outcomes(tmp_path / "ray") == outcomes(tmp_path / "local")
    assert {path.name for path in (tmp_path / "ray").iterdir()} == {
        path.name for path in (tmp_path / "local").iterdir()
    }


@needs_ray
def test_what_no_node_has_is_refused_in_a_sentence(inside: list[str], cluster: Cluster, tmp_path: Path) -> None:
    words = ["--smoke", "--model", written_entry(tmp_path, needs={"cpus": 1000}), "--executor", "ray", "--out", "out"]
    done = run(inside, *words, cwd=tmp_path, **cluster.environment)
    assert (done.returncode, (tmp_path / "out").exists()) == (2, False)
    assert "error: no node of Ray's can ever hold a cell that takes 1000 cores; the largest has 2 cores" in done.stderr


@needs_ray
def test_every_worker_has_a_gpu_of_its_own(inside: list[str], cluster: Cluster, tmp_path: Path) -> None:
    source = f"python:models_for_tests:noting?folder={tmp_path / 'notes'}"
    (tmp_path / "notes").mkdir()
    entry = written_entry(tmp_path, source=source, needs={"gpus": 1})
    words = ["--smoke", "--model", entry, "--seeds", "3", "--executor", "ray", "--device", "cpu", "--out", "out"]
    done = run(inside, *words, cwd=tmp_path, **cluster.environment)
    assert done.returncode == 0, done.stderr
    notes = [json.loads(path.read_text()) for path in (tmp_path / "notes").iterdir()]
    seen = sorted(tuple(note) for note in notes if note[0] is not None)
    assert {sees for sees, *_ in seen} == {"0", "1"} and len({process for *_, process in seen}) == 3
    for (sees, _, end, process), (other, start, _, following) in pairwise(seen):
        assert sees != other or process == following or end <= start, "two cells had one GPU at a time"


@needs_ray
def test_a_node_that_dies_costs_no_cell(inside: list[str], cluster: Cluster, tmp_path: Path) -> None:
    words = ["--smoke", "--model", "mlp-xs", "--seeds", "3", "--set", "recipe.stage1.steps=600"]
    whole = [*inside, sys.executable, "-m", "iml_bench", "run", "--task", "vision", *words]
    process = subprocess.Popen(
        [*whole, "--executor", "ray", "--out", "ray"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env=os.environ | QUIET | cluster.environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    raylet = psutil.Process(cluster.raylet)
    until(lambda: {child.pid for child in raylet.children(recursive=True)} & {*holders(tmp_path / "ray")}, process)
    cluster.remove_node()
    _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "FAILED" in said, "Traceback" in said) == (0, False, False), said
    done = run([], *words, "--workers", "1", "--out", "local", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert outcomes(tmp_path / "ray") == outcomes(tmp_path / "local")
    assert [path.name for path in (tmp_path / "ray").glob(".*")] == []


@needs_ray
def test_the_contract_of_engines_holds(inside: list[str], cluster: Cluster) -> None:
    done = subprocess.run(
        [*inside, sys.executable, "-m", "pytest", "-q", str(TESTS / "test_engines.py"), "-k", "ray"],
        env=os.environ | QUIET | cluster.environment | {VARIABLE: "ray"},
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * PATIENCE,
    )
    assert (done.returncode, "4 passed" in done.stdout) == (0, True), done.stdout + done.stderr


@needs_ray
def test_a_driver_that_is_interrupted_takes_its_cluster_along(inside: list[str], tmp_path: Path) -> None:
    words = ["--smoke", "--model", "mlp-xs", "--seeds", "1", "--set", "recipe.stage1.steps=1000000"]
    process = subprocess.Popen(
        [*inside, sys.executable, "-m", "iml_bench", "run", "--task", "vision", *words, "--executor", "ray"],
        env=os.environ | QUIET, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    out = tmp_path / "iml-results"
    until(lambda: holders(out), process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in child.name() for child in children)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "To continue:" in said and "Traceback" not in said, said
    _, left = psutil.wait_procs(children, timeout=30)
    assert left == []
    assert [path.name for path in out.glob(".*")] == []


@needs_ray
def test_nothing_of_it_is_imported_by_a_command_that_does_not_ask_for_it(tmp_path: Path) -> None:
    program = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print([name for name in ('ray', 'submitit') if name in sys.modules]))\n"
        "runpy.run_module('iml_bench', run_name='__main__', alter_sys=True)\n"
    )
    local = ["run", "--task", "vision", "--smoke", "--seeds", "1", "--workers", "1"]
    for words in (["--help"], ["run", "--help"], ["tasks"], local):
        done = subprocess.run(
            [sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr


@needs_ray
def test_a_task_does_not_wait_for_ever_for_a_node_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    from iml_bench.run.executors import ray as module

    ended: list[str] = []
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 1.0}}]
    engine = module.RayEngine()
    engine._ray = SimpleNamespace(
        nodes=lambda: nodes,
        wait=lambda tasks, num_returns, timeout: ([], tasks),
        cancel=lambda task, force: ended.append(task),
    )
    engine._tasks = {"a": module._Task("task a", Needs()), "b": module._Task("task b", Needs(gpus=1))}
    assert {state.kind for state in engine.poll(["a", "b"]).values()} == {"running"}, "it may come back"
    monkeypatch.setattr(module, "PATIENCE", -1.0)
    found = engine.poll(["a", "b"])
    assert (found["a"].kind, found["b"]) == ("running", ("lost", "no node of Ray's is left that has 1 core, 1 GPU", ()))
    assert set(ended) == {"task b"} and engine.poll(["b"])["b"].kind == "lost"


def test_without_ray_it_is_said_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['ray'] = None\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    words = ["run", "--task", "vision", "--smoke", "--executor", "ray", "--out", "out"]
    done = command(*words, cwd=tmp_path, PYTHONPATH=path)
    assert (done.returncode, (tmp_path / "out").exists()) == (2, False)
    assert done.stderr == "error: --executor ray needs Ray: pip install 'iml-bench[ray]'\n"
