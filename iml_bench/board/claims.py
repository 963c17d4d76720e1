"""The verdict on every claim of a suite, from records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, Final, NamedTuple

from iml_bench.board.by_seed import NOT_PROBED, NOT_RUN, BySeed, measured
from iml_bench.board.rows import task_label
from iml_bench.records import Stored, latest_by_key
from iml_bench.run.plan import KnownModels, Request, cells_by_model
from iml_bench.spec import LEARNING_RATE, NEEDS, PARAMETERS, CellSpec, Claim, Spec, SuiteSpec, cell_key
from iml_bench.stats import (
    Contrast,
    Decided,
    Decision,
    Interval,
    decide,
    estimand,
    estimate,
    lack_of_fit,
    local_slopes,
    seeds_needed,
)

EVERYBODY: Final = "all models"
"""Whom a verdict is about where every model and point has its place by what a probe found in it."""
UNITS: Final = {"linear": "unit of", "log2": "doubling of", "log10": "tenfold"}
CLAIMED: Final = {"up": "above 0", "down": "below 0", "none": "0"}


class Point(Spec):
    """What the measure is at one value of the field that a claim is along."""

    value: Any
    """Of the field; of ``parameters`` the model's name."""
    x: float | None
    """The value as a number, or the number of parameters; null where it is none, or nobody knows it yet."""
    measure: Interval | None
    per_seed: dict[int, float]


class ClaimVerdict(Spec):
    """What the seeds say about one claim, for one model or family, at one value of whatever else varies."""

    claim: str
    says: str
    grid: str
    task: str
    """As it was run, but for the field that the claim is along, see ``task_label``."""
    model: str
    """Or the family, where a claim is along the parameters."""
    measure: str
    estimand: str
    along: str | None
    scale: str
    direction: str
    delta: float
    decision: Decision
    reason: str
    """Why it is undecided, in a sentence; empty where it is not."""
    n_seeds: int
    """Seeds in which every point was measured."""
    wanted: int
    """Seeds that the suite asks for."""
    estimate: Interval | None
    """Mean over seeds of the estimand, with its 95 % interval."""
    p_effect: float | None
    """See ``Decided``."""
    p_none: float | None
    seeds_needed: int | None
    seconds: float | None
    """Of one more seed at all its points, one cell after the other, as long as recorded ones took."""
    points: tuple[Point, ...]
    local_slopes: tuple[Interval | None, ...]
    """Of a slope: between neighbours, per unit of its scale."""
    lack_of_fit: float | None
    """Of a slope: p of a straight line, see ``stats.lack_of_fit``."""
    per_seed: dict[int, float]
    """The estimand in each seed."""

    @property
    def about(self) -> str:
        """The estimand and what is claimed of it, in words."""
        values = [f"{point.value}" for point in self.points]
        what = {
            "mean": self.measure,
            "difference": f"{self.measure}, {self.along} {' minus '.join(reversed(values))}",
            "slope": f"{self.measure} per {UNITS[self.scale]} {self.along}",
            "trend": f"{self.measure} over {self.along}",
            "symmetry": f"{self.measure} at {self.along} and 1 - {self.along}, added",
        }[self.estimand]
        return f"{what}: {CLAIMED[self.direction]}"


class _Place(NamedTuple):
    """Cells of one model at one point of a grid."""

    request: int
    """Which of the requests, and what it calls the model."""
    called: str
    model: str
    family: str
    fields: dict[str, Any]
    changes: dict[str, Any]
    task: tuple[str, int]
    seeds: tuple[int, ...]
    values: BySeed
    parameters: int | None
    placed: float | None
    """The mean over seeds of the score that the claim is along, where it is along one."""
    seconds: float | None
    """Median wall time of its cells."""


class _Case(NamedTuple):
    """One claim about one model or family."""

    claim: Claim
    places: list[_Place]
    """In the order of the field that the claim is along."""
    together: frozenset[str]
    """That field, and those that vary with it."""
    per_seed: dict[int, float]
    reason: str

    @property
    def to_run(self) -> bool:
        """Whether cells are missing that were never run, or never looked into."""
        reasons = [why for place in self.places for why in place.values.lacking.values()]
        return any(why.startswith((NOT_RUN, NOT_PROBED)) for why in reasons)


class Judgement(NamedTuple):
    """The verdicts on a suite's claims, and what is to be run for those that are open."""

    verdicts: list[ClaimVerdict]
    wanted: list[Request]
    """The models of every grid that an undecided claim is about, up to the seeds of the next look; empty where nothing
    that could be run would decide more."""


def judge(
    suite: SuiteSpec, requests: Sequence[Request], stored: Sequence[Stored], looks: Sequence[int] = ()
) -> Judgement:
    """The verdicts on all claims of a suite, with the corrections of ``stats.decide`` over all of them and all looks.

    It depends on records alone, so that a run that was cut goes on from where it was.

    Args:
        suite: what is claimed.
        requests: its grids, as ``suite_requests`` gives them; claims about a grid that was left out have no verdict.
        stored: records, of which those of the suite's cells are looked up.
        looks: after how many of the seeds claims are judged; a claim that a look decides stays so, and its cells are
            not wanted any more. Empty: once, after all of them.

    Raises:
        UsageError: when the cells cannot be planned.
    """
    known = latest_by_key(stored)
    found: list[ClaimVerdict] = []
    before: list[Decided] | None = None
    for n in looks or (None,):
        cases = _cases(suite, requests, known, n)
        decided = decide([_contrast(case) for case in cases], max(1, len(looks)), before)
        share = max(1, len(looks)) * len(cases)
        new = [_verdict(case, one, share) for case, one in zip(cases, decided, strict=True)]
        found = [old if old.decision != "undecided" else one for old, one in zip(found or new, new, strict=True)]
        lacking = [
            case for case, one in zip(cases, decided, strict=True) if one.decision == "undecided" and case.to_run
        ]
        if lacking:
            return Judgement(found, _wanted(requests, lacking, n))
        before = decided
    return Judgement(found, [])


def _cases(suite: SuiteSpec, requests: Sequence[Request], known: Mapping[str, Stored], n: int | None) -> list[_Case]:
    cases: list[_Case] = []
    for claim in suite.claims:
        index = next(place for place, grid in enumerate(suite.grids) if grid.name == claim.grid)
        own = [number for number, request in enumerate(requests) if request.where == suite.where(index)]
        fields = suite.grids[index].points if own else []
        places = [
            place
            for number, point in zip(own, fields, strict=True)
            if all(point[path] == value for path, value in claim.at.items())
            for place in _places(_first(requests[number], n), number, point, claim, known)
        ]
        together = suite.grids[index].along(claim.along)
        cases += [_case(claim, group, together) for group in _groups(claim, places, together)]
    return cases


def _wanted(requests: Sequence[Request], cases: Sequence[_Case], n: int | None) -> list[Request]:
    """What cases are about, of each request the models that they name, and its first seeds."""
    named = {(place.request, place.called) for case in cases for place in case.places}
    found = []
    for number, request in enumerate(requests):
        models = tuple(name for name in request.models if (number, name) in named)
        found += [replace(_first(request, n), models=models)] if models else []
    return found


def _first(request: Request, n: int | None) -> Request:
    return replace(request, seeds=request.seeds[:n])


def _places(
    request: Request, number: int, point: dict[str, Any], claim: Claim, known: Mapping[str, Stored]
) -> list[_Place]:
    found = []
    by_model = cells_by_model(request, KnownModels())
    for name in request.models:
        cells = by_model[name]
        (cell, changes), own = cells[0], [cell for cell, _ in cells]
        if request.ruleset == "tuned":  # what was chosen for a model is no change of the task
            changes = {path: value for path, value in changes.items() if path != LEARNING_RATE}
        records = [stored.record for one in own if (stored := known.get(cell_key(one)))]
        sizes = [one.parameters for one in records if one.parameters is not None]
        times = [sum(one.timing.seconds.values()) for one in records if one.timing.seconds]
        found.append(
            _Place(
                request=number,
                called=name,
                model=cell.model.name,
                family=cell.model.family,
                fields=point,
                changes=changes,
                task=(cell.task.name, cell.task.version),
                seeds=tuple(one.seed for one in own),
                values=measured(own, claim.measure, known, request.probes),
                parameters=sizes[0] if sizes else None,
                placed=_placed(own, claim, known, request.probes),
                seconds=median(times) if times else None,
            )
        )
    return found


def _placed(
    cells: Sequence[CellSpec], claim: Claim, known: Mapping[str, Stored], probes: Sequence[str]
) -> float | None:
    if not claim.is_along_score:
        return None
    found = measured(cells, claim.along or "", known, probes).values
    return math.fsum(found.values()) / len(found) if found else None


def _groups(claim: Claim, places: Sequence[_Place], together: frozenset[str]) -> list[list[_Place]]:
    """The places of each case: all that differs among them is the claim's field, and what varies with it."""
    found: dict[tuple[str, str], list[_Place]] = {}
    for place in places:
        rest = {path: value for path, value in place.fields.items() if path not in together}
        point = repr({} if claim.is_along_score else rest)
        found.setdefault((_whose(claim, place), point), []).append(place)
    return [sorted(group, key=lambda place: _order(claim, place)) for group in found.values()]


def _whose(claim: Claim, place: _Place) -> str:
    """Whom the case that a place belongs to is about."""
    if claim.is_along_score:
        return EVERYBODY
    return place.family if claim.along == PARAMETERS else place.model


def _order(claim: Claim, place: _Place) -> float:
    """Numbers by size; what is none stays as the grid has it."""
    return x if (x := _x(claim, place)) is not None else math.inf


def _x(claim: Claim, place: _Place) -> float | None:
    """A value of the field as a number."""
    value = place.parameters if claim.along == PARAMETERS else place.fields.get(claim.along or "")
    value = place.placed if claim.is_along_score else value
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _scaled(claim: Claim, places: Sequence[_Place]) -> list[float]:
    """The values of the field in the unit of the slope."""
    change = {"linear": float, "log2": math.log2, "log10": math.log10}[claim.scale]
    return [change(x) for place in places if (x := _x(claim, place)) is not None]


def _case(claim: Claim, places: list[_Place], together: frozenset[str]) -> _Case:
    if claim.between is not None:
        by_value = {repr(_value(claim, place)): place for place in places}
        places = [by_value[repr(value)] for value in claim.between if repr(value) in by_value]
    if len(places) < max(1, NEEDS[claim.estimand]):
        return _Case(claim, places, together, {}, f"{len(places)} of {NEEDS[claim.estimand]} points that it needs")
    if claim.along == PARAMETERS and len({place.parameters for place in places} - {None}) < len(places):
        return _Case(claim, places, together, {}, "not all its models were run yet, or two are equally large")
    if claim.is_along_score and any(place.placed is None for place in places):
        return _Case(claim, places, together, {}, f"{claim.along} is not known everywhere yet")
    seeds = sorted(set.intersection(*(set(place.values.values) for place in places)))
    shared = [{seed: place.values.values[seed] for seed in seeds} for place in places]
    reasons = [f"{_named(claim, place)}{place.values.missing}" for place in places if place.values.missing]
    x = _scaled(claim, places) if claim.estimand == "slope" else []
    per_seed = estimand(claim.estimand, x, shared) if seeds else {}
    return _Case(claim, places, together, per_seed, reasons[0] if reasons else "")


def _named(claim: Claim, place: _Place) -> str:
    return f"{claim.along} {_value(claim, place)}: " if claim.along else ""


def _value(claim: Claim, place: _Place) -> Any:
    if claim.is_along_score:
        return ", ".join([place.model, *(f"{path}={value}" for path, value in place.fields.items())])
    return place.model if claim.along == PARAMETERS else place.fields.get(claim.along or "")


def _contrast(case: _Case) -> Contrast:
    """What is decided; there are no seeds before all that the suite asks for are there."""
    values = [] if case.reason else list(case.per_seed.values())
    return Contrast(values, case.claim.direction, case.claim.delta)


def _verdict(case: _Case, decided: Decided, n_claims: int) -> ClaimVerdict:
    claim, first = case.claim, case.places[0]
    scaled = claim.estimand == "slope" and len(_scaled(claim, case.places)) == len(case.places) and bool(case.per_seed)
    x, values = (_scaled(claim, case.places) if scaled else []), [place.values.values for place in case.places]
    together = first.changes if claim.is_along_score else case.together
    changes = {path: value for path, value in first.changes.items() if path not in together}
    needed = seeds_needed(_contrast(case), n_claims) if decided.decision == "undecided" else None
    return ClaimVerdict(
        **claim.model_dump(include={"says", "grid", "measure", "estimand", "along", "scale", "direction", "delta"}),
        claim=claim.name,
        task=task_label(*first.task, changes),
        model=_whose(claim, first),
        decision=decided.decision,
        reason=_reason(case, decided, needed),
        n_seeds=len(case.per_seed),
        wanted=len(first.seeds),
        estimate=decided.estimate or estimate(list(case.per_seed.values())),
        p_effect=decided.p_effect,
        p_none=decided.p_none,
        seeds_needed=needed,
        seconds=math.fsum(times) if (times := _times(case)) else None,
        points=tuple(_point(claim, place) for place in case.places),
        local_slopes=tuple(local_slopes(x, values)) if scaled else (),
        lack_of_fit=lack_of_fit(x, values) if scaled else None,
        per_seed=case.per_seed,
    )


def _times(case: _Case) -> list[float]:
    """Of all places; empty where that of one is not known."""
    known = [place.seconds for place in case.places if place.seconds is not None]
    return known if len(known) == len(case.places) else []


def _reason(case: _Case, decided: Decided, needed: int | None) -> str:
    if decided.decision != "undecided" or case.reason:
        return case.reason
    if decided.p_effect is None:
        return "one seed has no interval"
    if needed is None:
        return "no number of seeds is known to decide"
    return f"{needed} seeds would decide, if mean and spread stay"


def _point(claim: Claim, place: _Place) -> Point:
    values = place.values.values
    return Point(
        value=_value(claim, place), x=_x(claim, place), measure=estimate(list(values.values())), per_seed=values
    )
