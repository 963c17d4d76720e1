"""Run some cells once: ``python cells.py WORKERS STEPS FOLDER``, what ``workers.py`` times."""

from __future__ import annotations

import sys
from pathlib import Path

from iml_bench.registry import TASKS
from iml_bench.run.executors.base import Event
from iml_bench.run.executors.choose import Where
from iml_bench.run.job import Job
from iml_bench.run.session import Session
from iml_bench.runtime import Runtime
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, apply_overrides, changes

TASK, MODEL = "vision", "mlp-xs"
CELLS = 4
FIRST_SEED = 100
"""Seeds below 100 are kept for results."""


def stage2_steps(stage1: int) -> int:
    """Steps of a fold of stage 2, about the task's own share."""
    return max(1, stage1 // 10)


def main(workers: int, stage1: int, out: Path) -> None:
    """Run the cells, and exit with an error when one fails."""
    base = TASKS.get(TASK)
    task = apply_overrides(base, {"recipe.stage1.steps": stage1, "recipe.stage2.steps": stage2_steps(stage1)})
    cells = [CellSpec(task=task, model=find_model(MODEL), seed=FIRST_SEED + index) for index in range(CELLS)]
    failures: list[str | None] = []

    def listen(event: Event) -> None:
        if event.kind == "failed":
            failures.append(event.message)

    session = Session(out, Runtime(device="cpu"), Where(workers=workers))
    session.run([Job(cell, changes(task, base), False, out) for cell in cells], listen=listen)
    if failures:
        sys.exit(f"{len(failures)} cells failed: {failures[0]}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
