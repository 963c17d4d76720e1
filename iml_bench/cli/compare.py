"""``iml-bench compare A B``: two models, paired on shared seeds."""

from __future__ import annotations

from typing import Annotated

import typer

from iml_bench.board import compare_models
from iml_bench.cli.options import Json, Records, load_records, print_json
from iml_bench.cli.tables import out_console, print_versus
from iml_bench.errors import UsageError


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A model's name, as in the leaderboard.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another's.")],
    task: Annotated[str | None, typer.Option("--task", help="Only this task.")] = None,
    records: Records = None,
    as_json: Json = False,
) -> None:
    """Compare two models: the difference in IML with its interval and p, on every task both have run.

    \b
    Examples:
      iml-bench compare mlp-m convnet-s
      iml-bench compare neox-s neox-m --task text
      iml-bench compare mlp-m convnet-s --records iml-results --json
    """
    stored, _ = load_records(records)
    stored = [entry for entry in stored if not entry.record.smoke]
    if task is not None:
        stored = [entry for entry in stored if entry.record.cell.task.name == task]
        if not stored:
            raise UsageError(f"there are no records of task {task!r} here (iml-bench leaderboard lists what there is)")
    rows = compare_models(stored, first, second)
    if as_json:
        print_json(rows)
    else:
        print_versus(rows, out_console())
