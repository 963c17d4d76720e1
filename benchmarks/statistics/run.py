"""Do the board's statistics err as often as they say? Simulated boards and rows with known truth.

``python benchmarks/statistics/run.py`` writes RESULTS.md beside this file; ``--boards 200`` is a quick look.

Boards have 14 models. *Error*: the share of boards with a wrong "significantly better" (family-wise). *Coverage*: the
share of boards on which every rank set holds its model's rank (of equal models, any rank that they share). *Found*:
the share of truly different pairs that are separated. *Width*: ranks in a set. Beside them the way of the first board:
Holm's correction over plain paired t-tests, and greedy tiers, whose error is two equal models in two tiers.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iml_bench.stats import above, compare_paired, estimate, holm, quotient, rank, two_heaps

Floats = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, int]], Floats]
MODELS = 14
SEEDS = (5, 8, 16)
SD = 0.06
FIRST_BOARD = (0.70, 0.53, 0.53, 0.50, 0.48, 0.47, 0.45, 0.37, 0.35, 0.33, 0.20, 0.07, 0.04, 0.02)
"""Means of the first board's vision models."""


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


SHAPES: dict[str, Noise] = {"normal": normal, "unequal variances": unequal, "skewed": skewed, "two heaps": heaped}


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


def board(
    rng: np.random.Generator, means: Sequence[float], n: int, noise: Noise, shared: float
) -> list[dict[int, float]]:
    """Scores by seed of every model; ``shared`` of the variance is the seed's, the same for all models."""
    own = noise(rng, (len(means), n)) * math.sqrt(1 - shared)
    common = rng.normal(size=(1, n)) * math.sqrt(shared)
    scores = np.asarray(means)[:, None] + SD * (own + common)
    return [dict(enumerate(row)) for row in scores.tolist()]


def boards(rng: np.random.Generator, means: Sequence[float], n: int, noise: Noise, repeats: int) -> list[str]:
    """One line of the table."""
    pairs = list(combinations(range(len(means)), 2))
    different = [pair for pair in pairs if means[pair[0]] != means[pair[1]]]
    wrong, covered, tier_wrong, found, plain_found, widths = 0, 0, 0, 0, 0, []
    for _ in range(repeats):
        models = board(rng, means, n, noise, 0.3)
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
        models = board(rng, [*FIRST_BOARD, *rng.uniform(0, 0.7, 10)], 8, normal, 0.3)
        before = rank(models[:MODELS], [True] * MODELS).sets
        strangers = rank(models, [True] * MODELS + [False] * 10).sets[:MODELS]
        moved += sum(one != other for one, other in zip(before, strangers, strict=True))
        own = rank(models, [True] * len(models)).p
        kept = rank(models[:MODELS], [True] * MODELS).p
        moved_registered += sum((own[pair] < 0.05) != (kept[pair] < 0.05) for pair in kept)
    return moved, moved_registered / repeats


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, ["---"] * len(headings), *lines))


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boards", type=int, default=2000)
    repeats: int = parser.parse_args().boards
    rng = np.random.default_rng(2024)
    lines = [
        [shape, "equal" if means[0] == means[-1] else "first board", str(n), *boards(rng, means, n, noise, repeats)]
        for shape, noise in SHAPES.items()
        for means in ([0.3] * MODELS, FIRST_BOARD)
        for n in SEEDS
    ]
    moved, registered = bystanders(rng, max(1, repeats // 10))
    headings = ["noise", "means", "seeds", "error", "coverage", "found", "width", "found by plain t", "error of tiers"]
    row_headings = [
        "noise",
        "seeds",
        "t covers",
        "Fieller covers",
        "above least at least",
        "above least at 0",
        "two heaps",
    ]
    text = "\n\n".join(
        [
            f"# Simulated boards: {repeats} of {MODELS} models each",
            "Made by `python benchmarks/statistics/run.py`, which says what the columns are.",
            table(headings, lines),
            f"Ten models that are not registered moved {moved} rank sets of the registered ones; ten that are changed "
            f"{registered:.1f} of 91 verdicts on a board, by Holm's correction over more pairs.",
            "# Simulated rows",
            table(row_headings, rows(rng, repeats)),
        ]
    )
    (Path(__file__).parent / "RESULTS.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
