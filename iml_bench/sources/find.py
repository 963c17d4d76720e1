"""What a user names as a model, as an entry that can be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iml_bench.errors import UsageError, nearest
from iml_bench.extensions import LEARNERS
from iml_bench.paths import is_file, is_folder
from iml_bench.registry import MODELS
from iml_bench.sources.digest import digest_files
from iml_bench.sources.pretrained import commit_of
from iml_bench.spec import ModelEntry, Source, TaskSpec, entry_from_source, vary_model


def is_source(name: str) -> bool:
    """Whether what a user gave is meant as a bare source, right or wrong."""
    scheme, colon, _ = name.partition(":")
    return bool(colon) and (scheme in LEARNERS.origins or nearest(scheme, LEARNERS.origins) is not None)


def find_model(
    name: str,
    task: TaskSpec | None = None,
    *,
    fields: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> ModelEntry:
    """The entry of a registered name, a YAML file, or a bare source such as ``timm:resnet18``.

    Its digest and its commit say which bytes would be loaded now.

    Args:
        name: what the user gave.
        task: when given, the model must be able to read it.
        fields: what is changed in the entry, see ``vary_model``; a reference learner stays as it is.
        trust_remote_code: run code that comes with the weights.

    Raises:
        UsageError: when there is no such model, it is for another modality, or is not valid when changed.
    """
    entry = entry_from_source(as_typed(name)) if is_source(name) else MODELS.get(name)
    if fields and not entry.is_reference:
        if "source" in fields:
            fields = {**fields, "source": as_typed(str(fields["source"]))}
        entry = vary_model(entry, fields)
    if task is not None and entry.modality not in ("any", task.modality):
        raise UsageError(
            f"model {entry.name!r} reads {entry.modality} and task {task.name!r} is {task.modality}; "
            f"iml-bench models --modality {task.modality} lists what fits"
        )
    update: dict[str, Any] = {"digest": digest_files(entry), "commit": commit_of(entry)}
    if trust_remote_code and entry.parsed.scheme in ("hf", "hf-config"):
        update["trust_remote_code"] = True
    return entry.model_copy(update=update)


def as_typed(text: str) -> str:
    """A source with its path escaped, where a path lies there just as it was typed, with ``?``, ``%`` or ``&`` in it.

    Of several readings the one with the longest path is taken. Where no such path is there, the source stays as it is.
    """
    scheme, _, rest = text.partition(":")
    for end in [len(rest), *(place for place in reversed(range(len(rest))) if rest[place] == "?")]:
        if _lies_there(scheme, rest[:end]):
            return f"{Source(scheme, rest[:end], {})}{rest[end:]}"
    return text


def _lies_there(scheme: str, target: str) -> bool:
    if scheme == "hf":
        return is_folder(target)
    if scheme == "python":
        target, _, function = target.rpartition(":")
        if not function.isidentifier():
            return False
    return scheme in ("gguf", "python") and is_file(target)
