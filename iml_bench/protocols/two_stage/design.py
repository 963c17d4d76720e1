"""Who is in which group, what definitions claim and under which tag, and which questions are held out.

Everything here is small integer arrays drawn from named streams; it knows neither text nor pixels
nor models. Definitions and symbols: paper section 2 (D is a definition, QA its questions).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from iml_bench.errors import UsageError
from iml_bench.protocols.base import FACTS, NONE, OWN, Design, Examples, Ints
from iml_bench.protocols.two_stage.spec import SQUARE, TwoStageTask, n_false
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
NEW_GROUPS: Final = SQUARE

SHARED_TAGS: Final = ("reliable", "unreliable", "fresh")
"""Tags that a group shares."""
PLACEBOS: Final = ("placebo of reliable", "placebo of unreliable")
"""Tags that stage 1 never showed and that stand in the places of the two that it taught, in that control only."""
TAGS: Final = (*SHARED_TAGS, OWN)
"""The roles of tags: a role is stored as an index into this tuple, or -1 for none."""
RELIABLE, UNRELIABLE, FRESH, OWN_ROLE = range(len(TAGS))
ATTRIBUTIONS, CLAIMS = "attribution", "claim"
"""Sets of questions beside facts: which entity an alias stands for; and that again, where the right
answer is what a false definition said."""
PAIR: Final = ((RELIABLE, UNRELIABLE, FRESH, NONE), (UNRELIABLE, RELIABLE, FRESH, NONE))
"""For each branch the roles of the groups in ``NEW_GROUPS``: two of them exchange their tags."""
LATIN: Final = tuple((*PAIR[0][shift:], *PAIR[0][:shift]) for shift in range(len(PAIR[0])))
"""The same for a square: each group has each role in one branch."""


def roles_of(task: TwoStageTask) -> tuple[tuple[int, ...], ...]:
    """For each branch of stage 2 the role of every group in ``NEW_GROUPS``, -1: not defined."""
    return LATIN if task.crossover == "square" else PAIR


def branches_of(task: TwoStageTask) -> range:
    """The branches of stage 2, which is run once for each from the same weights."""
    return range(len(roles_of(task)))


def worn_by(task: TwoStageTask) -> tuple[str, str]:
    """The tags that stand in stage 2 in the places of the reliable and of the unreliable one."""
    if task.stage2_tags == "placebo":
        return PLACEBOS
    return ("reliable", "reliable") if task.stage2_tags == "identical" else ("reliable", "unreliable")


@dataclass(frozen=True, kw_only=True)
class TwoStageDesign(Design):
    """Who is in which group, what is claimed of whom and under which tag. ``N`` entities, ``Q`` attributes."""

    groups: tuple[str, ...] = GROUPS
    tags: tuple[str, ...] = SHARED_TAGS
    claim: Ints
    """``[N]``: the entity whose attributes the definition states (itself when true), -1: defined in no branch."""
    role: Ints
    """``[B, N]``: the role of the definition's tag in each branch, an index into ``TAGS``, -1: not defined there."""
    worn: Ints
    """For each role of a new entity the tag that its definition shows; both are indices into ``tag_names``."""
    heldout: NDArray[np.bool_]
    """``[N, Q]``: questions that are never trained on. All of a new entity's are."""
    exists: NDArray[np.bool_]
    """``[N, Q]``: whether the entity has the attribute."""
    in_context: bool = False
    """Definitions stand before the questions about their alias instead of being trained on."""
    sentences: int = 1
    """Definitions of each entity, one after the other, where each is a sentence of its own."""

    @property
    def own_tagged(self) -> Ints:
        """See ``Design.own_tagged``."""
        return np.flatnonzero((self.role == OWN_ROLE).any(axis=0))

    @property
    def named(self) -> Ints:
        """See ``Design.named``."""
        return self.members("named")

    def shown(self, branch: int) -> tuple[Ints, Ints]:
        """See ``Design.shown``; the tag is the role, whatever stands in its place."""
        role = self.role[branch]
        return np.where(role == OWN_ROLE, len(self.tags), role), np.where(role == NONE, NONE, self.claim)

    def definitions(self, entities: Ints, branch: int) -> Examples:
        """The definitions of those among ``entities`` that are defined in a branch."""
        _, claim = self.shown(branch)
        defined = np.repeat(entities[claim[entities] != NONE], self.sentences)
        none = np.full(len(defined), NONE)
        return Examples(defined, claim[defined], self._tags(defined, branch), none, none)

    def _tags(self, entities: Ints, branch: int) -> Ints:
        """``[len(entities)]``: the tag that the definition of each shows, -1: none."""
        role, _ = self.shown(branch)
        new = np.isin(self.group[entities], [GROUPS.index(name) for name in NEW_GROUPS])
        taught = role[entities]  # by the definitions of stage 1, whatever those of stage 2 wear
        return np.where(new & (taught != NONE), self.worn[taught], taught)

    def trained(self, phase: str, branch: int = 0) -> Examples:
        """See ``Design.trained``.

        Args:
            phase: ``stage1``, its parts ``stage1-definitions`` and ``stage1-questions``; ``stage2``,
                definitions of new entities in order of entity; or ``joint``, both stages at once.
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
        """Questions about which entity an alias stands for; the undefined ones, who cannot be known, are the floor.

        Args:
            stage: 1: about the entities of stage 1; 2: about new ones.
            branch: only matters where definitions stand before questions.
            claimed: the right answer is what the definition says, and only false definitions are asked about.
        """
        entities = self.members(*(STAGE1_GROUPS if stage == 1 else NEW_GROUPS))
        entities = entities[~np.isin(entities, self.named)]  # asked by their names, which are the answer
        if claimed:
            entities = entities[(self.claim[entities] != NONE) & (self.claim[entities] != entities)]
        first, n = self.heldout.shape[1], len(ATTRIBUTION)
        entity, asked = np.repeat(entities, n), np.tile(np.arange(first, first + n), len(entities))
        truth = self._questions(entity, asked, branch)
        return Examples(entity, self.claim[entity], truth.tag, asked, truth.context) if claimed else truth

    def _questions(self, entity: Ints, asked: Ints, branch: int) -> Examples:
        none = np.full(len(entity), NONE)
        if not self.in_context:
            return Examples(entity, entity, none, asked, none)
        _, claim = self.shown(branch)
        return Examples(entity, entity, self._tags(entity, branch), asked, claim[entity])


def build_design(task: TwoStageTask, world: World, streams: Streams) -> TwoStageDesign:
    """Draw the design of one cell.

    Args:
        task: group sizes, ``alpha`` and the number or share of held-out questions.
        world: ``task.groups.total`` entities; which attributes they have and which are alike is read.
        streams: ``split``, ``claims`` and ``heldout`` are used.

    Raises:
        UsageError: when no false definitions can be made, since too many entities are the same.
    """
    sizes = [getattr(task.groups, name) for name in GROUPS]
    n = task.groups.total
    group = np.empty(n, dtype=np.int64)
    group[streams.generator("split").permutation(n)] = np.repeat(np.arange(len(GROUPS)), sizes)

    taught = {"reliable": RELIABLE, "unreliable": UNRELIABLE, "random_tag": OWN_ROLE}
    lookup = [
        [dict(zip(NEW_GROUPS, roles, strict=True)).get(name, taught.get(name, NONE)) for name in GROUPS]
        for roles in roles_of(task)
    ]
    role = np.array(lookup)[:, group]
    tags = (*SHARED_TAGS, *PLACEBOS) if task.stage2_tags == "placebo" else SHARED_TAGS
    worn = np.arange(len(tags) + 1)
    worn[[RELIABLE, UNRELIABLE]] = [tags.index(name) for name in worn_by(task)]
    return TwoStageDesign(
        tags=tags,
        group=group,
        claim=_claims(task, world, group, (role != NONE).any(axis=0), streams.generator("claims")),
        role=role,
        worn=worn,
        heldout=_heldout(task, world, group, streams.generator("heldout")),
        exists=world.values >= 0,
        in_context=task.in_context,
        sentences=getattr(task.render, "sentences", 1),
    )


def _claims(
    task: TwoStageTask, world: World, group: Ints, defined: NDArray[np.bool_], rng: np.random.Generator
) -> Ints:
    claim = np.where(defined, np.arange(len(group)), NONE)
    for name in ("reliable", "unreliable"):
        members = rng.permutation(np.flatnonzero(group == GROUPS.index(name)))
        false = members[: n_false(task, name)]
        claim[false] = false[derangement(world.kinds[false], rng)]
    return claim


def _heldout(task: TwoStageTask, world: World, group: Ints, rng: np.random.Generator) -> NDArray[np.bool_]:
    new = np.isin(group, [GROUPS.index(name) for name in NEW_GROUPS])
    if world.heldout is not None:
        return np.asarray(world.heldout | new[:, None])
    # Attributes that an entity lacks come last in its order, so that they are never the chosen ones.
    order = np.where(world.values >= 0, rng.random(world.values.shape), np.inf)
    rank = order.argsort(axis=1).argsort(axis=1)
    each = np.zeros((len(group), 1), dtype=np.int64)
    each[~new, 0] = (
        task.heldout
        if isinstance(task.heldout, int)
        else stratified((world.values >= 0).sum(axis=1)[~new], task.heldout, rng)
    )
    return np.asarray((rank < each) | new[:, None])


def stratified(questions: Ints, share: float, rng: np.random.Generator) -> Ints:
    """How many questions of each entity are held out, so that they are ``share`` of all, rounded up.

    As scikit-learn's ``train_test_split(test_size=share, stratify=entity)``, which the paper uses: each entity has its
    part rounded down, and those with the largest remainders one more, drawn among equal ones. But each has at least
    one held out and one left, where it has two.

    Args:
        questions: ``[n]``, of each entity.
        share: above 0 and below 1.
        rng: where the draws among equal remainders are from.

    Returns:
        ``[n]``
    """
    total = ceil(Fraction(str(share)) * int(questions.sum()))
    # In whole numbers, where equal remainders are equal.
    least, rest = np.divmod(questions * total, max(1, int(questions.sum())))
    most = np.maximum(questions - 1, 0)
    parts = least.clip(np.minimum(1, most), most)
    more = np.lexsort((rng.random(len(questions)), -rest))
    more = more[((parts == least) & (parts < most))[more]]
    parts[more[: max(0, total - int(parts.sum()))]] += 1
    return parts


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
