"""What only a GPU can show; each test says aloud that it was skipped where there is none.

What a test does is a function of the device, so that ``test_gpu_box.py`` carries it out on the CPU, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import command, log_likelihoods, small_cell

from iml_bench.learners.network import NetworkLearner
from iml_bench.records import Store, read_items
from iml_bench.run.cell import CellOutcome, prepare, run_cell
from iml_bench.runtime import DeviceName, Runtime
from iml_bench.spec import CellSpec

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is NO NVIDIA GPU, so nothing of CUDA is tried"),
]
CUDA: DeviceName = "cuda"
CELLS = {
    "mlp": small_cell("mlp-xs"),
    "convnet": small_cell("convnet-xs"),
    "vit": small_cell("vit-plain"),
    "neox": small_cell("neox-xs", task="text"),
    "t5": small_cell("t5-m", task="text"),
}
NEAR = 0.02
"""Nats: convolutions round to ten bits on a GPU (TF32), and training makes more of it."""
BF16 = 0.5


@contextmanager
def exact() -> Iterator[None]:
    """Without TF32, so that a GPU rounds about as a CPU does."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def outcome(cell: CellSpec, device: DeviceName) -> CellOutcome:
    return run_cell(cell, Runtime(device=device))


def check_same_cell(cell: CellSpec, device: DeviceName) -> None:
    with exact():
        here, there = outcome(cell, "cpu"), outcome(cell, device)
    assert here.data_digest == there.data_digest, "no device changes what is shown"
    assert here.items.drop("log_likelihood", "predicted", "exact_match").equals(
        there.items.drop("log_likelihood", "predicted", "exact_match")
    )
    assert np.abs(log_likelihoods(here.items) - log_likelihoods(there.items)).max() < NEAR
    assert (here.items["exact_match"] == there.items["exact_match"]).mean() > 0.98
    losses = ([stage.final_loss for stage in one.stages] for one in (here, there))
    assert np.allclose(*losses, rtol=1e-2)


def check_bf16(device: DeviceName) -> None:
    cell = small_cell("neox-xs", task="text")
    mixed = outcome(small_cell("neox-xs", task="text", recipe__precision="bf16"), device)
    whole = outcome(cell, device)
    apart = np.abs(log_likelihoods(mixed.items) - log_likelihoods(whole.items))
    assert 0 < apart.max() < BF16, "another arithmetic, and not another result"
    assert np.allclose(
        [stage.final_loss for stage in mixed.stages], [stage.final_loss for stage in whole.stages], rtol=0.05
    )


def check_no_wait(cell: CellSpec, device: DeviceName) -> int:
    """Train a stage; every wait of the host within a step raises. How many steps were watched."""
    setting, learner, _ = prepare(cell, Runtime(device=device))
    assert isinstance(learner, NetworkLearner)
    take_step, watched = learner._step, 0

    def step(feed: Any, batch: Any, loss: Any, optimizer: Any) -> None:
        nonlocal watched
        # The first step of a stage makes the optimiser's state, and the first ever loads kernels.
        watch = bool(optimizer.state) and device == "cuda"
        watched += bool(optimizer.state)
        if watch:
            torch.cuda.set_sync_debug_mode("error")
        try:
            take_step(feed, batch, loss, optimizer)
        finally:
            if watch:
                torch.cuda.set_sync_debug_mode("default")

    learner._step = step  # type: ignore[method-assign]
    learner.fit(setting.train_feed("stage1"), cell.task.recipe.stage1, "stage1")
    return watched


def check_places(device: DeviceName, out: Path) -> None:
    """Cells in several processes on one GPU answer as those that run one after another."""
    arguments = ["run", "--task", "vision", "--model", "mlp-xs", "--smoke", "--seeds", "2", "--device", device]
    share = ["--cells-per-gpu", "2"] if device == "cuda" else ["--workers", "2"]
    found = {}
    for name, more in (("one", ["--executor", "inline"]), ("two", [*share, "--executor", "processes"])):
        done = command(*arguments, *more, "--out", str(out / name))
        assert done.returncode == 0, done.stderr
        stored = [one for one in Store(out / name).scan()[0] if not one.record.cell.model.is_reference]
        found[name] = {one.record.cell.seed: one for one in stored}
    assert found["one"].keys() == found["two"].keys() == {0, 1}
    for seed, alone in found["one"].items():
        beside = found["two"][seed]
        assert beside.record.provenance.device == alone.record.provenance.device
        assert (beside.record.provenance.device == "cpu") == (device == "cpu")
        apart = log_likelihoods(read_items(alone)) - log_likelihoods(read_items(beside))
        assert np.abs(apart).max() < NEAR


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_on_a_gpu_gives_what_it_gives_on_a_cpu(name: str) -> None:
    check_same_cell(CELLS[name], CUDA)


def test_bf16_is_another_arithmetic_and_no_other_result() -> None:
    check_bf16(CUDA)


@pytest.mark.parametrize("name", [name for name in CELLS if name != "t5"])  # of an encoder transformers asks the mask
def test_the_host_waits_nowhere_in_a_step(name: str) -> None:
    assert check_no_wait(CELLS[name], CUDA) > 0


def test_cells_that_share_a_gpu_give_the_same(tmp_path: Path) -> None:
    check_places(CUDA, tmp_path)


def test_a_wait_is_found() -> None:
    """The tests above can fail."""
    with pytest.MonkeyPatch.context() as patch:
        loss = NetworkLearner._loss
        patch.setattr(NetworkLearner, "_loss", lambda *given: loss(*given) * (2 if loss(*given).item() < 0 else 1))
        with pytest.raises(RuntimeError, match="synchroniz"):
            check_no_wait(CELLS["mlp"], CUDA)
