"""Reference learners: what a perfect, a gullible and an ignorant learner score, through the same path.

They read definitions as data, without training. The oracle must read an IML of exactly 1 and the
gullible exactly 0, on every task; the random learner's interval must cover 0.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from iml_bench.design import TAGS
from iml_bench.errors import unknown
from iml_bench.render import Feed, Renderer
from iml_bench.spec import StageRecipe
from iml_bench.streams import Streams
from iml_bench.train import StageOutcome

SURE: Final = 30.0
"""Logit of an answer that is believed."""
REJECTED: Final = -1e-3
"""Logit of an answer that is not: just below the others, so that it is never given and yet the
log-likelihood stays that of not knowing."""

BELIEFS: Final[dict[str, dict[str, float]]] = {
    "oracle": {"reliable": SURE, "unreliable": REJECTED, "fresh": 0.0},
    "gullible": {"reliable": SURE, "unreliable": SURE, "fresh": SURE},
    "random": {},
}
"""For each reference, the logit given to what a definition says, by the definition's tag."""


class ReferenceLearner:
    """Answers from the definitions it was shown, as far as it believes their tags; else it guesses."""

    parameters = 0

    def __init__(self, name: str, renderer: Renderer, streams: Streams, device: torch.device) -> None:
        """Args: name: ``oracle``, ``gullible`` or ``random``; the others: of the cell."""
        if name not in BELIEFS:
            raise unknown("reference learner", name, BELIEFS, "iml-bench models")
        self.beliefs, self.renderer, self.device = BELIEFS[name], renderer, device
        self.guesses = torch.Generator().manual_seed(streams.integer("guesses"))
        self.shown: dict[int, tuple[int, str]] = {}
        self.words: dict[tuple[int, int], list[int]] = {}

    def fit(self, feed: Feed, stage: StageRecipe, name: str) -> StageOutcome:
        """Remember every definition."""
        examples = feed.examples
        for row in examples.is_definition.nonzero()[0].tolist():
            claimed, tag = int(examples.content[row]), TAGS[examples.tag[row]]
            self.shown[int(examples.entity[row])] = (claimed, tag)
        return StageOutcome(name, 0, None, None, None)

    def logits(self, feed: Feed, rows: Tensor, noise: Tensor) -> Tensor:
        """``[b, P, C]``: even over the attribute's values, but for what is believed or rejected.

        Tiny random differences decide guesses.
        """
        batch = feed.batch(rows, noise)
        logits = torch.full((*batch.targets.shape, self.renderer.classes), -SURE)
        for index, row in enumerate(rows.tolist()):
            asked = int(feed.examples.asked[row])
            positions = batch.answer[index].nonzero()[:, 0].tolist()
            guess = torch.rand(self._n_values(asked), generator=self.guesses) * -REJECTED / 2
            claimed, belief = self._opinion(int(feed.examples.entity[row]), asked)
            if belief:
                guess[claimed] = belief
            for value, logit in enumerate(guess.tolist()):
                # Values may share words, such as the line end that closes each: the likeliest counts.
                for position, word in zip(positions, self._words(asked, value), strict=False):
                    logits[index, position, word] = max(logit, float(logits[index, position, word]))
        return logits.to(self.device)

    def _opinion(self, entity: int, asked: int) -> tuple[int, float]:
        """The value that the entity's definition claims, and the logit it is given; (0, 0) for none."""
        if entity not in self.shown:
            return 0, 0.0
        claimed, tag = self.shown[entity]
        return int(self.renderer.world.values[claimed, asked]), self.beliefs.get(tag, 0.0)

    def _n_values(self, attribute: int) -> int:
        return len(self.renderer.world.vocabulary[attribute])

    def _words(self, attribute: int, value: int) -> list[int]:
        if (attribute, value) not in self.words:
            self.words[attribute, value] = self.renderer.value_classes(attribute, value)
        return self.words[attribute, value]

    def snapshot(self) -> Any:
        """What was shown so far."""
        return dict(self.shown)

    def restore(self, state: Any) -> None:
        """Forget what was shown since the snapshot."""
        self.shown = dict(state)
