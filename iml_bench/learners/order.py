"""In which order a stage shows its examples, drawn on the host so that no device changes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from iml_bench.protocols.base import Examples, Ints
from iml_bench.spec import Recipe, StageRecipe

MOST_PIECES = 8
"""A batch is cut into no more pieces than this to spare padding; memory may ask for more."""


WORTHWHILE_TOKENS = {"cpu": 512, "cuda": 8192}
"""Tokens of a piece of a batch below which a device is no faster for having fewer. On a CPU larger
pieces are slower even without padding: their logits are too large to be kept by the allocator."""


class Part(NamedTuple):
    """Which of the processes that share every batch this is, and what it computes on."""

    rank: int
    world: int
    device: str
    """A kind of device: ``cpu``, ``cuda``, ..."""


class _Passes:
    """Rows in random order, pass after pass: each row once before any comes again."""

    def __init__(self, rows: Ints, rng: np.random.Generator) -> None:
        self.rows, self.rng = rows, rng
        self.left = np.empty(0, dtype=np.int64)

    def take(self, n: int, *, within: bool = False) -> Ints:
        """The next ``n``; ``within`` a pass: what is left of it, where that is less."""
        while len(self.left) < (1 if within else n):
            self.left = np.concatenate([self.left, self.rng.permutation(self.rows)])
        taken, self.left = self.left[:n], self.left[n:]
        return taken


def global_batches(examples: Examples, stage: StageRecipe, batch_size: int, rng: np.random.Generator) -> Iterator[Ints]:
    """The rows of each optimiser step's global batch, ``[batch_size]`` each, for the whole stage.

    Without ``definition_share`` all examples are passed through together, and of a stage in ``epochs`` the last batch
    of each pass is ``[smallest_batch(...)]``. With it every batch holds that share of definitions (rounded) and the
    rest are questions, each passed through on its own.
    """
    steps = stage.total_steps(len(examples), batch_size)
    definitions = np.flatnonzero(examples.is_definition)
    questions = np.flatnonzero(~examples.is_definition)
    if not _mixed(examples, stage):
        together = _Passes(np.arange(len(examples)), rng)
        for _ in range(steps):
            yield together.take(batch_size, within=stage.epochs is not None)
        return
    assert stage.definition_share is not None
    n_definitions = round(stage.definition_share * batch_size)
    shown, asked = _Passes(definitions, rng), _Passes(questions, rng)
    for _ in range(steps):
        yield np.concatenate([shown.take(n_definitions), asked.take(batch_size - n_definitions)])


def smallest_batch(examples: Examples, stage: StageRecipe, batch_size: int) -> int:
    """Examples of the smallest batch of a stage that has at least one whole epoch."""
    if stage.epochs is None or _mixed(examples, stage):
        return batch_size
    return len(examples) % batch_size or batch_size


def sharing_problem(recipe: Recipe, smallest: int, processes: int) -> str | None:
    """Why several processes cannot share every batch of a stage, in words and with what to give; None: they can.

    A process without an example would wait for ever for the gradients of the others, or they for its own.

    Args:
        recipe: says how many examples a batch has, and whether its cut is fixed; processes then have whole pieces.
        smallest: see ``smallest_batch``.
        processes: how many.
    """
    for n, which in ((recipe.batch_size, "a batch"), (smallest, "the last batch of an epoch")):
        pieces = (
            None if recipe.micro_batch is None else len(micro_batches(np.arange(n), None, recipe.micro_batch, 1, 1))
        )
        if (n if pieces is None else pieces) < processes:
            what = f"{n} examples" + ("" if pieces is None else f" in {pieces} pieces (recipe.micro_batch)")
            return f"{which} has {what}, which {processes} processes cannot share; give fewer processes"
    return None


def _mixed(examples: Examples, stage: StageRecipe) -> bool:
    """Whether every batch has a given share of definitions: not where there is only one of the two kinds."""
    definitions = examples.is_definition
    return stage.definition_share is not None and bool(definitions.any()) and not definitions.all()


def shares(batch: Ints, lengths: Ints | None, recipe: Recipe, largest: int, part: Part) -> list[Ints]:
    """What goes through a process's model one after another, of one global batch.

    A process has its part of every piece; where the recipe fixes the cut, it has whole pieces, which are then the
    same ones on every device and in any number of processes.

    Args:
        batch: ``[b]``, rows of a feed.
        lengths: see ``micro_batches``.
        recipe: says whether the cut is fixed.
        largest: examples of one piece that a process can take.
        part: which process.
    """
    if recipe.micro_batch is not None:
        pieces = micro_batches(batch, lengths, recipe.micro_batch, 1, WORTHWHILE_TOKENS["cpu"])
        return pieces[part.rank :: part.world]
    worthwhile = WORTHWHILE_TOKENS.get(part.device, WORTHWHILE_TOKENS["cuda"])
    return [piece[part.rank :: part.world] for piece in micro_batches(batch, lengths, largest, part.world, worthwhile)]


def micro_batches(batch: Ints, lengths: Ints | None, largest: int, processes: int, worthwhile: int) -> list[Ints]:
    """One global batch cut into the pieces that go through the model one after another.

    Texts are sorted by length first, so that each piece is padded only to its own longest, and a batch
    that would fit whole is cut all the same where that spares padding. The sum of the pieces' gradients
    is the batch's whatever the cut.

    Args:
        batch: ``[b]``, rows of a feed.
        lengths: of every row of the feed, in tokens; None: all alike, and only ``largest`` counts.
        largest: examples of one piece that a process can take.
        processes: that share every piece; each takes every ``processes``-th row.
        worthwhile: tokens a process should have in a piece, fewer being no faster.

    Returns:
        Indices into ``batch``, one array per piece; each piece has at least one row per process.
    """
    n = len(batch)
    order, pieces = np.arange(n), -(-n // (largest * processes))
    if lengths is not None:
        order = np.argsort(lengths[batch], kind="stable")
        if lengths[batch].min() < lengths[batch].max():
            pieces = max(pieces, min(MOST_PIECES, int(lengths[batch].sum()) // (worthwhile * processes)))
    size = max(1, -(-n // (pieces * processes))) * processes
    cuts = list(range(size, n, size))
    if cuts and n - cuts[-1] < processes:
        cuts.pop()  # the last rows are too few for all processes and stay with those before them
    return np.split(order, cuts)
