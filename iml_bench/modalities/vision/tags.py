"""Tags as strips of squares that differ in nothing but identity."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from iml_bench.errors import UsageError

TRIED_AT_ONCE: Final = 4096
MOST_TRIED: Final = 250
"""Draws of that many strips for each tag before it is given up."""


def balanced_tags(rng: np.random.Generator, n: int, bits: int) -> NDArray[np.int64]:
    """Strips of equal brightness, any two of them equally far apart.

    Each has ``bits // 2`` white squares, and any two differ in ``2 * round(bits / 4)`` of them, as two random strips
    do on average. A network sees a strip's brightness whatever the squares are, and a question has no strip at all:
    strips of unequal weight would be unequally far from a question.

    One strip is drawn after the other, uniformly among those that fit the ones before, so that more tags change none.

    Args:
        rng: what they are drawn with.
        n: number of tags.
        bits: squares of a strip.

    Returns:
        ``[n, bits]``, 1 where a square is white.

    Raises:
        UsageError: when none is found that fits.
    """
    weight, distance = bits // 2, 2 * round(bits / 4)
    found = np.empty((0, bits), dtype=np.int64)
    even = np.arange(bits) < weight
    for _ in range(n):
        for _ in range(MOST_TRIED):
            tried = rng.permuted(np.tile(even, (TRIED_AT_ONCE, 1)), axis=1).astype(np.int64)
            # Of two strips of one weight the distance is twice what only one of them has.
            fits = (2 * (weight - tried @ found.T) == distance).all(axis=1)
            if fits.any():
                found = np.concatenate([found, tried[np.argmax(fits)][None]])
                break
        else:
            raise UsageError(
                f"a strip of {bits} squares holds no {n} tags of {weight} white ones, any two of which differ in "
                f"{distance}; give it more squares (render.tag_rows, render.tag_square_px) or render.tag_code free"
            )
    return found
