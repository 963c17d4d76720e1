"""Whom probes look at: the new entities, their definitions under every tag, their questions; and the branches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from iml_bench.errors import UsageError
from iml_bench.learners.base import Inspectable
from iml_bench.modalities.base import Feed, draw_noise
from iml_bench.protocols.base import NONE, Examples, Ints, Train, asks, trains
from iml_bench.runtime import Runtime
from iml_bench.streams import Streams

if TYPE_CHECKING:
    from iml_bench.run.cell import Setting

STREAMS: Final = {
    "probe/entities": "which entities a probe looks at, and in which order",
    "probe/pictures": "the pictures that a probe draws",
    "probe/classes": "which examples of the larger class a linear probe leaves out, and its folds",
    "probe/permutations": "the permuted labels of a probe's control",
}
"""Random streams of probes. They are no part of a cell, so its record does not list them."""


LOOKS: Final = 4
"""Pictures that probes draw of each example, the same under every tag; texts are always the same."""


def streams_of_probe(setting: Setting) -> Streams:
    """The streams of probes at a cell's seed."""
    streams = Streams(setting.streams.seed)
    streams.meanings = STREAMS
    return streams


def new_entities(setting: Setting, most: int = 0) -> Ints:
    """Entities that some branch defines and that are asked about in the end, in the order of ``probe/entities``.

    Args:
        setting: the data side of a cell.
        most: how many at most; 0: all.

    Raises:
        UsageError: when there are none, or definitions are not trained on.
    """
    design = setting.design
    if getattr(design, "in_context", False):
        raise UsageError("definitions stand before questions in this task and are not trained on")
    last = asks(setting.schedule)[-1]
    branches = {step.fold for step in trains(setting.schedule)}
    claims = np.stack([design.shown(branch)[1] for branch in sorted(branches)])
    defined = np.flatnonzero((claims != NONE).any(axis=0))
    found = np.intersect1d(defined, design.asked(last.stage, last.branch).entity)
    if not len(found):
        raise UsageError("no entity of this task is both defined and asked about in the end")
    order = streams_of_probe(setting).generator("probe/entities").permutation(found)
    return order[:most] if most else order


def definitions(entities: Ints, tag: int, claims: Ints | None = None) -> Examples:
    """Definitions of entities under one of the shared tags; one row each.

    Args:
        entities: whose alias is shown.
        tag: an index into ``Design.tags``.
        claims: whom each says it is; None: itself, as stage 2 shows them.
    """
    none = np.full(len(entities), NONE)
    return Examples(entities, entities if claims is None else claims, np.full(len(entities), tag), none, none)


def questions(setting: Setting, entities: Ints) -> Examples:
    """All questions about entities, with the right answers, entity by entity."""
    last = asks(setting.schedule)[-1]
    asked = setting.design.asked(last.stage, last.branch)
    rows = np.concatenate([np.flatnonzero(asked.entity == entity) for entity in entities])
    return Examples(*(column[rows] for column in asked))


def stage1_questions(setting: Setting) -> dict[str, Examples]:
    """What the phases before any branch train and hold out: ``stage 1, trained`` and ``stage 1, held out``."""
    shared = [step for step in trains(setting.schedule) if step.branch is None]
    if not shared:
        return {}
    shown = Examples.joined(*(setting.design.trained(step.phase) for step in shared))
    trained = Examples(*(column[~shown.is_definition] for column in shown))
    first = asks(setting.schedule)[0]
    return {"stage 1, trained": trained, "stage 1, held out": setting.design.asked(first.stage, first.branch)}


def looks_of(rng: np.random.Generator, feed: Feed, device: torch.device) -> Tensor:
    """``[n, looks, feed.noise]``: the draws of each example of a feed, as many looks as make a difference."""
    looks = LOOKS if feed.noise else 1
    return torch.from_numpy(draw_noise(rng, len(feed.examples), looks, feed.noise)).to(device)


def branch_steps(setting: Setting) -> list[Train]:
    """The training of every branch.

    Raises:
        UsageError: when the schedule has no branches.
    """
    steps = [step for step in trains(setting.schedule) if step.branch is not None]
    if not steps:
        raise UsageError("this task's schedule has no branches")
    return steps


def trained_branches(setting: Setting, learner: Inspectable) -> Iterator[Train]:
    """Train every branch from the learner's present weights, and hand over after each; these are put back in the end.

    The examples, their order and all random draws are those of the cell itself, so that from the weights that all
    branches share each ends with the very weights that the cell's own branch does.

    Raises:
        UsageError: when the schedule has no branches.
    """
    steps = branch_steps(setting)
    shared = learner.snapshot()
    for step in steps:
        learner.restore(shared)
        with quiet(learner):
            learner.fit(
                setting.train_feed(step.phase, step.fold), getattr(setting.task.recipe, step.recipe), step.phase
            )
        yield step
    learner.restore(shared)


@contextmanager
def quiet(learner: Inspectable) -> Iterator[None]:
    """Training in the block is not told to whoever follows the cell's progress."""
    network: Any = learner
    runtime: Runtime = network.runtime
    network.runtime = replace(runtime, report=Runtime().report)
    try:
        yield
    finally:
        network.runtime = runtime
