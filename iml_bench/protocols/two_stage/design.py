"""Who is in which group, what definitions claim and under which tag, and which questions are held out.

Everything here is small integer arrays drawn from named streams; it knows neither text nor pixels
nor models. Definitions and symbols: paper section 2 (D is a definition, QA its questions).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from iml_bench.errors import UsageError
from iml_bench.protocols.base import FACTS, NONE, OWN, Design, Examples, Ints
from iml_bench.protocols.two_stage.spec import TwoStageTask, n_false
from iml_bench.streams import Streams
from iml_bench.worlds import ATTRIBUTION, World

GROUPS: Final = (
    "reliable",
    "unreliable",
    "undefined",
    "named",
    "random_tag",
    "new_reliable",
    "new_unreliable",
    "new_fresh",
    "new_undefined",
)
"""Group names; an entity's group is stored as an index into this tuple."""
STAGE1_GROUPS: Final = GROUPS[:5]
NEW_GROUPS: Final = GROUPS[5:]

SHARED_TAGS: Final = ("reliable", "unreliable", "fresh")
"""Tags that a group shares."""
TAGS: Final = (*SHARED_TAGS, OWN)
"""A tag is stored as an index into this tuple, or -1 for none."""
ATTRIBUTIONS, CLAIMS = "attribution", "claim"
"""Sets of questions beside facts: which entity an alias stands for; and that again, where the right
answer is what a false definition said."""
BRANCHES: Final = (0, 1)
"""Stage 2 is run once per branch; in branch 1 the reliable and unreliable halves of the new entities
have exchanged their tags."""


@dataclass(frozen=True, kw_only=True)
class TwoStageDesign(Design):
    """Who is in which group, what is claimed of whom and under which tag. ``N`` entities, ``Q`` attributes."""

    groups: tuple[str, ...] = GROUPS
    tags: tuple[str, ...] = SHARED_TAGS
    claim: Ints
    """``[N]``: the entity whose attributes the definition states (itself when true), -1: no definition."""
    tag: Ints
    """``[2, N]``: the tag of the definition in each branch, -1: no definition."""
    heldout: NDArray[np.bool_]
    """``[N, Q]``: questions that are never trained on. All of a new entity's are."""
    exists: NDArray[np.bool_]
    """``[N, Q]``: whether the entity has the attribute."""
    in_context: bool = False
    """Definitions stand before the questions about their alias instead of being trained on."""

    @property
    def own_tagged(self) -> Ints:
        """See ``Design.own_tagged``."""
        return np.flatnonzero((self.tag == TAGS.index(OWN)).any(axis=0))

    @property
    def named(self) -> Ints:
        """See ``Design.named``."""
        return self.members("named")

    def shown(self, branch: int) -> tuple[Ints, Ints]:
        """See ``Design.shown``."""
        return self.tag[branch], self.claim

    def definitions(self, entities: Ints, branch: int) -> Examples:
        """The definitions of those among ``entities`` that have one."""
        defined = entities[self.claim[entities] != NONE]
        none = np.full(len(defined), NONE)
        return Examples(defined, self.claim[defined], self.tag[branch][defined], none, none)

    def trained(self, phase: str, branch: int = 0) -> Examples:
        """See ``Design.trained``.

        Args:
            phase: ``stage1``, its parts ``stage1-definitions`` and ``stage1-questions``; ``stage2``,
                definitions of new entities, where row ``i`` is the same entity in both branches; or
                ``joint``, both stages at once.
            branch: whose tags the new entities' definitions carry.
        """
        old, new = self.members(*STAGE1_GROUPS), self.members(*NEW_GROUPS)
        entity, asked = np.nonzero((self.exists & ~self.heldout)[old])
        questions = self._questions(old[entity], asked, branch)
        if self.in_context:
            return questions
        parts = {
            "stage1": (self.definitions(old, 0), questions),
            "stage1-definitions": (self.definitions(old, 0),),
            "stage1-questions": (questions,),
            "stage2": (self.definitions(new, branch),),
            "joint": (self.definitions(old, 0), self.definitions(new, branch), questions),
        }
        return Examples.joined(*parts[phase])

    def asked(self, stage: int, branch: int = 0, which: str = FACTS) -> Examples:
        """See ``Design.asked``: held-out questions after stage 1, all about new entities after stage 2."""
        if which != FACTS:
            return self._attributions(stage, branch, claimed=which == CLAIMS)
        entities = self.members(*(STAGE1_GROUPS if stage == 1 else NEW_GROUPS))
        entity, asked = np.nonzero((self.exists & self.heldout)[entities])
        return self._questions(entities[entity], asked, branch)

    def _attributions(self, stage: int, branch: int, *, claimed: bool) -> Examples:
        """Questions about which entity an alias stands for, of all entities that have a definition.

        Args:
            stage: 1: about the entities of stage 1; 2: about new ones.
            branch: only matters where definitions stand before questions.
            claimed: the right answer is what the definition says, and only false definitions are asked about.
        """
        entities = self.members(*(STAGE1_GROUPS if stage == 1 else NEW_GROUPS))
        entities = entities[self.claim[entities] != NONE]
        if claimed:
            entities = entities[self.claim[entities] != entities]
        first, n = self.heldout.shape[1], len(ATTRIBUTION)
        entity, asked = np.repeat(entities, n), np.tile(np.arange(first, first + n), len(entities))
        truth = self._questions(entity, asked, branch)
        return Examples(entity, self.claim[entity], truth.tag, asked, truth.context) if claimed else truth

    def _questions(self, entity: Ints, asked: Ints, branch: int) -> Examples:
        none = np.full(len(entity), NONE)
        if not self.in_context:
            return Examples(entity, entity, none, asked, none)
        return Examples(entity, entity, self.tag[branch][entity], asked, self.claim[entity])


def build_design(task: TwoStageTask, world: World, streams: Streams) -> TwoStageDesign:
    """Draw the design of one cell.

    Args:
        task: group sizes, ``alpha`` and the number of held-out questions.
        world: ``task.groups.total`` entities; which attributes they have and which are alike is read.
        streams: ``split``, ``claims`` and ``heldout`` are used.

    Raises:
        UsageError: when no false definitions can be made, since too many entities are the same.
    """
    sizes = [getattr(task.groups, name) for name in GROUPS]
    n = task.groups.total
    group = np.empty(n, dtype=np.int64)
    group[streams.generator("split").permutation(n)] = np.repeat(np.arange(len(GROUPS)), sizes)

    tag_of_group = {"reliable": 0, "unreliable": 1, "random_tag": TAGS.index(OWN)}
    tag_of_group |= {"new_reliable": 0, "new_unreliable": 1, "new_fresh": 2}
    lookup = np.array([tag_of_group.get(name, NONE) for name in GROUPS])
    tag = np.stack([lookup[group], lookup[group]])
    for name, swapped in (("new_reliable", 1), ("new_unreliable", 0)):
        tag[1][group == GROUPS.index(name)] = swapped

    return TwoStageDesign(
        group=group,
        claim=_claims(task, world, group, tag[0], streams.generator("claims")),
        tag=tag,
        heldout=_heldout(task, world, group, streams.generator("heldout")),
        exists=world.values >= 0,
        in_context=task.in_context,
    )


def _claims(task: TwoStageTask, world: World, group: Ints, tag: Ints, rng: np.random.Generator) -> Ints:
    claim = np.where(tag == NONE, NONE, np.arange(len(group)))
    for name in ("reliable", "unreliable"):
        members = rng.permutation(np.flatnonzero(group == GROUPS.index(name)))
        false = members[: n_false(name, len(members), task.alpha)]
        claim[false] = false[derangement(world.kinds[false], rng)]
    return claim


def _heldout(task: TwoStageTask, world: World, group: Ints, rng: np.random.Generator) -> NDArray[np.bool_]:
    new = np.isin(group, [GROUPS.index(name) for name in NEW_GROUPS])
    if world.heldout is not None:
        return np.asarray(world.heldout | new[:, None])
    # Attributes that an entity lacks come last in its order, so that they are never the chosen ones.
    order = np.where(world.values >= 0, rng.random(world.values.shape), np.inf)
    rank = order.argsort(axis=1).argsort(axis=1)
    return np.asarray((rank < task.heldout) | new[:, None])


def derangement(values: Ints, rng: np.random.Generator) -> Ints:
    """A random permutation that gives every row a row with *other contents*.

    Where all rows differ this is a uniform random permutation, mended at its fixed points; a plain
    derangement would leave a definition true where two entities are the same by chance.

    Args:
        values: ``[n, K]``; entities with equal rows have the same contents.
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
