"""What ``--slurm`` takes, and what of it becomes a job's; no Slurm is needed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from making import CPU, small_cell

from iml_bench.errors import CellError, UsageError
from iml_bench.run.executors import worker
from iml_bench.run.executors.engine import Chunk
from iml_bench.run.executors.slurm import SlurmEngine, Work, check_nodes
from iml_bench.run.executors.slurm_options import minutes_of, parse_options, script, settings_of
from iml_bench.run.job import Job
from iml_bench.spec import Needs


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        *(("4h", 240), ("90m", 90), ("1d12h", 2160), ("1h30m", 90), ("1.5h", 90), ("600s", 10)),
        *(("90", 90), ("90:30", 90), ("1:30:00", 90), ("1-0", 1440), ("1-12", 2160), ("1-12:30", 2190)),
        ("2-00:00:00", 2880),
    ],
)
def test_times(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes
    assert parse_options(f"time={text}")["time"] == text


@pytest.mark.parametrize("text", ["", "soon", "4x", "h", "-3", "4h later", "1:2:3:4", "1-2-3", "4 h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="is no time; give it as 4h, 90m or 1:30:00"):
        minutes_of(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time=1m", "--slurm time=1m: give 5 minutes or more"),
        ("time=30s", "give 5 minutes or more"),
        ("partition=a,partition=b", "--slurm partition stands twice"),
        ("mem-per-cpu=1G,mem_per_cpu=2G", "--slurm mem_per_cpu stands twice"),
        ("partition", "is not of the form option=value, such as partition=gpu"),
        ("partition=", "is not of the form option=value"),
        ("=gpu", "is not of the form option=value"),
        ("a b=1", "is not of the form option=value"),
        ("partition=a,,time=1h", "is not of the form option=value"),
        ("partition=a\nb", "is not of the form option=value"),
        ("array=0-3", "--slurm array: that is set for every job"),
        ("job-name=mine", "--slurm job_name: that is set for every job"),
    ],
)
def test_what_is_no_option(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(text)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_options_have_dashes_or_not() -> None:
    assert parse_options("") == {"time": "4h"}
    assert parse_options(" --mem-per-cpu = 2G , account=lab,time=1h ") == {
        "mem_per_cpu": "2G",
        "account": "lab",
        "time": "1h",
    }


def settings(text: str, **needs: Any) -> dict[str, Any]:
    return settings_of(parse_options(text), Needs(**needs))


def test_needs_become_cores_gpus_and_memory() -> None:
    assert settings("") == {
        "time": 240,
        "ntasks_per_node": 1,
        "nodes": 1,
        "signal_delay_s": 90,
        "cpus_per_task": 1,
        "additional_parameters": {"requeue": True, "open-mode": "append"},
    }
    wanted = settings("time=1h", cpus=2, gpus=1, processes=4, memory=1.5)
    assert (wanted["cpus_per_task"], wanted["gpus_per_node"], wanted["mem"]) == (4, 1, "1500M")


def test_what_is_given_goes_before_needs() -> None:
    wanted = settings("cpus-per-task=8,gres=gpu:a100:1,mem-per-cpu=2G,reservation=r1", gpus=1, memory=9)
    assert wanted["cpus_per_task"] == 8 and wanted["gres"] == "gpu:a100:1"
    assert "gpus_per_node" not in wanted and "mem" not in wanted
    more = wanted["additional_parameters"]
    assert (more["mem-per-cpu"], more["reservation"]) == ("2G", "r1")
    with pytest.raises(UsageError, match="--slurm cpus-per-task=many is no number of cores"):
        settings("cpus-per-task=many")


def test_a_script_runs_one_command_in_every_task() -> None:
    text = script(
        parse_options("partition=gpu,time=2h,reservation=r1"), "iml-bench run --task vision", 8, Needs(cpus=2)
    )
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash" and lines[-1] == "exec iml-bench run --task vision"
    for option in ("array=0-7", "time=120", "partition=gpu", "reservation=r1", "cpus-per-task=2", "requeue"):
        assert f"#SBATCH --{option}" in lines
    assert not any("signal-delay" in line for line in lines)


NODES = "low* 4 16000 (null) 1:00:00\nlow* 8 8000 gpu:a100:2(S:0-1) 1:00:00\nhigh 64 512000 gpu:8 infinite\n"


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("time=1h", {"cpus": 8, "gpus": 2, "memory": 8}),
        ("time=1h", {"cpus": 4, "memory": 16}),
        ("time=30h,partition=high", {"cpus": 64, "gpus": 8}),
    ],
)
def test_nodes_that_can_hold_a_need(text: str, needs: dict[str, Any]) -> None:
    check_nodes(parse_options(text), [Needs(**needs)], NODES)


@pytest.mark.parametrize(
    ("text", "needs", "says"),
    [
        ("time=1h", {"cpus": 8, "memory": 16}, "takes 8 cores, 16 GB; the largest has 8 cores, 16 GB, 2 GPUs"),
        ("time=1h", {"gpus": 3}, "takes 1 core, 3 GPUs; the largest has 8 cores"),
        ("time=1h", {"processes": 9}, "takes 9 cores; the largest has 8 cores"),
        ("time=2h", {}, "--slurm time=2h: no job of the partition may take over 60m"),
        ("time=2h,partition=other", {}, "--slurm partition=other: it has no node"),
    ],
)
def test_nodes_that_cannot(text: str, needs: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_nodes(parse_options(text), [Needs(**needs)], NODES)
    assert says in str(caught.value)


def test_without_what_it_needs_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="there is no command sbatch here; run it where jobs are submitted"):
        SlurmEngine("")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"--executor slurm needs submitit: pip install 'iml-bench\[slurm\]'"):
        SlurmEngine("")


def test_a_cell_that_takes_longer_than_its_job_may_is_not_queued_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def announced(_: Chunk) -> None:
        os.kill(os.getpid(), signal.SIGUSR2)

    monkeypatch.setattr(worker, "work", announced)
    job = Job(small_cell(), {}, True, tmp_path)
    chunk = Chunk("name", (job,), Needs(), CPU, {}, tmp_path / "name.chunk", True)
    before = signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    try:
        with pytest.raises(CellError, match="the 1 minutes of its job were over before it was done"):
            Work(chunk, 1)()
    finally:
        signal.signal(signal.SIGUSR2, before)
