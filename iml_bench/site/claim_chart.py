"""The figure of a claim, as a Vega-Lite specification; see ``charts``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from iml_bench.board import ClaimVerdict, Point
from iml_bench.site.charts import Spec, finished
from iml_bench.spec import PARAMETERS


def claim_chart(verdicts: Sequence[ClaimVerdict], *, joined: bool = False) -> Spec:
    """The measure at every point that a claim is about: single seeds, means with intervals, and the line of a slope.

    Models and families have shapes and dashes of their own, so that the figure can be read without colour.

    Args:
        verdicts: of one claim.
        joined: whether neighbouring means are joined where there is no line of a slope.
    """
    first = verdicts[0]
    numeric = first.along is not None and all(point.x is not None for one in verdicts for point in one.points)
    names = list(dict.fromkeys(_who(one, verdicts) for one in verdicts))
    log = first.scale != "linear" or first.along == PARAMETERS or (joined and numeric and _wide(verdicts))
    if numeric:
        scale = alt.Scale(type="log" if log else "linear", nice=False, padding=18, zero=False)
        x = alt.X("x:Q", title=first.along, scale=scale, axis=alt.Axis(grid=False, tickCount=6))
    else:
        x = alt.X("x:N", title=first.along, sort=None, axis=alt.Axis(grid=False, labelAngle=0, labelLimit=160))
    wide = alt.Legend(columns=2, labelLimit=260) if max(map(len, names)) > 18 else alt.Legend()
    legend = wide if len(names) > 1 else None
    shape = alt.Shape("who:N", title=None, scale=alt.Scale(domain=names), legend=legend)
    color = alt.Color("who:N", title=None, scale=alt.Scale(domain=names), legend=legend)
    dash = alt.StrokeDash("who:N", title=None, scale=alt.Scale(domain=names), legend=legend)
    points, seeds = (alt.Chart(alt.NamedData(name)).encode(x=x, color=color) for name in ("points", "seeds"))
    offset = {} if numeric else {"xOffset": alt.XOffset("who:N", scale=alt.Scale(domain=names))}
    layers = [
        alt.Chart(alt.NamedData("zero")).mark_rule(strokeDash=[4, 3], aria=False).encode(y="value:Q"),
        seeds.mark_point(filled=True, size=16, opacity=0.5, xOffset=7, aria=False).encode(y="value:Q", **offset),
        points.mark_rule(strokeWidth=1.5, aria=False).encode(y="low:Q", y2="high:Q", **offset),
        points.mark_point(filled=True, size=60, opacity=1).encode(
            y=alt.Y("mean:Q", title=first.measure), shape=shape, **offset
        ),
    ]
    fits = [row for one in verdicts for row in _fit(one, _who(one, verdicts), joined=joined)] if numeric else []
    if fits:
        layers.append(
            alt.Chart(alt.NamedData("fits"))
            .mark_line(strokeWidth=1.2, aria=False)
            .encode(x=x, y="y:Q", color=color, strokeDash=dash)
        )
    chart = alt.layer(*layers).properties(width=480, height=240, description=f"{first.claim}: {first.about}")
    at = [(one, point, _who(one, verdicts)) for one in verdicts for point in one.points]
    return finished(
        chart,
        points=[{"who": who, "x": _x(one, point, numeric), **_ends(point)} for one, point, who in at if point.measure],
        seeds=[
            {"who": who, "x": _x(one, point, numeric), "value": value}
            for one, point, who in at
            for value in point.per_seed.values()
        ],
        fits=fits,
        zero=[{"value": 0}],
    )


def _wide(verdicts: Sequence[ClaimVerdict]) -> bool:
    """Whether the points are better seen as multiples of each other."""
    values = [point.x for one in verdicts for point in one.points if point.x is not None]
    return min(values) > 0 and max(values) > 10 * min(values)


def _who(one: ClaimVerdict, verdicts: Sequence[ClaimVerdict]) -> str:
    """What tells verdicts of a claim apart."""
    same = len({other.task for other in verdicts}) == 1
    return one.model if same else f"{one.model}, {one.task}"


def _x(one: ClaimVerdict, point: Point, numeric: bool) -> Any:
    if one.along is None:
        return one.model
    return point.x if numeric else str(point.value)


def _ends(point: Point) -> dict[str, float | None]:
    found = point.measure
    return {"mean": found.mean, "low": found.low, "high": found.high} if found else {}


def _fit(one: ClaimVerdict, who: str, *, joined: bool) -> list[dict[str, Any]]:
    """The ends of a slope's line, through the mean of the points that were measured, or the points themselves."""
    known = [(point.x, point.measure.mean) for point in one.points if point.x is not None and point.measure]
    if joined:
        return [{"who": who, "x": x, "y": y} for x, y in known]
    if one.estimand != "slope" or one.estimate is None or len(known) < len(one.points):
        return []
    change = {"linear": float, "log2": math.log2, "log10": math.log10}[one.scale]
    x, y = [change(x) for x, _ in known], [y for _, y in known]
    middle, level = sum(x) / len(x), sum(y) / len(y)
    curve = [known[0][0], known[-1][0]] if one.scale != "linear" else [x for x, _ in known]
    return [{"who": who, "x": at, "y": level + one.estimate.mean * (change(at) - middle)} for at in curve]
