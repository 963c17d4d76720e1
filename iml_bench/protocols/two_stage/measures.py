"""The measures of the two-stage protocol, and exact match by what was shown. Definitions: README, "What is measured".

New entities are defined under the reliable tag in one fold and under the unreliable one in the other, so that each is
its own control.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from iml_bench.protocols.items import Columns
from iml_bench.protocols.measures import Measure
from iml_bench.protocols.two_stage.design import ATTRIBUTIONS, CLAIMS, FACTS, STAGE1_GROUPS

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

UNDEFINED: Final = "new_undefined"


def slices(columns: Columns) -> dict[str, float]:
    """Mean exact match by what was shown, of every slice that has a question.

    Stage-1 groups (held-out questions, after stage 1), new entities by tag, ``new_undefined``; ``attribution/`` and
    ``claim/`` before it are those sets of questions. Where a stage-1 group has both true and false definitions,
    ``GROUP/true`` and ``GROUP/false`` are the questions about what was truly and falsely defined.
    """
    found: dict[str, float] = {}
    for which, prefix in ((FACTS, ""), (ATTRIBUTIONS, "attribution/"), (CLAIMS, "claim/")):
        part = _of_set(columns, which)
        shown: dict[str, Mask] = {}
        for name in STAGE1_GROUPS:
            shown[name] = _of_group(part, name)
            if which == FACTS and "truthful" in part:
                shown |= _by_truth(part["truthful"], name, shown[name])
        shown |= {f"new_{name}": _under(part, name) for name in ("reliable", "unreliable", "fresh")}
        shown[UNDEFINED] = _undefined(part)
        exact = part["exact_match"].astype(np.float64)
        found |= {prefix + name: float(exact[rows].mean()) for name, rows in shown.items() if rows.any()}
    return found


def uptake(values: Mapping[str, float | None]) -> float | None:
    """How much of what it read a model answers with: the larger lift of the two tags that stage 1 taught.

    Args:
        values: of one cell, by the names of ``MEASURES``.
    """
    known = [lift for name in ("lift_reliable", "lift_unreliable") if (lift := values.get(name)) is not None]
    return max(known) if known else None


def _iml(columns: Columns) -> float | None:
    return _mean(_differences(_of_set(columns, FACTS), "exact_match"))


def _iml_nats(columns: Columns) -> float | None:
    return _mean(_differences(_of_set(columns, FACTS), "log_likelihood"))


def _iml_attribution(columns: Columns) -> float | None:
    return _mean(_differences(_of_set(columns, ATTRIBUTIONS), "exact_match"))


def _iml_error(columns: Columns) -> float | None:
    return _standard_error(_differences(_of_set(columns, FACTS), "exact_match"))


def _iml_error_of_one_fold(columns: Columns) -> float | None:
    facts = _of_set(columns, FACTS)
    rows, exact = _crossed(facts) & (facts["fold"] == 0), facts["exact_match"].astype(np.float64)
    under = (rows & (facts["tag"] == name) for name in ("reliable", "unreliable"))
    return _root_sum([_standard_error(_by_entity(facts["entity"], exact, part)) for part in under])


def _lift(columns: Columns, tag: str) -> float | None:
    facts = _of_set(columns, FACTS)
    return _gap(facts, _under(facts, tag), _undefined(facts))


def _stage1_gap(columns: Columns) -> float | None:
    facts = _of_set(columns, FACTS)
    return _gap(facts, _of_group(facts, "reliable"), _of_group(facts, "unreliable"))


def _of_set(columns: Columns, which: str) -> Columns:
    if "set" not in columns:  # older files hold facts only
        return columns if which == FACTS else {name: column[:0] for name, column in columns.items()}
    rows = columns["set"] == which
    return {name: column[rows] for name, column in columns.items()}


def _of_group(columns: Columns, name: str) -> Mask:
    return np.asarray((columns["stage"] == 1) & (columns["group"] == name))


def _under(columns: Columns, tag: str) -> Mask:
    return np.asarray((columns["stage"] == 2) & (columns["tag"] == tag))


def _undefined(columns: Columns) -> Mask:
    return np.asarray((columns["stage"] == 2) & (columns["group"] == UNDEFINED))


def _by_truth(truthful: NDArray[Any], name: str, rows: Mask) -> dict[str, Mask]:
    """A group's questions by whether its definitions were true; empty where all were of one kind."""
    parts = {f"{name}/true": rows & (truthful == np.True_), f"{name}/false": rows & (truthful == np.False_)}
    return parts if all(part.any() for part in parts.values()) else {}


def _crossed(columns: Columns) -> Mask:
    """Rows about entities that are defined under the reliable tag in one fold and the unreliable in the other."""
    return np.asarray((columns["stage"] == 2) & np.isin(columns["group"], ["new_reliable", "new_unreliable"]))


def _differences(columns: Columns, column: str) -> Floats:
    """A column's mean under the reliable tag minus under the unreliable one, for each entity that has both."""
    both, values = _crossed(columns), columns[column].astype(np.float64)
    reliable, unreliable = (
        _by_entity(columns["entity"], values, both & (columns["tag"] == name)) for name in ("reliable", "unreliable")
    )
    return reliable - unreliable


def _by_entity(entity: NDArray[Any], column: Floats, rows: Mask) -> Floats:
    """Mean of a column for each entity among the rows, in order of entity."""
    _, index = np.unique(entity[rows], return_inverse=True)
    sums, counts = np.bincount(index, weights=column[rows]), np.bincount(index)
    return np.asarray(sums / counts)


def _gap(columns: Columns, first: Mask, second: Mask) -> float | None:
    exact = columns["exact_match"].astype(np.float64)
    return float(exact[first].mean()) - float(exact[second].mean()) if first.any() and second.any() else None


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _standard_error(values: Floats) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _root_sum(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return math.sqrt(sum(error**2 for error in known)) if len(known) == len(errors) else None


NO_GROUP: Final = "the task has no entities in a group that it needs"

MEASURES: tuple[Measure, ...] = (
    Measure(
        name="iml",
        label="IML",
        heading="IML",
        description="exact match when defined under the reliable tag minus under the unreliable tag, mean over new "
        "entities",
        of=_iml,
        shown="headline",
        error="iml_se_items",
        missing=NO_GROUP,
    ),
    Measure(
        name="iml_nats",
        label="IML in nats",
        heading="nats",
        description="the same difference of the log-likelihood of the right answer: more sensitive, less direct",
        of=_iml_nats,
        unit="nats",
        low=-1e6,
        high=1e6,
        missing=NO_GROUP,
    ),
    Measure(
        name="lift_reliable",
        label="lift under the reliable tag",
        heading="lift reliable",
        description="exact match of what was defined under the reliable tag minus that of what was never defined: its "
        "uptake",
        of=lambda columns: _lift(columns, "reliable"),
        missing=NO_GROUP,
    ),
    Measure(
        name="lift_unreliable",
        label="lift under the unreliable tag",
        heading="lift unreliable",
        description="the same under the unreliable tag",
        of=lambda columns: _lift(columns, "unreliable"),
        missing=NO_GROUP,
    ),
    Measure(
        name="lift_fresh",
        label="lift under a fresh tag",
        heading="lift fresh",
        description="the same under a tag that was never seen in stage 1",
        of=lambda columns: _lift(columns, "fresh"),
        missing=NO_GROUP,
    ),
    Measure(
        name="stage1_gap",
        label="stage-1 gap",
        heading="stage-1 gap",
        description="held-out exact match of what stage 1 defined under the reliable tag minus the unreliable one",
        of=_stage1_gap,
        missing=NO_GROUP,
    ),
    Measure(
        name="iml_attribution",
        label="IML of attribution",
        heading="IML of attribution",
        description="IML of the questions which entity an alias stands for, where the task asks them",
        of=_iml_attribution,
        needs=("set",),
        shown="headline",
    ),
    Measure(
        name="iml_se_items",
        label="standard error of IML over entities",
        heading="standard error over entities",
        description="standard error of IML over the entities of one run; it says nothing about other seeds",
        of=_iml_error,
        low=0.0,
        direction=-1,
        shown="record",
        missing=NO_GROUP,
    ),
    Measure(
        name="iml_se_items_one_fold",
        label="standard error of IML over entities, of one fold",
        heading="standard error, one fold",
        description="what that standard error would be from fold 0 alone, without the crossover",
        of=_iml_error_of_one_fold,
        low=0.0,
        high=2.0,
        direction=-1,
        shown="record",
        missing=NO_GROUP,
    ),
)
"""All of them, the headline first."""
