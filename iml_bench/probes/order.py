"""Whether the stage in which an alias was learnt, and its tag, can be told from the network after stage 2.

Krasheninnikov et al. (2025) fine-tune on one set of entities after another, and a linear probe tells about nine times
in ten which came first. Here, after stage 2 of every branch, a probe for each layer is trained on half of the entities
and asked about the other half, several times: at the last token of a question without its answer, or with the states of
a picture. The sets of examples:

``stage, trained questions``
    Stage-1 entities with a true definition under the reliable tag, at a question that stage 1 trained; against new ones
    with a true definition under the reliable tag in that branch. The upper bound: one side's very inputs were trained.
``stage, held-out questions``
    The same with a stage-1 question that nobody trained. No question of either side was ever shown.
``stage, never defined``
    Entities without any definition, at such questions: stage 1 trained other questions about the one side, and nothing
    showed the other's aliases before. A control: as far as this is read, it takes no definition to tell.
``tag``
    New entities under the reliable against those under the unreliable tag, as in ``linear.py``.

In the first three every stage-1 entity has a partner, a new one, which is asked the same kind of question in the same
branch and is never in the other half: neither branch nor question says which side it is. The design leaves two things
together with the stage, at held-out questions, too: aliases of stage 1 stood in questions and were trained on for
longer, while new ones stood in one kind of example for a short time, and last. So a number above the control says that
the network holds the two apart in a linear direction. It does not say that it knows an order in time, nor that it makes
use of one; and beside a high ``never defined`` it says little of definitions. One that is not above the control says
that *this* probe reads nothing at *this* place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from iml_bench.errors import UsageError
from iml_bench.learners.base import Inspectable
from iml_bench.probes.linear import Decoded, decode, rows_of, score
from iml_bench.probes.residual import (
    Floats,
    Picked,
    Reader,
    Sample,
    grouped_folds,
    new_by_tag,
    one_question_each,
    over_branches,
    pick,
    tags_of,
)
from iml_bench.probes.subjects import branch_steps, questions, stage1_questions, streams_of_probe
from iml_bench.protocols import Measure
from iml_bench.protocols.base import NONE, Examples, Ints, asks

if TYPE_CHECKING:
    from iml_bench.run.cell import Setting

TRAINED, HELD_OUT = "stage, trained questions", "stage, held-out questions"
UNDEFINED, TAG = "stage, never defined", "tag"


@dataclass(frozen=True)
class Order:
    """Accuracy of linear probes for the stage and for the tag by layer; see the module."""

    entities: int = 400
    """At most so many pairs of entities, and so many new ones under a tag; 0: all."""
    splits: int = 5
    """Into halves, each of which is trained on once and asked once."""
    permutations: int = 4
    """Of the labels in every split, for the control at the layer that inner folds choose."""
    elsewhere: int = 1
    """The same at every layer."""

    @property
    def description(self) -> str:
        """See ``Probe``."""
        return "accuracy with which linear probes read after stage 2 in which stage an alias was learnt, by layer"

    @property
    def scores(self) -> tuple[Measure, ...]:
        """See ``Probe``."""
        return SCORES

    def __call__(self, setting: Setting, learner: Inspectable, moment: str) -> pl.DataFrame:
        """One row per set and layer, and one per set that is ``chosen``.

        The columns are those of ``linear.Linear``, whose rows of branches and positions there are none of; the token
        is the last one of a prompt. Accuracy and control are means over splits, all branches together, ``picked`` is
        out of two for each split, and ``control_sd`` over the permutations of all splits.

        Raises:
            UsageError: when there are no branches, or no set has enough examples, with the reasons.
        """
        if self.splits < 1 or self.permutations < 1 or self.elsewhere < 0:
            raise UsageError("splits and permutations must be 1 or more, and elsewhere 0 or more")
        branch_steps(setting)
        sets: dict[str, Picked] = {}
        reasons: list[str] = []
        makes = {name: partial(stages_apart, setting, name, self.entities) for name in (TRAINED, HELD_OUT, UNDEFINED)}
        for name, make in (makes | {TAG: partial(new_by_tag, setting, self.entities, last=True)}).items():
            try:
                sets[name] = make()
            except UsageError as error:
                reasons.append(str(error))
        if not sets:
            raise UsageError("; ".join(dict.fromkeys(reasons)))
        states = over_branches(setting, learner, sets)
        return pl.concat(self._table(setting, name, picked, states[name]) for name, picked in sets.items())

    def _table(self, setting: Setting, name: str, picked: Picked, states: list[Floats]) -> pl.DataFrame:
        """The rows of one set."""
        streams = streams_of_probe(setting)
        halves, rng = (streams.generator(stream) for stream in ("probe/classes", "probe/permutations"))
        counts = self.permutations, self.elsewhere
        found = [
            decode(states, picked.sample, grouped_folds(picked.sample, 2, halves), counts, rng)
            for _ in range(self.splits)
        ]
        table = rows_of(name, picked, merged(found))
        return table.filter(pl.col("branch").is_null()).drop("branch", "position")


def merged(found: list[Decoded]) -> Decoded:
    """Several splits of one set as one: means, but for what is counted or stands for one permutation each."""
    return Decoded(
        accuracy=np.mean([one.accuracy for one in found], axis=0),
        within={},
        control=np.mean([one.control for one in found], axis=0),
        picked=np.sum([one.picked for one in found], axis=0),
        chosen=float(np.mean([one.chosen for one in found])),
        chosen_control=np.concatenate([one.chosen_control for one in found]),
    )


def stages_apart(setting: Setting, name: str, most: int) -> Picked:
    """Pairs of a stage-1 entity and a new one, each pair in one branch and at one kind of question.

    Args:
        setting: the data side of a cell.
        name: of the set.
        most: how many pairs at most; 0: all.

    Returns:
        Whether an example is of a stage-1 entity, the branch being the stratum.

    Raises:
        UsageError: when stage 1 is not trained on its own, or there are too few pairs.
    """
    asked = stage1_questions(setting)
    if not asked:
        raise UsageError("no phase is trained before the branches of this task")
    design, kinds = setting.design, setting.world.kinds
    wanted = NONE if name == UNDEFINED else tags_of(setting)[0]
    shown = {step.fold: design.shown(step.fold) for step in branch_steps(setting)}
    rng = streams_of_probe(setting).generator("probe/entities")
    first = asked["stage 1, trained" if name == TRAINED else "stage 1, held out"]
    old = np.setdiff1d(first.entity, design.named)
    tag, claim = (column[old] for column in design.shown(0))
    true = (kinds[old] == kinds[claim]).all(axis=1)
    old = rng.permutation(old[(tag == wanted) & ((claim == NONE) | true)])
    last = asks(setting.schedule)[-1]
    new = rng.permutation(np.setdiff1d(design.asked(last.stage, last.branch).entity, first.entity))
    places = [(int(entity), [branch for branch, (tag, _) in shown.items() if tag[entity] == wanted]) for entity in new]
    free = [(entity, own[place % len(own)]) for place, (entity, own) in enumerate(places) if own]
    if not len(old) or not free:
        raise UsageError(f"nobody is there for {name}")
    one, every = one_question_each(first, old), questions(setting, np.array([entity for entity, _ in free]))
    pairs = np.array(list(_pairs(one, every, free))[: most or None], dtype=np.int64)
    if not len(pairs):
        raise UsageError(f"no two entities are asked the same for {name}")
    rows, partners, branches = pairs.T
    chosen = Examples.joined(_of(one, rows), _of(every, partners))
    sample = Sample(np.arange(len(chosen)) < len(rows), np.tile(one.entity[rows], 2), np.tile(branches, 2))
    order = np.argsort(sample.stratum, kind="stable")
    return pick(setting, Picked(Reader(setting, chosen, last=True), order, sample.of(order)))


def _of(examples: Examples, rows: Ints) -> Examples:
    return Examples(*(column[rows] for column in examples))


def _pairs(one: Examples, every: Examples, free: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """For each question a new entity that can be asked the same, in order: the rows of both, and the branch.

    Args:
        one: questions about stage-1 entities.
        every: all questions about new ones.
        free: the new entities, each with its branch.
    """
    row_of = {pair: row for row, pair in enumerate(zip(every.entity.tolist(), every.asked.tolist(), strict=True))}
    left = list(free)
    for row, kind in enumerate(one.asked.tolist()):
        place = next((place for place, (entity, _) in enumerate(left) if (entity, kind) in row_of), None)
        if place is not None:
            entity, branch = left.pop(place)
            yield row, row_of[entity, kind], branch


ALONE: Final = "stage 1 is not trained on its own, or "
SCORES: Final = (
    score(
        "stage_readable",
        TRAINED,
        "stage read at trained questions",
        "accuracy of a linear probe for the stage in which an alias was defined, minus that of permuted labels",
        ALONE,
    ),
    score(
        "stage_readable_heldout",
        HELD_OUT,
        "stage read at held-out questions",
        "the same where no question was ever trained; aliases of stage 1 were trained in others",
        ALONE,
    ),
    score(
        "stage_readable_undefined",
        UNDEFINED,
        "stage read without definitions",
        "the same of entities that were never defined: what of the stage it takes no definition to tell",
        ALONE,
    ),
    score(
        "tag_readable",
        TAG,
        "tag read after stage 2, of the other half",
        "accuracy of a linear probe for the tag of new entities after stage 2, minus that of permuted tags",
    ),
)
"""What follows from a table; the layer is chosen on the halves that are trained on."""
ORDER = Order()
