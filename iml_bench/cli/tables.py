"""How rows look in a terminal; the same words as everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iml_bench.board import Row, Versus
from iml_bench.board.words import count, p_value, score, seeds, share, share_with_interval, signed, with_interval


def out_console() -> Console:
    """Where results are printed; wide enough for a whole row when it is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """One table per task (with its changes), reference rows under a line."""
    for (label, smoke), group in groupby(rows, key=lambda row: (row.label, row.smoke)):
        title = f"{label.split()[0]} smoke: a test, no result" if smoke else label
        console.print(_table(escape(title), list(group)))
        console.print()


def _table(title: str, rows: list[Row]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1), header_style="bold")
    table.add_column("tier", justify="right")
    table.add_column("model", overflow="fold")
    for name in ("param.", "seeds"):
        table.add_column(name, justify="right")
    table.add_column("IML [95 %]", no_wrap=True)
    for name in ("nats", "lift rel.", "unrel.", "fresh", "stage-1 gap", "chance"):
        table.add_column(name, justify="right")
    attributed = any(row.iml_attribution is not None for row in rows)
    if attributed:
        table.add_column("IML of attribution", no_wrap=True)
    for index, row in enumerate(rows):
        if row.reference and (index == 0 or not rows[index - 1].reference):
            table.add_section()
            table.add_row("", "[dim]reference rows[/dim]")
        more = [with_interval(row.iml_attribution, row.iml_attribution_low, row.iml_attribution_high)]
        table.add_row(*_cells(row), *(more if attributed else []), style="dim" if row.reference else None)
    return table


def _cells(row: Row) -> list[str]:
    return [
        "" if row.tier is None else str(row.tier),
        escape(row.model),
        "" if row.reference else count(row.parameters),
        seeds(row),
        escape(score(row)),
        signed(row.iml_nats),
        signed(row.lift_reliable),
        signed(row.lift_unreliable),
        signed(row.lift_fresh),
        signed(row.stage1_gap),
        share(row.chance),
    ]


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


def print_versus(rows: Sequence[Versus], console: Console) -> None:
    """A table of paired comparisons."""
    first, second = escape(rows[0].first), escape(rows[0].second)
    table = Table(title=f"{first} against {second}, paired on shared seeds", title_justify="left", box=None)
    for name in ("task", "seeds", first, second, "difference in IML [95 %]", "p", "p (Holm)"):
        table.add_column(name)
    for row in rows:
        table.add_row(
            escape(row.label),
            str(row.n_seeds),
            signed(row.iml_first),
            signed(row.iml_second),
            with_interval(row.difference, row.low, row.high),
            p_value(row.p),
            p_value(row.p_holm),
        )
    console.print(table)
