"""``iml-bench leaderboard``: every model's scores by task, with the ranks that each may have."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, TypeVar

import typer

from iml_bench.board import Absent, Board, Row, Slope, to_csv
from iml_bench.board.words import BEST, remarks, some
from iml_bench.cli.options import Json, Records, Ruleset, load_records, print_json
from iml_bench.cli.tables import out_console, print_families, print_groups, print_rows
from iml_bench.errors import UsageError, unknown
from iml_bench.library import reading as library

FIELDS = ("parameters", "n_seeds", "model", "family")
"""Fields of a row that ``--sort`` takes beside the measures."""

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
Kind = TypeVar("Kind", Row, Slope, Absent)


@app.callback()
def leaderboard(
    context: typer.Context,
    records: Records = None,
    task: Annotated[str | None, typer.Option("--task", help="Only this task.")] = None,
    family: Annotated[str | None, typer.Option("--family", help="Only models of this family.")] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", help=f"By a measure's name, or {', '.join(FIELDS)}. Default: the headline.")
    ] = None,
    ruleset: Ruleset = None,
    groups: Annotated[bool, typer.Option("--groups", help="Exact match by what was shown, not the scores.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV on stdout.")] = False,
    as_json: Json = False,
) -> None:
    """Show every model's scores by task, with the ranks that each may have.

    \b
    Examples:
      iml-bench leaderboard
      iml-bench leaderboard --task text --family neox --sort parameters
      iml-bench leaderboard --task text --groups
      iml-bench leaderboard --ruleset shared
      iml-bench leaderboard --records iml-results --records other-results --json
    """
    if context.invoked_subcommand is not None:
        return
    if as_csv and as_json:
        raise UsageError("--csv and --json are two forms; give one")
    stored, folders = load_records(records)
    board = _chosen(library.board(stored, ruleset), task, family, sort)
    console = out_console()
    if as_json:
        print_json(board)
    elif as_csv:
        sys.stdout.write(to_csv(board.rows))
    elif not board.rows and stored:
        why = f" by the ruleset {ruleset}" if ruleset else ""
        console.print(f"no rows{why} in {', '.join(map(str, folders))}; iml-bench tune --help says more")
    elif not board.rows:
        console.print(f"no results in {', '.join(map(str, folders))}; iml-bench run --task vision makes some")
    elif groups:
        print_groups(board.rows, console)
    else:
        print_rows(board.rows, console)
        print_families(board.families, console)
        for line in _explanations(board):
            console.print(line, markup=False, soft_wrap=True)


def _chosen(board: Board, task: str | None, family: str | None, sort: str | None) -> Board:
    """The part of the board that was asked for, in the order that was asked for."""
    names = {*FIELDS, *(measure.name for row in board.rows for measure in row.measures)}
    if sort is not None and board.rows and sort not in names:
        raise unknown("column", sort, names, "iml-bench leaderboard --json")
    for kind, asked, names in (
        ("task", task, {row.task for row in board.rows}),
        ("family", family, {row.family for row in board.rows if not row.reference}),
    ):
        if asked is not None and asked not in names:
            raise unknown(f"{kind} among the records", asked, names, "iml-bench leaderboard")

    def keep(rows: Sequence[Kind]) -> tuple[Kind, ...]:
        return tuple(
            row
            for row in rows
            if task in (None, row.task, row.task.partition("@")[0])
            and (family in (None, row.family) or getattr(row, "reference", False))
        )

    return Board(
        ruleset=board.ruleset,
        rows=_sorted(keep(board.rows), sort),
        families=keep(board.families),
        absent=keep(board.absent),
        twins=tuple(twins for twins in board.twins if twins.task in {row.label for row in keep(board.rows)}),
    )


def _sorted(rows: Sequence[Row], sort: str | None) -> tuple[Row, ...]:
    """Within each task: texts from a, the best or largest numbers first, references and what is not measured last."""
    tasks = {label: place for place, label in enumerate(dict.fromkeys(row.label for row in rows))}

    def place(row: Row) -> tuple[int, bool, bool, str, float]:
        if sort in FIELDS:
            value, direction = getattr(row, sort), 1
        else:
            measure = next((known for known in row.measures if known.name == sort), row.headline)
            value, direction = row.mean(measure.name), measure.direction
        text, number = (value, 0.0) if isinstance(value, str) else ("", -direction * float(value or 0))
        return tasks[row.label], row.reference, value is None, text, number

    return tuple(sorted(rows, key=place))


def _explanations(board: Board) -> list[str]:
    """Why a score is missing, what is absent, and what a rank is."""
    models: dict[str, list[str]] = {}
    for row in board.rows:
        for score, why in row.reasons.items():
            if not row.reference and not score.endswith(("_low", "_high")):
                models.setdefault(f"{row.label}: no {score}: {why}", []).append(row.model)
    for absent in board.absent:
        models.setdefault(f"{absent.task}: {absent.reason}", []).append(absent.model)
    lines = [f"{reason}: {some(names)}" for reason, names in models.items()]
    lines += map(str, board.twins)
    if any(row.ruleset == "tuned" for row in board.rows):
        lines.append(
            "tuned: each model at the learning rate that its sweep of stage 1 chose; --ruleset shared has rows at the "
            "task's own"
        )
    lines += remarks(board.rows)
    if any(row.ranks for row in board.rows):
        lines.append(
            "rank: those that a model may have, all together with 95 % confidence (moderated paired tests, Holm's "
            f"correction); *: {BEST}"
        )
    return lines
