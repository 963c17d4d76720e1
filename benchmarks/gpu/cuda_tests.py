"""The tests that need CUDA, counted: ``cuda_tests.py --device DEVICE [--tiny]``; without CUDA each says so."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run them and print what came of each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-m", "cuda", "tests/test_cuda.py", "-p", "no:xdist"]
        done = subprocess.run([*command, f"--junitxml={told}"], cwd=ROOT, stdout=sys.stderr, check=False)
        tests = [outcome_of(case) for case in ElementTree.parse(told).iter("testcase")] if told.is_file() else []
    passed = [test for test in tests if test["outcome"] == "passed"]
    failed = [test["name"] for test in tests if test["outcome"] == "failed"]
    reason = f"failed: {', '.join(failed)}" if failed else None
    if not tests or (given.device == "cuda" and not passed):
        reason = reason or f"no test was run (exit status {done.returncode})"
    sys.stdout.write(json.dumps({"tests": tests, "passed": len(passed), "reason": reason}) + "\n")
    return int(reason is not None)


def outcome_of(case: ElementTree.Element) -> dict[str, Any]:
    """A test, and why it did not pass."""
    for kind, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = case.find(kind)
        if found is not None:
            return {"name": case.get("name"), "outcome": outcome, "reason": (found.get("message") or "")[:300]}
    return {"name": case.get("name"), "outcome": "passed", "reason": None}


if __name__ == "__main__":
    sys.exit(main())
