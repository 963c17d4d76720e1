"""The same small cells with leases and without: what sharing a folder costs a run that is alone in it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import Comparison, DifferenceError, make_cell

from iml_bench.records import Store, iterate_done
from iml_bench.run.job import Job, run_job
from iml_bench.run.sharing import run_shared
from iml_bench.runtime import Runtime

CELLS = 16


def with_leases_and_without(steps: int | None) -> Comparison:
    """Cells of vision at smoke size, one after another in this process, each under a lease, and the same without.

    Args:
        steps: of stage 1 of a cell; None: the smoke size's own.
    """
    cell = make_cell("vision", "mlp-xs", None if steps is None else (steps, max(1, steps // 10)), "smoke")
    outcomes: dict[str, str] = {}

    def timed(run: Callable[[Job, Runtime], Any]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            jobs = [Job(cell.model_copy(update={"seed": 100 + seed}), {}, True, out) for seed in range(CELLS)]
            before = time.perf_counter()
            for job in jobs:
                run(job, Runtime(device="cpu"))
            taken = time.perf_counter() - before
            stored, _ = Store(out).scan()
        found = {entry.record.key: entry.record.items.sha256 for entry in iterate_done(stored) if entry.record.items}
        outcomes.update({} if outcomes else found)
        if len(found) != CELLS or found != outcomes:
            raise DifferenceError("the cells' outcomes are not those of the runs before")
        return taken

    timed(run_job)  # what happens once in a process
    return Comparison(
        "with leases / without",
        f"{CELLS} smoke cells of vision, mlp-xs",
        "per-item outcomes identical",
        lambda: timed(run_shared),
        lambda: timed(run_job),
        at_most=1.02,
    )
