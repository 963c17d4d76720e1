"""What a network is trained with: the Accelerator, the optimiser, gradient checkpointing."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from iml_bench.errors import UsageError
from iml_bench.runtime import Runtime
from iml_bench.spec import Recipe


def make_accelerator(recipe: Recipe, runtime: Runtime) -> Accelerator:
    """An Accelerator for one cell: device, mixed precision and processes.

    Raises:
        UsageError: when the device or the precision is not to be had here.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(runtime.device, True):
        raise UsageError(f"--device {runtime.device}: no such device here; leave it out or give --device cpu")
    AcceleratorState._reset_state()  # cells in one process may differ in precision
    try:
        return Accelerator(
            mixed_precision=recipe.precision,
            cpu=runtime.device == "cpu",
        )
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"recipe.precision {recipe.precision!r} cannot be had here: {error}") from error


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
