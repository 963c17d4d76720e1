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
from torch import nn

from iml_bench.errors import UsageError, unknown
from iml_bench.models.base import TextModel, TextShape, VisionModel, VisionShape
from iml_bench.models.networks import NETWORKS
from iml_bench.spec import ModelEntry

Shape = VisionShape | TextShape


def load_tokenizer(entry: ModelEntry) -> Any:
    """The tokenizer that comes with a model, or None for the task's own."""
    if entry.tokenizer == "task":
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            entry.parsed.target, trust_remote_code=entry.trust_remote_code, **_revision(entry)
        )
    except (OSError, ValueError) as error:
        raise _cannot_load(entry, error) from error


def load_model(entry: ModelEntry, shape: Shape, seed: int) -> nn.Module:
    """Build or load a model on the host; pretrained ones keep their weights.

    Args:
        entry: what to load.
        shape: what the task asks for.
        seed: of the initial weights; the global generator is left as it was.

    Raises:
        UsageError: when there is no such model, or it cannot take the task's shape.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = LOADERS[entry.parsed.scheme](entry, shape)
    model = VisionModel(body, shape) if isinstance(shape, VisionShape) else TextModel(body)
    _try_shape(entry, model, shape)
    return model


def _try_shape(entry: ModelEntry, model: nn.Module, shape: Shape) -> None:
    """One forward pass: a model that cannot take the task's input must fail before hours of work."""
    inputs: dict[str, Any]
    if isinstance(shape, VisionShape):
        what = f"images of {shape.height}x{shape.width}"
        expected: tuple[int, ...] = (2, shape.positions, shape.classes)
        inputs = {"pixels": torch.zeros(2, shape.channels, shape.height, shape.width)}
    else:
        what, expected = f"texts of {shape.max_length} tokens", (2, shape.max_length, shape.classes)
        inputs = {"input_ids": torch.full((2, shape.max_length), shape.line_end)}
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            logits = model(**inputs)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"model {entry.name!r} cannot take {what}: {reason}") from error
    if tuple(logits.shape) != expected and not (
        isinstance(shape, TextShape) and logits.shape[:2] == expected[:2] and logits.shape[2] >= shape.classes
    ):
        raise UsageError(f"model {entry.name!r} gave logits of shape {tuple(logits.shape)} for {what}, not {expected}")


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
            f"{_first_line(error)}"
        ) from error


def _hf(entry: ModelEntry, shape: Shape) -> nn.Module:
    from transformers import AutoModelForCausalLM

    assert isinstance(shape, TextShape)
    source = entry.parsed
    options = {key: value for key, value in source.options.items() if key != "revision"}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.target,
            trust_remote_code=entry.trust_remote_code,
            use_safetensors=True,
            dtype=torch.float32,
            **_revision(entry),
            **options,
        )
    except (OSError, ValueError, TypeError) as error:
        raise _cannot_load(entry, error) from error
    if model.get_input_embeddings().num_embeddings < shape.classes:
        model.resize_token_embeddings(shape.classes)
    model.config.use_cache = False
    return model  # type: ignore[no-any-return]


def _hf_config(entry: ModelEntry, shape: Shape) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    assert isinstance(shape, TextShape)
    source = entry.parsed
    options = {
        "vocab_size": shape.classes,
        "max_position_embeddings": max(32, shape.max_length),
        "pad_token_id": shape.pad,
        "bos_token_id": shape.line_end,
        "eos_token_id": shape.line_end,
        "use_cache": False,
        **source.options,
    }
    try:
        config = AutoConfig.for_model(source.target, **options)
        return AutoModelForCausalLM.from_config(  # type: ignore[no-any-return]
            config, trust_remote_code=entry.trust_remote_code, dtype=torch.float32
        )
    except Exception as error:
        raise UsageError(
            f"no causal language model of type {source.target!r} can be made from {source}: {_first_line(error)}"
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


def _revision(entry: ModelEntry) -> dict[str, Any]:
    return {key: value for key, value in entry.parsed.options.items() if key == "revision"}


def _cannot_load(entry: ModelEntry, error: Exception) -> UsageError:
    return UsageError(f"model {entry.name!r} ({entry.source}) cannot be loaded: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


LOADERS: dict[str, Callable[[ModelEntry, Shape], nn.Module]] = {
    "ref": _ref,
    "timm": _timm,
    "hf": _hf,
    "hf-config": _hf_config,
    "python": _python,
}
