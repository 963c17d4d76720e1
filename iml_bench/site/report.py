"""The report on a suite's claims: one page that needs nothing else, Markdown, and the same as data and figures."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import markupsafe

from iml_bench.board import ClaimVerdict, Panel, words
from iml_bench.records import Stored, as_named, latest_by_key, record_path
from iml_bench.run.plan import Request, cells_of
from iml_bench.site import assets, mechanism_charts
from iml_bench.site.claim_chart import claim_chart
from iml_bench.site.figures import as_files
from iml_bench.site.panels import PANELS, Shown, as_json, shown_panels
from iml_bench.spec import Claim, SuiteSpec, cell_key

HEADINGS: Final = ("model", "task", "about", "seeds", "mean [95 %]", "delta", "p effect", "p none", "verdict")


class Report(NamedTuple):
    """What is reported."""

    suite: SuiteSpec
    claims: Sequence[ClaimVerdict]
    records: Mapping[str, Sequence[str]]
    """By grid, the files of its cells, as they are reached from the report."""
    command: str
    """Runs the suite again."""
    panels: Sequence[Panel] = ()
    """What probes found inside its models."""


def build_report(report: Report) -> dict[str, bytes]:
    """The files of a report by name; the same for the same verdicts.

    ``index.html`` holds its figures and has no scripts, ``report.md`` shows those that lie beside it, ``report.json``
    has every number. What probes found is in ``mechanisms.json``, and its figures in the folder ``mechanisms``.
    """
    files: dict[str, bytes] = {}
    for claim, own in _grouped(report):
        if any(point.per_seed for one in own for point in one.points):
            files |= as_files(claim.name, claim_chart(own))
    inside = shown_panels(report.panels)
    for one in inside:
        for kind, spec in one.charts.items():
            files |= as_files(place_of_figure(one, kind), spec)
    figures = {name.removesuffix(".svg"): svg.decode() for name, svg in files.items() if name.endswith(".svg")}
    shown = {"report": report, "claims": _grouped(report), "words": words, "summary": _summary(report)}
    shown["figures"] = {name: markupsafe.Markup(svg) for name, svg in figures.items()}
    shown |= {"inside": inside, "place": place_of_figure, "drawing": mechanism_charts}
    files["index.html"] = assets.templates().get_template("report.html").render(shown).encode()
    files["report.md"] = _markdown(report, figures, inside).encode()
    files["report.json"] = (json.dumps(_data(report), indent=1, ensure_ascii=False) + "\n").encode()
    if report.panels:
        files[PANELS] = as_json(report.panels)
    return dict(sorted(files.items()))


def place_of_figure(shown: Shown, kind: str) -> str:
    """Where a figure of a panel lies in a report's folder, without its suffix; no claim is called like it."""
    return f"mechanisms/{shown.slug}-{kind}"


def records_of(suite: SuiteSpec, requests: Sequence[Request], stored: Sequence[Stored]) -> dict[str, list[Stored]]:
    """The records of the cells that claims are about, by grid."""
    known = latest_by_key(stored)
    places = {suite.where(index): grid.name for index, grid in enumerate(suite.grids)}
    found: dict[str, list[Stored]] = {claim.grid: [] for claim in suite.claims}
    for request in requests:
        grid = places[request.where]
        if grid in found:
            keys = [cell_key(cell) for cell, _ in cells_of(replace(request, references=False))]
            found[grid] += [known[key] for key in keys if key in known]
    return found


def place_of(stored: Stored, out: Path | None) -> str:
    """How a record is reached from the report's folder ``out``; None: where ``shipped_records`` puts it."""
    if out is not None:
        return os.path.relpath(stored.path, out)
    return ("records" / record_path(stored.record.cell)).as_posix()


def shipped_records(own: Mapping[str, Sequence[Stored]]) -> dict[str, bytes]:
    """The records themselves, by file: scores and how they were made, without the per-item files beside them."""
    every = {place_of(one, None): one for found in own.values() for one in found}
    return {place: as_named(one, Path(place).name) for place, one in sorted(every.items())}


def who(model: str, task: str) -> str:
    """A model or family, with what was changed in the task, where anything was."""
    _, _, changes = task.partition(" ")
    return f"{model} ({changes})" if changes else model


def _grouped(report: Report) -> list[tuple[Claim, list[ClaimVerdict]]]:
    return [(claim, [one for one in report.claims if one.claim == claim.name]) for claim in report.suite.claims]


def _summary(report: Report) -> list[tuple[Claim, list[tuple[str, list[str]]]]]:
    """What was decided of whom, by claim."""
    return [
        (claim, words.by_decision((who(one.model, one.task), words.DECISIONS[one.decision]) for one in own))
        for claim, own in _grouped(report)
    ]


def _data(report: Report) -> dict[str, Any]:
    return {
        "suite": report.suite.model_dump(mode="json"),
        "claims": [one.model_dump(mode="json") for one in report.claims],
        "records": {grid: list(files) for grid, files in report.records.items()},
        "command": report.command,
    }


def _markdown(report: Report, drawn: Mapping[str, str], inside: Sequence[Shown]) -> str:
    lines = [f"# {report.suite.name}", "", _plain(report.suite.description), "", f"    {report.command}", ""]
    lines += ["| claim | verdicts |", "|---|---|"]
    for claim, found in _summary(report):
        told = "; ".join(f"{word}: {', '.join(whom)}" for word, whom in found)
        lines.append(f"| {_plain(claim.says)} ({claim.name}) | {_plain(told)} |")
    lines.append("")
    for claim, verdicts in _grouped(report):
        lines += [f"## {_plain(claim.says)}", ""]
        lines += [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
        for one in verdicts:
            cells = [one.model, one.task, one.about, f"{one.n_seeds} of {one.wanted}"]
            cells += [words.with_interval(one.estimate, 3), f"{one.delta:g}"]
            cells += [words.p_value(one.p_effect), words.p_value(one.p_none), words.DECISIONS[one.decision]]
            why = f" ({one.reason})" if one.reason else ""
            lines.append("| " + " | ".join(_plain(cell) for cell in cells) + _plain(why) + " |")
        lines += ["", *([f"![{claim.name}]({claim.name}.svg)", ""] if claim.name in drawn else [])]
        lines += [f"{len(report.records[claim.grid])} records of grid `{claim.grid}`.", ""]
    return "\n".join([*lines, *_inside(inside)])


def _inside(inside: Sequence[Shown]) -> list[str]:
    """Lines on what probes found."""
    lines = ["## What the tag does inside", ""] if inside else []
    for one in inside:
        lines += [f"### {_plain(one.panel.model)}, {_plain(one.panel.task)}: {len(one.panel.seeds)} seeds", ""]
        for kind, said in one.figures:
            title = mechanism_charts.TITLES[kind]
            lines += [f"**{title}** {_plain(said)} `{mechanism_charts.DOCS}`", ""]
            lines += [f"![{title}]({place_of_figure(one, kind)}.svg)", ""]
        lines += [line for why in one.panel.left_out for line in (f"Left out: {_plain(why)}.", "")]
    return lines


def _plain(text: str) -> str:
    """A text that means nothing else in Markdown."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
