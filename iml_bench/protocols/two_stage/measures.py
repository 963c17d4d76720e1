"""The measures of the two-stage protocol, and exact match by what was shown. Definitions: README, "What is measured".

Each is a contrast of two conditions: under the reliable, the unreliable or a fresh tag, or not defined. Where the same
entities stand in both conditions in different branches (``crossover``), each is its own control and the contrast is
the mean of its differences; where they do not, it is the difference of two groups. Either way every entity weighs
the same, however many questions there are about it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from iml_bench.protocols.base import FACTS
from iml_bench.protocols.items import Columns
from iml_bench.protocols.measures import Measure
from iml_bench.protocols.two_stage.design import ATTRIBUTIONS, CLAIMS, STAGE1_GROUPS
from iml_bench.protocols.two_stage.spec import TwoStageTask, n_false
from iml_bench.spec import TaskSpec

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

UNDEFINED: Final = "undefined"
CONDITIONS: Final = ("reliable", "unreliable", "fresh", UNDEFINED)
"""Of the new entities in stage 2: the tag that a definition wore, or that there was none."""
LEAST_UPTAKE: Final = 0.1
"""Below it discernment is a ratio of noise and is not measured."""
NAMED: Final = "name"
"""The question of attribution that the paper's figures are of: "What is the name of ...?"."""


def slices(columns: Columns) -> dict[str, float]:
    """Mean exact match by what was shown, of every slice that has a question.

    Stage-1 groups (held-out questions, after stage 1) and ``new_`` with each condition (after stage 2). Of facts:
    ``GROUP/true`` and ``GROUP/false`` where a stage-1 group has definitions of both kinds, and ``new_TAG/place1``, ...
    by the place at which the definition states what is asked. ``attribution/`` and ``claim/`` stand before those sets
    of questions, with the kind of question behind: ``attribution/new_reliable/name``.
    """
    found: dict[str, float] = {}
    for which, prefix in ((FACTS, ""), (ATTRIBUTIONS, "attribution/"), (CLAIMS, "claim/")):
        part = _of_set(columns, which)
        shown: dict[str, Mask] = {name: _of_group(part, name) for name in STAGE1_GROUPS}
        shown |= {f"new_{name}": _under(part, name) for name in CONDITIONS}
        parts: dict[str, Mask] = {}
        for name, rows in shown.items():
            if which != FACTS:
                kinds = sorted(set(part["attribute"][rows]))
                parts |= {f"{name}/{kind}": rows & (part["attribute"] == kind) for kind in kinds}
            elif name in STAGE1_GROUPS:
                parts |= _by_truth(part, name, rows)
            else:
                parts |= _by_place(part, name, rows)
        exact = part["exact_match"].astype(np.float64)
        found |= {prefix + name: float(exact[rows].mean()) for name, rows in (shown | parts).items() if rows.any()}
    return found


def mean_uptake(values: Mapping[str, float | None]) -> float | None:
    """How much of what it read a model answers with: the mean uptake under the two tags that stage 1 taught.

    The mean and not the larger of the two, whose expectation is above zero where there is none.

    Args:
        values: of one cell, by the names of ``MEASURES``.
    """
    uptake, iml = values.get("uptake"), values.get("iml")
    return None if uptake is None or iml is None else uptake - iml / 2


def _of_set(columns: Columns, which: str) -> Columns:
    if "set" not in columns:  # older files hold facts only
        return columns if which == FACTS else {name: column[:0] for name, column in columns.items()}
    rows = columns["set"] == which
    return {name: column[rows] for name, column in columns.items()}


def _of_group(columns: Columns, name: str) -> Mask:
    return np.asarray((columns["stage"] == 1) & (columns["group"] == name))


def _under(columns: Columns, condition: str) -> Mask:
    """Rows about new entities in a condition, in whichever branches they are."""
    tags = columns["tag"]
    worn = np.isin(tags, CONDITIONS[:-1])
    return np.asarray((columns["stage"] == 2) & (~worn if condition == UNDEFINED else tags == condition))


def _by_truth(columns: Columns, name: str, rows: Mask) -> dict[str, Mask]:
    """A group's questions by whether its definitions were true; empty where all were of one kind."""
    if "truthful" not in columns:
        return {}
    true = columns["truthful"]
    parts = {f"{name}/true": rows & (true == np.True_), f"{name}/false": rows & (true == np.False_)}
    return parts if all(part.any() for part in parts.values()) else {}


def _by_place(columns: Columns, name: str, rows: Mask) -> dict[str, Mask]:
    """Questions about new entities by the place, from 1, at which a definition states what is asked."""
    if "place" not in columns:
        return {}
    place = columns["place"].astype(np.float64)  # not a number where it has none
    known = np.unique(place[rows & ~np.isnan(place)])
    return {f"{name}/place{int(at) + 1}": rows & (place == at) for at in known}


def _differences(columns: Columns, column: str, first: Mask, second: Mask) -> Floats:
    """A column's mean in the first rows minus in the second, ``[n]``: of each entity that is in both."""
    entity, values = columns["entity"], columns[column].astype(np.float64)
    both = np.intersect1d(entity[first], entity[second])
    sides = (_by_entity(entity, values, rows & np.isin(entity, both)) for rows in (first, second))
    return np.subtract(*sides)


def _by_entity(entity: NDArray[Any], column: Floats, rows: Mask) -> Floats:
    """Mean of a column for each entity among the rows, in order of entity."""
    _, index = np.unique(entity[rows], return_inverse=True)
    sums, counts = np.bincount(index, weights=column[rows]), np.bincount(index)
    return np.asarray(sums / counts)


def _contrast(columns: Columns, first: Mask, second: Mask, column: str = "exact_match") -> float | None:
    """A column's mean over entities in the first rows minus in the second, within entities where any is in both."""
    within = _differences(columns, column, first, second)
    if len(within):
        return float(within.mean())
    if not (first.any() and second.any()):
        return None
    entity, values = columns["entity"], columns[column].astype(np.float64)
    one, other = (_by_entity(entity, values, rows).mean() for rows in (first, second))
    return float(one - other)


def _between(columns: Columns, first: str, second: str, column: str = "exact_match") -> float | None:
    """The contrast of two conditions of stage 2."""
    return _contrast(columns, _under(columns, first), _under(columns, second), column)


def _standard_error(values: Floats) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _facts(first: str, second: str, column: str = "exact_match") -> Callable[[Columns], float | None]:
    return lambda columns: _between(_of_set(columns, FACTS), first, second, column)


def _attribution(second: str) -> Callable[[Columns], float | None]:
    def of(columns: Columns) -> float | None:
        asked = _of_set(columns, ATTRIBUTIONS)
        rows = asked["attribute"] == NAMED
        return _between({name: column[rows] for name, column in asked.items()}, "reliable", second)

    return of


def _discernment(columns: Columns) -> float | None:
    iml, uptake = (_facts("reliable", second)(columns) for second in ("unreliable", UNDEFINED))
    return iml / uptake if iml is not None and uptake is not None and uptake > LEAST_UPTAKE else None


def _iml_error(columns: Columns) -> float | None:
    facts = _of_set(columns, FACTS)
    return _standard_error(_differences(facts, "exact_match", _under(facts, "reliable"), _under(facts, "unreliable")))


def _iml_error_of_one_branch(columns: Columns) -> float | None:
    facts = _of_set(columns, FACTS)
    exact, first = facts["exact_match"].astype(np.float64), facts["fold"] == 0
    under = (first & _under(facts, name) for name in ("reliable", "unreliable"))
    errors = [_standard_error(_by_entity(facts["entity"], exact, rows)) for rows in under]
    known = [error for error in errors if error is not None]
    return math.hypot(*known) if len(known) == len(errors) else None


def _stage1_gap(columns: Columns) -> float | None:
    facts = _of_set(columns, FACTS)
    return _contrast(facts, _of_group(facts, "reliable"), _of_group(facts, "unreliable"))


def _both_kinds(task: TaskSpec) -> bool:
    """Whether each tag of stage 1 stands on true definitions and on false ones."""
    assert isinstance(task, TwoStageTask)
    return all(0 < n_false(task, name) < task.group_sizes[name] for name in ("reliable", "unreliable"))


def _tag_over_truth(columns: Columns) -> float | None:
    facts = _of_set(columns, FACTS)
    parts = {name: _by_truth(facts, name, _of_group(facts, name)) for name in ("reliable", "unreliable")}
    if not all(parts.values()):
        return None
    return _contrast(facts, parts["reliable"]["reliable/false"], parts["unreliable"]["unreliable/true"])


NO_GROUP: Final = "the task has no entities in a group that it needs, or stops before stage 2"

MEASURES: tuple[Measure, ...] = (
    Measure(
        name="iml",
        label="IML",
        heading="IML",
        description="exact match when defined under the reliable tag minus under the unreliable tag, mean over new "
        "entities: uptake times discernment",
        of=_facts("reliable", "unreliable"),
        shown="headline",
        ranked=True,
        error="iml_se_items",
        missing=NO_GROUP,
    ),
    Measure(
        name="uptake",
        label="uptake",
        heading="uptake",
        description="exact match of what was defined under the reliable tag minus that of what was not defined: how "
        "much is taken in at all",
        of=_facts("reliable", UNDEFINED),
        missing=NO_GROUP,
    ),
    Measure(
        name="discernment",
        label="discernment",
        heading="discernment",
        description="IML divided by uptake: the share of its trust that a model withdraws from the unreliable tag",
        of=_discernment,
        unit="ratio",
        ratio=("iml", "uptake"),
        least=LEAST_UPTAKE,
        low=-1 / LEAST_UPTAKE,
        high=1 / LEAST_UPTAKE,
        shown="headline",
        ranked=True,
        missing=f"not measurable: uptake is not above {LEAST_UPTAKE:g}, or not measured itself",
    ),
    Measure(
        name="trust",
        label="trust",
        heading="trust",
        description="exact match under the reliable tag minus under a tag that stage 1 never showed; trust and "
        "distrust add up to IML",
        of=_facts("reliable", "fresh"),
        missing=NO_GROUP,
    ),
    Measure(
        name="distrust",
        label="distrust",
        heading="distrust",
        description="exact match under a tag that stage 1 never showed minus under the unreliable tag",
        of=_facts("fresh", "unreliable"),
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
        name="tag_over_truth",
        label="tag over truth",
        heading="tag over truth",
        description="held-out exact match after stage 1 of what false definitions said under the reliable tag minus "
        "that of true ones under the unreliable tag: above 0 where the tag counts more than the definition's own truth",
        of=_tag_over_truth,
        of_task=_both_kinds,
        needs=("truthful",),
        shown="record",
        missing="each tag stands on definitions of one kind, all true or all false",
    ),
    Measure(
        name="iml_nats",
        label="IML in nats",
        heading="nats",
        description="IML in the log-likelihood of the right answer: for detection near zero; where the effect is large "
        "it is less sensitive than exact match",
        of=_facts("reliable", "unreliable", "log_likelihood"),
        unit="nats",
        low=-1e6,
        high=1e6,
        missing=NO_GROUP,
    ),
    Measure(
        name="iml_attribution",
        label="IML of attribution",
        heading="IML of attribution",
        description='IML of the question "What is the name of ...?", which is never trained on, where the task asks it',
        of=_attribution("unreliable"),
        needs=("set",),
        shown="headline",
    ),
    Measure(
        name="uptake_attribution",
        label="uptake of attribution",
        heading="uptake of attribution",
        description="uptake of that question; its floor is the answers about aliases that were never defined",
        of=_attribution(UNDEFINED),
        needs=("set",),
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
        name="iml_se_items_one_branch",
        label="standard error of IML over entities, of one branch",
        heading="standard error, one branch",
        description="what that standard error would be from branch 0 alone, without the crossover",
        of=_iml_error_of_one_branch,
        low=0.0,
        high=2.0,
        direction=-1,
        shown="record",
        missing=NO_GROUP,
    ),
)
"""All of them, the headline first."""
