"""What crossover, pairing and nats save in seeds, from the shipped rows of the leaderboard.

``python benchmarks/statistics/savings.py`` writes SAVINGS.md beside this file. A number of seeds is proportional to a
variance, so each factor is a quotient of two variances over seeds of the same cells: how many times the seeds it takes
without.

*Crossover*: IML from the first branch alone, where each entity stands under one tag, against that of all branches.
*Pairing*: the difference of two models on independent seeds against that on shared ones, the median over all pairs.
*Nats*: the squared signal (mean over standard deviation) of IML in nats against that in exact match, of the models
whose IML is above 0.02.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from statistics import median, variance

import numpy as np
from run import table

import iml_bench
from iml_bench.board import Row
from iml_bench.paths import data_root
from iml_bench.protocols import score_items
from iml_bench.records import Stored, columns_of, read_items
from iml_bench.spec import model_key

LEAST_IML = 0.02
RESULTS = data_root() / "leaderboard" / "results"


def first_branch(stored: Stored) -> float:
    """IML of a record from branch 0 alone."""
    columns = columns_of(read_items(stored))
    rows = (columns["stage"] == 1) | (columns["fold"] == 0)
    value = score_items("two-stage", {name: column[rows] for name, column in columns.items()})["iml"]
    assert value is not None
    return value


def crossover(row: Row, results: iml_bench.Results) -> float:
    """How many times the seeds it takes without."""
    own = [one for one in results if _is_of(one, row)]
    alone = [first_branch(one) for one in own]
    return variance(alone) / variance(row.by_seed("iml").values())


def _is_of(one: Stored, row: Row) -> bool:
    cell = one.record.cell
    if (cell.task.name, model_key(cell), cell.task.recipe.lr) != (row.task, row.model_key, row.tuned["recipe.lr"]):
        return False
    return one.record.status == "done" and cell.seed in row.seeds and cell.task.until == "stage2"


def pairing(rows: list[Row]) -> float:
    """The median over pairs of models."""
    found = []
    for first, second in combinations(rows, 2):
        one, other = first.by_seed("iml"), second.by_seed("iml")
        shared = sorted(set(one) & set(other))
        apart = variance([one[seed] for seed in shared]) + variance([other[seed] for seed in shared])
        found.append(apart / variance([one[seed] - other[seed] for seed in shared]))
    return median(found)


def nats(row: Row) -> float | None:
    """How many times the seeds exact match takes; None where there is little to find."""
    exact, other = (np.array([*row.by_seed(name).values()]) for name in ("iml", "iml_nats"))
    if exact.mean() <= LEAST_IML:
        return None
    return float((other.mean() / other.std(ddof=1)) ** 2 / (exact.mean() / exact.std(ddof=1)) ** 2)


def main() -> None:
    """Compute everything and write the page."""
    results = iml_bench.read(RESULTS)
    board = [row for row in iml_bench.board(results).rows if row.ruleset == "tuned" and not row.reference]
    lines = []
    for task in ("vision", "text"):
        rows = [row for row in board if row.task == task]
        crossed = [crossover(row, results) for row in rows]
        in_nats = [value for row in rows if (value := nats(row)) is not None]
        shown = [f"{median(crossed):.1f} ({min(crossed):.1f} to {max(crossed):.1f})", f"{pairing(rows):.2f}"]
        lines.append(
            [task, str(len(rows)), *shown, f"{median(in_nats):.2f} ({min(in_nats):.2f} to {max(in_nats):.2f})"]
        )
    headings = ("task", "models", "without crossover", "without pairing (median of pairs)", "in exact match, not nats")
    text = "\n\n".join(
        [
            "# What each saves: how many times the seeds it takes",
            "Made by `python benchmarks/statistics/savings.py` from the shipped rows, which says what the columns are; "
            "medians over models with the least and the most. Eight seeds a row: a quotient of two variances of eight "
            "is known within a factor of about two, the median of a dozen much better. A square of branches against a "
            "pair: docs/validity.md.",
            table(headings, lines),
        ]
    )
    (Path(__file__).parent / "SAVINGS.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
