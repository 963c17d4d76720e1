"""Where in a network the tag under which an alias was defined can be read, though no question ever shows a tag.

At questions about the alias, without their answers, a logistic regression is trained on states of some entities and
asked about those of others: at every position and behind every block (``residual.py``). The sets of examples:

``after stage 1``
    Stage-1 entities at held-out questions, defined under the reliable or the unreliable tag, at the shared weights. At
    alpha 1 every definition under the one is true and under the other false, so that tag and truth are one thing.
``tag within equal truth``, ``truth within equal tag``
    The same at an alpha between 0 and 1, with as many examples of each tag among true definitions, and among false
    ones: what is read of the one is then nothing of the other.
``after stage 2``
    The headline. New entities after stage 2, in every branch, each with a true definition under the reliable or the
    unreliable tag: all branches are one set, in which an entity is mostly there under both. Tag and truth are apart.

Against the ways in which such numbers go wrong: folds never part the examples of one entity, else its alias tells its
label; each has equally many examples of both classes, in every branch and, after stage 1, of every kind of question,
else who is rarer in training is commoner in the test; states are scaled by those that are trained on, so that strength
means the same in all layers. The accuracy that counts is that of a position and layer chosen in inner folds of the
training examples, measured on the others: no maximum of many. What remains of chance and of leaks is what the same
probes read of permuted labels, the control.

A probe reads what goes together with a tag in the states. That the network uses it is another matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from iml_bench.errors import UsageError
from iml_bench.learners.base import Inspectable
from iml_bench.probes.residual import (
    LEAST,
    Bools,
    Floats,
    Picked,
    Reader,
    Sample,
    Split,
    grouped_folds,
    new_by_tag,
    one_question_each,
    over_branches,
    pick,
    tags_of,
)
from iml_bench.probes.subjects import stage1_questions, streams_of_probe
from iml_bench.protocols import Columns, Measure
from iml_bench.protocols.base import NONE, Ints

if TYPE_CHECKING:
    from iml_bench.run.cell import Setting

AFTER_1, AFTER_2 = "after stage 1", "after stage 2"
TAG_GIVEN_TRUTH, TRUTH_GIVEN_TAG = "tag within equal truth", "truth within equal tag"
FOLDS: Final = 5
INNER: Final = 3
STRENGTHS: Final = (0.01, 0.1, 1.0)
"""scikit-learn's ``C``: the inverse of the penalty on weights."""
TOLERANCE: Final = 1e-3
"""Of the gradient: logits within a few hundredths of those at a thousandth of it, in half the time."""
MOST_STEPS: Final = 1000
SCHEMA: Final = {
    "set": pl.String,
    "branch": pl.Int64,
    "position": pl.Int64,
    "token": pl.String,
    "layer": pl.String,
    "depth": pl.Int64,
    "accuracy": pl.Float64,
    "control": pl.Float64,
    "control_sd": pl.Float64,
    "n": pl.Int64,
    "picked": pl.Int64,
    "chosen": pl.Boolean,
}


@dataclass(frozen=True)
class Linear:
    """Accuracy of linear probes for the tag by position and layer; see the module."""

    entities: int = 400
    """At most so many of each set; 0: all."""
    question: int = 0
    """Which attribute new entities are asked, counted from 0; -1: of each one, all kinds equally often. Stage-1
    entities are asked what is held out of each, of whatever kind."""
    permutations: int = 20
    """Of the labels, for the control of the position and layer that inner folds choose."""
    elsewhere: int = 2
    """The same for every position and layer."""

    @property
    def description(self) -> str:
        """See ``Probe``."""
        return "accuracy with which linear probes read the tag of an alias from questions, by position and layer"

    @property
    def scores(self) -> tuple[Measure, ...]:
        """See ``Probe``."""
        return SCORES

    def __call__(self, setting: Setting, learner: Inspectable, moment: str) -> pl.DataFrame:
        """One row per set, position and layer, with ``branch`` null; one per branch of stage 2; one ``chosen`` per set.

        ``accuracy`` is balanced, of all folds together, ``control`` that of permuted labels, whose penalty is the one
        chosen for the true ones; rows of a branch are of the probe that is trained on all. ``picked`` says in how many
        folds inner folds chose this position and layer. The row that is ``chosen`` stands where most did; its accuracy
        is, in every fold, that of whichever was chosen there, with its control and the standard deviation of that.

        Raises:
            UsageError: when no set has enough examples, with the reasons.
        """
        if self.permutations < 1 or self.elsewhere < 0:
            raise UsageError("permutations must be 1 or more, and elsewhere 0 or more")
        tables, reasons = [], []
        for found in (self._after_stage1(setting, learner), self._after_stage2(setting, learner)):
            try:
                tables += list(found)
            except UsageError as error:
                reasons.append(str(error))
        if not tables:
            raise UsageError("; ".join(dict.fromkeys(reasons)))
        return pl.concat(tables)

    def _after_stage1(self, setting: Setting, learner: Inspectable) -> Iterator[pl.DataFrame]:
        """The sets of stage-1 entities."""
        asked = stage1_questions(setting).get("stage 1, held out")
        if asked is None:
            raise UsageError("no phase is trained before the branches of this task")
        both = tags_of(setting)
        tag, claim = setting.design.shown(0)
        drawn = streams_of_probe(setting).generator("probe/entities").permutation(np.unique(asked.entity))
        entities = drawn[np.isin(tag[drawn], both) & (claim[drawn] != NONE)]
        reader = Reader(setting, one_question_each(asked, entities))
        entity = reader.asked.entity
        kinds = setting.world.kinds
        true = (kinds[entity] == kinds[claim[entity]]).all(axis=1)
        reliable, kind = tag[entity] == both[0], 2 * reader.asked.asked
        sets = {
            AFTER_1: Sample(reliable, entity, kind),
            TAG_GIVEN_TRUTH: Sample(reliable, entity, kind + true),
            TRUTH_GIVEN_TAG: Sample(true, entity, kind + reliable),
        }
        for name, sample in sets.items():
            try:
                picked = pick(setting, Picked(reader, np.arange(len(entity)), sample), self.entities, paired=True)
            except UsageError:
                if name == AFTER_1:
                    raise
                continue
            yield self._table(setting, name, picked, reader.read(learner, picked.at))

    def _after_stage2(self, setting: Setting, learner: Inspectable) -> Iterator[pl.DataFrame]:
        """The set of new entities, in all branches."""
        picked = new_by_tag(setting, self.entities, self.question)
        states = over_branches(setting, learner, {AFTER_2: picked})[AFTER_2]
        yield self._table(setting, AFTER_2, picked, states)

    def _table(self, setting: Setting, name: str, picked: Picked, states: Sequence[Floats]) -> pl.DataFrame:
        """The rows of one set."""
        streams = streams_of_probe(setting)
        folds = grouped_folds(picked.sample, FOLDS, streams.generator("probe/classes"))
        counts = self.permutations, self.elsewhere
        found = decode(states, picked.sample, folds, counts, streams.generator("probe/permutations"))
        table = rows_of(name, picked, found)
        return table if name == AFTER_2 else table.filter(pl.col("branch").is_null())


Doubles = NDArray[np.float64]
Features = tuple[Doubles, Doubles]
"""``[n, r]`` each of what is trained on, and of what is asked."""


class Decoded(NamedTuple):
    """What was read of one set, by cell: layer by layer, ``P`` positions each. Accuracies are balanced."""

    accuracy: Doubles
    """``[cells]``"""
    within: dict[int, Doubles]
    """The same of the examples of each stratum."""
    control: Doubles
    """``[cells]``: of permuted labels; NaN without permutations."""
    picked: Ints
    """``[cells]``: in how many folds the inner ones chose it."""
    chosen: float
    """Accuracy where every fold has the cell that was chosen there."""
    chosen_control: Doubles
    """``[permutations]``: the same of permuted labels, in the same cells."""


def permuted(sample: Sample, folds: Sequence[Split], rng: np.random.Generator) -> Bools:
    """Labels ``[n]`` as they might have been drawn, with as many of each class in each stratum of each fold.

    Entities of one fold and the same strata exchange theirs, each as a whole; where an entity has both labels, every
    second one has them the other way round instead. So examples of one entity stay alike, or apart, as they were.
    """
    fold = np.zeros(len(sample.label), dtype=np.int64)
    for place, (_, test) in enumerate(folds):
        fold[test] = place
    order = np.lexsort((sample.stratum, sample.entity))
    alike: dict[tuple[int, ...], list[Ints]] = {}
    for rows in np.split(order, np.flatnonzero(np.diff(sample.entity[order])) + 1):
        own = sample.label[rows]
        kind = int(fold[rows[0]]), int(own.any() and not own.all()), *sample.stratum[rows].tolist()
        alike.setdefault(kind, []).append(rows)
    label = sample.label.copy()
    for (_, mixed, *_), members in alike.items():
        drawn, odd = rng.permutation(len(members)), rng.integers(2)
        for rows, other in zip(members, drawn, strict=True):
            label[rows] = sample.label[members[0]] ^ bool((other + odd) % 2) if mixed else sample.label[members[other]]
    return label


def decode(
    states: Sequence[Floats],
    sample: Sample,
    folds: Sequence[Split],
    permutations: tuple[int, int],
    rng: np.random.Generator,
) -> Decoded:
    """Read the labels of a set from its states, with a probe for each cell and fold.

    Args:
        states: for each layer ``[n, P, d]``.
        sample: ``[n]`` examples.
        folds: each example is in the test of one.
        permutations: of the labels, at the cells that inner folds choose and at every cell.
        rng: of permutations and inner folds.
    """
    cells = [(layer, position) for layer, values in enumerate(states) for position in range(values.shape[1])]
    labels = np.stack([sample.label, *(permuted(sample, folds, rng) for _ in range(max(permutations)))])
    here, elsewhere = (1 + count for count in permutations)
    said = np.zeros((len(cells), elsewhere, len(sample.label)), dtype=bool)
    said_chosen = np.zeros((here, len(sample.label)), dtype=bool)
    inner, strengths = np.zeros((len(folds), len(cells))), [STRENGTHS[0]] * len(cells)
    with threadpool_limits(1, user_api="blas"):  # the same sums on every machine
        for place, split in enumerate(folds):
            fold = _Fold(sample, split, rng)
            for cell, (layer, position) in enumerate(cells):
                features = fold.features(states[layer][:, position])
                inner[place, cell], strengths[cell] = fold.best(features[0])
                said[cell][:, fold.test] = fold.said(features, strengths[cell], labels[:elsewhere])
            best = int(inner[place].argmax())
            features = fold.features(states[cells[best][0]][:, cells[best][1]])
            said_chosen[:, fold.test] = fold.said(features, strengths[best], labels[:here])
    accuracy, chosen = _balanced(said, labels[:elsewhere]), _balanced(said_chosen, labels[:here])
    strata = {int(one): sample.stratum == one for one in np.unique(sample.stratum)}
    return Decoded(
        accuracy=accuracy[:, 0],
        within={one: _balanced(said[:, 0, rows], sample.label[rows]) for one, rows in strata.items()},
        control=accuracy[:, 1:].mean(axis=1) if permutations[1] else np.full(len(cells), np.nan),
        picked=np.bincount(inner.argmax(axis=1), minlength=len(cells)),
        chosen=float(chosen[0]),
        chosen_control=chosen[1:],
    )


class _Fold:
    """Trains on some examples and is asked about the others."""

    def __init__(self, sample: Sample, split: Split, rng: np.random.Generator) -> None:
        self.train, self.test = split
        self.labels = sample.label[self.train]
        self.inner = grouped_folds(sample.of(self.train), INNER, rng)

    def features(self, states: Floats) -> Features:
        """States ``[n, d]`` of one cell, scaled by those that are trained on: of these, and of the others.

        With more dimensions than examples they are turned onto those that the examples span: a penalty on the length
        of weights has the same answer there, sooner.
        """
        scaler = StandardScaler().fit(states[self.train].astype(np.float64))
        known, asked = (scaler.transform(states[rows].astype(np.float64)) for rows in (self.train, self.test))
        if known.shape[1] > len(known):
            axes = np.linalg.svd(known, full_matrices=False)[2].T
            known, asked = known @ axes, asked @ axes
        return known, asked

    def best(self, known: Doubles) -> tuple[float, float]:
        """The best accuracy in inner folds of the training examples ``[train, r]``, and the strength that has it."""
        found: dict[float, float] = {}
        for strength in STRENGTHS:
            said = np.zeros(len(known), dtype=bool)
            for train, test in self.inner:
                said[test] = _said(strength, known[train], self.labels[train], known[test])
            found[strength] = float(_balanced(said, self.labels))
        best = max(found, key=found.__getitem__)
        return found[best], best

    def said(self, features: Features, strength: float, labels: Bools) -> list[Bools]:
        """What is said of the examples that are asked, ``[test]``, after training on each of some labels ``[n]``."""
        return [_said(strength, features[0], some[self.train], features[1]) for some in labels]


def _said(strength: float, known: Doubles, labels: Bools, asked: Doubles) -> Bools:
    """What a probe that is trained on labelled examples says of others."""
    probe = LogisticRegression(C=strength, tol=TOLERANCE, max_iter=MOST_STEPS).fit(known, labels)
    return np.asarray(asked @ probe.coef_[0] + probe.intercept_ > 0)


def _balanced(said: Bools, labels: Bools) -> Doubles:
    """Mean of both classes' accuracies over the last axis, of as many examples as there are."""
    classes = [(said == labels) & (labels == one) for one in (False, True)]
    of = [np.maximum(1, (labels == one).sum(axis=-1)) for one in (False, True)]
    return np.asarray((classes[0].sum(axis=-1) / of[0] + classes[1].sum(axis=-1) / of[1]) / 2)


def rows_of(name: str, picked: Picked, found: Decoded) -> pl.DataFrame:
    """A set's rows, see ``Linear``, the strata being branches.

    Args:
        name: the set's.
        picked: its examples, whose reader says what the cells are.
        found: what was read of them.
    """
    cells, sample = picked.reader.cells, picked.sample
    places = [
        {"set": name, "position": position, "token": token, "layer": layer, "depth": depth}
        for layer, depth in zip(cells.layers, cells.depths, strict=True)
        for position, token in zip(cells.positions, cells.tokens, strict=True)
    ]
    n, rows = len(sample.label), list[dict[str, Any]]()
    for index, place in enumerate(places):
        values = {"accuracy": found.accuracy[index], "control": found.control[index], "n": n}
        rows.append(place | values | {"picked": int(found.picked[index]), "chosen": False})
    for stratum, accuracies in found.within.items():
        own = {"branch": stratum, "n": int((sample.stratum == stratum).sum()), "chosen": False}
        rows += [place | own | {"accuracy": accuracies[index]} for index, place in enumerate(places)]
    most = int(found.picked.argmax())
    values = {"accuracy": found.chosen, "control": found.chosen_control.mean(), "n": n, "chosen": True}
    spread = {"control_sd": found.chosen_control.std(ddof=1) if len(found.chosen_control) > 1 else None}
    rows.append(places[most] | values | spread | {"picked": int(found.picked[most])})
    return pl.DataFrame(rows, schema=SCHEMA).with_columns(pl.col(pl.Float64).fill_nan(None))


def above_control(which: str) -> Callable[[Columns], float | None]:
    """Of a table's columns, the accuracy of a set's chosen row minus its control; None where the set is not there."""

    def found(columns: Columns) -> float | None:
        rows: NDArray[np.bool_] = (columns["set"] == which) & columns["chosen"].astype(bool)
        difference = columns["accuracy"][rows] - columns["control"][rows]
        return float(difference[0]) if len(difference) else None

    return found


def score(name: str, which: str, label: str, description: str, missing: str = "") -> Measure:
    """The accuracy of a set's chosen row above its control; ``missing`` stands before the reason why it is null."""
    return Measure(
        name=name,
        label=f"{label} (accuracy above control)",
        heading=name.replace("_", " "),
        description=description,
        of=above_control(which),
        missing=f"{missing}fewer than {LEAST} examples of each class could be read",
    )


ONE: Final = "tag and truth are one thing at this alpha, or "
SCORES: Final = (
    score(
        "tag_readable",
        AFTER_2,
        "tag read after stage 2",
        "accuracy of a linear probe for the tag of new entities after stage 2, minus that of permuted tags",
    ),
    score(
        "tag_after_stage1",
        AFTER_1,
        "tag read after stage 1",
        "the same for stage-1 entities after stage 1, where at alpha 1 tag and truth are one thing",
    ),
    score(
        "tag_given_truth",
        TAG_GIVEN_TRUTH,
        "tag within equal truth",
        "the same for the tag of stage-1 entities, with equally many true definitions under each",
        ONE,
    ),
    score(
        "truth_given_tag",
        TRUTH_GIVEN_TAG,
        "truth within equal tag",
        "the same for whether the definition was true, with equally many under each tag",
        ONE,
    ),
)
"""What follows from a table; no maximum over positions and layers is among them."""
LINEAR = Linear()
