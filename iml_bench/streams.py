"""One seed expanded into named streams of random numbers, so that no draw depends on another's use."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from iml_bench.errors import UsageError

STREAMS = {
    "contents": "which attributes each entity has",
    "split": "which entity is in which group",
    "heldout": "which questions are never trained on",
    "claims": "which definitions are false, and what they claim",
    "aliases": "the alias of each entity",
    "tags": "the shared tags; of texts, the stream of the even seed of two neighbours",
    "attribute order": "the order of the attributes in every definition",
    "pictures": "which pictures of a digit are kept for evaluation",
    "init": "initial weights",
    "render/evaluation": "the picture of every digit in the evaluated questions",
    "own tags": "the tags that stand on one definition only",
    "phrases": "the source or sentence of every definition in natural language",
    "guesses": "what the reference learners answer where they know nothing",
}
"""The streams of every cell and what is drawn from each."""
OF_A_PHASE = {
    "order": "the order of examples in",
    "render": "the picture of every digit shown in",
    "dropout": "dropout and other noise inside the model in",
}
"""The streams of every phase that a protocol trains: ``order/PHASE``, ..."""


class Streams:
    """The named random streams of one seed.

    A stream is seeded by the run's seed and a hash of its own name, so adding a stream, or drawing
    more from one, changes no other.
    """

    def __init__(self, seed: int, phases: Mapping[str, str] | None = None) -> None:
        """Args:
        seed: the run's seed, 0 or more.
        phases: of the protocol (``Protocol.phases``), each with when it is.
        """
        self.seed = seed
        of_phases = {
            f"{use}/{phase}": f"{what} {when}"
            for use, what in OF_A_PHASE.items()
            for phase, when in (phases or {}).items()
        }
        self.meanings = STREAMS | of_phases
        """Every stream and what is drawn from it."""

    @property
    def of_pair(self) -> Streams:
        """Those of seed ``2k`` for the seeds ``2k`` and ``2k + 1``: what both have in common."""
        even = Streams(self.seed - self.seed % 2)
        even.meanings = self.meanings
        return even

    def generator(self, name: str) -> np.random.Generator:
        """A fresh generator at the start of the stream ``name``."""
        return np.random.default_rng(self._sequence(name))

    def integer(self, name: str) -> int:
        """One 63-bit integer that seeds the stream in libraries with generators of their own."""
        return int(self._sequence(name).generate_state(1, np.uint64)[0] >> 1)

    def as_dict(self) -> dict[str, int]:
        """The integer of every stream, for the record."""
        return {name: self.integer(name) for name in self.meanings}

    def _sequence(self, name: str) -> np.random.SeedSequence:
        if name not in self.meanings:
            raise UsageError(f"no random stream is named {name!r}")
        words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u4")
        return np.random.SeedSequence([self.seed, *(int(word) for word in words)])
