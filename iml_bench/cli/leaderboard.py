"""``iml-bench leaderboard``: the rows of all records, in tiers."""

from __future__ import annotations

from typing import Annotated

import typer

from iml_bench.board import Row, build_rows
from iml_bench.cli.options import Json, Records, load_records, print_json
from iml_bench.cli.tables import out_console, print_groups, print_rows
from iml_bench.errors import unknown

Task = Annotated[str | None, typer.Option("--task", help="Only this task.")]


Groups = Annotated[bool, typer.Option("--groups", help="Exact match by what was shown, instead of the scores.")]


def leaderboard(records: Records = None, task: Task = None, groups: Groups = False, as_json: Json = False) -> None:
    """Show every model's scores by task, in tiers of models that cannot be told apart.

    \b
    Examples:
      iml-bench leaderboard
      iml-bench leaderboard --task vision --json
      iml-bench leaderboard --task text --groups
      iml-bench leaderboard --records iml-results --records other-results
    """
    stored, folders = load_records(records)
    rows = [row for row in build_rows(stored) if not row.smoke]
    if task is not None:
        names = {row.task for row in rows}
        if task not in names:
            raise unknown("task among the records", task, names, "iml-bench leaderboard")
        rows = [row for row in rows if row.task == task]
    if as_json:
        print_json(rows)
        return
    console = out_console()
    if not rows:
        console.print(f"no results in {', '.join(map(str, folders))}; iml-bench run --task vision makes some")
        return
    if groups:
        print_groups(rows, console)
        return
    print_rows(rows, console)
    for line in _explanations(rows):
        console.print(line, markup=False, soft_wrap=True)


def _explanations(rows: list[Row]) -> list[str]:
    """Coverage of each task, and why a score is missing."""
    lines = []
    for label in dict.fromkeys((row.task, row.task_version, str(row.changes)) for row in rows):
        group = [row for row in rows if (row.task, row.task_version, str(row.changes)) == label and not row.reference]
        seeds = sorted({seed for row in group for seed in row.seeds})
        for row in group:
            missing = [seed for seed in seeds if seed not in row.seeds]
            if missing:
                failed = ", ".join(str(seed) for seed in missing if seed in row.failed_seeds)
                why = f" (failed: {failed})" if failed else ""
                lines.append(f"{row.task}: {row.model} has {row.n_seeds} of {len(seeds)} seeds; missing {missing}{why}")
            lines += [
                f"{row.task}: {row.model} has no {score}: {why}"
                for score, why in row.reasons.items()
                if score not in ("iml_low", "iml_high")
            ]
    lines.append("tier: models that the paired test (Holm's correction) cannot separate from its best share one")
    return lines
