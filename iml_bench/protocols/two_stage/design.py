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
from iml_bench.spec import TaskSpec, TextRender, n_false
from iml_bench.streams import Streams
from iml_bench.worlds import ATTRIBUTION, World

Ints = NDArray[np.int64]

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

TAGS: Final = ("reliable", "unreliable", "fresh", "own")
"""Tag names; a tag is stored as an index into this tuple, or -1 for none. The first three are shared by
a group; ``own`` stands for a random tag that no other definition has."""
SHARED_TAGS: Final = TAGS[:3]
NONE: Final = -1
FACTS, ATTRIBUTIONS, CLAIMS = "fact", "attribution", "claim"
"""Sets of questions: about attributes; which entity an alias stands for; and that again, where the right
answer is what a false definition said."""
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
    """The tag shown, an index into ``TAGS``; -1 on a question, unless a definition stands before it."""
    asked: Ints
    """What a question asks (see ``World``); -1 on a definition."""
    context: Ints
    """Whom the definition that stands before a question says the alias is; -1: none stands there."""

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
    exists: NDArray[np.bool_]
    """``[N, Q]``: whether the entity has the attribute."""
    in_context: bool = False
    """Definitions stand before the questions about their alias instead of being trained on."""

    def members(self, *groups: str) -> Ints:
        """The entities of the named groups, in order of entity."""
        return np.flatnonzero(np.isin(self.group, [GROUPS.index(name) for name in groups]))

    def definitions(self, entities: Ints, fold: int) -> Examples:
        """The definitions of those among ``entities`` that have one."""
        defined = entities[self.claim[entities] != NONE]
        none = np.full(len(defined), NONE)
        return Examples(defined, self.claim[defined], self.tag[fold][defined], none, none)

    def trained(self, phase: str, fold: int = 0) -> Examples:
        """What a phase of training shows, definitions first.

        Args:
            phase: ``stage1``, its parts ``stage1-definitions`` and ``stage1-questions``; ``stage2``,
                definitions of new entities, where row ``i`` is the same entity in both folds; or
                ``joint``, both stages at once.
            fold: whose tags the new entities' definitions carry.
        """
        old, new = self.members(*STAGE1_GROUPS), self.members(*NEW_GROUPS)
        entity, asked = np.nonzero((self.exists & ~self.heldout)[old])
        questions = self._questions(old[entity], asked, fold)
        if self.in_context:
            return questions
        parts = {
            "stage1": (self.definitions(old, 0), questions),
            "stage1-definitions": (self.definitions(old, 0),),
            "stage1-questions": (questions,),
            "stage2": (self.definitions(new, fold),),
            "joint": (self.definitions(old, 0), self.definitions(new, fold), questions),
        }
        return _concat(*parts[phase])

    def asked(self, stage: int, fold: int = 0) -> Examples:
        """What is asked after a stage: held-out questions after 1, all about new entities after 2."""
        entities = self.members(*(STAGE1_GROUPS if stage == 1 else NEW_GROUPS))
        entity, asked = np.nonzero((self.exists & self.heldout)[entities])
        return self._questions(entities[entity], asked, fold)

    def attributions(self, stage: int, fold: int, *, claimed: bool = False) -> Examples:
        """Questions about which entity an alias stands for, of all entities that have a definition.

        Args:
            stage: 1: about the entities of stage 1; 2: about new ones.
            fold: only matters where definitions stand before questions.
            claimed: the right answer is what the definition says, and only false definitions are asked about.
        """
        entities = self.members(*(STAGE1_GROUPS if stage == 1 else NEW_GROUPS))
        entities = entities[self.claim[entities] != NONE]
        if claimed:
            entities = entities[self.claim[entities] != entities]
        first, n = self.heldout.shape[1], len(ATTRIBUTION)
        entity, asked = np.repeat(entities, n), np.tile(np.arange(first, first + n), len(entities))
        truth = self._questions(entity, asked, fold)
        return Examples(entity, self.claim[entity], truth.tag, asked, truth.context) if claimed else truth

    def _questions(self, entity: Ints, asked: Ints, fold: int) -> Examples:
        none = np.full(len(entity), NONE)
        if not self.in_context:
            return Examples(entity, entity, none, asked, none)
        return Examples(entity, entity, self.tag[fold][entity], asked, self.claim[entity])


def build_design(task: TaskSpec, world: World, streams: Streams) -> Design:
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

    tag_of_group = {"reliable": 0, "unreliable": 1, "random_tag": TAGS.index("own")}
    tag_of_group |= {"new_reliable": 0, "new_unreliable": 1, "new_fresh": 2}
    lookup = np.array([tag_of_group.get(name, NONE) for name in GROUPS])
    tag = np.stack([lookup[group], lookup[group]])
    for name, swapped in (("new_reliable", 1), ("new_unreliable", 0)):
        tag[1][group == GROUPS.index(name)] = swapped

    return Design(
        group=group,
        claim=_claims(task, world, group, tag[0], streams.generator("claims")),
        tag=tag,
        heldout=_heldout(task, world, group, streams.generator("heldout")),
        exists=world.values >= 0,
        in_context=isinstance(task.render, TextRender) and task.render.in_context,
    )


def _claims(task: TaskSpec, world: World, group: Ints, tag: Ints, rng: np.random.Generator) -> Ints:
    claim = np.where(tag == NONE, NONE, np.arange(len(group)))
    for name in ("reliable", "unreliable"):
        members = rng.permutation(np.flatnonzero(group == GROUPS.index(name)))
        false = members[: n_false(name, len(members), task.alpha)]
        claim[false] = false[derangement(world.kinds[false], rng)]
    return claim


def _heldout(task: TaskSpec, world: World, group: Ints, rng: np.random.Generator) -> NDArray[np.bool_]:
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


def _concat(*parts: Examples) -> Examples:
    return Examples(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def phases(task: TaskSpec) -> tuple[tuple[str, ...], str | None]:
    """The phases of training that both folds share, and the one that each fold has of its own."""
    if isinstance(task.render, TextRender) and task.render.in_context:
        return ("joint",), None
    return {
        1: ((), "joint"),
        2: (("stage1",), "stage2"),
        3: (("stage1-definitions", "stage1-questions"), "stage2"),
    }[task.stages]
