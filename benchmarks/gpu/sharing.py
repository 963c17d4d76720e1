"""How many steps a second several cells make that share one GPU, without MPS and with it.

::

    python sharing.py --device cuda --cells 1,2,4,8,16 --out DIR [--mps] [--tiny]

``vision`` with ``mlp-m``, as many seeds as cells, each in a worker process of its own (``--cells-per-gpu``). A rate is
the sum over cells of the steps of stage 1 by the seconds that they took, so that the imports of a worker are no part of
it. On a CPU there are as many workers, and nothing is shared.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whole_cells import trained

from iml_bench.run.executors.slots import VISIBLE, gpus

CONTROL = "nvidia-cuda-mps-control"
FIRST_SEED = 100
"""Seeds below 100 are kept for results."""


class MpsError(RuntimeError):
    """MPS did not start."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cells", type=lambda text: [int(part) for part in text.split(",")], required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mps", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # MPS is shut down on the way out
    if given.device == "cuda":
        os.environ[VISIBLE] = gpus()[0]  # of several GPUs one is shared
    try:
        with mps() if given.mps else here() as environment:
            rows = [measured(cells, given.device, given.out, environment, tiny=given.tiny) for cells in given.cells]
    except MpsError as error:
        sys.stdout.write(json.dumps({"reason": str(error)}) + "\n")
        return 1
    alone = rows[0]["steps_per_second"]
    for row in rows:
        row["times"] = round(row["steps_per_second"] / alone, 2) if alone and row["steps_per_second"] else None
    outcomes = {row.pop("outcome") for row in rows if row["done"]}
    failed = [f"{row['cells']} cells: {row['reason']}" for row in rows if row["reason"]]
    found = {"rows": rows, "same_outcome": len(outcomes) == 1, "reason": "; ".join(failed) or None}
    sys.stdout.write(json.dumps(found) + "\n")
    return int(not any(row["done"] for row in rows))


def measured(cells: int, device: str, out: Path, environment: dict[str, str], *, tiny: bool) -> dict[str, Any]:
    """Run so many cells side by side; their rate, and what the first of them answered."""
    folder = out / str(cells)
    command = [sys.executable, "-m", "iml_bench", "run", "--task", "vision", "--device", device, "--out", str(folder)]
    command += ["--model", "mlp-xs" if tiny else "mlp-m", "--seeds", f"{FIRST_SEED}-{FIRST_SEED + cells - 1}"]
    command += ["--executor", "processes", "--workers", str(cells), *(["--smoke"] if tiny else [])]
    command += ["--cells-per-gpu", str(cells)] if device == "cuda" else []
    started = time.perf_counter()
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    seconds = time.perf_counter() - started
    records = [one.record for one in trained(folder) if one.record.status == "done"]
    rates = [record.stages[0].steps / max(record.timing.seconds["stage1"], 1e-3) for record in records]
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return {
        "cells": cells,
        "done": len(records),
        "steps_per_second": round(sum(rates), 1) if rates else None,
        "wall_seconds": round(seconds, 1),
        "outcome": records[0].items.sha256 if records and records[0].items else None,
        "reason": said[:300] if done.returncode else None,
    }


@contextmanager
def here() -> Iterator[dict[str, str]]:
    """The environment as it is."""
    yield dict(os.environ)


@contextmanager
def mps() -> Iterator[dict[str, str]]:
    """An MPS of our own while the block runs; the environment in which its clients are started.

    Raises:
        MpsError: when it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:  # short: the path of a socket has a limit
        places = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for place in places.values():
            Path(place).mkdir()
        environment = {**os.environ, **places}
        try:
            started = subprocess.run(
                [CONTROL, "-d"], env=environment, capture_output=True, text=True, check=False, timeout=60
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MpsError(f"{CONTROL} does not start: {error}") from error
        if started.returncode:
            said = (started.stderr or started.stdout).strip().splitlines()
            raise MpsError(f"{CONTROL} does not start: {said[-1] if said else f'exit status {started.returncode}'}")
        try:
            yield environment
        finally:
            ended = {"input": "quit\n", "text": True, "env": environment, "check": False, "timeout": 60}
            subprocess.run([CONTROL], stdout=sys.stderr, **ended)


if __name__ == "__main__":
    sys.exit(main())
