"""Batches as wide as their own longest text against batches as wide as the longest text of all."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from measure import SAME_LOSS, Bench, Comparison, DifferenceError, require_same_weights, time_training
from torch import Tensor, nn

from iml_bench.learners.base import Watch
from iml_bench.modalities.base import Batch, Feed, Indices
from iml_bench.modalities.text.feed import TextFeed
from iml_bench.runtime import StageProgress

ROUNDING = "query_key_value.bias"
"""Weights of GPT-NeoX that are not compared: a key's bias adds the same to all scores of a query where it is
not rotated, so its gradient is rounding error, which optimisers scale up to whole steps."""


class PaddedFeed:
    """A causal model's text feed with every batch as wide as the longest text, and none cut for its lengths."""

    lengths = None

    def __init__(self, feed: TextFeed) -> None:
        """Args: feed: whose batches are padded."""
        self.feed, self.examples, self.noise, self.mass = feed, feed.examples, feed.noise, feed.mass
        self.width, decoded = feed.longest
        assert not decoded, "an encoder-decoder model has two widths"

    def batch(self, rows: Indices, noise: Tensor) -> Batch:
        """See ``Feed.batch``."""
        batch = self.feed.batch(rows, noise)
        ids, keep = batch.inputs["input_ids"], batch.inputs["keep"]
        more = self.width - ids.shape[1]
        wide = nn.functional.pad(ids, (0, more), value=self.feed.codec.pad)
        moved = keep + keep.div(ids.shape[1], rounding_mode="floor") * more
        return batch._replace(inputs={"keep": moved, "input_ids": wide})


class Trace(NamedTuple):
    """What one training run did."""

    losses: list[float]
    """Of every step."""
    weights: dict[str, Tensor]
    tokens: int
    """That went through the model, padding included."""


def length_aware_and_padded(bench: Bench) -> Comparison:
    """``NetworkLearner.fit`` on a text feed over the same on one that pads everything to one width.

    Raises:
        DifferenceError: when a step's loss or the final weights differ.
    """
    feed = bench.setting.train_feed("stage1")
    assert isinstance(feed, TextFeed)
    padded = PaddedFeed(feed)
    traces = (traced(bench, feed), traced(bench, padded))  # type: ignore[arg-type]
    check = require_same_training(*traces, bench.label)
    return Comparison(
        "length-aware batches / padding to the longest text",
        bench.label,
        f"{check}; {traces[0].tokens:,} / {traces[1].tokens:,} tokens",
        lambda: time_training(bench, feed),
        lambda: time_training(bench, padded),  # type: ignore[arg-type]
    )


def traced(bench: Bench, feed: Feed) -> Trace:
    """Stage 1 on a feed, with a look at every step."""
    learner, losses, tokens = bench.learner, [], []

    def report(progress: StageProgress) -> None:
        losses.append(progress.loss)

    def count(module: nn.Module, arguments: tuple[Tensor, ...], inputs: dict[str, Tensor]) -> None:
        tokens.append(inputs["input_ids"].numel())

    learner.restore(bench.start)
    silent, learner.runtime = learner.runtime, replace(learner.runtime, report=report)
    hook = learner.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        learner.fit(feed, bench.stage, "stage1", Watch(bench.steps, lambda step: None))
    finally:
        hook.remove()
        learner.runtime = silent
    weights = {name: weight for name, weight in learner.snapshot().items() if not name.endswith(ROUNDING)}
    return Trace(losses, weights, sum(tokens))


def require_same_training(first: Trace, second: Trace, what: str) -> str:
    """Compare all losses and the final weights of two runs.

    Returns:
        What was found, for the table.
    """
    for step, (one, other) in enumerate(zip(first.losses, second.losses, strict=True), 1):
        if not abs(one - other) <= SAME_LOSS * abs(other):
            raise DifferenceError(f"{what}: the loss of step {step} is {one} and {other}")
    return f"{len(first.losses)} losses equal, {require_same_weights(first.weights, second.weights, what)}"
