"""``iml-bench compare A B``: two models or more, paired on shared seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iml_bench.board import Versus, compare_points, points_of
from iml_bench.cli.options import Data, Json, Records, Ruleset, load_records, print_json
from iml_bench.cli.tables import out_console, print_versus
from iml_bench.errors import UsageError
from iml_bench.library import reading as library
from iml_bench.records import Stored
from iml_bench.registry import SUITES
from iml_bench.run.suites import suite_requests
from iml_bench.spec import SuiteSpec, parse_override


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C ...]",
            help="Names of models, as in the leaderboard; with --suite two points: FIELD=VALUE[,FIELD=VALUE].",
        ),
    ],
    task: Annotated[str | None, typer.Option("--task", help="Only this task.")] = None,
    measure: Annotated[
        str | None, typer.Option("--measure", help="What is compared. Default: the score that ranks the task's models.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", help="Compare two points of this suite, for each model that has both.")
    ] = None,
    records: Records = None,
    data: Data = None,
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
      iml-bench compare recipe.batch_size=16 recipe.batch_size=256 --suite claims-cpu --records iml-results
    """
    if suite is not None:
        if task is not None or ruleset is not None:
            raise UsageError("--suite says the task and the ruleset; leave --task and --ruleset out")
        rows = _points(SUITES.get(suite), models, measure, load_records(records)[0], data)
    elif data is not None:
        raise UsageError("--data is for the points of a suite; leave it out without --suite")
    else:
        rows = library.compare(*models, task=task, measure=measure, records=load_records(records)[0], ruleset=ruleset)
    if as_json:
        print_json(rows)
    else:
        print_versus(rows, out_console())


def _points(
    suite: SuiteSpec, words: list[str], measure: str | None, stored: list[Stored], data: Path | None
) -> list[Versus]:
    if len(words) != 2:
        raise UsageError("with --suite two points are compared: recipe.batch_size=16 recipe.batch_size=256")
    first, second = (dict(map(parse_override, word.split(","))) for word in words)
    points = points_of(suite, suite_requests(suite, data=data), stored)
    return compare_points(suite, points, first, second, measure)
