"""Grids of cells on the tests' Slurm: how they are started, held, and compared with a local run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from making import heed_signals
from models_that_wait import GATE
from slurm_for_tests import Cluster, wait_until

from iml_bench.library.running import planned
from iml_bench.records import Record, Store
from iml_bench.run.executors import flights
from iml_bench.run.executors.choose import Where
from iml_bench.run.session import Session

GATED = "python:models_that_wait:gated"
Begin = Callable[..., subprocess.Popen[str]]
SEEDS = 4
"""Of the local run that others are held against."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Slurm, and an environment in which jobs find what tests find."""
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as patch:
        here = str(Path(__file__).parent)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH")))))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(flights, "SLOWEST", 1.0)
        patch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a run on this machine."""
    out = tmp_path_factory.mktemp("local")
    run(out, SEEDS, executor="inline", slurm=None, workers=None)
    return out


@pytest.fixture
def gate(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The gate at which cells wait."""
    folder = tmp_path / "gate"
    folder.mkdir()
    monkeypatch.setenv(GATE, str(folder))
    yield Gate(folder)
    for job in cluster.queue("%A"):
        cluster.ask("scancel", job)


class Gate:
    """What cells wait for, and what they have noted there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, which: str = "go") -> None:
        (self.folder / which).touch()

    def ran(self) -> list[list[str]]:
        """For every training: what tells its cell from others, its host, and the number of its job."""
        path = self.folder / "ran"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def wait(self, trainings: int) -> list[str]:
        """Wait until so many have come to the gate; the last of them."""
        wait_until(lambda: len(self.ran()) >= trainings, f"training {trainings} at the gate")
        return self.ran()[trainings - 1]

    def each_once(self, cells: int) -> bool:
        names = [name for name, *_ in self.ran()]
        return len(names) == len(set(names)) == cells


def run(out: Path, seeds: int, processes: int = 1, **options: Any) -> list[Record]:
    """Cells that wait at the gate, without reference learners, on Slurm if nothing else is said."""
    work = planned("vision", [GATED], seeds, {"smoke": True, "out": out, "device": "cpu"}).in_processes(processes)
    where = Where(**{"slurm": "time=30m", "workers": 1} | options)
    session = Session(out, work.runtime, where)
    return [one.record for one in session.run([job for job in work.jobs if not job.cell.model.is_reference])]


class Running(threading.Thread):
    """``run`` beside the test."""

    def __init__(self, out: Path, seeds: int, **options: Any) -> None:
        super().__init__(daemon=True)
        self.work = lambda: run(out, seeds, **options)
        self.results: list[Record] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.results = self.work()
        except BaseException as error:
            self.error = error

    def end(self) -> list[Record]:
        self.join(150)
        assert not self.is_alive(), "the run has not come to its end"
        if self.error is not None:
            raise self.error
        return self.results


def words(out: Path, seeds: int, *more: str) -> list[str]:
    """The same grid on the command line."""
    grid = ["run", "--task", "vision", "--smoke", "--model", GATED, "--seeds", str(seeds), "--device", "cpu"]
    return [*grid, "--out", str(out), *more]


@pytest.fixture
def begin() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the real command line, which goes on beside the test, and is ended with it."""
    programs = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, "-m", "iml_bench", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=heed_signals,
        )
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.kill()
        program.wait()


def plain(path: Path) -> dict[str, Any]:
    """What a record says, less when and where it was made."""
    said: dict[str, Any] = json.loads(path.read_text())
    return {name: value for name, value in said.items() if name not in ("timing", "provenance")}


def assert_as_local(out: Path, local: Path, cells: int) -> None:
    """All records are there, are equal to those of a local run bit by bit, and nothing lies beside them."""
    done = [stored for stored in Store(out).scan()[0] if stored.record.status == "done"]
    found = [stored.path.relative_to(out) for stored in done if stored.record.cell.model.name == GATED]
    assert len(found) == cells
    for name in found:
        assert plain(out / name) == plain(local / name)
        assert (out / name).with_suffix(".parquet").read_bytes() == (local / name).with_suffix(".parquet").read_bytes()


def assert_nothing_left(out: Path, cluster: Cluster) -> None:
    wait_until(cluster.empty, "the queue is empty")

    def others() -> list[list[str]]:
        found = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        return [line for line in found if any(str(out) in word for word in line)]

    wait_until(lambda: not others(), "no process is left")
    left = [path for path in out.rglob("*") if path.suffix not in ("", ".json", ".parquet")]
    assert left + [path for path in out.rglob("*") if path.name.startswith(".")] == []


def failed(out: Path) -> list[Record]:
    return [stored.record for stored in Store(out).scan()[0] if stored.record.status == "failed"]


def submitted(cluster: Cluster) -> int:
    """How many jobs Slurm has been given so far."""
    return max((int(line) for line in cluster.ask("squeue", "-h", "-t", "all", "-o", "%A").split()), default=0)


@pytest.fixture
def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands that stand before Slurm's own: squeue fails while there is a file ``down``."""
    folder = tmp_path / "wrapped"
    folder.mkdir()
    real = shutil.which("squeue")
    refused = f"if [ -e {folder}/down ]; then touch {folder}/refused; exit 1; fi"
    scripts = {
        "squeue": f'{refused}\necho >> {folder}/looks\nexec {real} "$@"',
        "sacct": f"touch {folder}/asked; exit 1",
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join((str(folder), os.environ["PATH"])))
    return folder


def looks(wrapped: Path) -> int:
    """How often squeue has answered."""
    path = wrapped / "looks"
    return len(path.read_text().splitlines()) if path.exists() else 0


def job_is(cluster: Cluster, job: str, state: str) -> bool:
    return f"{job} {state}" in cluster.queue()


def leases(out: Path) -> int:
    return len([*(out / ".iml-bench-leases").glob("*.lease")])
