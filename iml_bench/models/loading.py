"""From a model entry to a module: one loader per source scheme."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from iml_bench.errors import UsageError, unknown
from iml_bench.generators import CPU, kept, seeded
from iml_bench.modalities.trial import Shape, first_line
from iml_bench.modalities.vision.model import VisionShape
from iml_bench.models.base import count_parameters
from iml_bench.models.language import LANGUAGE_SCHEMES, draw_language_model, load_language_model
from iml_bench.models.meta import META, scalars_are_zero
from iml_bench.models.networks import NETWORKS
from iml_bench.models.outline import outline_language_model
from iml_bench.models.own_code import contained, find_callable
from iml_bench.sources.pretrained import pinned
from iml_bench.spec import ModelEntry
from iml_bench.spec.written import misfit


def load_model(
    entry: ModelEntry, shape: Shape, seed: int, *, optimizer: str = "adamw", device: torch.device = CPU
) -> nn.Module:
    """Build or load a model on the host; pretrained ones keep their weights.

    Args:
        entry: what to load.
        shape: what the task asks for.
        seed: of the initial weights; the global generators are left as they were.
        optimizer: the recipe's: with the device it decides whether a language model fits into memory.
        device: where the model will be trained.

    Raises:
        UsageError: when there is no such model, it cannot take the task's shape, or it is too large.
    """
    with seeded(seed):
        body = LOADERS[entry.parsed.scheme].load(entry, shape, optimizer, device)
    model = shape.wrap(body)
    shape.try_out(entry, model)
    return model


def check_model(
    entry: ModelEntry,
    shape: Shape,
    *,
    optimizer: str = "adamw",
    device: torch.device = CPU,
    also: Callable[[nn.Module], object] | None = None,
) -> int:
    """Everything about a model that can be known without its weights; no random generator is moved.

    A model whose code needs real tensors is made with random weights. Those of a user's own are made as
    they are in a cell: nothing is known of what their code does or keeps.

    Args:
        entry: the model.
        shape: what the task asks for.
        optimizer: as for ``load_model``.
        device: as for ``load_model``.
        also: something else that must be possible with it, told by a ``UsageError``; what else it raises without
            weights says nothing.

    Returns:
        Trainable parameters.

    Raises:
        UsageError: as ``load_model``, except for what only the weights tell.
    """
    loader = LOADERS[entry.parsed.scheme]
    with kept():
        body = loader.outline(entry, shape, optimizer, device)
        model = _taken(entry, shape, body, also) if body is not None else None
        if model is None:
            model = shape.wrap(loader.draw(entry, shape))
            tried = shape.check_output if loader.published else shape.try_out
            tried(entry, model)
            if also is not None:
                also(model)
    return count_parameters(model)


def draw_model(entry: ModelEntry, shape: Shape, seed: int) -> nn.Module:
    """A wrapped model with random weights of a seed; no file of weights is opened."""
    with seeded(seed):
        return shape.wrap(LOADERS[entry.parsed.scheme].draw(entry, shape))


def _taken(
    entry: ModelEntry, shape: Shape, body: nn.Module, also: Callable[[nn.Module], object] | None
) -> nn.Module | None:
    """The wrapped model when all goes well without weights; None where it is to be tried with some."""
    try:
        model = shape.wrap(body)
        with scalars_are_zero():
            shape.check_output(entry, model, META)
    except Exception:
        return None
    if also is not None:
        try:
            with scalars_are_zero():
                also(model)
        except UsageError:
            raise
        except Exception:
            return None
    return model


def _ref(entry: ModelEntry, shape: VisionShape) -> nn.Module:
    target = entry.parsed.target
    if target not in NETWORKS:
        raise unknown("reference network", target, NETWORKS, "iml-bench models")
    outputs = shape.positions * shape.classes
    network: nn.Module = _call(entry, NETWORKS[target], shape.height, shape.width, outputs)
    return network


def _timm(entry: ModelEntry, shape: VisionShape) -> nn.Module:
    import timm

    source = entry.parsed
    if source.target.split(".")[0] not in timm.list_models():
        raise unknown("timm architecture", source.target, timm.list_models(), "timm.list_models()")
    options = {
        "in_chans": shape.channels,
        "num_classes": shape.positions * shape.classes,
        "img_size": (shape.height, shape.width),
        **source.options,
        **pinned(entry),
    }
    try:
        try:
            return timm.create_model(source.target, **options)  # type: ignore[no-any-return]
        except TypeError as error:
            if "img_size" not in str(error) or "img_size" in source.options:
                raise
            del options["img_size"]  # convolutional architectures take any size and have no such option
            return timm.create_model(source.target, **options)  # type: ignore[no-any-return]
    except Exception as error:
        raise UsageError(
            f"timm model {source.target!r} cannot be made for images of {shape.height}x{shape.width}: "
            f"{first_line(error)}"
        ) from error


def _python(entry: ModelEntry, shape: Shape) -> nn.Module:
    with contained(entry.parsed.target):
        model = _call(entry, find_callable(entry.parsed.target), shape)
    if not isinstance(model, nn.Module):
        raise UsageError(f"{entry.source!r} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _call(entry: ModelEntry, function: Callable[..., Any], *args: Any) -> Any:
    options = entry.parsed.options
    try:
        inspect.signature(function).bind(*args, **options)
    except TypeError as error:
        raise UsageError(f"model {entry.name!r} ({entry.source}): {error}") from error
    for name, value in options.items():
        declared = inspect.signature(function).parameters.get(name)
        problem = misfit(declared.annotation, value) if declared is not None else None
        if problem is not None:
            raise UsageError(f"model {entry.name!r} ({entry.source}): {name}: {problem}")
    return function(*args, **options)


class Loader(NamedTuple):
    """What is done with the models of a source scheme; shapes are of the modality that they are for."""

    load: Callable[[ModelEntry, Any, str, torch.device], nn.Module]
    """The body for a shape, with its weights, given an optimiser and a device; draws from torch's generator."""
    outline: Callable[[ModelEntry, Any, str, torch.device], nn.Module | None]
    """The same body on the meta device, where it has no weights. None where it must be drawn to know more."""
    draw: Callable[[ModelEntry, Any], nn.Module]
    """The same body with random weights."""
    published: bool = False
    """Whether ``load`` reads weights: what the body computes with random ones says nothing then."""


def _drawn(draw: Callable[[ModelEntry, Any], nn.Module], *, outlined: bool = True) -> Loader:
    """The loader of models that have no weights yet."""

    def outline(entry: ModelEntry, shape: Any, optimizer: str, device: torch.device) -> nn.Module | None:
        if not outlined:
            return None
        try:
            with META:
                return draw(entry, shape)
        except Exception:
            return None  # what is wrong, or only cannot be made without memory, is seen when it is drawn

    return Loader(lambda entry, shape, optimizer, device: draw(entry, shape), outline, draw)


_LANGUAGE = (load_language_model, outline_language_model, draw_language_model)
LOADERS: dict[str, Loader] = {
    "ref": _drawn(_ref),
    "timm": _drawn(_timm),
    "python": _drawn(_python, outlined=False),
    **{scheme: Loader(*_LANGUAGE, published=scheme != "hf-config") for scheme in LANGUAGE_SCHEMES},
}
