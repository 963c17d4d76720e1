"""From single cells to statements over seeds: intervals, paired comparisons, rank sets, slopes.

What a cell's own scores are is its protocol's matter (``protocols``).
"""

from iml_bench.stats.claims import (
    FIRST_LOOK,
    Contrast,
    Decided,
    Decision,
    decide,
    estimand,
    lack_of_fit,
    local_slopes,
    looks_until,
    seeds_needed,
)
from iml_bench.stats.comparing import (
    LEAST_RANKED,
    BySeed,
    Comparison,
    Ranking,
    RankSet,
    compare_paired,
    holm,
    rank,
)
from iml_bench.stats.intervals import (
    CONFIDENCE,
    Equivalence,
    Interval,
    above,
    equivalence,
    estimate,
    linearised,
    quotient,
    seeds_to_decide,
    slopes,
    two_heaps,
    within_seeds,
)

__all__ = [
    "CONFIDENCE",
    "FIRST_LOOK",
    "LEAST_RANKED",
    "BySeed",
    "Comparison",
    "Contrast",
    "Decided",
    "Decision",
    "Equivalence",
    "Interval",
    "RankSet",
    "Ranking",
    "above",
    "compare_paired",
    "decide",
    "equivalence",
    "estimand",
    "estimate",
    "holm",
    "lack_of_fit",
    "linearised",
    "local_slopes",
    "looks_until",
    "quotient",
    "rank",
    "seeds_needed",
    "seeds_to_decide",
    "slopes",
    "two_heaps",
    "within_seeds",
]
