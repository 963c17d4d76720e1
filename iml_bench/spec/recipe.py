"""How a model is trained: everything about optimisation that can change the answer."""

from __future__ import annotations

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
    """Passes over the stage's examples, rounded up to whole steps; give this or ``steps``."""
    definition_share: float | None = Field(default=None, ge=0, le=1)
    """Share of every batch that is definitions; null: as many as there are among the examples."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("a stage has either steps or epochs, exactly one of them")
        return self

    def total_steps(self, n_examples: int, batch_size: int) -> int:
        """Optimiser steps of a stage over ``n_examples`` examples."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, int(-(-self.epochs * n_examples // batch_size)))


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
