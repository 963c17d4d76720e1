"""The command that runs a row's cells again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from iml_bench.board import Row
from iml_bench.spec import ModelEntry, TaskSpec, show_seeds
from iml_bench.spec.base import read_value


def reproduce(row: Row, entry: ModelEntry, task: TaskSpec, *, registered: bool) -> str:
    """``iml-bench run ...``, quoted for a shell.

    Args:
        row: the row, of which the seeds that failed are run too.
        entry: the model's entry.
        task: the task's specification, of which only what its world is read from is looked at.
        registered: whether the entry can be named; its source is given otherwise.
    """
    changes = dict(row.changes)
    words = ["iml-bench", "run", "--task", row.task]
    if changes.pop("setting", None) == "small":
        words.append("--small")
    words += _settings(changes)
    if task.world.reads_file:
        words += ["--data", "FILE"]
    words += ["--model", entry.name if registered else entry.source]
    if entry.trust_remote_code and not registered:
        words.append("--trust-remote-code")
    words += ["--seeds", seeds(sorted({*row.seeds, *row.failed_seeds}))]
    return shlex.join(words)


def seeds(wanted: Sequence[int]) -> str:
    """What ``--seeds`` takes for these, as short as it gets: ``5``, ``3-7``, ``1,4``."""
    if list(wanted) == list(range(len(wanted))):
        return str(len(wanted))
    shown = show_seeds(wanted)
    return f"{shown}-{shown}" if shown.isdigit() else shown  # a number alone would say how many


def _settings(changes: Mapping[str, Any]) -> list[str]:
    return [word for path, value in changes.items() for word in ("--set", f"{path}={_as_typed(value)}")]


def _as_typed(value: Any) -> str:
    """A value as a person would type it, where that is read as the same."""
    try:
        if isinstance(value, str) and read_value(value) == value:
            return value
    except Exception:  # whatever YAML makes of a word that is none
        return json.dumps(value)
    return json.dumps(value)
