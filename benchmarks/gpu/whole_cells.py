"""Whole cells by ``iml-bench run``: ``whole_cells.py --device DEVICE [--tiny] -- OPTIONS``, and what came of each."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from iml_bench.records import Store, Stored


def main() -> int:
    """Run the cells and print them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("options", nargs="+", help="of iml-bench run, after --; --task and --out among them")
    given = parser.parse_args()
    return run_cells([*given.options, "--device", given.device])


def run_cells(options: list[str]) -> int:
    """Run ``iml-bench run`` and print the trained cells of its task as JSON; its exit status."""
    asked = argparse.ArgumentParser(allow_abbrev=False)
    asked.add_argument("--task")
    asked.add_argument("--out", type=Path)
    known, _ = asked.parse_known_args(options)
    command = [sys.executable, "-m", "iml_bench", "run", *options]
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(done.stderr)
    cells = [told(one) for one in trained(known.out) if one.record.cell.task.name == known.task]
    said = [line for line in done.stderr.splitlines() if line.strip()]
    reason = (said or ["it said nothing"])[-1] if done.returncode else None
    sys.stdout.write(json.dumps({"cells": cells, "command": command[1:], "reason": reason}) + "\n")
    return done.returncode


def trained(out: Path) -> list[Stored]:
    """The records of cells that train something, in the order of their seeds."""
    found = [one for one in Store(out).scan()[0] if not one.record.cell.model.is_reference]
    return sorted(found, key=lambda one: (one.record.cell.model.name, one.record.cell.seed))


def told(stored: Stored) -> dict[str, Any]:
    """What a record says that the report shows."""
    record = stored.record
    scores = record.scores.model_dump(mode="json") if record.scores else {}
    return {
        "task": record.cell.task.name,
        "model": record.cell.model.name,
        "seed": record.cell.seed,
        "status": record.status,
        "seconds": round(sum(record.timing.seconds.values()), 1),
        "device": record.provenance.device,
        "micro_batch": [stage.micro_batch for stage in record.stages],
        "iml": scores.get("iml"),
        "error": record.error.message.splitlines()[0] if record.error and record.error.message else None,
    }


if __name__ == "__main__":
    sys.exit(main())
