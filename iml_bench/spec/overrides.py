"""``--set field.path=value``: change any field of a task or of its recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from iml_bench.errors import UsageError, shown, unknown
from iml_bench.spec.base import parse
from iml_bench.spec.task import TaskSpec
from iml_bench.spec.written import read_value, why

FIXED = ("name", "version", "protocol", "variants", "small", "smoke")
"""Fields that say which task it is; another task is another file."""


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``path=value``; see ``written.read_value`` for what a value is.

    Raises:
        UsageError: when there is no ``=`` or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UsageError(f"--set {text!r} is not of the form field.path=value")
    try:
        return path.strip(), read_value(value)
    except yaml.YAMLError as error:
        given = shown(repr(value))
        raise UsageError(
            f"--set {shown(path)}: {given} is not a value YAML can read: {shown(why(error), 300)}"
        ) from error


def apply_overrides(task: TaskSpec, overrides: Mapping[str, Any]) -> TaskSpec:
    """The task with some fields changed, validated as a whole.

    Setting a stage's ``steps`` clears its ``epochs`` and the other way round, since a stage has one.

    Raises:
        UsageError: when a path names no field, or the changed task is not valid.
    """
    data = task.model_dump(mode="json")
    paths = dict(_paths(data))
    for path, value in overrides.items():
        if path.split(".")[0] in FIXED:
            raise UsageError(
                f"{path} cannot be set: it says which task {task.name!r} is, and another task is another file"
            )
        if path not in paths:
            allowed = [known for known in paths if known.split(".")[0] not in FIXED]
            raise unknown("field", path, allowed, f"iml-bench show {task.name}")
        *parents, field = path.split(".")
        section = data
        for parent in parents:
            section = section[parent]
            if not isinstance(section, dict):
                raise UsageError(f"{path} cannot be set, since {parent} was set as a whole")
        section[field] = value
        other = {"steps": "epochs", "epochs": "steps"}.get(field)
        if other and value is not None and f"{'.'.join(parents)}.{other}" not in overrides:
            section[other] = None
    return parse(TaskSpec, data, f"task {task.name!r} with these settings")  # type: ignore[type-abstract]


def changes(task: TaskSpec, base: TaskSpec) -> dict[str, Any]:
    """The fields in which ``task`` differs from ``base``, as ``{path: value}``."""
    ours, theirs = dict(_paths(task.model_dump(mode="json"))), dict(_paths(base.model_dump(mode="json")))
    return {
        path: value
        for path, value in ours.items()
        if not isinstance(value, dict) and (path not in theirs or theirs[path] != value)
    }


def _paths(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        yield prefix + key, value
        if isinstance(value, dict) and prefix + key not in FIXED:
            yield from _paths(value, f"{prefix}{key}.")
