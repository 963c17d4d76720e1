"""``iml-bench compare A B``: two models or more, paired on shared seeds."""

from __future__ import annotations

from typing import Annotated

import typer

from iml_bench.cli.options import Json, Records, Ruleset, load_records, print_json
from iml_bench.cli.tables import out_console, print_versus
from iml_bench.library import reading as library


def compare(
    models: Annotated[list[str], typer.Argument(metavar="A B [C ...]", help="Names of models, as in the leaderboard.")],
    task: Annotated[str | None, typer.Option("--task", help="Only this task.")] = None,
    measure: Annotated[
        str | None, typer.Option("--measure", help="What is compared. Default: the score that ranks the task's models.")
    ] = None,
    records: Records = None,
    ruleset: Ruleset = None,
    as_json: Json = False,
) -> None:
    """Compare models two by two: the difference of a score with its interval and p, on every task that both have run.

    \b
    Examples:
      iml-bench compare mlp-m convnet-s
      iml-bench compare neox-s neox-m neox-l --task text
      iml-bench compare mlp-m convnet-s --measure discernment
      iml-bench compare mlp-m convnet-s --records iml-results --json
    """
    rows = library.compare(*models, task=task, measure=measure, records=load_records(records)[0], ruleset=ruleset)
    if as_json:
        print_json(rows)
    else:
        print_versus(rows, out_console())
