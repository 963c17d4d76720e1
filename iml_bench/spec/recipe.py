"""How a model is trained: everything about optimisation that can change the answer."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from iml_bench.spec.base import Spec

MOST_STEPS: Final = 10**8
"""Of a stage; more would not end."""


class StageRecipe(Spec):
    """How long one stage is, and how its batches are mixed."""

    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Optimiser steps; give this or ``epochs``."""
    epochs: float | None = Field(default=None, gt=0, le=MOST_STEPS)
    """Passes over the stage's examples, each in ceil(examples / batch) steps as the paper's trainer (Hugging Face's)
    counts them: no batch reaches from one pass into the next, and the last of a pass is as short as it comes out.
    Of half an epoch half these steps are taken, rounded up. With ``definition_share`` batches are full, and epochs only
    say how many steps there are. Give this or ``steps``, whose batches are full and reach from pass to pass."""
    definition_share: float | None = Field(default=None, ge=0, le=1)
    """Share of every batch that is definitions, rounded to a whole number of them that is the same in every batch.
    Definitions and questions are passed through each on their own, in random order without replacement: each once
    before any of its kind comes again. Null: both are passed through together, so that batches hold as many definitions
    as chance has it, and on average the share that they are of the stage's examples. No matter where a stage has but
    one of the two."""
    warmup_steps: int | None = Field(default=None, ge=0, le=MOST_STEPS)
    """Steps over which the learning rate rises from zero at the beginning of this stage; null: the recipe's."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("a stage has either steps or epochs, exactly one of them")
        return self

    def total_steps(self, n_examples: int, batch_size: int) -> int:
        """Optimiser steps of a stage over ``n_examples`` examples."""
        if self.steps is not None:
            return self.steps
        # As it is written: a float times the steps of an epoch can come out a little above a whole number.
        epochs = Fraction(str(self.epochs))
        return max(1, ceil(epochs * ceil(Fraction(n_examples, batch_size))))


class Recipe(Spec):
    """Optimiser, learning rate, global batch size and the length of both stages."""

    optimizer: Literal["adamw", "adafactor", "sgd"] = "adamw"
    """Made anew for every stage."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate."""
    weight_decay: float = Field(default=0.01, ge=0)
    """On all trained parameters, biases and normalisations too."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Shape of the learning rate over a stage, after the warm-up; linear and cosine end at zero."""
    warmup_steps: int = Field(default=0, ge=0, le=MOST_STEPS)
    """Steps over which the learning rate rises from zero at the beginning of every stage that does not say its own."""
    batch_size: int = Field(default=64, ge=1, le=10**6)
    """Examples per optimiser step over all processes: science."""
    micro_batch: int | None = Field(default=None, ge=1)
    """For models whose training depends on how a batch is cut (dropout, batch normalisation): examples that go
    through the model together. Null: the whole batch. For all others the cut is hardware (``--micro-batch``)."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the forward pass; weights stay in 32 bits."""
    max_grad_norm: float | None = Field(default=None, gt=0)
    """Gradients are scaled down to this norm; null: never."""
    loss_on: Literal["text", "answer"] | None = None
    """Text only. ``text``: every token but padding; ``answer``: the answer of a question, and of a definition what
    follows its tag and alias, without the names of attributes that it states."""
    stage1: StageRecipe
    stage2: StageRecipe | None = None
    """Null for a protocol that has no second stage."""

    @model_validator(mode="after")
    def _a_part_of_the_batch(self) -> Self:
        if self.micro_batch is not None and self.micro_batch >= self.batch_size:
            raise ValueError("micro_batch: it is less than batch_size; null is the whole batch")
        return self
