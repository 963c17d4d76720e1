"""The outputs of a network's blocks, whatever the architecture calls them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The members of every outermost ``ModuleList`` or ``Sequential``, by their path in the model.

    These are the layers of transformers' models, the stages or blocks of timm's, and the layers of a plain sequence.
    """
    todo: list[tuple[str, nn.Module]] = [("", model)]
    while todo:
        path, module = todo.pop(0)
        inside = [(f"{path}.{name}".lstrip("."), child) for name, child in module.named_children()]
        if isinstance(module, nn.ModuleList | nn.Sequential):
            yield from inside
        else:
            todo += inside


def title(path: str, module: nn.Module) -> str:
    """A block's name for people: its path in the body, and its kind where that is a number (``4 Linear``)."""
    path = path.removeprefix("body.")
    return f"{path} {type(module).__name__}" if path.isdecimal() else path


def input_embedding(model: nn.Module) -> nn.Module | None:
    """The module that gives a token's vector; None where the model says of none."""
    body: Any = getattr(model, "body", model)
    try:
        found = body.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # no model of transformers, or one that has none
        found = next((part for part in body.modules() if isinstance(part, nn.Embedding)), None)
    return found if isinstance(found, nn.Module) else None


def block_outputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The output of every block in one forward pass, detached.

    Args:
        model: in evaluation mode.
        inputs: keyword arguments of its forward pass.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor):
                found[name] = first.detach().clone()  # what follows may write over it

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in blocks(model)]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
