"""How far one step on a single definition moves the log-likelihood of its own questions, under each tag.

From the same weights, with what first order says of it: the product of the change of weights with the gradient of the
questions' log-likelihood, which for plain gradient descent is minus the learning rate times the product of gradients.
It ties alignment (``probes/alignment.py``) to IML in nats: the branches are trained, too, and it is asked how well the
difference that one step makes predicts, entity by entity, the difference that stage 2 makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from iml_bench.learners.answers import answer_questions
from iml_bench.learners.base import Inspectable
from iml_bench.learners.setup import make_optimizer
from iml_bench.modalities.base import Indices
from iml_bench.probes.gradients import Gradients, plain
from iml_bench.probes.subjects import (
    definitions,
    looks_of,
    new_entities,
    questions,
    streams_of_probe,
    trained_branches,
)
from iml_bench.protocols import Columns, Measure
from iml_bench.protocols.base import NONE, Ints, asks

if TYPE_CHECKING:
    from iml_bench.run.cell import Setting

Floats = NDArray[np.float64]
Step = Literal["sgd", "recipe"]
STEPS: Final[tuple[Step, ...]] = ("sgd", "recipe")
"""Plain gradient descent, and the first step of the recipe's own optimiser, which takes no account of how large a
gradient is where it is AdamW."""


@dataclass(frozen=True)
class Uptake:
    """Change of the questions' log-likelihood by one step on a definition; see the module."""

    entities: int = 64
    """At most so many; 0: all."""
    lr: float = 0.0
    """Learning rate of the step; 0: the recipe's."""

    @property
    def description(self) -> str:
        """See ``Probe``."""
        return "change of each entity's questions' log-likelihood by one step on its definition under each tag"

    @property
    def scores(self) -> tuple[Measure, ...]:
        """See ``Probe``."""
        return SCORES

    def __call__(self, setting: Setting, learner: Inspectable, moment: str) -> pl.DataFrame:
        """One row per entity, tag and kind of step.

        ``change``: of the log-likelihood of the right answer, mean over the entity's questions, in nats;
        ``predicted``: to first order; ``learned``: that log-likelihood after stage 2 in the branch where the entity
        was defined under this tag, null where it was under none.

        Raises:
            UsageError: when no entity is defined in a branch and asked about after it, or there are no branches.
        """
        entities = new_entities(setting, self.entities)
        lr = self.lr or setting.task.recipe.lr
        rows = _Steps(setting, learner, entities, lr).rows()
        learned = _learned(setting, learner, entities)
        return pl.DataFrame(rows).join(learned, on=["entity", "tag"], how="left")


class _Steps:
    """One step on each definition, from the same weights, undone after each."""

    def __init__(self, setting: Setting, learner: Inspectable, entities: Ints, lr: float) -> None:
        self.setting, self.learner, self.entities, self.lr = setting, learner, entities, lr
        self.gradients = Gradients(learner)
        self.before = {name: weight.detach().clone() for name, weight in learner.trainable().items()}
        tags = range(len(setting.design.tags))
        self.told = [setting.feed(definitions(entities, tag), evaluation=False) for tag in tags]
        self.asked = setting.feed(questions(setting, entities), evaluation=True)
        rng = streams_of_probe(setting).generator("probe/pictures")
        self.draws = [looks_of(rng, feed, setting.device) for feed in (self.told[0], self.asked)]

    def rows(self) -> list[dict[str, Any]]:
        """All rows of the table, but for what stage 2 makes of them."""
        found: list[dict[str, Any]] = []
        for place, entity in enumerate(self.entities.tolist()):
            asked = np.flatnonzero(self.asked.examples.entity == entity)
            surprise, slope = self._surprise(asked), self._slope(asked)
            for tag, name in enumerate(self.setting.design.tags):
                row = np.array([place])
                gradient = self.gradients.of(self.told[tag], row, self.draws[0][row])[0]
                for step in STEPS:
                    change = self._take(step, gradient)
                    moved = surprise - self._surprise(asked)
                    predicted = -sum((change[own] @ slope[own]).double() for _, own in self.gradients.slices)
                    self._undo()
                    line = {"entity": entity, "tag": name, "step": step, "questions": len(asked)}
                    found.append(line | {"change": float(moved), "predicted": float(predicted)})
        return found

    def _take(self, step: Step, gradient: Tensor) -> Tensor:
        """Take a step on a gradient ``[P]``; the change of the weights, ``[P]``."""
        weights = list(self.learner.trainable().values())
        with torch.no_grad():
            for weight, (_, own) in zip(weights, self.gradients.slices, strict=True):
                weight.grad = gradient[own].view_as(weight).to(weight.dtype)
                if step == "sgd":
                    weight.add_(weight.grad, alpha=-self.lr)
        if step == "recipe":
            optimizer = make_optimizer(self.gradients.model, self.setting.task.recipe)
            for group in optimizer.param_groups:
                group["lr"] = self.lr
            optimizer.step()
        with torch.no_grad():
            moved = [
                (weight - before).flatten().float()
                for weight, before in zip(weights, self.before.values(), strict=True)
            ]
            for weight in weights:
                weight.grad = None
        return torch.cat(moved)

    def _undo(self) -> None:
        with torch.no_grad():
            for weight, before in zip(self.learner.trainable().values(), self.before.values(), strict=True):
                weight.copy_(before)

    def _surprise(self, asked: Ints) -> Tensor:
        """Minus the log-likelihood of the right answers, a mean over questions and looks, a scalar in float64."""
        with torch.no_grad():
            return self._losses(asked).double().mean()

    def _slope(self, asked: Ints) -> Tensor:
        """The gradient of ``_surprise``, ``[P]``."""
        return self.gradients.flat(self._losses(asked).mean())

    def _losses(self, asked: Ints) -> Tensor:
        noise = self.draws[1][asked]
        looks = noise.shape[1]
        indices = Indices.of(np.repeat(asked, looks), self.setting.device)
        with plain(self.gradients.model):
            losses = self.learner.losses(self.asked, indices, noise.flatten(0, 1))
        return losses * self.asked.mass.index_select(0, indices.device)


def _learned(setting: Setting, learner: Inspectable, entities: Ints) -> pl.DataFrame:
    """``entity, tag, learned``: mean log-likelihood of each entity's answers after stage 2, as the cell asks them."""
    last, tables = asks(setting.schedule)[-1], []
    for step in trained_branches(setting, learner):
        feed = setting.question_feed(last.stage, step.fold)
        rng = setting.streams.generator("render/evaluation")
        answers = answer_questions(learner, feed, setting.renderer, rng, setting.device)
        role = setting.design.shown(step.fold)[0][feed.examples.entity]
        names = [setting.design.tag_names[tag] if tag != NONE else None for tag in role.tolist()]
        table = pl.DataFrame({"entity": feed.examples.entity, "tag": names, "learned": answers.log_likelihood})
        tables.append(table.filter(pl.col("tag").is_not_null() & pl.col("entity").is_in(entities.tolist())))
    return pl.concat(tables).group_by("entity", "tag").agg(pl.col("learned").mean())


def _under(column: str, tag: str, step: Step) -> Any:
    def found(columns: Columns) -> Floats:
        rows = (columns["tag"] == tag) & (columns["step"] == step)
        order = np.argsort(columns["entity"][rows], kind="stable")
        values: Floats = columns[column][rows].astype(np.float64)[order]
        return values

    return found


def _gaps(column: str, step: Step, columns: Columns) -> Floats:
    """``[entities]``: a column under the reliable tag minus that under the unreliable one."""
    high, low = (_under(column, tag, step)(columns) for tag in ("reliable", "unreliable"))
    return np.asarray(high - low)


def _correlation(one: Floats, other: Floats) -> float | None:
    known = np.isfinite(one) & np.isfinite(other)
    if known.sum() < 3 or one[known].std() == 0 or other[known].std() == 0:
        return None
    return float(np.corrcoef(one[known], other[known])[0, 1])


def _agreement(columns: Columns) -> float | None:
    rows = columns["step"] == "sgd"
    return _correlation(columns["predicted"][rows], columns["change"][rows])


def _explains(step: Step, columns: Columns) -> float | None:
    return _correlation(_gaps("change", step, columns), _gaps("learned", step, columns))


MOST: Final = 1000.0
FEW: Final = "fewer than three entities were defined under both tags, or all are alike"
SCORES: Final = (
    Measure(
        name="gap",
        label="one step: reliable minus unreliable (nats)",
        heading="one step",
        description="change of log-likelihood by one step of gradient descent under the reliable tag minus unreliable",
        of=lambda columns: float(_gaps("change", "sgd", columns).mean()),
        unit="nats",
        low=-MOST,
        high=MOST,
    ),
    Measure(
        name="predicted_gap",
        label="one step to first order: reliable minus unreliable (nats)",
        heading="first order",
        description="the same, as the product of gradients predicts it",
        of=lambda columns: float(_gaps("predicted", "sgd", columns).mean()),
        unit="nats",
        low=-MOST,
        high=MOST,
    ),
    Measure(
        name="recipe_gap",
        label="one step of the recipe's optimiser: reliable minus unreliable (nats)",
        heading="recipe's step",
        description="the same by one step of the recipe's optimiser",
        of=lambda columns: float(_gaps("change", "recipe", columns).mean()),
        unit="nats",
        low=-MOST,
        high=MOST,
    ),
    Measure(
        name="agreement",
        label="correlation of the first-order with the measured change",
        heading="agreement",
        description="correlation, over entities and tags, of what first order predicts with what is measured",
        of=_agreement,
        missing=FEW,
    ),
    Measure(
        name="explains",
        label="correlation of one step's difference with that of stage 2",
        heading="explains",
        description="correlation over entities of the difference between tags by one step with that after stage 2",
        of=lambda columns: _explains("sgd", columns),
        missing=FEW,
    ),
    Measure(
        name="recipe_explains",
        label="correlation of the recipe's step's difference with that of stage 2",
        heading="recipe explains",
        description="the same with one step of the recipe's optimiser",
        of=lambda columns: _explains("recipe", columns),
        missing=FEW,
    ),
)
"""What follows from a table."""
UPTAKE = Uptake()
