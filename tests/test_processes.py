"""Several Accelerate processes share the global batch and give one process's answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from making import command, log_likelihoods

from iml_bench.records import Store, Stored, read_items


def _trained(root: Path) -> Stored:
    return next(entry for entry in Store(root).scan()[0] if not entry.record.cell.model.is_reference)


@pytest.mark.parametrize(("task", "model"), [("vision", "mlp-xs"), ("text", "neox-xs")])
def test_two_processes_give_the_scores_of_one(task: str, model: str, tmp_path: Path) -> None:
    arguments = ["run", "--task", task, "--model", model, "--smoke", "--seeds", "1"]
    arguments += ["--set", "recipe.batch_size=15"]  # an odd batch: the processes have unequal shares
    alone = command(*arguments, "--workers", "1", "--out", str(tmp_path / "one"))
    assert alone.returncode == 0, alone.stderr
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    both = subprocess.run(
        [*launch, "-m", "iml_bench", *arguments, "--out", str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,  # a process that waits for the other for ever must fail, not hang
    )
    assert both.returncode == 0, both.stderr
    one, two = _trained(tmp_path / "one"), _trained(tmp_path / "two")
    assert (one.record.provenance.processes, two.record.provenance.processes) == (1, 2)
    assert one.record.key == two.record.key
    first, second = read_items(one), read_items(two)
    assert np.abs(log_likelihoods(first) - log_likelihoods(second)).max() < 1e-4
    assert [stage.micro_batch for stage in two.record.stages] == [8] * 5
    losses = ([stage.final_loss for stage in entry.record.stages] for entry in (one, two))
    assert np.allclose(*losses, rtol=1e-4)


def test_the_option_processes_does_the_same(tmp_path: Path) -> None:
    arguments = ["run", "--task", "text", "--model", "neox-xs", "--smoke", "--seeds", "1"]
    arguments += ["--set", "recipe.batch_size=15", "--set", "recipe.loss_on=text"]
    arguments += ["--set", "recipe.stage1.epochs=1", "--set", "recipe.stage2.epochs=2"]  # the last batches are short
    alone = command(*arguments, "--workers", "1", "--out", str(tmp_path / "one"))
    both = command(*arguments, "--processes", "2", "--out", str(tmp_path / "two"))
    assert (alone.returncode, both.returncode) == (0, 0), both.stderr
    assert both.stderr.count("records in") == 1, "only the main process speaks"
    one, two = _trained(tmp_path / "one"), _trained(tmp_path / "two")
    assert two.record.provenance.processes == 2
    first, second = read_items(one), read_items(two)
    assert np.abs(log_likelihoods(first) - log_likelihoods(second)).max() < 1e-4
    assert first.drop("log_likelihood").equals(second.drop("log_likelihood"))


def test_several_processes_pass_the_exit_status_on(tmp_path: Path) -> None:
    failing = "python:models_for_tests:diverging?after=7"
    arguments = ["run", "--task", "vision", "--smoke", "--seeds", "1", "--device", "cpu", "--processes", "2"]
    done = command(*arguments, "--model", failing, "--out", str(tmp_path), PYTHONPATH=str(Path(__file__).parent))
    assert done.returncode == 1
    assert "the loss was nan at step 8 of stage1" in done.stderr
