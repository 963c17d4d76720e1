"""Whether a model can be trained in the memory that is there: asked before gigabytes are read for nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from iml_bench.errors import UsageError
from iml_bench.spec import ModelEntry

SMALL = 50_000_000
"""Parameters below which nobody needs to ask."""
WEIGHT = GRADIENT = 4.0
"""Bytes; weights are trained in 32 bits."""
OPTIMIZER_STATE = {"adamw": 8.0, "adafactor": 0.1, "sgd": 0.0}
"""Bytes per trainable parameter: two moments; a row and a column of a matrix; nothing without momentum."""
GIB = 2**30


def check_memory(entry: ModelEntry, n_parameters: int, n_trainable: int, optimizer: str, device: torch.device) -> None:
    """Refuse a model whose training cannot fit; activations come on top and are not counted.

    Args:
        entry: whose parameters they are.
        n_parameters: all parameters.
        n_trainable: those that are trained: fewer than all with LoRA.
        optimizer: the recipe's.
        device: where it is trained; a copy of what is trained stays on the host.

    Raises:
        UsageError: when more is needed than is free.
    """
    # Several processes may share the weights between them, and how is not known here.
    if n_parameters < SMALL or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    state = OPTIMIZER_STATE.get(optimizer, OPTIMIZER_STATE["adamw"])
    copy = WEIGHT * n_trainable
    training = WEIGHT * n_parameters + (GRADIENT + state) * n_trainable
    host = torch.device("cpu")
    needs = [(device, training), (host, copy)] if device.type == "cuda" else [(host, training + copy)]
    for place, needed in needs:
        free = free_bytes(place)
        if needed > free:
            where = "of GPU memory" if place.type == "cuda" else "of memory"
            less = [f"recipe.optimizer={name}" for name in ("adafactor",) if state > OPTIMIZER_STATE[name]]
            less += ["LoRA (?lora=8 after the source)"] if n_trainable == n_parameters else []
            raise UsageError(
                f"model {entry.name!r} has {n_parameters / 1e9:.2f} billion parameters and needs at least "
                f"{needed / GIB:.1f} GiB {where} to be trained with {optimizer}, and {free / GIB:.1f} GiB are free"
                + (f"; {' or '.join(less)} needs less" if less else "")
            )


def free_bytes(device: torch.device) -> float:
    """Memory that this process could still take, on a GPU or on the host."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch keeps for later is as good as free.
        return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return min([float(psutil.virtual_memory().available), *_left_in_groups()])


def _left_in_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[float]:
    """What the memory limits of containers leave, from this process's control group up to the root."""
    try:
        # Version 2 has one line, 0::/path; of version 1, the line of the memory controller counts.
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return
    for _, controllers, path in lines:
        if controllers == "":
            names, top = ("memory.max", "memory.current", "inactive_file"), root
        elif controllers == "memory":
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = root / "memory"
        else:
            continue
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(top):
                yield from _left_in_group(group, names)


def _left_in_group(group: Path, names: tuple[str, str, str]) -> Iterator[float]:
    limit, usage, reclaimable = names
    try:
        most = float((group / limit).read_text(encoding="utf-8"))  # "max" is no number: no limit
        used = float((group / usage).read_text(encoding="utf-8"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return
    # The page cache counts as used, and is given up when it is needed.
    yield most - used + float(stat.get(reclaimable, 0))
