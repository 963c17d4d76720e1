"""What a network is trained with: the Accelerator, the optimiser, gradient checkpointing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import nn

from iml_bench.errors import UsageError, shown
from iml_bench.runtime import LOCAL, RANK, SIZE, Launch, Runtime, launched
from iml_bench.spec import Recipe


def make_accelerator(recipe: Recipe, runtime: Runtime) -> Accelerator:
    """An Accelerator for one cell: device, mixed precision and processes.

    Raises:
        UsageError: when the device, the precision or the other processes are not to be had here.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(runtime.device, True):
        raise UsageError(f"--device {runtime.device}: no such device here; leave it out or give --device cpu")
    # Where there is no accelerator this must be said: Accelerate brings processes together on a CPU only when told to.
    cpu = runtime.device == "cpu" or (runtime.device == "auto" and not torch.accelerator.is_available())
    alone = not torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=alone)  # cells in one process may differ in precision and device
    _join(cpu)
    try:
        return Accelerator(mixed_precision=recipe.precision, cpu=cpu)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"recipe.precision {recipe.precision!r} cannot be had here: {error}") from error


def _join(cpu: bool) -> None:
    """Have Accelerate find the device and, where there are several processes, the others.

    Raises:
        UsageError: when it finds another number of processes than were started, or another device.
    """
    launch = launched()
    if not cpu and launch.size > 1 and torch.cuda.is_available():
        here, devices = int(os.environ.get("LOCAL_WORLD_SIZE") or launch.local + 1), torch.cuda.device_count()
        if here > devices:
            raise UsageError(f"{here} processes cannot share {devices} GPU; start as many, or give --device cpu")
    try:
        with _environment_of(launch):
            state = PartialState(cpu=cpu)
    except (ValueError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"the {launch.size} processes cannot be brought together: {shown(first, 200)}") from error
    if state.num_processes != launch.size:
        kind = state.device.type
        raise UsageError(
            f"this is one of {launch.size} processes, and on {kind} {state.num_processes} of them shares a batch; "
            "give --device cpu, or start one"
        )
    if cpu and state.device.type != "cpu":
        raise UsageError(f"--device cpu: Accelerate's variables ask for {state.device}; unset ACCELERATE_TORCH_DEVICE")


@contextmanager
def _environment_of(launch: Launch) -> Iterator[None]:
    """The variables that Accelerate reads, without those that are left from elsewhere where this process is alone."""
    left = {name: os.environ.pop(name) for name in (*SIZE, *RANK, *LOCAL) if launch.size == 1 and name in os.environ}
    threads = "OMP_NUM_THREADS" not in os.environ
    if threads:
        # Else it would choose a number of threads, which changes how sums are rounded.
        os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.environ.update(left)
        if threads:
            del os.environ["OMP_NUM_THREADS"]


def enable_checkpointing(model: nn.Module) -> None:
    """Have a model compute activations again in the backward pass.

    Raises:
        UsageError: when it has no such mode.
    """
    body: Any = getattr(model, "body", model)
    # Architectures of transformers and timm each have their own name for it.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable", "set_grad_checkpointing")
    enable = next((getattr(body, name) for name in names if hasattr(body, name)), None)
    if enable is None:
        raise UsageError("--gradient-checkpointing: this model has no such mode; leave it out")
    try:
        enable()
    except (ValueError, NotImplementedError, AssertionError) as error:
        raise UsageError(f"--gradient-checkpointing: {error}; leave it out") from error


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; Adafactor without relative steps and scaling, as in the paper's code."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = not any(parameter.is_meta for parameter in parameters)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
    from transformers import Adafactor

    adafactor: torch.optim.Optimizer = Adafactor(
        parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, scale_parameter=False, relative_step=False
    )
    return adafactor
