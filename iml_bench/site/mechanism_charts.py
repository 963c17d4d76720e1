"""The figures of a mechanism panel, as Vega-Lite specifications; see ``charts``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import altair as alt

from iml_bench.board import Panel, words
from iml_bench.board.probe_tables import INPUT, UNCHANGED, WHOLE
from iml_bench.protocols.base import INITIAL
from iml_bench.site.charts import Spec, finished
from iml_bench.stats import Interval

DOCS: Final = "docs/mechanisms.md"
"""Says what each probe can and cannot show."""
TITLES: Final = {
    "alignment": "Do definitions and their questions pull the same way?",
    "readable": "Where can the tag be read?",
    "interventions": "What of the tag is used?",
}
"""The figures by kind, in the order in which they are shown."""
BEFORE: Final = "before training"
CHOSEN: Final = "at the place that other examples choose"
IML, TAKEN = "IML", "uptake under both tags"
ROOM: Final = {"left": 30, "right": 24, "top": 5, "bottom": 5}
"""Around a figure: names of layers are wider where a reader has another font than the one that was measured."""
MIDDLE: Final = 0.75
"""Of the scale of accuracies, which goes from chance to 1."""


def mechanism_charts(panel: Panel) -> dict[str, Spec]:
    """The figures of a panel by kind, those of which it has numbers."""
    found = {
        "alignment": alignment(panel) if panel.alignment else None,
        "readable": readable(panel) if panel.heat and panel.heat.cells else None,
        "interventions": interventions(panel) if panel.interventions else None,
    }
    return {kind: spec | {"padding": ROOM} for kind, spec in found.items() if spec is not None}


def captions(panel: Panel) -> dict[str, str]:
    """A sentence under each figure: what it can show, and what it cannot."""
    both = any(one.initial for one in panel.alignment) and any(one.trained for one in panel.alignment)
    before = "; hollow: before training" if both else ""
    above = panel.heat.above_control if panel.heat else None
    chosen = f", while {CHOSEN} it reads {words.with_interval(above)} above permuted tags" if above else ""
    return {
        "alignment": (
            "Cosine of the gradients of a definition and of its own questions, under the reliable tag minus under the "
            f"unreliable one, beyond the same with another entity's questions (means over seeds, 95 %{before}): above "
            "0 the network is ready to learn more of this content under the reliable tag, which does not show that "
            "training uses it, nor where it comes from."
        ),
        "readable": (
            "Accuracy with which a linear probe tells from questions, which show no tag, under which tag new entities "
            "were defined in stage 2 (means over seeds, chance is 0.5): it shows where the tag can be read, not that "
            f"anything uses it, and the best of many places is no finding{chosen}."
        ),
        "interventions": (
            "IML after stage 2 was trained again with the tag changed in its examples and nowhere else (means over "
            "seeds, 95 %; dashed: nothing changed, and its negative): where it turns into its negative, what learning "
            "uses of the tag goes through there, which does not show what weights hold it; where uptake is lost, too, "
            "learning itself was destroyed, and nothing is said of the tag."
        ),
    }


def alignment(panel: Panel) -> Spec:
    """The gap in alignment by part of the network, after training and before."""
    times = (BEFORE if panel.moment == INITIAL else f"after {panel.moment}", BEFORE)
    rows = [
        {"label": part(one.part), "place": place, "what": what, **_ends(value)}
        for place, one in enumerate(panel.alignment)
        for what, value in zip(times, (one.trained, one.initial), strict=False)
        if value is not None
    ]
    whole = next((one.trained for one in panel.alignment if one.part == WHOLE), None)
    return _points(
        _titled(panel, "Alignment gap by part of the network", f"all parameters {words.with_interval(whole, 3)}"),
        rows,
        [time for time in times if any(row["what"] == time for row in rows)],
        "alignment gap (cosine)",
    )


def interventions(panel: Panel) -> Spec:
    """IML under each intervention, with the uptake that is left."""
    rows = [
        {"label": label(one.name, one.place), "place": place, "what": what, **_ends(value)}
        for place, one in enumerate(panel.interventions)
        for what, value in ((IML, one.iml), (TAKEN, one.taken))
        if value is not None
    ]
    unchanged = panel.unchanged
    lines = [{"value": unchanged.mean}, {"value": -unchanged.mean}] if unchanged else []
    return _points(
        _titled(panel, "IML with the tag changed in stage 2", f"nothing changed {words.with_interval(unchanged)}"),
        rows,
        [what for what in (IML, TAKEN) if any(row["what"] == what for row in rows)],
        "exact match",
        lines,
    )


def readable(panel: Panel) -> Spec:
    """Accuracies of linear probes by layer and token, as figures on a scale from chance to 1."""
    assert panel.heat is not None
    layers = list(dict.fromkeys(one.layer for one in panel.heat.cells))
    rows: dict[str, list[dict[str, Any]]] = {"cells": [], "lower": [], "upper": []}
    for one in panel.heat.cells:
        accuracy = one.accuracy.mean
        row = {
            "layer": one.layer,
            "depth": layers.index(one.layer),
            "token": token(one.position, one.token),
            "position": one.position or 0,
            "accuracy": accuracy,
            "text": f"{accuracy:.2f}".removeprefix("0"),
            "said": words.share_with_interval(one.accuracy),
            "control": words.share(one.control),
            "seeds": one.accuracy.n,
        }
        rows["cells"].append(row)
        rows["lower" if accuracy < MIDDLE else "upper"].append(row)
    several = len({row["token"] for row in rows["cells"]}) > 1
    at = alt.EncodingSortField(field="position", op="min")
    down = alt.EncodingSortField(field="depth", op="min")
    axis = alt.Axis(ticks=False, domain=False, labelAngle=-45, labelLimit=120) if several else None
    x = alt.X("token:N", title="token, counted from the alias" if several else None, sort=at, axis=axis)
    y = alt.Y("layer:N", title=None, sort=down, axis=alt.Axis(ticks=False, domain=False, labelLimit=260))
    scale = alt.Scale(domain=[0.5, 1.0], clamp=True, range="heatmap")
    legend = alt.Legend(title="accuracy", values=[0.5, MIDDLE, 1.0], format=".2f", gradientLength=150)
    tooltip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("token:N"),
        alt.Tooltip("said:N", title="accuracy"),
        alt.Tooltip("control:N", title="permuted tags"),
        alt.Tooltip("seeds:Q"),
    ]
    squares = alt.Chart(alt.NamedData("cells")).mark_rect()
    layers_of = [squares.encode(x=x, y=y, color=alt.Color("accuracy:Q", scale=scale, legend=legend), tooltip=tooltip)]
    for half in ("lower", "upper"):
        if rows[half]:
            text = alt.Chart(alt.NamedData(half)).mark_text(fontSize=10, style=f"on-{half}", aria=False)
            layers_of.append(text.encode(x=x, y=y, text="text:N"))
    above = panel.heat.above_control
    said = f"{CHOSEN} {words.with_interval(above)} above permuted tags"
    chart = alt.layer(*layers_of).properties(
        width=alt.Step(30 if several else 60),
        height=alt.Step(20),
        **_titled(panel, "Accuracy of linear probes for the tag after stage 2, by layer and token", said),
    )
    return finished(chart, **rows)


def part(name: str) -> str:
    """A part of the network, in words."""
    return "all parameters" if name == WHOLE else name


def label(name: str, place: str) -> str:
    """An intervention and where, in words."""
    if name == UNCHANGED:
        return "nothing changed"
    return name if place == INPUT else f"{name}, {place}"


def token(position: int | None, text: str | None) -> str:
    """A token with its position, by which two that are alike are told apart."""
    return " ".join(part for part in ("" if position is None else str(position), text or "") if part) or "all places"


def _ends(value: Interval) -> dict[str, Any]:
    said = words.with_interval(value, 3)
    return {"value": value.mean, "low": value.low, "high": value.high, "said": said, "seeds": value.n}


def _titled(panel: Panel, what: str, said: str) -> dict[str, str]:
    """A figure's title, and its description for those who do not see it."""
    return {"title": f"{panel.model}, {panel.task}", "description": f"{what}; {said}; {panel.model}, {panel.task}"}


def _points(
    titled: Mapping[str, str],
    rows: list[dict[str, Any]],
    kinds: list[str],
    title: str,
    lines: list[dict[str, float]] | None = None,
) -> Spec:
    """Means with intervals by line of a list, those of the first kind filled and those of the second hollow."""
    order = alt.EncodingSortField(field="place", op="min")
    y = alt.Y("label:N", title=None, sort=order, axis=alt.Axis(ticks=False, domain=False, grid=True, labelLimit=260))
    legend = alt.Legend(title=None, labelLimit=200) if len(kinds) > 1 else None
    shared: dict[str, Any] = {"title": None, "legend": legend}
    color = alt.Color("what:N", scale=alt.Scale(domain=kinds), **shared)
    base = alt.Chart(alt.NamedData("points")).encode(
        y=y, yOffset=alt.YOffset("what:N", scale=alt.Scale(domain=kinds, paddingOuter=0.5)), color=color
    )
    shapes = alt.Scale(domain=kinds, range=["circle", "diamond"][: len(kinds)])
    filled = alt.Scale(domain=kinds, range="ordinal")
    dashed = alt.Chart(alt.NamedData("lines")).mark_rule(strokeDash=[4, 3], aria=False)
    layers = [
        alt.Chart(alt.NamedData("zero")).mark_rule(aria=False).encode(x="value:Q"),
        *([dashed.encode(x="value:Q")] if lines else []),
        base.mark_rule(strokeWidth=1.5, aria=False).encode(x="low:Q", x2="high:Q"),
        base.mark_point(size=55, opacity=1, strokeWidth=1.5).encode(
            x=alt.X("value:Q", title=title, axis=alt.Axis(tickCount=5)),
            shape=alt.Shape("what:N", scale=shapes, **shared),
            fill=alt.Fill("what:N", scale=filled, **shared),
            tooltip=[alt.Tooltip("label:N", title="where"), alt.Tooltip("what:N"), alt.Tooltip("said:N", title=title)],
        ),
    ]
    chart = alt.layer(*layers).properties(width=340, height=26 * len({row["label"] for row in rows}) + 16, **titled)
    return finished(chart, points=rows, zero=[{"value": 0}], lines=lines or [])
