"""Do the board's statistics err as often as they say? Simulated boards and rows with known truth.

``python benchmarks/statistics/run.py`` writes RESULTS.md beside this file; ``--boards 200`` is a quick look.

*Error*: the share of boards with a wrong "significantly better" (family-wise). *Coverage*: the share of boards on which
every rank set holds its model's rank (of equal models, any rank that they share). *Found*: the share of truly different
pairs that are separated. *Width*: ranks in a set. Beside them the way of the first board: Holm's correction over plain
paired t-tests, and greedy tiers, whose error is two equal models in two tiers.

A score's noise is its model's own (70 % of the variance) and the seed's (30 %), which all models share, unless a line
says otherwise. *Shipped* noise is drawn from what seeds of the shipped board deviate from their row's mean, each row
scaled to a standard deviation of one.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import iml_bench
from iml_bench.board.rows import Row
from iml_bench.stats import above, compare_paired, estimate, holm, quotient, rank, two_heaps

Floats = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, int]], Floats]
MODELS = 14
SEEDS = (5, 8, 16)
SD = 0.06
FIRST_BOARD = (0.70, 0.53, 0.53, 0.50, 0.48, 0.47, 0.45, 0.37, 0.35, 0.33, 0.20, 0.07, 0.04, 0.02)
"""Means of the first board's vision models."""


BOARD_HEADINGS = (
    *("noise", "means", "models", "seeds"),
    *("error", "coverage", "found", "width", "found by plain t", "error of tiers"),
)
ROW_HEADINGS = (
    *("noise", "seeds", "t covers", "Fieller covers"),
    *("above the least size, at it", "above the least size, at 0", "two heaps"),
)
NOTHING_HEADINGS = ("seeds", "first board", "now, truly 0", "now, truly at the least size")
SHIPPED_HEADINGS = (
    *("task", "measure", "rows", "pairs apart", "mean width"),
    *("pairs apart by plain t", "in different tiers but not apart by plain t"),
)


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Standard normal."""
    return rng.normal(size=shape)


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Shifted gamma of shape 2, skewness 1.4, with mean 0 and sd 1."""
    return (rng.gamma(2.0, size=shape) - 2.0) / math.sqrt(2.0)


def heaped(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Two heaps, one seed in four in the lower, four sd of a heap apart; mean 0 and sd 1."""
    low = rng.random(shape) < 0.25
    drawn = rng.normal(size=shape) - 4.0 * low + 1.0
    return drawn / math.sqrt(1.0 + 16 * 0.25 * 0.75)


def unequal(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Normal, with a sd of each model between a third and three times."""
    return rng.normal(size=shape) * np.exp(np.linspace(-1.1, 1.1, shape[0]))[:, None]


@cache
def ranked_rows() -> dict[str, list[Row]]:
    """The ranked rows of the shipped board, by task."""
    found = defaultdict(list)
    for row in iml_bench.board(Path(__file__).parents[2] / "leaderboard" / "results").rows:
        if row.ranks:
            found[row.task].append(row)
    return dict(found)


@cache
def residuals() -> Floats:
    """What IML in single seeds of the shipped board deviates from its row's mean, in sd of the row."""
    scores = [np.array(list(row.by_seed("iml").values())) for rows in ranked_rows().values() for row in rows]
    return np.concatenate([(own - own.mean()) / own.std() for own in scores])


def shipped(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Drawn from the residuals of the shipped board."""
    return rng.choice(residuals(), size=shape)


SHAPES: dict[str, Noise] = {
    "normal": normal,
    "unequal variances": unequal,
    "skewed": skewed,
    "two heaps": heaped,
    "shipped": shipped,
}


def tiers(models: Sequence[dict[int, float]]) -> list[int]:
    """The tiers of the first board: each holds what the corrected test cannot separate from its best."""
    order = sorted(range(len(models)), key=lambda place: -float(np.mean(list(models[place].values()))))
    pairs = [(a, b) for position, a in enumerate(order) for b in order[position + 1 :]]
    adjusted = dict(zip(pairs, holm([_plain(models, pair) for pair in pairs]), strict=True))
    tier, best, found = 0, -1, [0] * len(models)
    for place in order:
        if tier == 0 or adjusted[best, place] < 0.05:
            tier, best = tier + 1, place
        found[place] = tier
    return found


def _plain(models: Sequence[dict[int, float]], pair: tuple[int, int]) -> float:
    compared = compare_paired(models[pair[0]], models[pair[1]])
    assert compared is not None and compared.p is not None
    return compared.p


class Boards(NamedTuple):
    """Boards of one line of the table."""

    noise: str
    means: Sequence[float]
    n: int
    shared: float = 0.3

    @property
    def words(self) -> list[str]:
        """The first columns."""
        apart = "" if self.shared else ", none of the seed"
        means = "equal" if self.means[0] == self.means[-1] else "first board"
        return [f"{self.noise}{apart}", means, str(len(self.means)), str(self.n)]


def board(rng: np.random.Generator, drawn: Boards) -> list[dict[int, float]]:
    """Scores by seed of every model; ``shared`` of the variance is the seed's, the same for all models."""
    own = SHAPES[drawn.noise](rng, (len(drawn.means), drawn.n)) * math.sqrt(1 - drawn.shared)
    common = rng.normal(size=(1, drawn.n)) * math.sqrt(drawn.shared)
    scores = np.asarray(drawn.means)[:, None] + SD * (own + common)
    return [dict(enumerate(row)) for row in scores.tolist()]


def simulated(rng: np.random.Generator, drawn: Boards, repeats: int) -> list[str]:
    """One line of the table."""
    means = drawn.means
    pairs = list(combinations(range(len(means)), 2))
    different = [pair for pair in pairs if means[pair[0]] != means[pair[1]]]
    wrong, covered, tier_wrong, found, plain_found, widths = 0, 0, 0, 0, 0, []
    for _ in range(repeats):
        models = board(rng, drawn)
        ranking = rank(models, [True] * len(means))
        observed = [float(np.mean(list(one.values()))) for one in models]

        def errs(pair: tuple[int, int], better: bool) -> bool:
            first, second = means[pair[0]], means[pair[1]]
            return first == second or (first > second) != better

        told = [pair for pair in pairs if ranking.p[pair] < 0.05]
        wrong += any(errs(pair, observed[pair[0]] > observed[pair[1]]) for pair in told)
        found += len([pair for pair in told if pair in different])
        widths += [one.high - one.low + 1 for one in ranking.sets]
        covered += all(
            one.low <= 1 + sum(other > mean for other in means) + sum(other == mean for other in means) - 1
            and one.high >= 1 + sum(other > mean for other in means)
            for one, mean in zip(ranking.sets, means, strict=True)
        )
        plain = dict(zip(pairs, holm([_plain(models, pair) for pair in pairs]), strict=True))
        plain_found += sum(plain[pair] < 0.05 for pair in different)
        tier = tiers(models)
        tier_wrong += any(tier[a] != tier[b] and means[a] == means[b] for a, b in pairs)
    share = (lambda count: f"{count / (repeats * len(different)):.2f}") if different else (lambda count: "-")
    return [
        *drawn.words,
        f"{wrong / repeats:.3f}",
        f"{covered / repeats:.3f}",
        share(found),
        f"{np.mean(widths):.1f}",
        share(plain_found),
        f"{tier_wrong / repeats:.3f}" if len(different) < len(pairs) else "-",
    ]


def rows(rng: np.random.Generator, repeats: int) -> list[list[str]]:
    """Coverage of a row's intervals, and errors of what is said about a row."""
    found = []
    for shape, noise in SHAPES.items():
        if noise is unequal:
            continue
        for n in SEEDS:
            drawn = noise(rng, (repeats, n)) * SD
            uptake = 0.4 + drawn + rng.normal(size=drawn.shape) * 0.03
            iml = 0.3 * (0.4 + drawn) + noise(rng, (repeats, n)) * 0.03
            t = [estimate(row) for row in drawn.tolist()]
            ratio = [quotient(one, other) for one, other in zip(iml.tolist(), uptake.tolist(), strict=True)]
            heaps = np.mean([two_heaps(row) for row in drawn.tolist()])
            least = np.mean([above(row, 0.02) for row in (drawn + 0.02).tolist()])
            nought = np.mean([above(row, 0.02) for row in drawn.tolist()])
            found.append(
                [shape, str(n), _covers(t, 0.0), _covers(ratio, 0.3), *(f"{x:.3f}" for x in (least, nought, heaps))]
            )
    return found


def _covers(intervals: Sequence[object], truth: float) -> str:
    inside = [i.low <= truth <= i.high for i in intervals if i is not None and i.low is not None]  # type: ignore[attr-defined]
    return f"{np.mean(inside):.3f}"


def bystanders(rng: np.random.Generator, repeats: int) -> tuple[int, float]:
    """How many of 14 rank sets another ten models move: ones that are not registered, and registered ones."""
    moved, moved_registered = 0, 0
    for _ in range(repeats):
        models = board(rng, Boards("normal", [*FIRST_BOARD, *rng.uniform(0, 0.7, 10)], 8))
        before = rank(models[:MODELS], [True] * MODELS).sets
        strangers = rank(models, [True] * MODELS + [False] * 10).sets[:MODELS]
        moved += sum(one != other for one, other in zip(before, strangers, strict=True))
        own = rank(models, [True] * len(models)).p
        kept = rank(models[:MODELS], [True] * MODELS).p
        moved_registered += sum((own[pair] < 0.05) != (kept[pair] < 0.05) for pair in kept)
    return moved, moved_registered / repeats


def nothing_learned(rng: np.random.Generator, repeats: int) -> list[list[str]]:
    """How often a model that took in nothing is said to have done so.

    The first board asked whether the larger of two lifts is above zero, the present one whether the mean exact match
    under both tags is above a least size.
    """
    found = []
    for n in (*SEEDS, 40):
        lifts = rng.normal(size=(repeats, 2, n)) * SD
        larger = [estimate(row) for row in lifts.max(axis=1).tolist()]
        first = np.mean([one is not None and one.low is not None and one.low > 0 for one in larger])
        now = [np.mean([above(row, 0.02) for row in (lifts.mean(axis=1) + at).tolist()]) for at in (0.0, 0.02)]
        found.append([str(n), *(f"{share:.3f}" for share in (first, *now))])
    return found


def on_board() -> list[list[str]]:
    """What rank sets, and the way of the first board, say about the shipped board."""
    found = []
    for task, rows in ranked_rows().items():
        for measure in ("iml", "discernment"):
            own = [row for row in rows if measure in row.ranks]
            n_pairs = len(own) * (len(own) - 1) // 2
            apart = sum(len(row.apart[measure]) for row in own) // 2
            widths = [row.ranks[measure].high - row.ranks[measure].low + 1 for row in own]
            line = [task, measure, str(len(own)), f"{apart} of {n_pairs}", f"{np.mean(widths):.1f}"]
            found.append(line + (_first_way([row.by_seed("iml") for row in own]) if measure == "iml" else ["-", "-"]))
    return found


def _first_way(models: list[dict[int, float]]) -> list[str]:
    """Pairs that plain t separates, and pairs in different tiers that it does not."""
    pairs = list(combinations(range(len(models)), 2))
    plain = dict(zip(pairs, holm([_plain(models, pair) for pair in pairs]), strict=True))
    tier = tiers(models)
    apart = [pair for pair in pairs if tier[pair[0]] != tier[pair[1]]]
    contradicted = sum(plain[pair] >= 0.05 for pair in apart)
    return [f"{sum(p < 0.05 for p in plain.values())} of {len(pairs)}", f"{contradicted} of {len(apart)}"]


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, ["---"] * len(headings), *lines))


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boards", type=int, default=2000)
    repeats: int = parser.parse_args().boards
    rng = np.random.default_rng(2024)
    equal = [0.3] * MODELS
    wanted = [Boards(shape, means, n) for shape in SHAPES for means in (equal, FIRST_BOARD) for n in SEEDS]
    wanted += [Boards("normal", means, 8, shared=0.0) for means in (equal, FIRST_BOARD)]
    wanted += [Boards(shape, [0.3] * size, 8) for size in (3, 22) for shape in SHAPES]
    lines = [simulated(rng, one, repeats) for one in wanted]
    moved, registered = bystanders(rng, max(1, repeats // 10))
    text = "\n\n".join(
        [
            f"# Simulated boards: {repeats} a line",
            "Made by `python benchmarks/statistics/run.py`, which says what the columns are.",
            table(BOARD_HEADINGS, lines),
            f"Ten models that are not registered moved {moved} rank sets of the registered ones; ten that are changed "
            f"{registered:.1f} of 91 verdicts on a board, by Holm's correction over more pairs.",
            f"# Simulated rows: {repeats} a line",
            table(ROW_HEADINGS, rows(rng, repeats)),
            f"# A model that took in nothing, said to have taken in something: {repeats} a line",
            table(NOTHING_HEADINGS, nothing_learned(rng, repeats)),
            "# The shipped board",
            table(SHIPPED_HEADINGS, on_board()),
        ]
    )
    (Path(__file__).parent / "RESULTS.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
