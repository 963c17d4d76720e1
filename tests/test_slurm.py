"""Cells as jobs of a real Slurm of two nodes: whatever happens to them, the records are those of a local run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from making import command, heed_signals
from models_that_wait import GATE
from slurm_for_tests import NODES, Cluster, is_installed, wait_until

from iml_bench.errors import UsageError
from iml_bench.library.running import planned
from iml_bench.records import Record, Store
from iml_bench.run.executors import flights
from iml_bench.run.executors.choose import Where
from iml_bench.run.session import Session

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not is_installed(), reason="needs slurmctld, slurmd, slurm-client and munge"),
]
GATED = "python:models_that_wait:gated"
Begin = Callable[..., subprocess.Popen[str]]
SEEDS = 4
"""Of the local run that others are held against."""


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


def test_a_plain_run_by_the_real_command_line(cluster: Cluster, gate: Gate, local: Path, tmp_path: Path) -> None:
    gate.open()
    out = tmp_path / "out"
    done = command(*words(out, 2, "--slurm", "partition=low,time=30m", "--workers", "2"))
    assert done.returncode == 0, done.stderr
    assert gate.each_once(2) and len({job for *_, job in gate.ran()}) == 2
    assert_as_local(out, local, 2)
    assert_nothing_left(out, cluster)


def test_a_node_that_dies_costs_the_cell_that_it_was_at(
    cluster: Cluster, gate: Gate, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time it is run again, and the second time it has been lost too often."""
    if not cluster.contained:
        pytest.skip("needs namespaces, in which a node can be killed with all that runs on it")
    monkeypatch.setattr(flights, "RETRIES", 1)
    out, before = tmp_path / "out", submitted(cluster)
    running = Running(out, 3)
    gate.wait(1)
    gate.open("go-1")
    nodes = []
    for training in (2, 3):
        nodes.append(gate.wait(training)[1])
        for dead in nodes[:-1]:
            cluster.start_node(dead)
            cluster.wait_for_nodes()
        cluster.kill_node(nodes[-1])
        wait_until(lambda: leases(out) == 0, "the driver has seen that the job waits")
    assert sorted(nodes) == [*NODES]
    gate.open()
    records = running.end()
    cluster.start_node(nodes[-1])
    cluster.wait_for_nodes()
    assert [one.status for one in records] == ["done", "failed", "done"]
    error = records[1].error
    assert error is not None and f"slurm lost it 2 times; at last: {nodes[-1]} (process" in error.message
    names = [name for name, *_ in gate.ran()]
    assert len(names) == 4 and names[1] == names[2] and len(set(names)) == 3
    assert submitted(cluster) == before + 1
    assert_as_local(out, local, 2)
    assert_nothing_left(out, cluster)


@pytest.mark.parametrize("partition", ["low", "patient"])
def test_a_job_that_makes_room_for_another_goes_on_later(
    cluster: Cluster, gate: Gate, local: Path, tmp_path: Path, partition: str
) -> None:
    """Whether Slurm ends it at once, or asks it to end within a time."""
    out, before = tmp_path / "out", submitted(cluster)
    running = Running(out, 2, slurm=f"time=30m,partition={partition}")
    job = gate.wait(1)[2]
    cluster.ask("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    wait_until(lambda: job_is(cluster, job, "PENDING"), "the job is queued again")
    assert leases(out) == 0  # it has let go of its cell
    gate.open()
    assert [one.status for one in running.end()] == ["done", "done"]
    assert [number for *_, number in gate.ran()] == [job] * 3
    assert len({name for name, *_ in gate.ran()[:2]}) == 1
    assert submitted(cluster) == before + 2
    assert_as_local(out, local, 2)
    assert_nothing_left(out, cluster)


def test_jobs_that_others_end_are_handed_out_again(
    cluster: Cluster, gate: Gate, local: Path, tmp_path: Path, wrapped: Path
) -> None:
    """Meanwhile squeue fails for a while, which costs nothing; sacct is never needed."""
    out, before = tmp_path / "out", submitted(cluster)
    running = Running(out, 2)
    job = gate.wait(1)[2]
    (wrapped / "down").touch()
    wait_until((wrapped / "refused").exists, "squeue has failed")
    cluster.ask("scancel", job)
    gate.open()
    time.sleep(2)
    (wrapped / "down").unlink()
    assert [one.status for one in running.end()] == ["done", "done"]
    names = [name for name, *_ in gate.ran()]
    assert len(names) == 3 and names[0] == names[1]
    assert submitted(cluster) == before + 2 and not (wrapped / "asked").exists()
    assert_as_local(out, local, 2)
    assert_nothing_left(out, cluster)


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


def test_the_time_that_is_over_ends_no_cell_for_good(cluster: Cluster, gate: Gate, local: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    running = Running(out, 3)
    gate.open("go-1")
    job = gate.wait(2)[2]
    cluster.ask("scancel", "--signal=USR2", job)  # as Slurm announces it
    wait_until(lambda: job_is(cluster, job, "PENDING"), "the job is queued again")
    gate.wait(3)
    gate.open("go-3")
    gate.wait(4)
    assert [number for *_, number in gate.ran()] == [job] * 4
    cluster.ask("scontrol", "update", f"jobid={job}", "timelimit=1")
    wait_until(lambda: not job_is(cluster, job, "RUNNING"), "its time is over")
    gate.open()
    assert [one.status for one in running.end()] == ["done"] * 3
    names = [name for name, *_ in gate.ran()]
    assert len(set(names)) == 3 and names[1] == names[2]
    assert_as_local(out, local, 3)
    assert_nothing_left(out, cluster)


def test_ctrl_c_ends_all_jobs_and_nothing_waits(
    cluster: Cluster, gate: Gate, local: Path, tmp_path: Path, begin: Begin
) -> None:
    out = tmp_path / "out"
    program = begin(*words(out, 2, "--slurm", "time=30m", "--workers", "2"))
    gate.wait(2)
    program.send_signal(signal.SIGINT)
    said, _ = program.communicate(timeout=60)
    assert cluster.empty()
    assert program.returncode == 130
    assert "To continue:\n  python -m iml_bench run" in said and "Traceback" not in said
    assert_nothing_left(out, cluster)
    program = begin(*words(out, 2, "--slurm", "time=30m", "--workers", "2"))
    gate.wait(3)
    program.send_signal(signal.SIGINT)
    time.sleep(0.6)
    program.send_signal(signal.SIGINT)
    said, _ = program.communicate(timeout=60)
    assert program.returncode == 130
    gate.open()
    assert [one.status for one in run(out, 2)] == ["done", "done"]
    assert_as_local(out, local, 2)
    assert_nothing_left(out, cluster)


def test_jobs_go_on_without_their_command_and_the_same_one_waits_for_them(
    cluster: Cluster, gate: Gate, local: Path, tmp_path: Path, wrapped: Path, begin: Begin
) -> None:
    """Detached, then killed while it waits, and at last to the end: nothing is handed over twice."""
    out, before = tmp_path / "out", submitted(cluster)
    same = words(out, 2, "--slurm", "time=30m", "--workers", "2")
    done = command(*same, "--detach")
    assert done.returncode == 0, done.stderr
    assert "handed over: " in done.stderr and " go on without this command" in done.stderr
    jobs = submitted(cluster)
    assert jobs > before
    program = begin(*same)
    gate.wait(2)
    wait_until(lambda: looks(wrapped) > 1, "it looks at the queue")
    program.kill()
    program.communicate()
    before = looks(wrapped)
    again = begin(*same)
    wait_until(lambda: looks(wrapped) > before + 1, "the next one looks at the queue")
    gate.open()
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert submitted(cluster) == jobs and gate.each_once(2)
    assert_as_local(out, local, 2)
    assert_nothing_left(out, cluster)


def test_what_was_left_is_tidied_up_when_all_was_done_meanwhile(
    cluster: Cluster, gate: Gate, local: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    gate.open()
    assert run(out, 2, detach=True) == []
    wait_until(cluster.empty, "the job has ended")
    assert list((out / ".iml-bench-slurm").glob("*.chunk")) != []
    assert [one.status for one in run(out, 2)] == ["done", "done"]
    assert gate.each_once(2)
    assert_as_local(out, local, 2)
    assert_nothing_left(out, cluster)


def test_one_plain_command_in_an_array_of_jobs(cluster: Cluster, gate: Gate, local: Path, tmp_path: Path) -> None:
    """No client of Slurm in it at all: leases share the cells."""
    out = tmp_path / "out"
    same = shlex.join([sys.executable, "-m", "iml_bench", *words(out, 4, "--workers", "1")])
    output = f"--output={tmp_path}/%a.log"
    cluster.ask("sbatch", "--requeue", "--array=0-1", "--time=30", output, "--wrap", same)
    gate.wait(2)
    gate.open()
    wait_until(cluster.empty, "both have ended", 150)
    assert gate.each_once(4) and len({job for *_, job in gate.ran()}) == 2
    assert [(tmp_path / f"{task}.log").read_text().count("records: ") for task in range(2)] == [1, 1]
    assert_as_local(out, local, 4)
    assert_nothing_left(out, cluster)


def test_two_drivers_of_one_grid(cluster: Cluster, gate: Gate, local: Path, tmp_path: Path, begin: Begin) -> None:
    out = tmp_path / "out"
    program = begin(*words(out, 4, "--slurm", "time=30m", "--workers", "2"))
    running = Running(out, 4, workers=2)
    gate.wait(2)
    gate.open()
    assert [one.status for one in running.end()] == ["done"] * 4
    said, _ = program.communicate(timeout=120)
    assert program.returncode == 0, said
    assert gate.each_once(4)
    assert_as_local(out, local, 4)
    assert_nothing_left(out, cluster)


def test_a_cell_that_fails_fails_once_and_one_whose_process_dies_is_tried_again(
    cluster: Cluster, gate: Gate, local: Path, tmp_path: Path
) -> None:
    gate.open()
    out, before = tmp_path / "out", submitted(cluster)
    models = [f"python:models_for_tests:{name}" for name in ("diverging", "dying")]
    grid = words(
        out, 1, "--slurm", "time=30m", "--workers", "1", *(word for name in models for word in ("--model", name))
    )
    done = command(*grid)
    assert done.returncode == 1
    errors = {record.cell.model.name: record.error for record in failed(out)}
    assert set(errors) == {*models}
    diverged, died = (errors[name] for name in models)
    assert diverged is not None and "the loss was nan at step 8 of stage1" in diverged.message
    assert died is not None and "slurm lost it 3 times; at last: job " in died.message and "Killed" in died.message
    assert submitted(cluster) - before <= 4 and gate.each_once(1)
    assert "to try the failed cells again:" in done.stderr
    assert_as_local(out, local, 1)
    assert_nothing_left(out, cluster)


def test_a_cell_of_two_processes(cluster: Cluster, gate: Gate, tmp_path: Path) -> None:
    gate.open()
    here, there = tmp_path / "here", tmp_path / "there"
    run(here, 1, processes=2, executor="inline", slurm=None, workers=None)
    assert [one.provenance.processes for one in run(there, 1, processes=2)] == [2]
    assert_as_local(there, here, 1)
    assert_nothing_left(there, cluster)


@pytest.mark.parametrize(
    ("slurm", "says"),
    [
        ("time=30m,partition=nowhere", "--slurm partition=nowhere: it has no node"),
        ("time=30m,cpus-per-task=99", "no node of Slurm's can ever hold a cell that takes 99 cores; the largest has 2"),
        ("time=3h", "--slurm time=3h: no job of the partition may take over 60m"),
        ("time=30m,qos=nowhere,account=nobody,begin=never", "Slurm takes no job: sbatch: error: "),
        ("time=30m,nosuchoption=1", "Slurm takes no job: sbatch: unrecognized option '--nosuchoption=1'"),
    ],
)
def test_what_slurm_cannot_do_is_one_sentence(cluster: Cluster, tmp_path: Path, slurm: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(tmp_path / "out", 1, slurm=slurm)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == [] and cluster.empty()
