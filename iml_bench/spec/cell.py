"""The unit of work, and its identity."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, Literal

from pydantic import Field, SerializeAsAny

from iml_bench.extensions import PROTOCOLS
from iml_bench.spec.base import Spec, canonical_json, remembered
from iml_bench.spec.model import ModelEntry
from iml_bench.spec.seeds import LIMIT
from iml_bench.spec.task import TaskSpec

OUTSIDE_KEY = {
    "task.history": "says what changed between versions; nothing reads it",
    "task.description": "says what the task is; nothing reads it",
    "task.model": "only the default of the command line; the model that runs stands in the cell",
    "task.variants": "overrides that are not applied; applied ones stand in the fields they change",
    "task.small": "overrides that are not applied; applied ones stand in the fields they change",
    "task.smoke": "overrides that are not applied; applied ones stand in the fields they change",
    "model.name": "a label; the source says what is loaded",
    "model.modality": "only decides whether the model may be put on the task at all",
    "model.family": "a label for the leaderboard",
    "model.architecture": "a label for the leaderboard",
    "model.size": "a label; parameters are measured",
    "model.licence": "a label; nothing reads it",
    "model.notes": "says what the model is; nothing reads it",
    "model.tuned": "chosen values that are not applied; applied ones stand in the fields of the task that they change",
}
"""The fields of a cell that are not part of its identity, each with the reason. Device, worker
processes, folders, trackers and log levels are no fields of a cell at all, and neither is the micro-batch of a model
that has the same answer, but for rounding, whatever it is: they say where and how fast, never what."""

ADDED: dict[str, Any] = {
    "task.protocol": "two-stage",
    "task.stages": 2,
    "task.until": "stage2",
    "task.alpha_unreliable": None,
    "task.crossover": "pair",
    "task.stage2_tags": "taught",
    "task.exact_match": "strict",
    "task.attribution": False,
    "task.recipe.micro_batch": None,
    "task.recipe.stage1.warmup_steps": None,
    "task.recipe.stage2.warmup_steps": None,
    "task.groups.random_tag": 0,
    "task.render.delimited": True,
    "task.render.order": "tag-alias-entity",
    "task.render.tags": "random",
    "task.render.tag_words": None,
    "task.render.in_context": False,
    "task.render.sentences": 1,
    "task.render.tag_code": "free",
    "task.render.attribute_order": "fixed",
    "model.commit": None,
}
"""Fields that came later, each with the value that means "as before". They are part of the key only
where they differ from it, so that the cells of older records keep their keys."""


class CellSpec(Spec):
    """One (task, model, seed): the unit of work, of resuming and of replication."""

    task: SerializeAsAny[TaskSpec]
    model: ModelEntry
    seed: int = Field(ge=0, lt=LIMIT)
    protocol: int = Field(default_factory=lambda data: _protocol_version(data.get("task")))
    """Version of the task's protocol."""


def _protocol_version(task: TaskSpec | None) -> int:
    return 1 if task is None else int(PROTOCOLS.get(task.protocol).version)


def identity(cell: CellSpec) -> dict[str, Any]:
    """All fields of the cell that can change its answer, as plain data.

    A model whose bytes are known, by a digest or by a commit, is those bytes: where they lie is no part of it.
    """
    data: dict[str, Any] = json.loads(_text(cell))
    return data


def _part(section: Literal["task", "model"], data: dict[str, Any]) -> str:
    """Of a dumped task or model, what is part of the identity, in the canonical text form."""
    for path in OUTSIDE_KEY:
        place, field = path.split(".")
        if place == section:
            del data[field]
    for path, as_before in ADDED.items():
        place, *parents, field = path.split(".")
        if place != section:
            continue
        holder = data
        for parent in parents:
            holder = holder.get(parent) or {}  # a field of one protocol is none of another's
        if field in holder and holder[field] == as_before:
            del holder[field]
    return canonical_json(data)


# Thousands of cells have one task, or one model, between them; its part of their keys is the same text.
@remembered
def _task_part(task: TaskSpec) -> str:
    return _part("task", task.model_dump(mode="json"))


@remembered
def _model_part(model: ModelEntry) -> str:
    return _part("model", model.model_dump(mode="json") | {"source": model.loaded})


def _text(cell: CellSpec, model: str | None = None) -> str:
    """The identity of a cell in the canonical text form: an object of its fields, sorted by name.

    Args:
        cell: whose it is.
        model: what stands for its model, in the same form; None: as it is today.
    """
    parts = {name: canonical_json(getattr(cell, name)) for name in _OTHERS}
    parts |= {"task": _task_part(cell.task), "model": model or _model_part(cell.model)}
    return "{" + ",".join(f'"{name}":{part}' for name, part in sorted(parts.items())) + "}"


_OTHERS: Final = tuple(name for name in CellSpec.model_fields if name not in ("task", "model"))
"""Plain numbers."""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def cell_key(cell: CellSpec) -> str:
    """SHA-256 of everything that can change the cell's answer, in hexadecimal."""
    return _digest(_text(cell))


def key_with_place(cell: CellSpec) -> str:
    """The key that records up to schema 3 have: the path of a model with a digest was part of it."""
    return _digest(_text(cell, _part("model", cell.model.model_dump(mode="json"))))


def task_key(cell: CellSpec) -> str:
    """SHA-256 of what is asked of every model: the identity without the model and the seed.

    Cells may be averaged over seeds, and models compared, only where this is the same.
    """
    return _digest(f'{{"protocol":{cell.protocol},"task":{_task_part(cell.task)}}}')


def model_key(cell: CellSpec) -> str:
    """SHA-256 of what is loaded: the identity's model, which names and labels are no part of.

    Two recorded cells are of one model where this is the same; ``same_model`` holds an entry against them.
    """
    return _digest(_model_part(cell.model))


def asked_for(model: ModelEntry) -> dict[str, Any]:
    """What a model entry says is to be loaded, and from where; but for the digest of local files and the commit.

    These are no choice of whoever writes an entry: they are filled in when a run is planned, from what lies there.
    """
    return {**_asked_for(model)}


@remembered
def _asked_for(model: ModelEntry) -> dict[str, Any]:
    outside = {path.removeprefix("model.") for path in OUTSIDE_KEY} | {"digest", "commit"}
    data = model.model_dump(mode="json") | {"source": model.place}
    return {field: value for field, value in data.items() if field not in outside}


def same_model(entry: ModelEntry, model: ModelEntry) -> bool:
    """Whether running ``entry`` would load ``model``: the one rule of what "the same model" means.

    Where the entry's bytes are known (a digest, a commit), it is whatever has the same bytes and options, wherever it
    lies. An entry without either leaves the bytes open: it takes any that lie where it says. A *recorded* model
    without them is not what an entry with them loads. Labels (name, family, size, ...) play no part.

    So two models with one ``model_key`` are always the same model, and the same model under two keys
    differs in its bytes only.

    Args:
        entry: what is named, such as a registered entry, whose digest may not be filled in.
        model: what it is held against, such as the model of a recorded cell.
    """
    if entry.digest is None and entry.commit is None:
        return _asked_for(entry) == _asked_for(model)
    return _bytes_of(entry) == _bytes_of(model)


def _bytes_of(model: ModelEntry) -> dict[str, Any]:
    known = {"source": model.loaded, "digest": model.digest, "commit": model.commit}
    return _asked_for(model) | known
