"""The report on a suite's claims: one page that needs nothing else, Markdown, and the same as data and figures."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import jinja2
import markupsafe

from iml_bench.board import ClaimVerdict, Verdict
from iml_bench.board.words import signed
from iml_bench.site.charts import VEGA_LITE, themed
from iml_bench.site.claim_chart import claim_chart
from iml_bench.site.figures import SCALE
from iml_bench.spec import SuiteSpec

WORDS: Final = {
    "supported": "supported",
    "contradicted": "contradicted",
    "no effect": "no effect larger than delta",
    "undecided": "undecided",
}


HEADINGS: Final = ("model", "task", "about", "seeds", "mean [95 %]", "delta", "p effect", "p none", "verdict")


class Report(NamedTuple):
    """What is reported."""

    suite: SuiteSpec
    claims: Sequence[ClaimVerdict]
    controls: Sequence[Verdict]
    records: Mapping[str, Sequence[str]]
    """By grid, the files of its cells, as they are called in the folder of the records."""
    command: str
    """Runs the suite again."""


def build_report(report: Report) -> dict[str, bytes]:
    """The files of a report by name; the same for the same verdicts.

    ``index.html`` holds its figures and has no scripts, ``report.md`` shows those that lie beside it, ``report.json``
    has every number.
    """
    import vl_convert

    files: dict[str, bytes] = {}
    drawn: dict[str, str] = {}
    for claim in dict.fromkeys(one.claim for one in report.claims):
        own = [one for one in report.claims if one.claim == claim]
        if not any(point.per_seed for one in own for point in one.points):
            continue
        chart = themed(claim_chart(own), "light")
        drawn[claim] = vl_convert.vegalite_to_svg(chart, vl_version=VEGA_LITE)
        files[f"{claim}.svg"] = drawn[claim].encode()
        files[f"{claim}.png"] = vl_convert.vegalite_to_png(chart, vl_version=VEGA_LITE, scale=SCALE)
    shown = {"report": report, "claims": _grouped(report), "words": WORDS, "mean": mean, "p": p_value}
    shown["figures"] = {claim: markupsafe.Markup(svg) for claim, svg in drawn.items()}
    loader = jinja2.PackageLoader("iml_bench.site")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    files["index.html"] = environment.get_template("report.html").render(shown).encode()
    files["report.md"] = _markdown(report, drawn).encode()
    files["report.json"] = (json.dumps(_data(report), indent=1, ensure_ascii=False) + "\n").encode()
    return dict(sorted(files.items()))


def mean(one: ClaimVerdict) -> str:
    """``+0.123 [+0.100, +0.146]``, of the estimand."""
    found = one.estimate
    if found is None:
        return "-"
    ends = f" [{signed(found.low, 3)}, {signed(found.high, 3)}]" if found.low is not None else ""
    return signed(found.mean, 3) + ends


def p_value(p: float | None) -> str:
    """Three digits, or that it is smaller."""
    return "-" if p is None else "below 0.001" if p < 0.001 else f"{p:.3f}"


def _grouped(report: Report) -> list[tuple[Any, list[ClaimVerdict]]]:
    return [(claim, [one for one in report.claims if one.claim == claim.name]) for claim in report.suite.claims]


def _data(report: Report) -> dict[str, Any]:
    return {
        "suite": report.suite.model_dump(mode="json"),
        "claims": [one.model_dump(mode="json") for one in report.claims],
        "controls": [one.model_dump(mode="json") for one in report.controls],
        "records": {grid: list(files) for grid, files in report.records.items()},
        "command": report.command,
    }


def _markdown(report: Report, drawn: Mapping[str, str]) -> str:
    lines = [f"# {report.suite.name}", "", _plain(report.suite.description), "", f"    {report.command}", ""]
    for claim, verdicts in _grouped(report):
        lines += [f"## {_plain(claim.says)}", ""]
        lines += [
            "| model | task | about | seeds | mean [95 %] | delta | p effect | p none | verdict |",
            "|---" * 9 + "|",
        ]
        for one in verdicts:
            words = [one.model, one.task, one.about, f"{one.n_seeds} of {one.wanted}", mean(one), f"{one.delta:g}"]
            words += [p_value(one.p_effect), p_value(one.p_none), WORDS[one.decision]]
            why = f" ({one.reason})" if one.reason else ""
            lines.append("| " + " | ".join(_plain(word) for word in words) + _plain(why) + " |")
        lines += ["", *([f"![{claim.name}]({claim.name}.svg)", ""] if claim.name in drawn else [])]
        lines += [f"{len(report.records[claim.grid])} records of grid `{claim.grid}`.", ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A text that means nothing else in Markdown."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
