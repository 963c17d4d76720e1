"""Places for cells on the NVIDIA GPUs of this machine: which there are, and which worker process has which."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from iml_bench.errors import UsageError
from iml_bench.runtime import Runtime, is_launched

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
PATIENCE: Final = 60.0
"""Seconds that a worker waits for a place; the process that had it before may still be about to end."""
SMI_SECONDS: Final = 30.0
"""After which ``nvidia-smi`` counts as broken; without persistence mode it takes a few."""


class Gpu(NamedTuple):
    """One GPU."""

    name: str
    """As ``CUDA_VISIBLE_DEVICES`` takes it: a UUID, or a number where none is known."""
    parts: tuple[str, ...] = ()
    """The same of each instance, where MIG has cut it; CUDA shows a process one of them at most."""


def gpus() -> tuple[str, ...]:
    """The GPUs that a process started from here may use, each as ``CUDA_VISIBLE_DEVICES`` names it alone.

    CUDA itself is not asked: that would take memory of every GPU, and the import of torch is slow.
    """
    there, allowed = _listed(), os.environ.get(VISIBLE)
    if allowed is None or not there:
        return tuple(name for gpu in there for name in (gpu.parts or (gpu.name,)))
    found: list[str] = []
    for entry in (part.strip() for part in allowed.split(",")):
        is_place = entry.isascii() and entry.isdigit() and int(entry) < len(there)
        if not is_place and not entry.startswith(("GPU-", "MIG-")):
            break  # CUDA does not look past the first entry that names nothing
        found.append(entry)
    return tuple(found) if len({*found}) == len(found) else ()  # CUDA shows none where one is named twice


@cache
def _listed() -> tuple[Gpu, ...]:
    """All GPUs of this machine, whatever the environment allows."""
    program = shutil.which("nvidia-smi")
    if program:
        try:
            told = subprocess.run(
                [program, "-L"],
                capture_output=True,
                encoding="utf-8",
                check=True,
                timeout=SMI_SECONDS,
                stdin=subprocess.DEVNULL,
            )
            return gpus_told(told.stdout)
        except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
            pass
    # Containers may have the devices without the program. Their numbers there are not those of CUDA, which has no gaps.
    there = [path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()]
    return tuple(Gpu(str(place)) for place in range(len(there)))


def gpus_told(text: str) -> tuple[Gpu, ...]:
    """What ``nvidia-smi -L`` says."""
    found: list[Gpu] = []
    for line in text.splitlines():
        if whole := re.match(r"GPU (\d+):(?:.*\(UUID: (GPU-[^)\s]+)\))?", line):
            found.append(Gpu(whole[2] or whole[1]))
        elif found and (part := re.match(r"\s+MIG .*\(UUID: (MIG-[^)\s]+)\)", line)):
            found[-1] = found[-1]._replace(parts=(*found[-1].parts, part[1]))
    return tuple(found)


def places(runtime: Runtime) -> tuple[str, ...]:
    """The GPU of every cell that may run beside others here, all GPUs in turn; empty where cells run on none."""
    return gpus() * runtime.cells_per_gpu if runtime.device in ("auto", "cuda") else ()


def check_cells_per_gpu(runtime: Runtime) -> None:
    """See that there are GPUs to share among cells, where that is asked for.

    Raises:
        UsageError: when there are none.
    """
    asked = f"--cells-per-gpu {runtime.cells_per_gpu}"
    if runtime.cells_per_gpu < 1:
        raise UsageError(f"{asked}: give 1, or as many cells as shall share a GPU")
    if runtime.cells_per_gpu == 1:
        return
    if is_launched():
        raise UsageError(f"{asked}: processes that share every batch run one cell at a time; leave it out")
    if not places(runtime):
        why = (
            "no NVIDIA GPU is found here"
            if runtime.device in ("auto", "cuda")
            else f"not with --device {runtime.device}"
        )
        raise UsageError(f"{asked}: {why}; leave it out")


def check_width(width: int, runtime: Runtime) -> None:
    """See that so many cells find a place side by side.

    Raises:
        UsageError: when there are GPUs, and they do not.
    """
    there = places(runtime)
    if there and width > len(there):
        n = len(gpus())
        enough = -(-width // n)
        raise UsageError(
            f"{width} cells side by side find {len(there)} place{'s' if len(there) > 1 else ''} on {n} "
            f"GPU{'s' if n > 1 else ''} with --cells-per-gpu {runtime.cells_per_gpu}; give --cells-per-gpu {enough}, "
            f"or --workers {len(there)}"
        )


class Places:
    """Hands places out to worker processes; the place of one that has ended, however it did, is free again."""

    def __init__(self, names: Sequence[str]) -> None:
        """Args: names: the GPU of each place."""
        self._names = tuple(names)
        self._held: dict[int, psutil.Process] = {}
        self._lock = threading.Lock()  # a manager serves each process in a thread of its own

    def take(self, pid: int) -> str | None:
        """The GPU of the first free place, which this process has from now on; None where no place is free."""
        with self._lock:
            for place, name in enumerate(self._names):
                if place not in self._held or not _lives(self._held[place]):
                    self._held[place] = psutil.Process(pid)
                    return name
        return None


def _lives(process: psutil.Process) -> bool:
    try:
        # By its start as well: numbers are given again. One that nobody has waited for yet holds nothing any more.
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def take_place(kept: Any) -> None:
    """In a worker, before torch is imported: take a place, and see no GPU but its own.

    Args:
        kept: the ``Places``, or what stands for them in another process.

    Raises:
        RuntimeError: when none becomes free.
    """
    last = time.monotonic() + PATIENCE
    while (name := kept.take(os.getpid())) is None:
        if time.monotonic() > last:
            raise RuntimeError(f"no place on a GPU became free within {PATIENCE:.0f} s")
        time.sleep(0.1)
    os.environ[VISIBLE] = name
