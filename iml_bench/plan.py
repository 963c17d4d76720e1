"""From what a user asks for to the cells that are run."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from iml_bench.errors import UsageError, nearest
from iml_bench.gguf import resolve_gguf
from iml_bench.registry import MODELS, SUITES, TASKS
from iml_bench.spec import (
    FROM_FILE,
    MODEL,
    OUTSIDE_KEY,
    SCHEMES,
    CellSpec,
    ModelEntry,
    SuiteSpec,
    TaskSpec,
    apply_overrides,
    canonical_json,
    cell_key,
    changes,
    entry_from_source,
    task_key,
    vary_model,
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
    model_fields: Mapping[str, Any] = field(default_factory=dict)
    """What is changed in every model, see ``vary_model``."""
    small: bool = False
    smoke: bool = False
    trust_remote_code: bool = False
    data: Path | None = None
    """The file of a world that is read from one."""
    where: str = ""
    """Said before whatever is wrong with the request: the grid that it comes from."""


def plan(requests: Iterable[Request], out: Path, *, with_source: bool = True) -> list[Job]:
    """The jobs of all requests, each cell once; those of the reference learners come last.

    Args:
        requests: what to run.
        out: folder of the records.
        with_source: False: only to count; where a world's data come from is left open, and so are the keys.

    Raises:
        UsageError: when a task, a model, a field or a value is not valid.
    """
    jobs: dict[str, Job] = {}
    references: dict[str, Job] = {}
    for request in requests:
        try:
            planned = list(_cells(request, with_source))
        except UsageError as error:
            if not request.where:
                raise
            raise UsageError(f"{request.where}: {error}") from error
        for cell, said in planned:
            which = references if cell.model.is_reference else jobs
            which[cell_key(cell)] = Job(cell, said, request.smoke, out)
    return [*jobs.values(), *references.values()]


def _cells(request: Request, with_source: bool) -> Iterator[tuple[CellSpec, dict[str, Any]]]:
    """The cells of a request, each with how its task differs from the registered one."""
    base = TASKS.get(request.task)
    task = _changed(base, request)
    if with_source:
        task = _with_source(task, request.data)
    said = changes_of(task, base)
    for name in dict.fromkeys((*(request.models or (task.model,)), *REFERENCES)):
        entry = find_model(name, task, fields=request.model_fields, trust_remote_code=request.trust_remote_code)
        for seed in request.seeds:
            yield CellSpec(task=task, model=entry, seed=seed), said


def _changed(base: TaskSpec, request: Request) -> TaskSpec:
    """The task in the size and with the fields that are asked for."""
    if request.small and request.smoke:
        raise UsageError("--small and --smoke are two sizes; give one")
    if request.small and not base.small:
        raise UsageError(f"task {base.name!r} has no small setting; leave --small out")
    preset = base.small if request.small else base.smoke if request.smoke else {}
    return apply_overrides(apply_overrides(base, preset), request.overrides)


def _with_source(task: TaskSpec, data: Path | None) -> TaskSpec:
    """The task with what identifies its data, where they are not made by this package."""
    world = task.world.model_dump()
    if "source" not in world:
        if data is not None:
            raise UsageError(f"task {task.name!r} reads no file; leave --data out")
        return task
    source = _world_source(task, data)
    if world["source"] not in (None, source):
        raise UsageError(f"task {task.name!r} is of {world['source']}, and here is {source}")
    return task.model_copy(update={"world": task.world.model_copy(update={"source": source})})


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


def suite_requests(
    suite: SuiteSpec,
    *,
    smoke: bool = False,
    data: Path | None = None,
    models: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[Request]:
    """A suite's grids as requests, one for every combination of what varies in a grid.

    Args:
        suite: the grids.
        smoke: shrink every task; how long its stages are is then not for the suite to say.
        data: the file of a world that is read from one; for the grids of such a task.
        models: put in place of the grids' own, each in the grids of a task that it can read; a grid of which
            none can read the task is left out.
        seeds: put in place of the grids' own.

    Raises:
        UsageError: when a task or a model does not exist, or a model can read no grid's task.
    """
    tasks = [_task_of(suite, index) for index in range(len(suite.grids))]
    fitting = [tuple(name for name in models if find_model(name).modality in ("any", task.modality)) for task in tasks]
    for name in models:
        if not any(name in names for names in fitting):
            reads = find_model(name).modality
            raise UsageError(f"suite {suite.name!r} has no task for model {name!r}, which reads {reads}")
    if data is not None and not any(task.world.kind in FROM_FILE for task in tasks):
        raise UsageError(f"no task of suite {suite.name!r} reads a file; leave --data out")
    requests = []
    for index, (grid, task) in enumerate(zip(suite.grids, tasks, strict=True)):
        for point in grid.points if not models or fitting[index] else []:
            fields = {**grid.set, **point}
            left_out = {path for path in fields if path.startswith(MODEL) or (smoke and path in _LENGTHS)}
            requests.append(
                Request(
                    task=grid.task,
                    models=fitting[index] or grid.models,
                    seeds=tuple(seeds) or grid.seeds,
                    overrides={path: value for path, value in fields.items() if path not in left_out},
                    model_fields={path.removeprefix(MODEL): fields[path] for path in fields if path.startswith(MODEL)},
                    small=grid.small and not smoke,
                    smoke=smoke,
                    data=data if task.world.kind in FROM_FILE else None,
                    where=suite.where(index),
                )
            )
    return requests


_LENGTHS = {f"recipe.{stage}.{unit}" for stage in ("stage1", "stage2") for unit in ("steps", "epochs")}


def _task_of(suite: SuiteSpec, index: int) -> TaskSpec:
    grid = suite.grids[index]
    try:
        task = TASKS.get(grid.task)
    except UsageError as error:
        raise UsageError(f"{suite.where(index)}: {error}") from error
    if grid.small and not task.small:
        raise UsageError(f"{suite.where(index)}: task {task.name!r} has no small setting; leave small out")
    return task


class LeaderboardTask(NamedTuple):
    """What a complete row of the leaderboard holds of one task."""

    task: str
    version: int
    modality: str
    changes: dict[str, Any]
    """As ``Record.changes`` has it."""
    task_key: str | None
    """As of every cell of the task; null where the data come from elsewhere, so that it is known when it is run."""
    seeds: tuple[int, ...]


def leaderboard_tasks() -> list[LeaderboardTask]:
    """The tasks of the suite ``leaderboard``, in its order: what a row needs to be complete."""
    found: dict[tuple[str, str], LeaderboardTask] = {}
    for request in suite_requests(SUITES.get("leaderboard")):
        base = TASKS.get(request.task)
        task = _changed(base, request)
        said = changes_of(task, base)
        label = (base.label, canonical_json(said))
        seeds = dict.fromkeys((*(found[label].seeds if label in found else ()), *request.seeds))
        key = None
        if not hasattr(task.world, "source"):
            key = task_key(CellSpec(task=task, model=find_model(REFERENCES[0]), seed=0))
        found[label] = LeaderboardTask(base.name, base.version, base.modality, said, key, tuple(seeds))
    return list(found.values())


def find_model(
    name: str,
    task: TaskSpec | None = None,
    *,
    fields: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> ModelEntry:
    """The entry of a registered name, a YAML file, or a bare source such as ``timm:resnet18``.

    Args:
        name: what the user gave.
        task: when given, the model must be able to read it.
        fields: what is changed in the entry, see ``vary_model``; a reference learner stays as it is.
        trust_remote_code: run code that comes with the weights.

    Raises:
        UsageError: when there is no such model, it is for another modality, or is not valid when changed.
    """
    scheme = name.partition(":")[0]
    is_source = ":" in name and (scheme in SCHEMES or nearest(scheme, SCHEMES) is not None)
    entry = entry_from_source(name) if is_source else MODELS.get(name)
    if fields and not entry.is_reference:
        entry = vary_model(entry, fields)
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
