"""The runner against a training loop written by hand, and against ``transformers.Trainer``."""

from __future__ import annotations

import itertools
import tempfile
from typing import Any

import numpy as np
import torch
from measure import SAME_LOSS, Bench, Comparison, DifferenceError, require_same_weights, seconds_of, time_training
from torch import Tensor, nn

from iml_bench.learners.order import global_batches
from iml_bench.modalities.base import Batch, Feed, Indices, draw_noise
from iml_bench.modalities.text.renderer import TextFeed
from iml_bench.models import load_model

IGNORED = -100
"""The label that a loss of ``transformers`` leaves out."""


def runner_and_bare_loop(bench: Bench) -> Comparison:
    """``NetworkLearner.fit`` over a bare loop; raises ``DifferenceError`` when they end with other weights."""
    model = own_model(bench)
    feed = bench.setting.train_feed("stage1")

    def runner() -> float:
        return time_training(bench, feed)

    def bare() -> float:
        _restore(model, bench.start)
        return seconds_of(lambda: bare_loop(bench, model, feed), bench.device)

    runner(), bare()
    check = require_same_weights(bench.learner.snapshot(), _state(model), bench.label)
    return Comparison("runner / bare PyTorch loop", bench.label, check, runner, bare, at_most=1.10)


def bare_loop(bench: Bench, model: nn.Module, feed: Feed) -> None:
    """The steps of ``NetworkLearner.fit`` and nothing else: no Accelerate, no report, no look at the loss."""
    recipe, streams = bench.recipe, bench.setting.streams
    order = global_batches(feed.examples, bench.stage, recipe.batch_size, streams.generator("order/stage1"))
    host = np.stack(list(order))
    rows = torch.from_numpy(host).to(bench.device)
    drawn = draw_noise(streams.generator("render/stage1"), bench.steps, recipe.batch_size, feed.noise)
    noise, totals = torch.from_numpy(drawn).to(bench.device), feed.mass[rows].sum(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    model.train()
    for step in range(bench.steps):
        loss = summed_loss(model, feed.batch(Indices(host[step], rows[step]), noise[step])) / totals[step]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def summed_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Weighted sum of the cross-entropies of a batch."""
    each = nn.functional.cross_entropy(model(**batch.inputs), batch.targets, reduction="none")
    return torch.dot(each, batch.weights)


class TokenisedTexts(torch.utils.data.Dataset[dict[str, Tensor]]):
    """A text feed of a causal model as ``transformers.Trainer`` takes it: token ids, and labels where it is scored."""

    def __init__(self, feed: TextFeed) -> None:
        """Args: feed: what to train on."""
        self.rows = []
        for one, scored in zip(feed.codec.encode(feed.texts), feed.tokens.scored, strict=True):
            ids = torch.tensor(one.given + one.rest)
            # The first token is predicted by nothing.
            asked = torch.from_numpy(scored[: len(ids) - 1])
            labels = torch.cat([ids.new_tensor([IGNORED]), ids[1:].masked_fill(~asked, IGNORED)])
            self.rows.append({"input_ids": ids, "labels": labels})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return self.rows[row]


class Collator:
    """Pads a batch on the right to its longest text.

    Leaner than the collators of ``transformers``, and without an attention mask, which a causal model
    does not need there: the Trainer should be as fast as its user can make it.
    """

    def __init__(self, pad: int) -> None:
        """Args: pad: the padding token."""
        self.fill = {"input_ids": pad, "labels": IGNORED}

    def __call__(self, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {
            name: nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)
            for name, value in self.fill.items()
        }


def trainer_and_runner(bench: Bench) -> Comparison:
    """``transformers.Trainer`` over ``NetworkLearner.fit`` on a text task.

    The Trainer draws an order of its own and clips gradients, as it does by default, so the weights differ
    at the end; that both compute the same loss is checked instead. Making the Trainer is not timed.
    """
    model = own_model(bench)
    feed = bench.setting.train_feed("stage1")
    assert isinstance(feed, TextFeed)
    data, collate = TokenisedTexts(feed), Collator(feed.codec.pad)
    check = require_same_loss(bench, model, feed, collate([data[row] for row in range(bench.recipe.batch_size)]))

    def trainer() -> float:
        _restore(model, bench.start)
        with tempfile.TemporaryDirectory() as folder:
            made = _make_trainer(bench, model.body, (data, collate), folder)
            return seconds_of(made.train, bench.device)

    def runner() -> float:
        return time_training(bench, feed)

    trainer(), runner()
    return Comparison("transformers.Trainer / runner", bench.label, check, trainer, runner, at_least=1.30)


def require_same_loss(bench: Bench, model: Any, feed: TextFeed, collated: dict[str, Tensor]) -> str:
    """Compare the loss of the first examples as the Trainer and as the runner compute it.

    Args:
        bench: says how many examples are a batch.
        model: whose loss it is.
        feed: the runner's view of them.
        collated: the Trainer's.

    Returns:
        What was found, for the table.

    Raises:
        DifferenceError: when the two are not the same up to rounding.
    """
    n = len(collated["input_ids"])
    rows = Indices.of(np.arange(n), bench.device)
    with torch.no_grad():
        batch = feed.batch(rows, torch.zeros(n, 0, device=bench.device))
        ours = (summed_loss(model, batch) / feed.mass[rows.device].sum()).item()
        theirs = model.body(**{name: part.to(bench.device) for name, part in collated.items()}).loss.item()
    if not abs(ours - theirs) <= SAME_LOSS * abs(ours):
        raise DifferenceError(f"{bench.label}: the Trainer's loss of a batch is {theirs}, the runner's {ours}")
    return "loss of a batch equal"


def own_model(bench: Bench) -> Any:
    """A second model with the learner's first weights, which Accelerate has not touched."""
    seed = bench.setting.streams.integer("init")
    return load_model(bench.cell.model, bench.setting.shape(), seed).to(bench.device)


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The weights and buffers that ``NetworkLearner.snapshot`` copies, by the same names, and no copies."""
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    return {name: tensor.detach() for name, tensor in tensors}


def _restore(model: nn.Module, start: dict[str, Tensor]) -> None:
    for name, tensor in _state(model).items():
        tensor.copy_(start[name])


def _make_trainer(bench: Bench, model: nn.Module, data: tuple[TokenisedTexts, Collator], folder: str) -> Any:
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
    trainer = Trainer(model=model, args=arguments, train_dataset=data[0], data_collator=data[1])
    trainer.remove_callback(PrinterCallback)  # it would print every logged loss on stdout
    return trainer
