"""From what a user asks for to the cells that are run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iml_bench.errors import UsageError, shown
from iml_bench.protocols import protocol_of
from iml_bench.registry import TASKS, changes_of
from iml_bench.run.job import Job
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, ModelEntry, TaskSpec, apply_overrides, cell_key


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
            _keep_apart(cell.model, out)
            which = references if cell.model.is_reference else jobs
            which.setdefault(cell_key(cell), Job(cell, said, request.smoke, out))  # as it was first called
    return [*jobs.values(), *references.values()]


def _cells(request: Request, with_source: bool) -> Iterator[tuple[CellSpec, dict[str, Any]]]:
    """The cells of a request, each with how its task differs from the registered one."""
    base = TASKS.get(request.task)
    task = resized(base, request)
    if with_source:
        task = _with_source(task, request.data)
    said = changes_of(task, base)
    for name in dict.fromkeys((*(request.models or (task.model,)), *protocol_of(task).attitudes)):
        entry = find_model(name, task, fields=request.model_fields, trust_remote_code=request.trust_remote_code)
        for seed in request.seeds:
            yield CellSpec(task=task, model=entry, seed=seed), said


def _keep_apart(model: ModelEntry, out: Path) -> None:
    """Records in a model's folder would be files of the model."""
    source = model.parsed
    if source.scheme == "hf" and model.digest is not None:
        folder = Path(source.target).resolve()
        if out.resolve().is_relative_to(folder):
            raise UsageError(
                f"records in {shown(str(out), 300)} would lie in the folder of model {model.name!r} and count as its "
                "files; give an --out DIR outside of it"
            )


def resized(base: TaskSpec, request: Request) -> TaskSpec:
    """The task in the size and with the fields that are asked for."""
    if request.small and request.smoke:
        raise UsageError("--small and --smoke are two sizes; give one")
    if request.small and not base.small:
        raise UsageError(f"task {base.name!r} has no small setting; leave --small out")
    preset = base.small if request.small else base.smoke if request.smoke else {}
    return apply_overrides(apply_overrides(base, preset), request.overrides)


def _with_source(task: TaskSpec, data: Path | None) -> TaskSpec:
    """The task with what identifies its data, where they are not made by this package."""
    return task.model_copy(update={"world": task.world.identified(task.name, data)})
