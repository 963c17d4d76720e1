"""Every shipped task and every kind of model on a GPU that is only pretended: no wait of the host, no mixed devices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_gpu
import pytest
import torch

from iml_bench.registry import TASKS

SCRIPT = Path(__file__).with_name("fake_gpu.py")
NO_CUDA = "torch is NO CUDA BUILD, so nothing can pretend to be on a GPU"


def carried_out(*arguments: str) -> dict[str, dict[str, Any]]:
    """What the script says of each cell: in a process of its own, since a pretended device stays in torch."""
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {found["name"]: found for found in map(json.loads, filter(None, done.stdout.splitlines()))}


@pytest.fixture(scope="module", params=["cuda", "gpux"])
def pretended(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    if request.param == "cuda" and torch.version.cuda is None:
        pytest.skip(NO_CUDA)
    known = [name for name in fake_gpu.CELLS if request.param == "cuda" or name != "bf16"]
    return carried_out(request.param, *known)


@pytest.mark.parametrize("name", fake_gpu.CELLS)
def test_a_cell_waits_nowhere_and_mixes_no_devices(name: str, pretended: dict[str, dict[str, Any]]) -> None:
    if name not in pretended:
        pytest.skip("a device of no known kind has NO MIXED PRECISION; it is tried on the pretended CUDA")
    assert pretended[name]["error"] is None
    assert pretended[name]["steps"] > 10


@pytest.mark.skipif(torch.version.cuda is None, reason=NO_CUDA)
@pytest.mark.parametrize(("how", "said"), [("item", "_local_scalar_dense"), ("copy", "the host waits"), ("mix", "cpu")])
def test_what_is_wrong_in_a_step_is_found(how: str, said: str) -> None:
    found = carried_out("cuda", "mlp", "neox", f"--broken={how}")
    assert all(said in str(one["error"]) for one in found.values()) and len(found) == 2, found


def test_every_shipped_task_is_among_them() -> None:
    assert {task for task, _, _ in fake_gpu.CELLS.values()} == {*TASKS.origins}
