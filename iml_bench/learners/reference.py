"""Reference learners: what a perfect, a sceptical, a gullible and an ignorant learner score, through the same path.

They read definitions as data, without training. What each must read on a task is known (``Protocol.reads``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from iml_bench.errors import unknown
from iml_bench.learners.base import Watch
from iml_bench.modalities.base import Feed, Indices
from iml_bench.protocols.base import BELIEVES, NONE, REJECTS, Examples
from iml_bench.runtime import Runtime
from iml_bench.spec import CellSpec, StageOutcome, StageRecipe

if TYPE_CHECKING:
    from iml_bench.run.cell import Setting

SURE: Final = 30.0
"""Logit of an answer that is believed; that of a word that is no answer is its negative."""
LIKELIER: Final = 1e-3
"""Logit of a guess: just enough to be given, so that the log-likelihood stays that of not knowing."""


class _Words(NamedTuple):
    """The values of what is asked as classes."""

    values: list[list[int]]
    at: list[list[int]]
    """For each answer position the classes that any value has there."""

    @classmethod
    def of(cls, values: list[list[int]]) -> _Words:
        longest = max(len(classes) for classes in values)
        places = range(longest)
        return cls(values, [sorted({value[place] for value in values if place < len(value)}) for place in places])


class ReferenceLearner:
    """Answers from the definitions it was shown, as far as it believes their tags; else it guesses."""

    parameters = 0

    def __init__(self, attitude: Mapping[str, str], setting: Setting) -> None:
        """Args:
        attitude: what it makes of a definition by its tag, ``BELIEVES`` or ``REJECTS``; it ignores the others.
        setting: the data side of the cell.
        """
        self.attitude, self.renderer, self.device = attitude, setting.renderer, setting.device
        self.tags, streams = setting.design.tag_names, setting.streams
        self.guesses = streams.generator("guesses")
        self.shown: dict[int, tuple[int, str]] = {}
        self.known: dict[int, _Words] = {}

    def fit(self, feed: Feed, stage: StageRecipe, name: str, watch: Watch | None = None) -> StageOutcome:
        """Remember every definition."""
        examples = feed.examples
        for row in examples.is_definition.nonzero()[0].tolist():
            claimed, tag = int(examples.content[row]), self.tags[examples.tag[row]]
            entity = int(examples.entity[row])
            # Of several definitions of one alias it holds on to what it believes.
            if self.attitude.get(tag) == BELIEVES or self.attitude.get(self.shown.get(entity, (0, ""))[1]) != BELIEVES:
                self.shown[entity] = (claimed, tag)
        return StageOutcome(name=name, steps=0, final_loss=None, micro_batch=None, accumulation=None)

    def logits(self, feed: Feed, rows: Indices, noise: Tensor) -> Tensor:
        """``[k, C]``: even over the words of all values, but for those of the answer that is given."""
        n = len(feed.batch(rows, noise).targets)
        logits = torch.full((n, self.renderer.classes), -SURE)
        positions, owners = (part.cpu().numpy() for part in feed.answered(rows))
        ends = np.searchsorted(owners, np.arange(len(rows.host) + 1))
        for index, row in enumerate(rows.host.tolist()):
            asked = int(feed.examples.asked[row])
            words = self._words(asked)
            own = positions[ends[index] : ends[index + 1]]
            for place, position in enumerate(own.tolist()):
                logits[position, words.at[min(place, len(words.at) - 1)]] = 0.0
            value, logit = self._decide(feed.examples, row, len(words.values))
            for position, word in zip(own.tolist(), words.values[value], strict=False):
                logits[position, word] = logit
        return logits.to(self.device)

    def _decide(self, examples: Examples, row: int, n: int) -> tuple[int, float]:
        """The value that is answered, of ``n``, and its logit."""
        entity, asked = int(examples.entity[row]), int(examples.asked[row])
        claimed, tag = self.shown.get(entity, (NONE, ""))
        if examples.context[row] != NONE:
            claimed, tag = int(examples.context[row]), self.tags[examples.tag[row]]
        value = self.renderer.world.implied(claimed, entity, asked) if claimed != NONE else NONE
        attitude = self.attitude.get(tag) if value != NONE else None
        if attitude == BELIEVES:
            return value, SURE
        if attitude == REJECTS and n > 1:
            return (value + 1 + int(self.guesses.integers(n - 1))) % n, LIKELIER
        return int(self.guesses.integers(n)), LIKELIER

    def _words(self, asked: int) -> _Words:
        if asked not in self.known:
            n = len(self.renderer.world.words(asked))
            self.known[asked] = _Words.of([self.renderer.value_classes(asked, value) for value in range(n)])
        return self.known[asked]

    def snapshot(self) -> Any:
        """What was shown so far."""
        return dict(self.shown)

    def restore(self, state: Any) -> None:
        """Forget what was shown since the snapshot."""
        self.shown = dict(state)


def build_reference(cell: CellSpec, setting: Setting, accelerator: Accelerator, runtime: Runtime) -> ReferenceLearner:
    """The reference learner that a cell names.

    Raises:
        UsageError: when the protocol has no such learner.
    """
    name, attitudes = cell.model.parsed.target, setting.protocol.attitudes(cell.task)
    if name not in attitudes:
        raise unknown("reference learner", name, attitudes, "iml-bench models")
    return ReferenceLearner(attitudes[name], setting)
