"""From what a user asks for to the cells that are run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from iml_bench.errors import UsageError, shown, unknown
from iml_bench.protocols import protocol_of
from iml_bench.registry import TASKS, changes_of
from iml_bench.run.job import Job
from iml_bench.sources import find_model
from iml_bench.spec import (
    LEARNING_RATE,
    CellSpec,
    ModelEntry,
    Needs,
    TaskSpec,
    apply_overrides,
    cell_key,
    setting_label,
)

RULESETS: Final = ("shared", "tuned")
"""``shared``: the task's learning rate for all; ``tuned``: for each model the one that its sweep chose."""


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
    variant: str | None = None
    """One of the task's variants, in any size."""
    trust_remote_code: bool = False
    ruleset: str = "shared"
    """One of ``RULESETS``: with ``tuned`` each model has the learning rate that its entry says was chosen for it."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """By model, as it is named here: learning rates that were chosen just now, which go before those of entries."""
    references: bool = True
    """Whether the reference learners are run, too."""
    data: Path | None = None
    """The file of a world that is read from one."""
    probes: tuple[str, ...] = ()
    """What looks into every trained cell, as ``--probe`` takes it."""
    where: str = ""
    """Said before whatever is wrong with the request: the grid that it comes from."""


def plan(requests: Iterable[Request], out: Path, *, with_source: bool = True) -> list[Job]:
    """The jobs of all requests, each cell once; those of the reference learners come last.

    Args:
        requests: what to run.
        out: folder of the records.
        with_source: False: only to count; where a world's data come from and what is tuned is left open, and so are
            the keys.

    Raises:
        UsageError: when a task, a model, a field or a value is not valid.
    """
    jobs: dict[str, Job] = {}
    references: dict[str, Job] = {}
    models = KnownModels()
    for request in requests:
        cells = cells_of(request, with_source=with_source, models=models)
        for model in {id(cell.model): cell.model for cell, _ in cells}.values():
            _keep_apart(model, out)
        for cell, said in cells:
            which = references if cell.model.is_reference else jobs
            key, probes = cell_key(cell), () if cell.model.is_reference else request.probes
            needs = cell.model.needs or Needs()
            which.setdefault(key, Job(cell, said, request.smoke, out, needs=needs))  # as it was first called
            if probes:
                which[key] = replace(which[key], probes=tuple(dict.fromkeys((*which[key].probes, *probes))))
    return [*jobs.values(), *references.values()]


class KnownModels:
    """The models that several requests name, each looked up once: its files are hashed then, or its hub is asked."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[ModelEntry, ModelEntry]] = {}

    def find(self, name: str, task: TaskSpec, request: Request) -> tuple[ModelEntry, ModelEntry]:
        """The entry of a name in a request, see ``find_model``, and the same as it stands in cells."""
        fields, trusted = request.model_fields, request.trust_remote_code
        asked = repr((name, task.modality, {**fields}, trusted))
        if asked not in self._found:
            entry = find_model(name, task, fields=fields, trust_remote_code=trusted)
            # What was chosen for a model stands in the task that runs, not in the record of every other task, too.
            self._found[asked] = entry, entry.model_copy(update={"tuned": {}})
        return self._found[asked]


def cells_of(
    request: Request, *, with_source: bool = True, models: KnownModels | None = None
) -> list[tuple[CellSpec, dict[str, Any]]]:
    """The cells of one request, model by model, each with how its task differs from the registered one; see ``plan``.

    Args:
        request: what to run.
        with_source: see ``plan``.
        models: those that other requests of the same plan have named.
    """
    try:
        return list(_cells(request, with_source, models or KnownModels()))
    except UsageError as error:
        if not request.where:
            raise
        raise UsageError(f"{request.where}: {error}") from error


def cells_by_model(request: Request, models: KnownModels) -> dict[str, list[tuple[CellSpec, dict[str, Any]]]]:
    """The cells of a request but those of reference learners, by the model as it is named there; see ``cells_of``."""
    every, n = cells_of(replace(request, references=False), models=models), len(request.seeds)
    return {name: every[place * n :][:n] for place, name in enumerate(dict.fromkeys(request.models))}


def _cells(request: Request, with_source: bool, models: KnownModels) -> Iterator[tuple[CellSpec, dict[str, Any]]]:
    base = TASKS.get(request.task)
    task = resized(base, request)
    if with_source:
        task = _with_source(task, request.data)
    references = protocol_of(task).attitudes(task) if request.references else ()
    changed: dict[str, tuple[TaskSpec, dict[str, Any]]] = {}
    for name in dict.fromkeys((*(request.models or (task.model,)), *references)):
        entry, model = models.find(name, task, request)
        chosen = _chosen(entry, name, request, base) if with_source else {}
        if repr(chosen) not in changed:
            own = apply_overrides(task, chosen) if with_source else task
            changed[repr(chosen)] = own, changes_of(own, base)
        own, said = changed[repr(chosen)]
        for seed in request.seeds:
            yield CellSpec(task=own, model=model, seed=seed), said


def _chosen(entry: ModelEntry, name: str, request: Request, base: TaskSpec) -> Mapping[str, float]:
    """What the ruleset changes for a model: nothing, or the learning rate that was chosen for it."""
    if request.ruleset == "shared" or entry.is_reference:
        return {}
    if LEARNING_RATE in request.overrides:
        raise UsageError(
            f"{LEARNING_RATE} is set, and the tuned ruleset takes the one that was chosen for each model; leave one of "
            "them out"
        )
    setting = setting_label(base.name, base.version, small=request.small)
    if name in request.rates:
        return {LEARNING_RATE: request.rates[name]}
    if setting not in entry.tuned:
        small = " --small" if request.small else ""
        raise UsageError(
            f"no learning rate has been chosen for model {entry.name!r} on {setting}: run "
            f"iml-bench tune {shlex.quote(name)} --task {shlex.quote(request.task)}{small} first"
        )
    return entry.tuned[setting]


def untuned(request: Request) -> list[str]:
    """The models of a request that the tuned ruleset needs a learning rate for, and that have none yet.

    Raises:
        UsageError: when the task or a model does not exist.
    """
    base = TASKS.get(request.task)
    setting = setting_label(base.name, base.version, small=request.small)
    if request.ruleset == "shared":
        return []
    found = ((name, find_model(name, base, fields=request.model_fields)) for name in request.models or (base.model,))
    return [name for name, entry in found if not entry.is_reference and setting not in entry.tuned]


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
    size = base.small if request.small else base.smoke if request.smoke else {}
    task = base
    for overrides in (size, _variant(base, request), request.overrides):
        task = apply_overrides(task, overrides)
    return task


def _variant(base: TaskSpec, request: Request) -> Mapping[str, Any]:
    if request.variant is None:
        return {}
    if not base.variants:
        raise UsageError(f"task {base.name!r} has no variants; leave out the variant {shown(repr(request.variant))}")
    if request.variant not in base.variants:
        raise unknown("variant", request.variant, base.variants, f"iml-bench show {base.name}")
    return base.variants[request.variant]


def _with_source(task: TaskSpec, data: Path | None) -> TaskSpec:
    """The task with what identifies its data, where they are not made by this package."""
    return task.model_copy(update={"world": task.world.identified(task.name, data)})
