"""Commands that hand cells to a real Slurm: however they end, nothing is lost, run twice or left."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
from making import command
from slurm_for_tests import Cluster, is_installed, wait_until
from slurm_grids import (
    Begin,
    Gate,
    Running,
    assert_as_local,
    assert_nothing_left,
    looks,
    run,
    submitted,
    words,
)

from iml_bench.errors import UsageError

pytest_plugins = ["slurm_grids"]
pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not is_installed(), reason="needs slurmctld, slurmd, slurm-client and munge"),
]


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
