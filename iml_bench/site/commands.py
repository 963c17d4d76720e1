"""The command that runs a row's cells again."""

from __future__ import annotations

from pathlib import Path

from iml_bench.board import Row
from iml_bench.run.command import command_of
from iml_bench.run.plan import Request
from iml_bench.spec import ModelEntry, TaskSpec


def reproduce(row: Row, entry: ModelEntry, task: TaskSpec, *, registered: bool) -> str:
    """``iml-bench run ...``, quoted for a shell.

    Args:
        row: the row, of which the seeds that failed are run too.
        entry: the model's entry.
        task: the task's specification, of which only what its world is read from is looked at.
        registered: whether the entry can be named; its source is given otherwise.
    """
    changes = dict(row.changes)
    small, variant = changes.pop("setting", None) == "small", changes.pop("variant", None)
    return command_of(
        Request(
            task=row.task,
            models=(entry.name if registered else entry.source,),
            seeds=tuple(sorted({*row.seeds, *row.failed_seeds})),
            overrides={**changes, **row.tuned},  # whatever the entry says by now
            small=small,
            variant=variant,
            trust_remote_code=entry.trust_remote_code and not registered,
            data=Path("FILE") if task.world.reads_file else None,
        )
    )
