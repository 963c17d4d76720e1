"""From what a user asks for to the cells that are run."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from iml_bench.errors import UsageError, nearest
from iml_bench.gguf import resolve_gguf
from iml_bench.registry import MODELS, TASKS
from iml_bench.spec import (
    OUTSIDE_KEY,
    SCHEMES,
    CellSpec,
    ModelEntry,
    SuiteSpec,
    TaskSpec,
    apply_overrides,
    cell_key,
    changes,
    entry_from_source,
)
from iml_bench.work import Job
from iml_bench.worlds.cities import cities_source

REFERENCES = ("oracle", "gullible", "random")
"""The model entries whose rows stand under every table."""


@dataclass(frozen=True)
class Request:
    """What to run: one task with every model and every seed."""

    task: str
    models: tuple[str, ...] = ()
    """Names, source strings or files; empty: the task's own small reference network."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    small: bool = False
    smoke: bool = False
    trust_remote_code: bool = False
    data: Path | None = None
    """The file of a world that is read from one."""


def plan(requests: Iterable[Request], out: Path) -> list[Job]:
    """The jobs of all requests, each cell once; those of the reference learners come last.

    Raises:
        UsageError: when a task, a model, a field or a value is not valid.
    """
    jobs: dict[str, Job] = {}
    references: dict[str, Job] = {}
    for request in requests:
        base = TASKS.get(request.task)
        task, said = _changed(base, request)
        names = request.models or (task.model,)
        for name, seed in product(dict.fromkeys((*names, *REFERENCES)), request.seeds):
            entry = find_model(name, task, trust_remote_code=request.trust_remote_code)
            cell = CellSpec(task=task, model=entry, seed=seed)
            job = Job(cell, said, request.smoke, out)
            (references if entry.is_reference else jobs)[cell_key(cell)] = job
    return [*jobs.values(), *references.values()]


def _changed(base: TaskSpec, request: Request) -> tuple[TaskSpec, dict[str, Any]]:
    """The task as it is run, and how it differs from the registered one, to be shown."""
    if request.small and request.smoke:
        raise UsageError("--small and --smoke are two sizes; give one")
    if request.small and not base.small:
        raise UsageError(f"task {base.name!r} has no small setting; leave --small out")
    preset = base.small if request.small else base.smoke if request.smoke else {}
    shrunk = apply_overrides(base, preset)
    task = apply_overrides(shrunk, request.overrides)
    world = task.world.model_dump()
    if "source" in world:
        source = _world_source(task, request.data)
        if world["source"] not in (None, source):
            raise UsageError(f"task {task.name!r} is of {world['source']}, and here is {source}")
        task = task.model_copy(update={"world": task.world.model_copy(update={"source": source})})
    elif request.data is not None:
        raise UsageError(f"task {task.name!r} reads no file; leave --data out")
    return task, changes_of(task, base)


def changes_of(task: TaskSpec, registered: TaskSpec | None = None) -> dict[str, Any]:
    """How a task differs from the registered one, as ``Record.changes`` and every table say it.

    ``{"setting": "small", ...}`` with what differs from the small setting, where that is less than what
    differs from the task itself; so that the same task is always called the same, however it was asked for.
    Where the data come from (``world.source``) and what is no part of the identity is no change.

    Args:
        task: as it is run, or as a record has it.
        registered: what it is compared with; by default the task that is registered under its name.

    Raises:
        UsageError: when no task is registered under that name.
    """
    registered = registered or TASKS.get(task.name)
    full = _difference(task, registered)
    if registered.small:
        from_small = _difference(task, apply_overrides(registered, registered.small))
        if len(from_small) < len(full):
            return {"setting": "small", **from_small}
    return full


def _difference(task: TaskSpec, other: TaskSpec) -> dict[str, Any]:
    outside = {path.removeprefix("task.") for path in OUTSIDE_KEY} | {"world.source"}
    return {path: value for path, value in changes(task, other).items() if path not in outside}


def _world_source(task: TaskSpec, data: Path | None) -> str:
    """What identifies the data behind a world: a file's SHA-256, or a package's version."""
    if task.world.kind == "cities":
        if data is not None:
            raise UsageError(f"task {task.name!r} reads no file; leave --data out")
        return cities_source()
    if data is None:
        raise UsageError(f"task {task.name!r} reads its entities from a file; give --data FILE")
    if not data.is_file():
        raise UsageError(f"--data {str(data)!r} is not a file")
    with data.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def suite_requests(suite: SuiteSpec, *, smoke: bool = False, data: Path | None = None) -> list[Request]:
    """A suite's grids as requests: one for every combination of a grid's axes."""
    return [
        Request(
            task=grid.task,
            models=grid.models,
            seeds=tuple(range(grid.seeds)),
            overrides={**grid.set, **dict(zip(grid.axes, values, strict=True))},
            smoke=smoke,
            data=data,
        )
        for grid in suite.grids
        for values in product(*grid.axes.values())
    ]


def find_model(name: str, task: TaskSpec | None = None, *, trust_remote_code: bool = False) -> ModelEntry:
    """The entry of a registered name, a YAML file, or a bare source such as ``timm:resnet18``.

    Args:
        name: what the user gave.
        task: when given, the model must be able to read it.
        trust_remote_code: run code that comes with the weights.

    Raises:
        UsageError: when there is no such model, or it is for another modality.
    """
    scheme = name.partition(":")[0]
    is_source = ":" in name and (scheme in SCHEMES or nearest(scheme, SCHEMES) is not None)
    entry = entry_from_source(name) if is_source else MODELS.get(name)
    if task is not None and entry.modality not in ("any", task.modality):
        raise UsageError(
            f"model {entry.name!r} reads {entry.modality} and task {task.name!r} is {task.modality}; "
            f"iml-bench models --modality {task.modality} lists what fits"
        )
    update: dict[str, Any] = {"digest": _digest(entry)}
    if trust_remote_code and entry.parsed.scheme in ("hf", "hf-config"):
        update["trust_remote_code"] = True
    return entry.model_copy(update=update)


def _digest(entry: ModelEntry) -> str | None:
    """SHA-256 of the local files a source points at; null where it points at a hub or at a library."""
    source = entry.parsed
    if source.scheme == "hf" and Path(source.target).is_dir():
        wanted = (".safetensors", ".json", ".txt", ".model", ".py")
        return _hash_files(path for path in Path(source.target).iterdir() if path.suffix in wanted)
    if source.scheme == "gguf":
        return _hash_files([resolve_gguf(source.target)])
    if source.scheme == "python":
        module, colon, _ = source.target.rpartition(":")
        if not colon:
            raise UsageError(f"{entry.source!r} is not of the form python:module:callable")
        return _hash_files([_module_file(module, entry)])
    return None


def _module_file(module: str, entry: ModelEntry) -> Path:
    if module.endswith(".py"):
        path = Path(module)
        if not path.is_file():
            raise UsageError(f"{entry.source!r}: there is no file {module}")
        return path
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise UsageError(f"{entry.source!r}: there is no module {module!r}; give a path ending in .py, or install it")
    return Path(spec.origin)


def _hash_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
