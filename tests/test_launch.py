"""Which of several processes this is: what the environment says, and what is refused before anything runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making import CPU, small_task

import iml_bench
from iml_bench.errors import UsageError
from iml_bench.learners import setup
from iml_bench.learners.setup import make_accelerator
from iml_bench.runtime import LOCAL, RANK, SIZE, Launch, Runtime, check_launch, is_first, is_launched, launched

VARIABLES = (*SIZE, *RANK, *LOCAL, "SLURM_STEP_NUM_TASKS", "ACCELERATE_USE_CPU", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def said(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Set variables, written as in front of a command."""
    for word in text.split():
        monkeypatch.setenv(*word.split("=", 1))


@pytest.mark.parametrize(
    ("text", "launch"),
    [
        ("", Launch()),
        ("RANK=1", Launch()),
        ("RANK=x LOCAL_RANK=7", Launch()),
        ("RANK=1 WORLD_SIZE=1", Launch()),
        ("WORLD_SIZE=", Launch()),
        ("WORLD_SIZE=1 PMI_SIZE=4 PMI_RANK=3", Launch()),
        ("WORLD_SIZE=1 SLURM_STEP_NUM_TASKS=4", Launch()),
        ("SLURM_STEP_NUM_TASKS=1", Launch()),
        ("WORLD_SIZE=3 RANK=2 LOCAL_RANK=0", Launch(3, 2, 0)),
        ("OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_LOCAL_RANK=1", Launch(2, 1, 1)),
        ("PMI_SIZE=2 PMI_RANK=0 MPI_LOCALRANKID=0", Launch(2, 0, 0)),
    ],
)
def test_who_this_is(monkeypatch: pytest.MonkeyPatch, text: str, launch: Launch) -> None:
    said(monkeypatch, text)
    check_launch()
    assert launched() == launch
    assert (is_launched(), is_first()) == (launch.size > 1, launch.rank == 0)


REFUSED = {
    "WORLD_SIZE=two": "WORLD_SIZE=two in the environment is no number",
    "WORLD_SIZE=2.0": "WORLD_SIZE=2.0 in the environment is no number",
    "WORLD_SIZE=0": "WORLD_SIZE=0: that many processes cannot share a batch",
    "WORLD_SIZE=-2": "WORLD_SIZE=-2: that many",
    "WORLD_SIZE=2": "one of 2 processes, and no RANK says which of them this is",
    "WORLD_SIZE=2 RANK=2 LOCAL_RANK=0": "RANK=2 is none of 0 to 1, with WORLD_SIZE=2",
    "WORLD_SIZE=2 RANK=-1 LOCAL_RANK=0": "RANK=-1 is none of 0 to 1",
    "WORLD_SIZE=2 RANK=1": "no LOCAL_RANK says its place on this machine",
    "WORLD_SIZE=2 RANK=1 LOCAL_RANK=5": "LOCAL_RANK=5 is none of 0 to 1",
    "PMI_SIZE=2 PMI_RANK=x": "PMI_RANK=x in the environment is no number",
    "SLURM_STEP_NUM_TASKS=4": "srun started 4 processes, and each would run every cell",
    "ACCELERATE_USE_CPU=True MASTER_ADDR=127.0.0.1": "accelerate launch was asked for several processes and started",
    "WORLD_SIZE=2 RANK=0 LOCAL_RANK=0": "the 2 processes cannot be brought together",
    "WORLD_SIZE=2 RANK=0 LOCAL_RANK=0 MASTER_ADDR=localhost MASTER_PORT=abc": "cannot be brought together",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_contradicts_itself_is_one_sentence_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    said(monkeypatch, text)
    before = dict(os.environ)
    with pytest.raises(UsageError, match=REFUSED[text]) as error:
        iml_bench.run("vision", "mlp-xs", seeds=1, smoke=True, out=tmp_path / "out", device="cpu", progress=False)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []
    new = {name: os.environ[name] for name in os.environ if before.get(name) != os.environ[name]}
    assert {*new} <= {"MASTER_PORT", "LOCAL_WORLD_SIZE"}  # Accelerate's own
    for name in new:
        monkeypatch.delenv(name)


numbers = st.none() | st.sampled_from(["", "0", "1", "2", "3", "-1", "two", "1e3", " 2 "])


@given(values=st.dictionaries(st.sampled_from(VARIABLES), numbers))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_environment_is_a_place_among_others_or_one_sentence(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str | None]
) -> None:
    with monkeypatch.context() as patched:
        for name, value in values.items():
            if value is not None:
                patched.setenv(name, value)
        try:
            check_launch()
        except UsageError as error:
            assert "\n" not in str(error)
        else:
            found = launched()
            assert 0 <= found.rank < found.size and 0 <= found.local < found.size
            assert is_first() or is_launched()


@pytest.mark.parametrize("text", ["", "RANK=1", "RANK=1 LOCAL_RANK=0", "WORLD_SIZE=1 PMI_SIZE=2 PMI_RANK=1"])
def test_what_is_left_in_the_environment_reaches_no_accelerator(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    said(monkeypatch, text)
    before = dict(os.environ)
    for device in ("auto", "cpu"):
        made = make_accelerator(small_task().recipe, Runtime(device=device))  # type: ignore[arg-type]
        assert (made.num_processes, made.process_index, made.is_main_process) == (1, 0, True)
    assert dict(os.environ) == before and not torch.distributed.is_initialized()


class Alone:
    """What Accelerate makes where it does not bring the processes together."""

    num_processes, device = 1, torch.device("cpu")

    def __init__(self, cpu: bool) -> None:
        self.cpu = cpu


def test_a_group_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    said(monkeypatch, "WORLD_SIZE=2 RANK=0 LOCAL_RANK=0")
    monkeypatch.setattr(setup, "PartialState", Alone)
    with pytest.raises(UsageError, match="this is one of 2 processes, and on cpu 1 of them shares a batch"):
        make_accelerator(small_task().recipe, CPU)


def test_more_processes_than_gpus_are_refused_by_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for rank in (0, 1):
        said(monkeypatch, f"WORLD_SIZE=2 RANK={rank} LOCAL_RANK={rank} LOCAL_WORLD_SIZE=2")
        with pytest.raises(UsageError, match="2 processes cannot share 1 GPU; start as many, or give --device cpu"):
            make_accelerator(small_task().recipe, Runtime())
