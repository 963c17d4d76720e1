"""Language models without their weights: what their configuration and the headers of their files tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from iml_bench.errors import UsageError
from iml_bench.modalities.text.model import TextShape
from iml_bench.models.language import (
    check_memory_of,
    drawn,
    finished,
    fitting_config,
    load_weights,
    read_weights,
    refuse_misfit,
)
from iml_bench.models.memory import SMALL
from iml_bench.sources.gguf import read_gguf_table, resolve_gguf
from iml_bench.spec import ModelEntry


def outline_language_model(
    entry: ModelEntry, shape: TextShape, optimizer: str, device: torch.device
) -> nn.Module | None:
    """A model as ``load_language_model`` would give it, on the meta device, where it has no weights.

    What fails without weights is tried with them, so that a sentence is always about the real thing.

    Args:
        entry: an ``hf:``, ``gguf:`` or ``hf-config:`` model.
        shape: what the task asks for.
        optimizer: the recipe's, which decides how much memory is needed.
        device: where the model would be trained.

    Returns:
        None where nothing is wrong so far and the model must be made to know more.

    Raises:
        UsageError: as ``load_language_model``.
    """
    config, options = fitting_config(entry, shape)
    n_parameters = check_memory_of(entry, config, optimizer, device)
    scheme = entry.parsed.scheme
    if scheme == "hf-config":
        # Whether it looks ahead is in the architecture, and seen with any weights: small ones are soon drawn.
        model = _on_meta(entry, config, {}) if n_parameters > SMALL else None
    elif scheme == "gguf":
        model = _of_table(entry, config, options)
    else:
        model = _of_headers(entry, config, options)
    if model is None:
        return None
    try:
        return finished(entry, shape, model, mean_resizing=False)
    except UsageError:
        raise
    except Exception:
        return None


def _on_meta(entry: ModelEntry, config: Any, options: dict[str, Any]) -> Any:
    try:
        with torch.device("meta"):
            return drawn(entry, config, **options)
    except UsageError:
        return None


def _of_headers(entry: ModelEntry, config: Any, options: dict[str, Any]) -> Any:
    """Of safetensors files: they are mapped into memory, and no page of a weight is touched."""
    try:
        model, report = read_weights(entry, config, options, device_map="meta")
    except UsageError:
        load_weights(entry, config, options)
        return None
    refuse_misfit(entry, {*report["missing_keys"], *report["mismatched_keys"]})
    return model


def _of_table(entry: ModelEntry, config: Any, options: dict[str, Any]) -> Any:
    """Of a GGUF file: no block of it is unpacked."""
    model = _on_meta(entry, config, options)
    if model is None or not _fits(model, resolve_gguf(entry.parsed.target)):
        load_weights(entry, config, options)
    return model


def _fits(model: Any, path: Path) -> bool:
    """Whether a GGUF file seems whole and to have every parameter of a model in its size."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    try:
        table = read_gguf_table(path)
        kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == table.architecture)
        names = get_tensor_name_map(kind, model.config.get_text_config().num_hidden_layers)
    except (ValueError, StopIteration, AttributeError):
        return False
    # A parameter that is shared has several names, and the file one of them.
    tied: dict[nn.Parameter, list[int]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        # Some files are of the model without its output layer, whose names begin later.
        known = (names.get_name(".".join(name.split(".")[start:]), (".weight", ".bias")) for start in (0, 1))
        tied.setdefault(parameter, []).extend(table.sizes[found] for found in known if found in table.sizes)
    return all(sizes and set(sizes) == {parameter.numel()} for parameter, sizes in tied.items())
