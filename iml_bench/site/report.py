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

from iml_bench.board import ClaimVerdict, words
from iml_bench.records import Stored, as_named, latest_by_key, record_path
from iml_bench.run.plan import Request, cells_of
from iml_bench.site import assets
from iml_bench.site.claim_chart import claim_chart
from iml_bench.site.figures import as_files
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


def build_report(report: Report) -> dict[str, bytes]:
    """The files of a report by name; the same for the same verdicts.

    ``index.html`` holds its figures and has no scripts, ``report.md`` shows those that lie beside it, ``report.json``
    has every number.
    """
    files: dict[str, bytes] = {}
    for claim, own in _grouped(report):
        if any(point.per_seed for one in own for point in one.points):
            files |= as_files(claim.name, claim_chart(own))
    figures = {name.removesuffix(".svg"): svg.decode() for name, svg in files.items() if name.endswith(".svg")}
    shown = {"report": report, "claims": _grouped(report), "words": words, "summary": _summary(report)}
    shown["figures"] = {claim: markupsafe.Markup(svg) for claim, svg in figures.items()}
    files["index.html"] = assets.templates().get_template("report.html").render(shown).encode()
    files["report.md"] = _markdown(report, figures).encode()
    files["report.json"] = (json.dumps(_data(report), indent=1, ensure_ascii=False) + "\n").encode()
    return dict(sorted(files.items()))


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


def _markdown(report: Report, drawn: Mapping[str, str]) -> str:
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
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A text that means nothing else in Markdown."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
