"""The training loop: what it must not change, and how it fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from making import CPU, log_likelihoods, small_cell

from iml_bench.errors import CellError, UsageError
from iml_bench.learners.network import NetworkLearner
from iml_bench.modalities.base import Feed
from iml_bench.protocols.two_stage.design import TwoStageDesign
from iml_bench.run.cell import prepare, run_cell
from iml_bench.runtime import StageProgress

MODELS = "python:models_for_tests:"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("task", "model"), [("vision", "mlp-xs"), ("vision", "convnet-xs"), ("text", "llama-xs")])
def test_the_same_cell_gives_the_same_outcomes_bit_for_bit(task: str, model: str) -> None:
    cell = small_cell(model, task=task)
    first = run_cell(cell, CPU)
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002  (that global state must not matter)
    second = run_cell(cell, CPU)
    assert first.items.equals(second.items)
    assert first.data_digest == second.data_digest
    assert not run_cell(small_cell(model, seed=1, task=task), CPU).items.equals(first.items)


def test_dropout_draws_from_the_cells_own_stream() -> None:
    cell = small_cell(MODELS + "with_dropout")
    state = torch.random.get_rng_state()
    first = run_cell(cell, CPU)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert run_cell(cell, CPU).items.equals(first.items)


@pytest.mark.parametrize(("task", "model"), [("vision", "mlp-xs"), ("text", "neox-xs")])
@pytest.mark.parametrize("micro_batch", [1, 5, 8])
def test_the_micro_batch_does_not_change_the_answer(task: str, model: str, micro_batch: int) -> None:
    cell = small_cell(model, task=task)
    whole, pieces = run_cell(cell, CPU), run_cell(cell, replace(CPU, micro_batch=micro_batch))
    assert np.abs(log_likelihoods(whole.items) - log_likelihoods(pieces.items)).max() < 1e-3
    assert [stage.micro_batch for stage in pieces.stages] == [micro_batch] * 5
    assert [stage.accumulation for stage in pieces.stages] == [-(-16 // micro_batch)] * 5


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_answer() -> None:
    whole = run_cell(small_cell(MODELS + "picky?limit=16"), CPU)
    pieces = run_cell(small_cell(MODELS + "picky?limit=4"), CPU)
    assert np.abs(log_likelihoods(whole.items) - log_likelihoods(pieces.items)).max() < 1e-3
    assert [(stage.micro_batch, stage.accumulation) for stage in whole.stages] == [(16, 1)] * 5
    assert [(stage.micro_batch, stage.accumulation) for stage in pieces.stages] == [(4, 4)] * 5


def test_out_of_memory_with_one_example_fails_the_cell() -> None:
    with pytest.raises(CellError, match="out of memory with a single example"):
        run_cell(small_cell(MODELS + "picky?limit=0"), CPU)


def test_a_nan_loss_names_its_step() -> None:
    with pytest.raises(CellError, match="the loss was nan at step 8 of stage1"):
        run_cell(small_cell(MODELS + "diverging?after=7"), CPU)


def test_all_branches_start_from_the_stage_one_weights() -> None:
    cell = small_cell("mlp-xs")
    setting, learner, _ = prepare(cell, CPU)
    learner.fit(setting.train_feed("stage1"), cell.task.recipe.stage1, "stage1")
    weights = learner.snapshot()
    kept = {name: tensor.clone() for name, tensor in weights.items()}
    learner.fit(setting.train_feed("stage2", 0), cell.task.recipe.stage2, "stage2")
    once = learner.snapshot()
    assert all(torch.equal(weights[name], kept[name]) for name in kept), "a snapshot must not change with training"
    learner.restore(weights)
    learner.fit(setting.train_feed("stage2", 0), cell.task.recipe.stage2, "stage2")
    again = learner.snapshot()
    # Equal only if weights are restored, the optimiser is fresh and the branch's streams begin anew.
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_buffers_go_back_with_the_weights() -> None:
    cell = small_cell(MODELS + "with_batch_norm")
    setting, learner, _ = prepare(cell, CPU)
    assert isinstance(learner, NetworkLearner)

    def buffers() -> dict[str, torch.Tensor]:
        return {name: buffer.clone() for name, buffer in learner.model.named_buffers()}

    learner.fit(setting.train_feed("stage1"), cell.task.recipe.stage1, "stage1")
    first, weights = buffers(), learner.snapshot()
    learner.fit(setting.train_feed("stage2", 0), cell.task.recipe.stage2, "stage2")
    moved = buffers()
    assert len(first) == 3 and not any(torch.equal(first[name], moved[name]) for name in first)
    learner.restore(weights)
    second = buffers()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("model", ["mlp-xs", MODELS + "with_batch_norm", MODELS + "with_dropout"])
def test_branches_that_read_the_same_end_the_same(model: str, stages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the first branch left behind would show: in weights, buffers, the optimiser or a random state."""
    trained = TwoStageDesign.trained
    monkeypatch.setattr(TwoStageDesign, "trained", lambda self, phase, branch=0: trained(self, phase, 0))
    items = run_cell(small_cell(model, stages=stages), CPU).items.filter(pl.col("stage") == 2)
    told = ("fold", "tag", "place", "truthful", "claimed")  # by the design, of what would have been shown
    first, *others = (part.drop(told) for part in items.partition_by("fold"))
    assert len(first) > 10 and len(others) == 3
    assert all(first.equals(other) for other in others)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_every_optimizer_and_schedule_trains(optimizer: str, schedule: str) -> None:
    overrides = {"recipe__optimizer": optimizer, "recipe__schedule": schedule, "recipe__warmup_steps": 2}
    cell = small_cell("mlp-xs", **overrides, recipe__lr=0.05 if optimizer == "sgd" else 1e-3)
    losses: list[StageProgress] = []
    setting, learner, _ = prepare(cell, replace(CPU, report=losses.append))
    stage = cell.task.recipe.stage1.model_copy(update={"steps": 80})
    learner.fit(setting.train_feed("stage1"), stage, "stage1")
    assert np.mean([entry.loss for entry in losses[-8:]]) < np.mean([entry.loss for entry in losses[:8]])
    assert (losses[-1].step, losses[-1].total) == (80, 80)


def rates(**overrides: object) -> list[float]:
    """The learning rate of every step of stage 2."""
    setting, learner, _ = prepare(small_cell("mlp-xs", recipe__lr=1.0, **overrides), CPU)
    seen: list[float] = []
    step = learner._step

    def spy(feed: Feed, batch: object, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        seen.append(optimizer.param_groups[0]["lr"])
        step(feed, batch, loss, optimizer)

    learner._step = spy
    with pytest.MonkeyPatch.context() as patched:  # the rates are looked at, not what so large ones do
        patched.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
        learner.fit(setting.train_feed("stage2"), setting.task.recipe.stage2, "stage2")
    return seen


def test_a_stage_can_have_a_warm_up_of_its_own() -> None:
    assert rates(recipe__stage2__steps=4) == [1.0] * 4
    assert rates(recipe__stage2__steps=4, recipe__warmup_steps=4) == [0.0, 0.25, 0.5, 0.75]
    assert rates(recipe__stage2__steps=4, recipe__warmup_steps=4, recipe__stage2__warmup_steps=2) == [0, 0.5, 1, 1]
    assert rates(recipe__stage2__steps=3, recipe__warmup_steps=4, recipe__stage2__warmup_steps=0) == [1.0] * 3


@pytest.mark.parametrize(("task", "model"), [("vision", "mlp-xs"), ("text", "neox-xs")])
def test_the_short_batch_of_an_epoch_is_a_mean_and_may_be_cut(task: str, model: str) -> None:
    lasts = {"epochs": 2, "steps": None}
    epochs = {f"recipe__{stage}__{unit}": n for stage in ("stage1", "stage2") for unit, n in lasts.items()}
    cell = small_cell(model, task=task, **epochs, recipe__batch_size=15)
    n = [len(prepare(cell, CPU)[0].design.trained(phase)) for phase in ("stage1", "stage2")]
    assert all(one % 15 for one in n)
    whole = run_cell(cell, CPU)
    assert [stage.steps for stage in whole.stages[:2]] == [2 * -(-one // 15) for one in n]
    pieces = run_cell(cell, replace(CPU, micro_batch=4))
    assert np.abs(log_likelihoods(whole.items) - log_likelihoods(pieces.items)).max() < 1e-3
    assert run_cell(cell, replace(CPU, curve=3)).items.equals(whole.items)


@pytest.mark.parametrize(("task", "model"), [("vision", "mlp-xs"), ("text", "neox-xs")])
def test_a_batch_that_is_short_is_one_of_its_own_size(task: str, model: str) -> None:
    outcomes, n = [], len(prepare(small_cell(model, task=task), CPU)[0].design.trained("stage2"))
    for batch_size in (n, n + 40):
        lasts = {"recipe__stage2__epochs": 3, "recipe__stage2__steps": None}
        cell = small_cell(model, task=task, **lasts, recipe__batch_size=batch_size)
        setting, learner, _ = prepare(cell, CPU)
        outcome = learner.fit(setting.train_feed("stage2"), cell.task.recipe.stage2, "stage2")
        outcomes.append((outcome.final_loss, [weight.sum().item() for weight in learner.snapshot().values()]))
    assert outcomes[0] == outcomes[1]


def test_gradients_are_clipped_to_the_norm() -> None:
    free, tight = (run_cell(small_cell("mlp-xs", **more), CPU) for more in ({}, {"recipe__max_grad_norm": 1e-6}))
    moved = {name: outcome.stages[0].final_loss for name, outcome in (("free", free), ("tight", tight))}
    assert moved["free"] != moved["tight"]


def test_bfloat16_is_another_cell_and_runs() -> None:
    plain, half = (run_cell(small_cell("mlp-xs", recipe__precision=p), CPU) for p in ("no", "bf16"))
    gap = np.abs(log_likelihoods(plain.items) - log_likelihoods(half.items)).max()
    assert 0 < gap < 0.5


def test_a_device_that_is_not_here_is_one_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(UsageError, match="--device cuda: no such device here"):
        run_cell(small_cell(), replace(CPU, device="cuda"))


def test_gradient_checkpointing_does_not_change_the_answer() -> None:
    cell = small_cell("neox-xs", task="text")
    kept, again = run_cell(cell, CPU), run_cell(cell, replace(CPU, checkpointing=True))
    assert np.abs(log_likelihoods(kept.items) - log_likelihoods(again.items)).max() < 1e-4
    _, learner, _ = prepare(cell, replace(CPU, checkpointing=True))
    assert any(getattr(module, "gradient_checkpointing", False) for module in learner.model.modules())


def test_a_model_without_gradient_checkpointing_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="--gradient-checkpointing: this model has no such mode; leave it out"):
        run_cell(small_cell("mlp-xs"), replace(CPU, checkpointing=True))
