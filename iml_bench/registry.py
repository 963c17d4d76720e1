"""Names to specifications: one class for tasks, model entries and suites.

A name comes from a shipped YAML file, from an installed package's entry point, or is the path of a
user's own YAML file. Nothing is read before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from iml_bench.errors import UsageError, shown, unknown
from iml_bench.paths import data_root, is_file, is_folder
from iml_bench.spec import OUTSIDE_KEY, ModelEntry, Spec, SuiteSpec, TaskSpec, apply_overrides, changes, parse
from iml_bench.spec.written import read_yaml, why
from iml_bench.untrusted import read_bytes

S = TypeVar("S", bound=Spec)

LARGEST = 100_000
"""Bytes of a definition."""


class Origin(NamedTuple):
    """Where a name comes from."""

    where: str
    """A file's path, or an entry point's value."""
    load: Callable[[], Any]
    """Reads the definition: a specification, or plain data for one."""


class Listed(NamedTuple, Generic[S]):
    """A row of a listing: either a specification or the reason why there is none."""

    name: str
    origin: str
    spec: S | None
    problem: str | None


class Registry(Generic[S]):
    """All definitions of one kind."""

    def __init__(self, kind: str, spec_class: type[S], folder: str, listing: str) -> None:
        """Args:
        kind: what one is called in messages, e.g. ``task``.
        spec_class: what a definition is validated as.
        folder: of the shipped files, below ``data_root()``.
        listing: the command that lists them all.
        """
        self.kind, self.spec_class, self.folder, self.listing = kind, spec_class, folder, listing

    @cached_property
    def origins(self) -> dict[str, Origin]:
        """Every name with where it comes from.

        Raises:
            UsageError: when two definitions have the same name.
        """
        found: dict[str, Origin] = {}
        files = sorted((data_root() / self.folder).glob("*.yaml"))
        sources = [(path.stem, Origin(str(path), _reader(path))) for path in files]
        for point in entry_points(group=f"iml_bench.{self.kind}s"):
            sources.append((point.name, Origin(f"{point.value} ({_package(point)})", _importer(point))))
        for name, origin in sources:
            if name in found:
                raise UsageError(
                    f"two {self.kind}s are named {name!r}: {found[name].where} and {origin.where}; rename one"
                )
            found[name] = origin
        return found

    def get(self, name: str) -> S:
        """The definition of a name, or in the YAML file that it is the path of.

        Raises:
            UsageError: when there is none, or it is not valid.
        """
        if name in self.origins:
            return self._read(name, self.origins[name])
        path = Path(name)
        if path.suffix in (".yaml", ".yml") or is_file(name):
            if is_folder(name):
                raise UsageError(f"{shown(repr(name), 300)} is a folder, and a {self.kind} is a file")
            if not is_file(name):
                raise UsageError(
                    f"there is no {self.kind} file {shown(repr(name), 300)} ({self.listing} lists the names)"
                )
            return self._read(path.stem, Origin(name, _reader(path)))
        raise unknown(self.kind, name, self.origins, self.listing)

    def list(self) -> list[Listed[S]]:
        """Every definition, the broken ones with the reason."""
        rows: list[Listed[S]] = []
        for name, origin in sorted(self.origins.items()):
            try:
                rows.append(Listed(name, origin.where, self._read(name, origin), None))
            except UsageError as error:
                rows.append(Listed(name, origin.where, None, str(error)))
        return rows

    def _read(self, name: str, origin: Origin) -> S:
        where = shown(origin.where, 300)
        data = _loaded(self.kind, name, origin)
        if not isinstance(data, dict | self.spec_class):
            what = "empty" if data is None else "a list" if type(data).__name__ == "list" else "one value"
            raise UsageError(f"{where}: it is {what}, and a {self.kind} is fields with values")
        spec = data if isinstance(data, self.spec_class) else parse(self.spec_class, data, where)
        if getattr(spec, "name", name) != name:
            raise UsageError(f"{where}: it is found as {shown(repr(name))}, so its name must be that too")
        return spec


def kind_of(path: Path, *registries: Registry[Any]) -> Registry[Any]:
    """Which of some registries a user's file is for: the one of whose fields it has most.

    Raises:
        UsageError: when it cannot be read, or has fields of none or of several alike.
    """
    kinds = " or ".join(registry.kind for registry in registries)
    data = _loaded(kinds, path.stem, Origin(str(path), _reader(path)))
    names = {*data} if isinstance(data, dict) else set()
    found = {registry: len(names & {*registry.spec_class.model_fields}) for registry in registries}
    best = [registry for registry, count in found.items() if count == max(found.values())]
    if len(best) > 1:
        said = [f"a {registry.kind} says {', '.join(_telling(registry))}" for registry in registries]
        raise UsageError(f"{shown(str(path), 300)} is no {kinds}: {'; '.join(said)}")
    return best[0]


def _telling(registry: Registry[Any]) -> list[str]:
    fields = registry.spec_class.model_fields
    return [name for name, field in fields.items() if field.is_required()]


def _loaded(kind: str, name: str, origin: Origin) -> Any:
    try:
        return origin.load()
    except Exception as error:
        # Whatever a broken file or another package's code raises is that definition's problem alone.
        where = f"{kind} {shown(repr(name))} ({shown(origin.where, 300)})"
        raise UsageError(f"{where} cannot be read: {shown(why(error), 300)}") from error


def _reader(path: Path) -> Callable[[], Any]:
    return lambda: read_yaml(read_bytes(path, LARGEST, links=True))


def _importer(point: EntryPoint) -> Callable[[], Any]:
    return point.load


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown package"


TASKS = Registry("task", TaskSpec, "tasks", "iml-bench tasks")  # type: ignore[type-abstract]
MODELS = Registry("model", ModelEntry, "leaderboard/models", "iml-bench models")
SUITES = Registry("suite", SuiteSpec, "benchmarks", "iml-bench suite list")


def changes_of(task: TaskSpec, registered: TaskSpec | None = None) -> dict[str, Any]:
    """How a task differs from the registered one, as ``Record.changes`` and every table say it.

    ``{"setting": "small", "variant": "joint", ...}`` with what differs from the small setting, or from a variant of
    either size, where that is less than what differs from the task itself; so that the same task is always called the
    same, however it was asked for. Where the data come from (``world.source``) and what is no part of the identity is
    no change.

    Args:
        task: as it is run, or as a record has it.
        registered: what it is compared with; by default the task that is registered under its name.

    Raises:
        UsageError: when no task is registered under that name.
    """
    registered = registered or TASKS.get(task.name)
    sizes: list[tuple[dict[str, Any], TaskSpec]] = [({}, registered)]
    if registered.small:
        sizes.append(({"setting": "small"}, apply_overrides(registered, registered.small)))
    forms = [*sizes]
    for name, overrides in registered.variants.items():
        forms += [({**called, "variant": name}, apply_overrides(sized, overrides)) for called, sized in sizes]
    found = [(called, _difference(task, form)) for called, form in forms]
    called, rest = min(found, key=lambda one: (len(one[1]), len(one[0])))
    return {**called, **rest}


def _difference(task: TaskSpec, other: TaskSpec) -> dict[str, Any]:
    outside = {path.removeprefix("task.") for path in OUTSIDE_KEY} | {"world.source"}
    return {path: value for path, value in changes(task, other).items() if path not in outside}
