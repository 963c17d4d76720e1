"""How rows look in a terminal; the same words as everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iml_bench.board import ClaimVerdict, Row, Slope, Verdict, Versus
from iml_bench.board.words import (
    DECISIONS,
    amount,
    apart,
    columns,
    count,
    headline,
    interval,
    p_value,
    ranks,
    score,
    seeds,
    share,
    share_with_interval,
    signed,
    with_interval,
)
from iml_bench.protocols import Measure

WIDE = 150
"""Characters of a line from which everything has a column."""


def out_console() -> Console:
    """Where results are printed; wide enough for a whole row when it is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """One table per task (with its changes), reference rows under a line."""
    for (label, smoke), group in groupby(rows, key=lambda row: (row.label, row.smoke)):
        title = f"{label.split()[0]} smoke: a test, no result" if smoke else label
        console.print(_table(escape(title), list(group), wide=console.width >= WIDE))
        console.print()


def _table(title: str, rows: list[Row], *, wide: bool) -> Table:
    measures = columns(rows)
    if not wide:  # what reads best beside the headline: the others with an interval, and one more
        intervals = [one for one in measures if one.shown == "headline"]
        measures = list(dict.fromkeys([*intervals, *measures[:1]]))
    shown = _columns(rows, wide=wide)
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="bold")
    table.padding, table.pad_edge = (0, 2 if wide else 1, 0, 0), False
    for name in shown:
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold", no_wrap=name != "model")
    table.add_column(f"{escape(headline(rows))} [95 %]", min_width=20, overflow="fold")
    for measure in measures:
        table.add_column(escape(measure.heading), justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        if row.reference and (index == 0 or not rows[index - 1].reference):
            table.add_section()
            table.add_row(*("[dim]reference rows[/dim]" if name == "model" else "" for name in shown))
        cells = [*(shown[name](row) for name in shown), escape(score(row)), *(_value(row, one) for one in measures)]
        table.add_row(*cells, style="dim" if row.reference else None)
    return table


def _columns(rows: Sequence[Row], *, wide: bool) -> dict[str, Callable[[Row], str]]:
    """What stands before the scores: in a narrow terminal without what is the same in all rows, or in their titles."""
    found: dict[str, Callable[[Row], str]] = {
        "rank": lambda row: ranks(row) if row.ranks else "",
        "model": lambda row: escape(row.model),
        "param.": lambda row: "" if row.reference else count(row.parameters),
    }
    if wide and any(row.ruleset == "tuned" for row in rows):
        found["lr"] = lambda row: ", ".join(f"{value:g}" for value in row.tuned.values())
    if wide or len({seeds(row) for row in rows}) > 1:
        found["seeds"] = seeds
    if wide:
        found["chance"] = lambda row: share(row.chance)
    if not any(row.ranks for row in rows):
        del found["rank"]
    return found


def _value(row: Row, measure: Measure) -> str:
    found = row.scores.get(measure.name)
    after = interval(found) if measure.shown == "headline" else ""
    return amount(row.mean(measure.name), measure) + after


def print_groups(rows: Sequence[Row], console: Console) -> None:
    """One table per task: exact match by what was shown, a line per group and a column per trained model."""
    for (label, smoke), group in groupby(rows, key=lambda row: (row.label, row.smoke)):
        models = [row for row in group if not row.reference and row.exact_match]
        if not models:
            continue
        title = f"{label}{' (smoke)' if smoke else ''}: exact match"
        table = Table(title=escape(title), title_justify="left", title_style="bold", box=None, padding=(0, 1))
        table.add_column("group")
        for row in models:
            table.add_column(escape(row.model), no_wrap=True)
        for name in dict.fromkeys(name for row in models for name in row.exact_match):
            table.add_row(name, *(share_with_interval(row.exact_match.get(name)) for row in models))
        console.print(table)
        console.print()


PLOT = 31
"""Characters of an interval plot; odd, so that zero has one of its own."""


def interval_plot(mean: float, low: float | None, high: float | None, reach: float) -> str:
    """``      |   ├──●──┤   ``: an interval on a line from ``-reach`` to ``reach`` with a mark at zero."""

    def at(value: float) -> int:
        return round((value / reach + 1) / 2 * (PLOT - 1)) if reach else PLOT // 2

    line = [" "] * PLOT
    line[PLOT // 2] = "|"
    if low is not None and high is not None:
        line[at(low) : at(high) + 1] = "─" * (at(high) - at(low) + 1)
        line[at(low)], line[at(high)] = "├", "┤"
    line[at(mean)] = "●"
    return "".join(line)


def print_versus(rows: Sequence[Versus], console: Console) -> None:
    """A table of paired comparisons for each task, with a plot of the differences on one scale."""
    differences, wide = [row.difference for row in rows], console.width >= WIDE
    reach = max(abs(end) for d in differences for end in (d.mean, d.low, d.high) if end is not None)
    for (label, measure), group in groupby(rows, key=lambda row: (row.label, row.measure_label)):
        table = Table(
            title=f"{escape(label)}: {escape(measure)}, paired on shared seeds", title_justify="left", box=None
        )
        for name in ("A", "B"):
            table.add_column(name, overflow="fold")
        for name in ("seeds", "mean of A", "of B") if wide else ():
            table.add_column(name, justify="right")
        table.add_column("A - B [95 %]", no_wrap=True)
        if wide:
            table.add_column(f"{f'{-reach:.2f}':<{PLOT // 2}}0{f'{reach:+.2f}':>{PLOT // 2}}", no_wrap=True)
        for name in ("p", "p (Holm)", "on the board"):
            table.add_column(name, justify="right")
        for row in group:
            d = row.difference
            table.add_row(
                escape(row.first),
                escape(row.second),
                *((str(row.n_seeds), signed(row.mean_first), signed(row.mean_second)) if wide else ()),
                with_interval(d),
                *((interval_plot(d.mean, d.low, d.high, reach),) if wide else ()),
                p_value(row.p),
                p_value(row.p_holm),
                apart(row.separated),
            )
        console.print(table)
        console.print()
    over = f"; p (Holm) is corrected over the {len(rows)} comparisons above" if len(rows) > 1 else ""
    console.print(
        f"This answers a question about these models that was chosen beforehand{over}. Whoever looks at the board "
        "first and then asks has its answer in the last column: whether a test corrected for all pairs of its models "
        "tells the two apart.",
        markup=False,
    )


MARKS: Final = {"pass": "[green]pass[/green]", "fail": "[red]FAIL[/red]", "undecided": "[yellow]undecided[/yellow]"}


def print_verdicts(rows: Sequence[Verdict], console: Console) -> None:
    """A line for each control of each model, with the reason."""
    table = Table(title="controls", title_justify="left", title_style="bold", box=None, padding=(0, 1))
    for heading in ("control", "model", "what is 0", "seeds"):
        table.add_column(heading, overflow="fold")
    for heading in ("mean [90 %]", "margin", "verdict"):
        table.add_column(heading, no_wrap=True)
    table.add_column("why", overflow="fold")
    for row in rows:
        ends = "" if row.low is None else f" [{signed(row.low, 3)}, {signed(row.high, 3)}]"
        table.add_row(
            escape(row.control),
            escape(row.model),
            row.measure if row.mirror_of is None else escape(f"{row.measure} + that of {row.mirror_of}"),
            f"{row.n_seeds}" if row.n_seeds == row.wanted else f"{row.n_seeds} of {row.wanted}",
            signed(row.mean, 3) + ends,
            f"{row.margin:g}",
            MARKS[row.verdict],
            escape(row.reason),
        )
    console.print(table)


COLOURS: Final = {"supported": "green", "contradicted": "red", "no effect": "cyan", "undecided": "yellow"}


def print_claims(rows: Sequence[ClaimVerdict], console: Console) -> None:
    """A line for each claim about each model or family: what was found, and the verdict."""
    table = Table(title="claims", title_justify="left", title_style="bold", box=None, padding=(0, 1))
    for heading in ("claim", "model", "about"):
        table.add_column(heading, overflow="fold")
    for heading in ("seeds", "mean [95 %]", "delta", "verdict"):
        table.add_column(heading, no_wrap=heading != "verdict")
    table.add_column("why", overflow="fold")
    for row in rows:
        table.add_row(
            escape(row.claim),
            escape(row.model),
            escape(row.about),
            f"{row.n_seeds}" if row.n_seeds == row.wanted else f"{row.n_seeds} of {row.wanted}",
            with_interval(row.estimate, 3),
            f"{row.delta:g}",
            f"[{COLOURS[row.decision]}]{DECISIONS[row.decision]}[/]",
            escape(row.reason),
        )
    console.print(table)


def print_families(rows: Sequence[Slope], console: Console) -> None:
    """How the ranked measures grow with size within each family of three sizes or more."""
    if not rows:
        return
    table = Table(title="growth per tenfold parameters", title_justify="left", title_style="bold", box=None)
    for name in ("task", "family", "measure", "sizes"):
        table.add_column(name, overflow="fold")
    table.add_column("seeds", justify="right")
    table.add_column("slope [95 %]", no_wrap=True)
    for row in rows:
        sizes = f"{len(row.models)}, {count(row.parameters[0])} to {count(row.parameters[-1])}"
        table.add_row(
            escape(row.label),
            escape(row.family),
            escape(row.measure),
            sizes,
            str(row.n_seeds),
            with_interval(row.slope),
        )
    console.print(table)
    console.print()
