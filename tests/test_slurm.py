"""Jobs of a real Slurm of two nodes: whatever happens to them, the records are those of a local run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from making import command
from slurm_for_tests import NODES, Cluster, is_installed, wait_until
from slurm_grids import (
    Gate,
    Running,
    assert_as_local,
    assert_nothing_left,
    failed,
    job_is,
    leases,
    run,
    submitted,
    words,
)

from iml_bench.run.executors import flights

pytest_plugins = ["slurm_grids"]
pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not is_installed(), reason="needs slurmctld, slurmd, slurm-client and munge"),
]


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
