"""The same cells by one worker and by two, each time in a fresh process, imports included."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cells import CELLS, MODEL, TASK, stage2_steps
from measure import Comparison, DifferenceError, make_bench, make_cell, seconds_of

from iml_bench.records import Store, iterate_done

CELL_SECONDS = 5.0
"""About how long one cell should take: long beside a worker's start, short beside a person's patience."""
CALIBRATION_STEPS = 500


def one_and_two_workers(steps: int | None) -> Comparison:
    """A session with one worker over a session with two, on the CPU.

    Args:
        steps: of stage 1 of a cell; None measures how many make a cell take about ``CELL_SECONDS``.
    """
    stage1 = steps or _steps_that_last(CELL_SECONDS)
    outcomes: dict[str, str] = {}
    return Comparison(
        "one worker / two workers",
        f"{CELLS} cells of {TASK}, {MODEL}, {stage1} + 2 x {stage2_steps(stage1)} steps",
        "per-item outcomes identical",
        lambda: _time_run(1, stage1, outcomes),
        lambda: _time_run(2, stage1, outcomes),
    )


def _steps_that_last(seconds: float) -> int:
    bench = make_bench(make_cell(TASK, MODEL, (CALIBRATION_STEPS, 1)), "cpu")
    feed = bench.setting.train_feed("stage1")
    taken = [seconds_of(lambda: bench.learner.fit(feed, bench.stage, "stage1"), bench.device) for _ in range(2)]
    per_step = taken[-1] / CALIBRATION_STEPS  # the first time also pays for what happens once in a process
    return max(10, round(seconds / per_step / 1.2))  # both folds of stage 2 together are a fifth of stage 1


def _time_run(workers: int, stage1: int, outcomes: dict[str, str]) -> float:
    """Seconds of one run; raises ``DifferenceError`` when its outcomes are not those of the runs before."""
    script = Path(__file__).with_name("cells.py")
    with tempfile.TemporaryDirectory() as folder:
        before = time.perf_counter()
        subprocess.run([sys.executable, str(script), str(workers), str(stage1), folder], check=True, stdout=sys.stderr)
        taken = time.perf_counter() - before
        stored, _ = Store(Path(folder)).scan()
    found = {entry.record.key: entry.record.items.sha256 for entry in iterate_done(stored) if entry.record.items}
    if not outcomes:
        outcomes.update(found)
    if len(found) != CELLS or found != outcomes:
        raise DifferenceError(f"with {workers} workers the cells' outcomes are not those of the runs before")
    return taken
