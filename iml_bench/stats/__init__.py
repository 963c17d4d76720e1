"""From single cells to statements over seeds: intervals, paired comparisons, rank sets, slopes.

What a cell's own scores are is its protocol's matter (``protocols``).
"""

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
)

__all__ = [
    "CONFIDENCE",
    "LEAST_RANKED",
    "BySeed",
    "Comparison",
    "Equivalence",
    "Interval",
    "RankSet",
    "Ranking",
    "above",
    "compare_paired",
    "equivalence",
    "estimate",
    "holm",
    "linearised",
    "quotient",
    "rank",
    "seeds_to_decide",
    "slopes",
    "two_heaps",
]
