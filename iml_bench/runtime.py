"""Where and how fast a cell runs: everything that must not change its answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from iml_bench.errors import UsageError, shown

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
THREADS: Final = 1
"""Threads of a cell on a CPU. One always, since the number of threads changes how sums are rounded."""


class StageProgress(NamedTuple):
    """How far a stage is."""

    stage: str
    step: int
    total: int
    loss: float
    cell_step: int = 0
    """Steps of the whole cell so far, which never go back."""
    cell_total: int = 0
    """Steps of the cell's whole schedule; 0 where they are not told."""


class Launch(NamedTuple):
    """Which of several processes that share every batch this is, as whoever started them says."""

    size: int = 1
    """How many there are."""
    rank: int = 0
    """Its place among all."""
    local: int = 0
    """Its place among those of this machine."""


SIZE: Final = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANK: Final = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
LOCAL: Final = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
"""Variables of torchrun, MPICH, Open MPI and MVAPICH, in the order in which Accelerate reads them."""
ALONE: Final = "or set WORLD_SIZE=1 where each has cells of its own"


def launched() -> Launch:
    """Which of several processes this is; variables that are left from elsewhere do not count where it is alone.

    Raises:
        UsageError: when the variables that say so contradict one another.
    """
    size = _number(SIZE)
    if size is None or size[1] == 1:
        return Launch()
    name, of = size
    if of < 1:
        raise UsageError(f"{name}={of}: that many processes cannot share a batch; unset it")
    found = []
    for names, meaning in ((RANK, "which of them this is"), (LOCAL, "its place on this machine")):
        given = _number(names)
        if given is None:
            raise UsageError(
                f"{name}={of} says that this is one of {of} processes, and no {names[0]} says {meaning}; unset {name}, "
                "or start them with --processes or torchrun"
            )
        if not 0 <= given[1] < of:
            raise UsageError(f"{given[0]}={given[1]} is none of 0 to {of - 1}, with {name}={of}; unset both")
        found.append(given[1])
    return Launch(of, *found)


def _number(names: Sequence[str]) -> tuple[str, int] | None:
    """The first of some variables that is set, and its number."""
    for name in names:
        text = os.environ.get(name, "").strip()
        if text:
            try:
                return name, int(text)
            except ValueError:
                raise UsageError(f"{name}={shown(text)} in the environment is no number; unset it") from None
    return None


def check_launch() -> None:
    """Find out whether several processes were started that do not know of one another.

    Raises:
        UsageError: when the variables contradict one another, or each process would do all the work again.
    """
    launched()
    if _number(SIZE) is not None:
        return
    tasks = _number(("SLURM_STEP_NUM_TASKS",))
    if tasks is not None and tasks[1] > 1:
        raise UsageError(
            f"srun started {tasks[1]} processes, and each would run every cell; start one, or torchrun, {ALONE}"
        )
    # Accelerate names an address where it was asked for several processes; with --cpu it starts a single one.
    if "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ:
        raise UsageError(
            "accelerate launch was asked for several processes and started this one alone; give iml-bench run "
            f"--processes N instead, {ALONE}"
        )


def is_launched() -> bool:
    """Whether this is one of several processes that share every batch, as ``--processes`` or torchrun starts them."""
    return launched().size > 1


def is_first() -> bool:
    """Whether this is the process that speaks and writes, of several that share every batch."""
    return launched().rank == 0


def silent(told: object) -> None:
    """In place of a listener; one that can be sent to another process."""


@dataclass(frozen=True)
class Runtime:
    """Hardware and folders of a run; none of it is part of a cell's identity."""

    device: DeviceName = "auto"
    cells_per_gpu: int = 1
    """Cells that share each GPU, where several run side by side."""
    micro_batch: int | None = None
    """Examples per forward pass; None starts with the whole batch and halves when memory runs out."""
    data_dir: Path | None = None
    """Folder of data sets that are not embedded (MNIST)."""
    data: Path | None = None
    """The file of a world that is read from one; its digest is part of the identity, its path is not."""
    curve: int = 0
    """Points of the learning curve in each phase of training; 0: none."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: slower, in less memory."""
    nudge: int = 0
    """Other than 0: the initial weights are moved by a unit in the last place, at random by this number, to see what
    rounding makes of a cell. No option asks for it: the record says nothing of it, and is thrown away."""
    probes: tuple[tuple[str, str], ...] = ()
    """Names of probes, each with the moment at which it looks; they change no outcome."""
    keep: bool = False
    """Write the weights after every training step beside the record."""
    track: str | None = None
    """An Accelerate tracker (``tensorboard``, ``wandb``, ...); None: no tracking."""
    track_dir: Path | None = None
    report: Callable[[StageProgress], None] = silent
    """Called some forty times a stage."""
