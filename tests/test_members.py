"""A cell of several processes that are started for it: how far it is, and that they end with whoever started them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from engines_for_tests import PAIR
from making import heed_signals

from iml_bench.records.leases import FOLDER, VARIABLE

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")]


def test_processes_of_a_cell_say_how_far_it_is_and_end_with_a_driver_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "20")
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(PAIR))
    words = ["run", "--task", "vision", "--model", "pair.yaml", "--seeds", "1", "--set", "recipe.stage1.steps=100000"]
    run = subprocess.Popen(
        [sys.executable, "-m", "iml_bench", *words, "--executor", "local", "--workers", "1"],
        cwd=tmp_path,
        preexec_fn=heed_signals,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    steps, deadline, children = 0, time.monotonic() + 240, []
    try:
        while not steps and time.monotonic() < deadline:
            time.sleep(0.2)
            for lease in (tmp_path / "iml-results" / FOLDER).glob("*.lease"):
                said = json.loads(lease.read_text())
                steps = said["done"] if "pair" in said["cell"] else 0
        children = psutil.Process(run.pid).children(recursive=True)
        assert steps > 0 and len(children) >= 3, "one that starts the others, and two that share the cell"
        run.kill()
        run.wait()
        _, left = psutil.wait_procs(children, timeout=60)
        assert left == []
    finally:
        for process in (run, *children):
            if isinstance(process, subprocess.Popen) or process.is_running():
                process.kill()
        run.wait()
