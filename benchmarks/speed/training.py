"""The runner against a training loop written by hand, and against ``transformers.Trainer``."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from measure import Bench, Comparison, DifferenceError, require_same_weights, seconds_of
from torch import Tensor, nn

from iml_bench.models import load_model
from iml_bench.order import global_batches
from iml_bench.render import Batch, Feed, draw_noise
from iml_bench.render.text import TextFeed

IGNORED = -100
"""The label that a loss of ``transformers`` leaves out."""


def runner_and_bare_loop(bench: Bench) -> Comparison:
    """``NetworkLearner.fit`` over a bare loop; raises ``DifferenceError`` when they end with other weights."""
    model = _own_model(bench)
    feed = bench.setting.train_feed(1)

    def runner() -> float:
        return _time_runner(bench, feed)

    def bare() -> float:
        model.load_state_dict(bench.start)
        return seconds_of(lambda: bare_loop(bench, model, feed), bench.device)

    runner(), bare()
    check = require_same_weights(bench.learner.snapshot(), model.state_dict(), bench.label)
    return Comparison("runner / bare PyTorch loop", bench.label, check, runner, bare, at_most=1.10)


def bare_loop(bench: Bench, model: nn.Module, feed: Feed) -> None:
    """The steps of ``NetworkLearner.fit`` and nothing else: no Accelerate, no report, no look at the loss."""
    recipe, streams = bench.recipe, bench.setting.streams
    order = global_batches(feed.examples, bench.stage, recipe.batch_size, streams.generator("order/stage1"))
    rows = torch.from_numpy(np.stack(list(order))).to(bench.device)
    drawn = draw_noise(streams.generator("render/stage1"), bench.steps, recipe.batch_size, feed.noise)
    noise, totals = torch.from_numpy(drawn).to(bench.device), feed.mass[rows].sum(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    model.train()
    for step in range(bench.steps):
        loss = summed_loss(model, feed.batch(rows[step], noise[step])) / totals[step]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def summed_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Weighted sum of the cross-entropies of a batch."""
    logits = model(**batch.inputs)
    each = nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    return torch.dot(each, batch.weights.flatten())


class TokenisedTexts(torch.utils.data.Dataset[dict[str, Tensor]]):
    """A text feed as ``transformers.Trainer`` takes it: padded token ids and their labels."""

    def __init__(self, feed: TextFeed) -> None:
        """Args: feed: what to train on; its weights are 0 or 1."""
        self.ids = feed.ids.cpu()
        self.labels = torch.full_like(self.ids, IGNORED)
        counted = feed.weights.cpu() > 0
        self.labels[:, 1:][counted] = self.ids[:, 1:][counted]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[row], "labels": self.labels[row]}


def trainer_and_runner(bench: Bench) -> Comparison:
    """``transformers.Trainer`` over ``NetworkLearner.fit`` on a text task.

    The Trainer draws an order of its own and clips gradients, as it does by default, so the weights differ
    at the end; that both compute the same loss is checked instead. Making the Trainer is not timed.
    """
    model = _own_model(bench)
    feed = bench.setting.train_feed(1)
    assert isinstance(feed, TextFeed)
    data = TokenisedTexts(feed)
    check = _require_same_loss(bench, model, feed, data)

    def trainer() -> float:
        model.load_state_dict(bench.start)
        with tempfile.TemporaryDirectory() as folder:
            made = _make_trainer(bench, model.body, data, folder)
            return seconds_of(made.train, bench.device)

    def runner() -> float:
        return _time_runner(bench, feed)

    trainer(), runner()
    return Comparison("transformers.Trainer / runner", bench.label, check, trainer, runner, at_least=1.30)


def _own_model(bench: Bench) -> Any:
    """A second model with the learner's first weights, which Accelerate has not touched."""
    seed = bench.setting.streams.integer("init")
    return load_model(bench.cell.model, bench.setting.shape(), seed).to(bench.device)


def _time_runner(bench: Bench, feed: Feed) -> float:
    bench.learner.restore(bench.start)
    return seconds_of(lambda: bench.learner.fit(feed, bench.stage, "stage1"), bench.device)


def _make_trainer(bench: Bench, model: nn.Module, data: TokenisedTexts, folder: str) -> Any:
    from transformers import PrinterCallback, Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=bench.steps,
        per_device_train_batch_size=bench.recipe.batch_size,
        learning_rate=bench.recipe.lr,
        weight_decay=bench.recipe.weight_decay,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        use_cpu=bench.device.type == "cpu",
        dataloader_pin_memory=bench.device.type != "cpu",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=50,
        seed=bench.cell.seed,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data)
    trainer.remove_callback(PrinterCallback)  # it would print every logged loss on stdout
    return trainer


def _require_same_loss(bench: Bench, model: Any, feed: TextFeed, data: TokenisedTexts) -> str:
    """Raises ``DifferenceError`` unless the Trainer's loss of one batch is the runner's."""
    rows = torch.arange(min(len(data), bench.recipe.batch_size))
    on_device = rows.to(bench.device)
    with torch.no_grad():
        batch = feed.batch(on_device, torch.zeros(len(rows), 0, device=bench.device))
        ours = (summed_loss(model, batch) / feed.mass[on_device].sum()).item()
        ids, labels = data.ids[rows].to(bench.device), data.labels[rows].to(bench.device)
        theirs = model.body(input_ids=ids, labels=labels).loss.item()
    if abs(ours - theirs) > 1e-4 * abs(ours):
        raise DifferenceError(f"{bench.label}: the Trainer's loss of a batch is {theirs}, the runner's {ours}")
    return "loss of a batch equal"
