"""The figures, as Vega-Lite specifications: the page, and files of figures, draw the same ones.

Rows and records go in as data under fixed column names, never into an expression, and nothing is computed here. Every
specification is the same for the same rows: none has a name that depends on what was drawn before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import altair as alt

from iml_bench.board import Row
from iml_bench.board.words import headline, score, with_interval
from iml_bench.records import Record
from iml_bench.stats import estimate

Spec = dict[str, Any]

VEGA_LITE: Final = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""The Vega-Lite version of the specifications, as vl-convert names it."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
LIFTS: Final = {"reliable": ("uptake",), "unreliable": ("uptake", "iml"), "fresh": ("uptake", "trust")}
"""What the chart of lifts draws, by tag: a measure, or what is left of one without another."""

# Six hues that people with any colour vision tell apart (after Okabe and Ito), each with 3:1 to its background.
PALETTES: Final = {
    "light": ("#0072b2", "#c8550b", "#00805c", "#b0518f", "#7a6a00", "#5b4fc4"),
    "dark": ("#56b4e9", "#ff9a52", "#2cc295", "#e79bc7", "#e0c341", "#b3a7f5"),
}
# From little to much by lightness alone, so that it can be read in grey; figures in the lower half of it are black on
# paper and white in the dark, in the upper half the other way round, each with 4.5:1 to what is behind it.
RAMPS: Final = {"light": ("#eef3f8", "#3c7bb2", "#0b2f5c"), "dark": ("#1c2530", "#3c7bb2", "#d5ebff")}
ON_RAMPS: Final = {"light": ("#000000", "#ffffff"), "dark": ("#ffffff", "#000000")}
INK: Final = {"light": ("#1b1f24", "#5a636e", "#d9dee4"), "dark": ("#e6e9ed", "#a3adb8", "#343b43")}


def theme(scheme: str) -> Spec:
    """The Vega-Lite configuration of a scheme, ``light`` or ``dark``."""
    ink, soft, line = INK[scheme]
    lower, upper = ON_RAMPS[scheme]
    axis = {"labelColor": soft, "titleColor": ink, "domainColor": soft, "tickColor": soft, "gridColor": line}
    return {
        "background": "transparent",
        "font": "sans-serif",
        "range": {
            "category": list(PALETTES[scheme]),
            "heatmap": list(RAMPS[scheme]),
            "ordinal": [PALETTES[scheme][0], "transparent"],  # filled, and hollow
        },
        "style": {"on-lower": {"color": lower}, "on-upper": {"color": upper}},
        "view": {"stroke": "transparent"},
        "axis": {**axis, "titleFontWeight": "normal", "titleFontSize": 12, "labelFontSize": 11},
        "header": {"labelColor": ink, "titleColor": ink, "labelFontSize": 12},
        "axisYBand": {"labelLimit": 170},
        "legend": {
            **{"labelColor": ink, "titleColor": soft, "titleFontWeight": "normal", "labelFontSize": 11},
            **{"orient": "bottom", "columns": 4, "labelLimit": 120, "symbolLimit": 0, "symbolOpacity": 1},
        },
        "rule": {"color": soft},
        "title": {"color": ink, "anchor": "start", "fontSize": 13, "fontWeight": "normal"},
    }


def themed(spec: Spec, scheme: str) -> Spec:
    """The specification with a scheme's configuration in it, to be drawn outside a page; on paper, not on glass."""
    return {**spec, "config": {**theme(scheme), "background": "white" if scheme == "light" else "#14181c"}}


def board_charts(rows: Sequence[Row], label: str) -> dict[str, Spec]:
    """The charts of one task as it was run, by kind: ``size``, and ``lifts`` where its protocol measures those.

    Args:
        rows: of that task, reference rows among them.
        label: what it is called.
    """
    found = {"size": score_by_parameters(rows, label)}
    if any(measure.name == "uptake" for row in rows for measure in row.measures):
        found["lifts"] = lifts(rows, label)
    return found


def score_by_parameters(rows: Sequence[Row], label: str) -> Spec:
    """The headline against parameters by family: means with intervals, single seeds, and the random learner's interval.

    Args:
        rows: of one task as it was run, reference rows among them.
        label: what that task is called.
    """
    models = [row for row in rows if not row.reference and row.score is not None and row.parameters]
    name = headline(rows)
    families = sorted({row.family for row in models})
    color = alt.Color("family:N", title="family", scale=alt.Scale(domain=families))
    shape = alt.Shape("family:N", title="family", scale=alt.Scale(domain=families, range=family_shapes(len(families))))
    x = alt.X("parameters:Q", title="parameters", scale=alt.Scale(type="log", nice=False, padding=24))
    x = x.axis(format="~s", grid=False, tickCount=5)
    base = alt.Chart(alt.NamedData("models")).encode(x=x, color=color)
    seeds = alt.Chart(alt.NamedData("seeds")).encode(x=x, color=color)
    tooltip = ["model:N", "family:N", alt.Tooltip("parameters:Q", format=","), alt.Tooltip("score:N", title=name)]
    random = next((row.score for row in rows if row.source == "reference:random"), None)
    guess = [{"low": random.low, "high": random.high}] if random and random.low is not None else []
    band = alt.Chart(alt.NamedData("random")).mark_rect(opacity=0.15, color="gray", aria=False)
    layers = [
        *([band.encode(y="low:Q", y2="high:Q")] if guess else []),
        alt.Chart(alt.NamedData("zero")).mark_rule(strokeDash=[4, 3], aria=False).encode(y="value:Q"),
        seeds.mark_point(filled=True, size=16, opacity=0.45, aria=False).encode(y="value:Q"),
        base.mark_line(strokeWidth=1.25, opacity=0.7, aria=False).encode(y="value:Q"),
        base.mark_rule(strokeWidth=1.5, aria=False).encode(y="low:Q", y2="high:Q"),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            y=alt.Y("value:Q", title=name), shape=shape, tooltip=tooltip
        ),
    ]
    chart = alt.layer(*layers).properties(
        width=560, height=320, title=label, description=f"{name} against parameters by family, {label}; see the table"
    )
    return finished(
        chart,
        models=[_model(row) for row in models],
        seeds=[
            {"family": row.family, "parameters": row.parameters, "value": value}
            for row in models
            for value in row.by_seed().values()
        ],
        random=guess,
        zero=[{"value": 0}],
    )


def lifts(rows: Sequence[Row], label: str) -> Spec:
    """Each model's uptake under the reliable, the unreliable and the fresh tag, with intervals.

    Args:
        rows: of one task as it was run.
        label: what that task is called.
    """
    models = [row for row in rows if not row.reference and row.score is not None]
    names = [row.model for row in models]
    labels = [row.model if names.count(row.model) == 1 else f"{row.model} ({row.model_key[:6]})" for row in models]
    # Sorted by a field: a list of names would be compiled into an expression.
    order = alt.EncodingSortField(field="place", op="min")
    y = alt.Y("label:N", title=None, sort=order, axis=alt.Axis(ticks=False, domain=False, grid=True))
    scale = alt.Scale(domain=list(LIFTS), range=["circle", "square", "diamond"])
    base = alt.Chart(alt.NamedData("lifts")).encode(
        y=y,
        yOffset=alt.YOffset("lift:N", scale=alt.Scale(domain=list(LIFTS), paddingOuter=0.6)),
        color=alt.Color("lift:N", title="uptake under the tag", scale=alt.Scale(domain=list(LIFTS))),
    )
    layers = [
        alt.Chart(alt.NamedData("zero")).mark_rule(strokeDash=[4, 3], aria=False).encode(x="value:Q"),
        base.mark_rule(strokeWidth=1.5, aria=False).encode(x="low:Q", x2="high:Q"),
        base.mark_point(filled=True, size=45, opacity=1).encode(
            x=alt.X("value:Q", title="uptake"),
            shape=alt.Shape("lift:N", title="uptake under the tag", scale=scale),
            tooltip=[alt.Tooltip("label:N", title="model"), "lift:N", alt.Tooltip("score:N", title="uptake")],
        ),
    ]
    chart = alt.layer(*layers).properties(
        width=460,
        height=36 * len(models) + 24,
        title=label,
        description=f"Uptake under the reliable, unreliable and fresh tag by model, {label}; see the table",
    )
    found = zip(labels, models, strict=True)
    points = [point for place, (name, row) in enumerate(found) for point in _lifts(row, name, place)]
    return finished(chart, lifts=points, zero=[{"value": 0}])


def learning_curve(records: Iterable[Record], label: str) -> Spec:
    """Exact match by group while it was trained, one line for each seed and branch.

    Args:
        records: of one model on one task; those without a curve add nothing.
        label: what is drawn.
    """
    points = [
        {
            "phase": point.phase,
            "step": point.step,
            "run": f"{record.cell.seed}/{point.fold}",
            "seed": record.cell.seed,
            "group": group,
            "exact_match": value,
        }
        for record in records
        for point in record.curve
        for group, value in point.exact_match.items()
    ]
    groups = list(dict.fromkeys(str(point["group"]) for point in points))
    scale = alt.Scale(domain=groups)
    phases = list(dict.fromkeys(point["phase"] for point in points))
    legend = alt.Legend(symbolType="stroke", symbolSize=300)
    color = alt.Color("group:N", title="group", scale=scale, legend=legend)
    dash = alt.StrokeDash("group:N", title="group", scale=scale, legend=legend)
    panels = [
        alt.Chart(alt.NamedData(f"phase{index}"))
        .mark_line(opacity=0.75, strokeWidth=1.5, point=alt.OverlayMarkDef(size=14), aria=False)
        .encode(
            x=alt.X("step:Q", title=f"step of {phase}", axis=alt.Axis(grid=False, tickCount=5)),
            y=alt.Y("exact_match:Q", title="exact match" if index == 0 else None),
            color=color,
            strokeDash=dash,
            detail="run:N",
            tooltip=["group:N", "seed:Q", "step:Q", alt.Tooltip("exact_match:Q", format=".3f")],
        )
        .properties(width=250, height=220)
        for index, phase in enumerate(phases)
    ]
    chart = (
        alt.hconcat(*panels).resolve_scale(y="shared").properties(title=label, description=f"Learning curve, {label}")
    )
    by_phase = [[point for point in points if point["phase"] == phase] for phase in phases]
    return finished(chart, **{f"phase{index}": own for index, own in enumerate(by_phase)})


def _model(row: Row) -> dict[str, Any]:
    return {
        "model": row.model,
        "family": row.family,
        "parameters": row.parameters,
        "value": row.score.mean if row.score else None,
        "low": row.score.low if row.score else None,
        "high": row.score.high if row.score else None,
        "score": score(row),
    }


def _lifts(row: Row, label: str, place: int) -> Iterable[dict[str, Any]]:
    for lift, (name, *less) in LIFTS.items():
        without = row.by_seed(less[0]) if less else {}
        lifts = {seed: value - without.get(seed, 0.0) for seed, value in row.by_seed(name).items()}
        found = estimate(list(lifts.values())) if not less or without else None
        if found is not None:
            yield {
                "label": label,
                "place": place,
                "lift": lift,
                "value": found.mean,
                "low": found.low,
                "high": found.high,
                "score": with_interval(found),
            }


def family_shapes(n: int) -> list[str]:
    """Shapes that go with a palette of six in turn, so that no two of 48 families look the same."""
    colors = len(PALETTES["light"])
    return [SHAPES[(index + index // colors) % len(SHAPES)] for index in range(n)]


def finished(chart: Any, **data: Sequence[Mapping[str, Any]]) -> Spec:
    """The specification with its data; a theme that someone has enabled in this process has no part in it."""
    with alt.theme.enable("none"):
        spec: Spec = chart.to_dict()
    return {**spec, "datasets": {name: list(rows) for name, rows in data.items()}}
