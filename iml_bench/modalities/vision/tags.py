"""Tags as strips of squares that differ in nothing but identity."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from iml_bench.errors import UsageError

TRIED_AT_ONCE: Final = 4096
MOST_TRIED: Final = 250
"""Draws of that many strips for each tag before it is given up."""


def balanced_tags(rng: np.random.Generator, n: int, rows: int, columns: int) -> NDArray[np.int64]:
    """Strips that are equally bright everywhere, any two of them equally far apart.

    A network sees a strip's brightness whatever its squares are, and one that looks at small patches sees that of
    each patch; a question has no strip at all, and strips that are unequally bright are unequally far from it. So in
    every two neighbouring columns just half of the squares are white (an odd last column is black), and any two
    strips differ in as many squares as two random ones do on average, or in the nearest number that is possible.

    One strip is drawn after the other, uniformly among those that fit the ones before, so that more tags change none.

    Args:
        rng: what they are drawn with.
        n: number of tags.
        rows: of squares in a strip.
        columns: of squares in a strip, 2 or more.

    Returns:
        ``[n, rows * columns]``, row by row, 1 where a square is white.

    Raises:
        UsageError: when none is found that fits.
    """
    blocks = columns // 2
    weight = rows * blocks
    step = 2 if rows > 1 else 4  # three strips of one row differ pairwise in an even number of blocks
    distance = max(step, step * round(weight / step))
    half = np.arange(2 * rows) < rows
    found = np.empty((0, rows * columns), dtype=np.int64)
    for _ in range(n):
        for _ in range(MOST_TRIED):
            white = rng.permuted(np.tile(half, (TRIED_AT_ONCE * blocks, 1)), axis=1).reshape(-1, blocks, rows, 2)
            tried = np.zeros((TRIED_AT_ONCE, rows, columns), dtype=np.int64)
            tried[:, :, : 2 * blocks] = white.transpose(0, 2, 1, 3).reshape(-1, rows, 2 * blocks)
            strips = tried.reshape(TRIED_AT_ONCE, -1)
            # Of two strips of one weight the distance is twice what only one of them has.
            fits = (2 * (weight - strips @ found.T) == distance).all(axis=1)
            if fits.any():
                found = np.concatenate([found, strips[np.argmax(fits)][None]])
                break
        else:
            raise UsageError(
                f"a strip of {rows} x {columns} squares holds no {n} tags that are equally bright and differ in "
                f"{distance} squares each; give it more squares (render.tag_rows, render.tag_square_px) or "
                "render.tag_code free"
            )
    return found
