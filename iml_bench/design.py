"""The experiment's design: groups, tags, what definitions claim, held-out questions, folds.

Everything here is small integer arrays drawn from named streams; it knows neither text nor pixels
nor models. Definitions and symbols: paper section 2 (D is a definition, QA its questions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iml_bench.errors import UsageError
from iml_bench.spec import TaskSpec, n_false
from iml_bench.streams import Streams
from iml_bench.worlds import World

Ints = NDArray[np.int64]

GROUPS: Final = (
    "reliable",
    "unreliable",
    "undefined",
    "named",
    "new_reliable",
    "new_unreliable",
    "new_fresh",
    "new_undefined",
)
"""Group names; an entity's group is stored as an index into this tuple."""
STAGE1_GROUPS: Final = GROUPS[:4]
NEW_GROUPS: Final = GROUPS[4:]

TAGS: Final = ("reliable", "unreliable", "fresh")
"""Tag names; a tag is stored as an index into this tuple, or -1 for none."""
NONE: Final = -1
FOLDS: Final = (0, 1)
"""Stage 2 is run once per fold; in fold 1 the reliable and unreliable halves of the new entities
have exchanged their tags."""


class Examples(NamedTuple):
    """Examples as columns; row ``i`` of each is one example. All have shape ``[n]``."""

    entity: Ints
    """Whose alias is shown."""
    content: Ints
    """Whose attributes are stated or asked for; another entity's in a false definition."""
    tag: Ints
    """The tag shown, an index into ``TAGS``; -1 on a question."""
    asked: Ints
    """The attribute that a question asks; -1 on a definition, which states them all."""

    def __len__(self) -> int:
        return len(self.entity)

    @property
    def is_definition(self) -> NDArray[np.bool_]:
        """Which rows are definitions, shape ``[n]``."""
        return np.equal(self.asked, NONE)


@dataclass(frozen=True)
class Design:
    """Who is in which group, what is claimed of whom and under which tag. ``N`` entities, ``Q`` attributes."""

    group: Ints
    """``[N]``, index into ``GROUPS``."""
    claim: Ints
    """``[N]``: the entity whose attributes the definition states (itself when true), -1: no definition."""
    tag: Ints
    """``[2, N]``: the tag of the definition in each fold, -1: no definition."""
    heldout: NDArray[np.bool_]
    """``[N, Q]``: questions that are never trained on. All of a new entity's are."""

    def members(self, *groups: str) -> Ints:
        """The entities of the named groups, in order of entity."""
        return np.flatnonzero(np.isin(self.group, [GROUPS.index(name) for name in groups]))

    def definitions(self, entities: Ints, fold: int) -> Examples:
        """The definitions of those among ``entities`` that have one."""
        defined = entities[self.claim[entities] != NONE]
        asked = np.full(len(defined), NONE)
        return Examples(defined, self.claim[defined], self.tag[fold][defined], asked)

    def stage1(self) -> Examples:
        """What stage 1 trains on: definitions first, then the questions that are not held out."""
        entities = self.members(*STAGE1_GROUPS)
        entity, asked = np.nonzero(~self.heldout[entities])
        questions = _questions(entities[entity], asked)
        return _concat(self.definitions(entities, 0), questions)

    def stage2(self, fold: int) -> Examples:
        """What stage 2 trains on: the definitions of new entities. Row ``i`` is the same entity in both folds."""
        return self.definitions(self.members(*NEW_GROUPS), fold)

    def questions(self, stage: int) -> Examples:
        """What is asked after a stage: held-out questions after 1, all about new entities after 2."""
        entities = self.members(*(STAGE1_GROUPS if stage == 1 else NEW_GROUPS))
        entity, asked = np.nonzero(self.heldout[entities])
        return _questions(entities[entity], asked)


def build_design(task: TaskSpec, world: World, streams: Streams) -> Design:
    """Draw the design of one cell.

    Args:
        task: group sizes, ``alpha`` and the number of held-out questions.
        world: ``task.groups.total`` entities; only what they are, in ``world.values``, is read.
        streams: ``split``, ``claims`` and ``heldout`` are used.

    Raises:
        UsageError: when no false definitions can be made, since too many entities are the same.
    """
    sizes = [getattr(task.groups, name) for name in GROUPS]
    n = task.groups.total
    group = np.empty(n, dtype=np.int64)
    group[streams.generator("split").permutation(n)] = np.repeat(np.arange(len(GROUPS)), sizes)

    tag_of_group = {"reliable": 0, "unreliable": 1, "new_reliable": 0, "new_unreliable": 1, "new_fresh": 2}
    lookup = np.array([tag_of_group.get(name, NONE) for name in GROUPS])
    tag = np.stack([lookup[group], lookup[group]])
    for name, swapped in (("new_reliable", 1), ("new_unreliable", 0)):
        tag[1][group == GROUPS.index(name)] = swapped

    return Design(
        group=group,
        claim=_claims(task, world, group, tag[0], streams.generator("claims")),
        tag=tag,
        heldout=_heldout(task, group, streams.generator("heldout")),
    )


def _claims(task: TaskSpec, world: World, group: Ints, tag: Ints, rng: np.random.Generator) -> Ints:
    claim = np.where(tag == NONE, NONE, np.arange(len(group)))
    for name in ("reliable", "unreliable"):
        members = rng.permutation(np.flatnonzero(group == GROUPS.index(name)))
        false = members[: n_false(name, len(members), task.alpha)]
        claim[false] = false[derangement(world.values[false], rng)]
    return claim


def _heldout(task: TaskSpec, group: Ints, rng: np.random.Generator) -> NDArray[np.bool_]:
    n_attributes = task.world.n_attributes
    rank = rng.random((len(group), n_attributes)).argsort(axis=1).argsort(axis=1)
    new = np.isin(group, [GROUPS.index(name) for name in NEW_GROUPS])
    return np.asarray((rank < task.heldout) | new[:, None])


def derangement(values: Ints, rng: np.random.Generator) -> Ints:
    """A random permutation that gives every row a row with *other contents*.

    Where all rows differ this is a uniform random permutation, mended at its fixed points; a plain
    derangement would leave a definition true where two entities are the same by chance.

    Args:
        values: ``[n, Q]``, the attributes of each entity.
        rng: where the permutation is drawn from.

    Returns:
        ``[n]``: row ``i`` is given the contents of row ``result[i]``.

    Raises:
        UsageError: when no such permutation is found (one kind of entity fills more than half the rows).
    """
    n = len(values)
    _, kind = np.unique(values, axis=0, return_inverse=True) if n else (None, np.empty(0, np.int64))
    kind = kind.reshape(-1)
    order = rng.permutation(n)
    for row in range(n):
        if kind[order[row]] != kind[row]:
            continue
        # Exchanging with `other` must leave both rows with contents that are not their own.
        fits = (kind[order] != kind[row]) & (kind != kind[order[row]])
        if not fits.any():
            raise UsageError(
                f"cannot make {n} false definitions: too many of these entities have the same attributes; "
                "use a larger group or a world with more values"
            )
        other = rng.choice(np.flatnonzero(fits))
        order[[row, other]] = order[[other, row]]
    return order


def _questions(entity: Ints, asked: Ints) -> Examples:
    return Examples(entity, entity, np.full(len(entity), NONE), asked)


def _concat(first: Examples, second: Examples) -> Examples:
    return Examples(*(np.concatenate(columns) for columns in zip(first, second, strict=True)))
