"""``iml-bench suite report`` and ``plot``: what is drawn of a suite."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from iml_bench.board import judge, panels
from iml_bench.board.sweeps import sweep_claims
from iml_bench.cli.judging import rule_of
from iml_bench.cli.options import Data, MaxSeeds, Records, SuiteName, load_records
from iml_bench.cli.tables import out_console, print_claims
from iml_bench.errors import UsageError
from iml_bench.registry import SUITES
from iml_bench.run.suites import suite_requests


def report_suite(
    name: SuiteName,
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")],
    ship: Annotated[
        bool,
        typer.Option("--ship", help="To ship it as it is: with the records, without their items; no PNG files."),
    ] = False,
    max_seeds: MaxSeeds = None,
    records: Records = None,
    data: Data = None,
) -> None:
    """Write the report on a suite's claims: a page that needs nothing else, Markdown, figures, and all numbers as JSON.

    Where tables of probes lie beside the records, what they say of the models is in it, too.

    \b
    Examples:
      iml-bench suite report claims-cpu --out report
      iml-bench suite report my-suite.yaml --records iml-results --out report
    """
    from iml_bench.site.assets import check_installed

    check_installed()
    from iml_bench.site.report import Report, build_report, place_of, records_of, shipped_records
    from iml_bench.site.write import check_out, write_site

    suite = SUITES.get(name)
    if not suite.claims:
        raise UsageError(f"suite {suite.name!r} has no claim to report on (iml-bench suite show {name})")
    check_out(out)
    rule = rule_of(suite, suite_requests(suite, data=data), max_seeds, None)
    stored = load_records(records)[0]
    claims = rule.judged(suite, stored).claims
    own = records_of(suite, rule.requests, stored)
    until = "" if max_seeds is None else f" --until decided --max-seeds {max_seeds}"
    command = f"iml-bench suite run {shlex.quote(name)}{until}"
    places = {grid: [place_of(one, None if ship else out) for one in found] for grid, found in own.items()}
    inside = panels([one for found in own.values() for one in found])
    files = build_report(Report(suite, claims, places, command, inside))
    if ship:
        files = {name: file for name, file in files.items() if not name.endswith(".png")} | shipped_records(own)
    write_site(files, out)
    print_claims(claims, out_console())
    sys.stdout.write(f"open {out / 'index.html'}\n")


def plot_suite(
    name: SuiteName,
    x: Annotated[str, typer.Option("--x", help="The field that varies along the axis.")],
    out: Annotated[Path, typer.Option("--out", help="The figure: a name that ends in .png, .svg or .html.")],
    y: Annotated[
        list[str] | None,
        typer.Option("--y", help="A measure, or exact match by what was shown (reliable/true); repeatable."),
    ] = None,
    grid: Annotated[str | None, typer.Option("--grid", help="Only this grid of the suite.")] = None,
    records: Records = None,
    data: Data = None,
) -> None:
    """Draw what records say along a field that varies: every seed, means with intervals, a line for each model.

    \b
    Examples:
      iml-bench suite plot claims-cpu --x recipe.batch_size --grid vision-equal-epochs --out batch.svg
      iml-bench suite plot claims-cpu --x alpha --y uptake --y discernment --grid vision-alpha --out alpha.png
    """
    from iml_bench.site.assets import check_installed

    check_installed()
    from iml_bench.site.sweep import FORMATS, draw_sweep

    if out.suffix not in FORMATS:
        raise UsageError(f"--out {str(out)!r} ends in none of {', '.join(FORMATS)}, the formats of a figure")
    suite = SUITES.get(name)
    requests = suite_requests(suite, data=data)
    stored = load_records(records)[0]
    asked = sweep_claims(suite, x, y or [], grid, stored)
    verdicts = judge(suite.model_copy(update={"claims": asked}), requests, stored).verdicts
    if not any(point.per_seed for one in verdicts for point in one.points):
        raise UsageError(f"there is nothing to draw: no record has {', '.join({one.measure for one in asked})} here")
    drawn = draw_sweep(verdicts, out.suffix)
    try:
        out.write_bytes(drawn)
    except OSError as error:
        raise UsageError(f"--out {str(out)!r} cannot be written: {error.strerror}") from error
    sys.stdout.write(f"{out}\n")
