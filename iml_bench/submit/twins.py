"""Entries of one model that say it in other words: an option that is the default, spelled out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iml_bench.errors import UsageError
from iml_bench.registry import MODELS, TASKS
from iml_bench.spec import ModelEntry, apply_overrides

if TYPE_CHECKING:
    from torch import Tensor

BUILT: Final = ("ref", "timm", "hf-config")
"""Schemes whose models are built from their options; files are known by their bytes."""


def built_alike(entry: ModelEntry) -> str | None:
    """A registered entry that builds the same model from other words, on the task that its modality is named after.

    Only entries of the same architecture are built, so mostly none is, and then torch is not imported.

    Args:
        entry: of a model, which need not be registered.
    """
    named = [row.spec for row in MODELS.list() if row.spec is not None]
    alike = [other for other in named if other.name != entry.name and _architecture(other) == _architecture(entry)]
    if entry.parsed.scheme not in BUILT or entry.modality not in TASKS.origins or not alike:
        return None
    ours = _built(entry)
    if ours is None:
        return None
    return next((other.name for other in alike if _same(ours, _built(other))), None)


def _architecture(entry: ModelEntry) -> tuple[str, str, str]:
    source = entry.parsed
    return source.scheme, source.target.partition(".")[0], entry.tokenizer


class _Built(NamedTuple):
    """What can be seen of a model with the weights of one seed."""

    says: tuple[str, Any]
    """Its parts with their settings, and the configuration of a language model."""
    tensors: dict[str, Tensor]
    """Weights and buffers by name, which of them are trained, and for pictures what it computes in training."""


def _built(entry: ModelEntry) -> _Built | None:
    """A model, on the task of its modality; None where it cannot be had."""
    import torch

    from iml_bench.generators import seeded
    from iml_bench.models import VisionShape, load_form, load_model
    from iml_bench.run.cell import Setting
    from iml_bench.runtime import Runtime

    task = TASKS.get(entry.modality)
    try:
        form = load_form(entry)
        setting = Setting(apply_overrides(task, task.smoke), 0, torch.device("cpu"), Runtime(device="cpu"), form)
        shape = setting.shape()
        model = load_model(entry, shape, 0)
    except UsageError:
        return None  # the check of the model says why
    tensors = {**model.state_dict()}
    tensors |= {f"{name} is trained": torch.tensor(one.requires_grad) for name, one in model.named_parameters()}
    if isinstance(shape, VisionShape):
        with seeded(0), torch.no_grad():
            tensors["computed"] = model(torch.rand(2, shape.channels, shape.height, shape.width))
    to_dict = getattr(getattr(model.body, "config", None), "to_dict", dict)
    return _Built((repr(model), to_dict()), tensors)


def _same(ours: _Built, theirs: _Built | None) -> bool:
    import torch

    if theirs is None or ours.says != theirs.says or ours.tensors.keys() != theirs.tensors.keys():
        return False
    return all(torch.equal(one, theirs.tensors[name]) for name, one in ours.tensors.items())
