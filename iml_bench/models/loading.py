"""From a model entry to a module: one function per source scheme."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iml_bench.errors import UsageError, unknown
from iml_bench.modalities.text.model import TextModel, TextShape
from iml_bench.modalities.vision.model import VisionModel, VisionShape
from iml_bench.models.language import LANGUAGE_SCHEMES, first_line, load_language_model
from iml_bench.models.networks import NETWORKS
from iml_bench.spec import ModelEntry

Shape = VisionShape | TextShape


def load_model(
    entry: ModelEntry,
    shape: Shape,
    seed: int,
    *,
    optimizer: str = "adamw",
    device: torch.device = torch.device("cpu"),
) -> nn.Module:
    """Build or load a model on the host; pretrained ones keep their weights.

    Args:
        entry: what to load.
        shape: what the task asks for.
        seed: of the initial weights; the global generator is left as it was.
        optimizer: the recipe's: with the device it decides whether a language model fits into memory.
        device: where the model will be trained.

    Raises:
        UsageError: when there is no such model, it cannot take the task's shape, or it is too large.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if entry.parsed.scheme in LANGUAGE_SCHEMES:
            assert isinstance(shape, TextShape)
            body = load_language_model(entry, shape, optimizer, device)
        else:
            body = LOADERS[entry.parsed.scheme](entry, shape)
    if isinstance(shape, VisionShape):
        return _tried_on_images(entry, VisionModel(body, shape), shape)
    return _tried_on_texts(entry, TextModel(body), shape)


def _tried_on_images(entry: ModelEntry, model: VisionModel, shape: VisionShape) -> VisionModel:
    """One forward pass: a model that cannot take the task's input must fail before hours of work."""
    what = f"images of {shape.height}x{shape.width}"
    pixels = torch.zeros(2, shape.channels, shape.height, shape.width)
    logits = _forward(entry, model, what, {"pixels": pixels})
    expected = (2 * shape.positions, shape.classes)
    if tuple(logits.shape) != expected:
        raise _wrong_shape(entry, what, logits, expected)
    return model


def _tried_on_texts(entry: ModelEntry, model: TextModel, shape: TextShape) -> TextModel:
    """As ``_tried_on_images``; and whether it looks ahead, and logits can be had at chosen positions only."""
    what = f"texts of {shape.max_length} tokens"
    inputs = {"input_ids": _tokens(shape, shape.max_length)}
    answered, written = shape.max_length, "input_ids"
    if shape.max_target:
        what += f" and answers of {shape.max_target}"
        answered, written = shape.max_target, "decoder_input_ids"
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs[written] = _tokens(shape, answered)
    model.early = False
    everywhere = torch.arange(2 * answered)
    logits = _forward(entry, model, what, {"keep": everywhere, **inputs})
    # Pretrained models have more classes than their tokenizer has tokens.
    if len(logits) != 2 * answered or logits.shape[1] < shape.classes:
        raise _wrong_shape(entry, what, logits, (2 * answered, shape.classes))
    others = {**inputs, written: torch.cat([inputs[written][:, :-1], inputs[written][:, :1]], dim=1)}
    before = everywhere.view(2, answered)[:, :-1].flatten()
    if not _near(_forward(entry, model, what, {"keep": before, **others}), logits[before]):
        raise UsageError(f"model {entry.name!r} looks ahead: what it predicts depends on the tokens that follow")
    last = everywhere[-2:]
    model.early = True
    try:
        chosen = _forward(entry, model, what, {"keep": last, **inputs})
        model.early = chosen.shape == logits[last].shape and _near(chosen, logits[last])
    except UsageError:
        model.early = False
    return model


def _tokens(shape: TextShape, length: int) -> Tensor:
    """Two texts ``[2, length]`` of differing tokens: equal ones may give equal logits at all positions."""
    ids = torch.arange(2 * length).view(2, length) % shape.classes
    return torch.where(ids == shape.pad, shape.line_end, ids)


def _near(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding, which grows with the largest logit."""
    largest = float(other.nan_to_num().abs().max())
    return torch.allclose(one, other, rtol=0, atol=1e-4 * largest, equal_nan=True)


def _forward(entry: ModelEntry, model: nn.Module, what: str, inputs: dict[str, Tensor]) -> Tensor:
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            logits: Tensor = model(**inputs)
    except Exception as error:
        raise UsageError(f"model {entry.name!r} cannot take {what}: {first_line(error)}") from error
    return logits


def _wrong_shape(entry: ModelEntry, what: str, logits: Tensor, expected: tuple[int, ...]) -> UsageError:
    return UsageError(f"model {entry.name!r} gave logits of shape {tuple(logits.shape)} for {what}, not {expected}")


def _ref(entry: ModelEntry, shape: Shape) -> nn.Module:
    target = entry.parsed.target
    if target not in NETWORKS:
        raise unknown("reference network", target, NETWORKS, "iml-bench models")
    assert isinstance(shape, VisionShape)
    outputs = shape.positions * shape.classes
    network: nn.Module = _call(entry, NETWORKS[target], shape.height, shape.width, outputs)
    return network


def _timm(entry: ModelEntry, shape: Shape) -> nn.Module:
    import timm

    assert isinstance(shape, VisionShape)
    source = entry.parsed
    if source.target.split(".")[0] not in timm.list_models():
        raise unknown("timm architecture", source.target, timm.list_models(), "timm.list_models()")
    options = {
        "in_chans": shape.channels,
        "num_classes": shape.positions * shape.classes,
        "img_size": (shape.height, shape.width),
        **source.options,
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
    model = _call(entry, find_callable(entry.parsed.target), shape)
    if not isinstance(model, nn.Module):
        raise UsageError(f"{entry.source!r} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def find_callable(target: str) -> Callable[..., Any]:
    """The callable of ``module:name`` or ``path/to/file.py:name``.

    Raises:
        UsageError: when the module or the name does not exist.
    """
    module_name, _, name = target.rpartition(":")
    try:
        if module_name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(spec.name, module)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
        found = getattr(module, name)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise UsageError(f"python:{target}: {error}; it is python:module:callable") from error
    if not callable(found):
        raise UsageError(f"python:{target} is not callable")
    return found  # type: ignore[no-any-return]


def _call(entry: ModelEntry, function: Callable[..., Any], *args: Any) -> Any:
    options = entry.parsed.options
    try:
        inspect.signature(function).bind(*args, **options)
    except TypeError as error:
        raise UsageError(f"model {entry.name!r} ({entry.source}): {error}") from error
    return function(*args, **options)


LOADERS: dict[str, Callable[[ModelEntry, Shape], nn.Module]] = {
    "ref": _ref,
    "timm": _timm,
    "python": _python,
}
