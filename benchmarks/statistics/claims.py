"""Do the decisions on claims err as often as they say? Simulated suites with known truth.

``python benchmarks/statistics/claims.py`` writes CLAIMS.md beside this file; ``--suites 200`` is a quick look.

A suite has 15 claims, three of each kind: means, differences, slopes over five points, trends over five and symmetries
over six, whose points share seeds (30 % of a score's variance is the seed's). *Errors*: the share of suites with a
single false decision of a kind: an effect where there is none, one in the wrong direction, or "no effect larger than
delta" where there is one. *Coverage*: of the 95 % intervals of single claims. *Power*: the share of claims decided as
is true. In the second table seeds are added until claims are decided (``suite run --until decided``), at most as many
as it says; *seeds* is how many a claim took on average, and the power of all of them at once stands beside that of the
rule.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from run import SHAPES, Noise, table

from iml_bench.stats import Contrast, Decided, decide, estimand, looks_until

SD = 0.04
DELTA = 0.05
"""Of every estimand in its own unit."""
SEEDS = (5, 8, 16)
MOST = (8, 32)
POINTS = {"mean": 1, "difference": 2, "slope": 5, "trend": 5, "symmetry": 6}
EACH = 3
STOPPED = (
    "noise",
    "most seeds",
    "truth, in deltas",
    "errors: effect",
    "errors: none",
    "seeds",
    "power",
    "power of all at once",
)
TRUTHS = (0.0, 0.5, 1.0, 2.0)
"""Of every estimand, in deltas."""


def means(kind: str, truth: float) -> list[float]:
    """Scores of the points of an estimand without noise."""
    k = POINTS[kind]
    if kind == "symmetry":
        return [truth / 2] * k
    if kind in ("mean", "difference"):
        return [truth] if kind == "mean" else [0.0, truth]
    return [place * truth / (1 if kind == "slope" else k - 1) for place in range(k)]


def contrast(rng: np.random.Generator, kind: str, truth: float, n: int, noise: Noise) -> Contrast:
    """One claim of a suite, whose seeds are drawn."""
    k = POINTS[kind]
    scores = noise(rng, (k, n)) * SD * math.sqrt(0.7) + rng.normal(size=(1, n)) * SD * math.sqrt(0.3)
    scores += np.array(means(kind, truth))[:, None]
    values = estimand(kind, list(range(k)), [dict(enumerate(row)) for row in scores.tolist()])
    return Contrast(list(values.values()), "none" if kind == "symmetry" else "up", DELTA)


class Counted(NamedTuple):
    """What the suites of one line come to."""

    effect_errors: int
    none_errors: int
    covered: float
    power: dict[str, float]


def is_false(one: Decided, kind: str, truth: float) -> bool:
    """Whether something was decided that does not hold of what was drawn."""
    if kind == "symmetry":
        holds = {"supported": abs(truth) < DELTA, "contradicted": abs(truth) > DELTA}
    else:
        holds = {"supported": truth > 0, "contradicted": truth < 0, "no effect": abs(truth) < DELTA}
    return not holds.get(one.decision, True)


def kind_of(decision: str, kind: str) -> str:
    """What a decision says there is: an effect, or none worth caring about."""
    return "none" if decision == ("supported" if kind == "symmetry" else "no effect") else "effect"


def count(rng: np.random.Generator, truth: float, n: int, noise: Noise, suites: int) -> Counted:
    """Draw suites and decide them."""
    kinds = [kind for kind in POINTS for _ in range(EACH)]
    effect, none, covered = 0, 0, 0
    right = dict.fromkeys(POINTS, 0)
    for _ in range(suites):
        found = decide([contrast(rng, kind, truth, n, noise) for kind in kinds])
        decided = list(zip(kinds, found, strict=True))
        false = [kind_of(one.decision, kind) for kind, one in decided if is_false(one, kind, truth)]
        effect += "effect" in false
        none += "none" in false
        for kind, one in decided:
            covered += covers(one, truth)
            right[kind] += is_right(kind, one, truth)
    power = {kind: hits / (suites * EACH) for kind, hits in right.items()}
    return Counted(effect, none, covered / (suites * len(kinds)), power)


class Stopped(NamedTuple):
    """What the suites of one line of the second table come to."""

    effect_errors: int
    none_errors: int
    seeds: float
    power: float
    power_at_once: float


def stop(rng: np.random.Generator, truth: float, most: int, noise: Noise, suites: int) -> Stopped:
    """Draw suites and decide them look by look, and once with all seeds."""
    kinds = [kind for kind in POINTS for _ in range(EACH)]
    looks = looks_until(most)
    effect, none, seeds, right, at_once = 0, 0, 0, 0, 0
    for _ in range(suites):
        whole = [contrast(rng, kind, truth, most, noise) for kind in kinds]
        found: list[Decided] | None = None
        for n in looks:
            open_ = len(kinds) if found is None else sum(one.decision == "undecided" for one in found)
            seeds += open_ * (n - (looks[looks.index(n) - 1] if n > looks[0] else 0))
            found = decide([one._replace(values=one.values[:n]) for one in whole], len(looks), found)
        assert found is not None
        false = [
            kind_of(one.decision, kind) for kind, one in zip(kinds, found, strict=True) if is_false(one, kind, truth)
        ]
        effect += "effect" in false
        none += "none" in false
        right += sum(map(is_right, kinds, found, [truth] * len(kinds)))
        at_once += sum(map(is_right, kinds, decide(whole), [truth] * len(kinds)))
    n_claims = suites * len(kinds)
    return Stopped(effect, none, seeds / n_claims, right / n_claims, at_once / n_claims)


def is_right(kind: str, one: Decided, truth: float) -> bool:
    """Whether something was decided, and holds."""
    return one.decision != "undecided" and not is_false(one, kind, truth)


def covers(one: Decided, truth: float) -> bool:
    """Whether the interval holds the truth."""
    found = one.estimate
    return found is not None and found.low is not None and found.high is not None and found.low <= truth <= found.high


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suites", type=int, default=2000)
    suites: int = parser.parse_args().suites
    rng = np.random.default_rng(2025)
    lines = []
    for shape, noise in SHAPES.items():
        for n in SEEDS:
            for truth in TRUTHS:
                found = count(rng, truth * DELTA, n, noise, suites)
                errors = [f"{found.effect_errors / suites:.3f}", f"{found.none_errors / suites:.3f}"]
                power = [f"{share:.2f}" for share in found.power.values()]
                lines.append([shape, str(n), f"{truth:g}", *errors, f"{found.covered:.3f}", *power])
    stopped = []
    for shape, noise in SHAPES.items():
        for most in MOST:
            for truth in TRUTHS:
                one = stop(rng, truth * DELTA, most, noise, suites)
                errors = [f"{one.effect_errors / suites:.3f}", f"{one.none_errors / suites:.3f}"]
                numbers = [f"{one.seeds:.1f}", f"{one.power:.2f}", f"{one.power_at_once:.2f}"]
                stopped.append([shape, str(most), f"{truth:g}", *errors, *numbers])
    headings = ("noise", "seeds", "truth, in deltas", "errors: effect", "errors: none", "coverage", *POINTS)
    text = "\n\n".join(
        [
            f"# Simulated suites of {EACH * len(POINTS)} claims: {suites} a line",
            "Made by `python benchmarks/statistics/claims.py`, which says what the columns are; the last five are the "
            f"power by kind of estimand. The sd between seeds is {SD}, delta {DELTA}.",
            table(headings, lines),
            "Seeds added until claims are decided, looked at after 4, 8, 16, ... of them:",
            table(STOPPED, stopped),
        ]
    )
    (Path(__file__).parent / "CLAIMS.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
