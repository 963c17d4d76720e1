"""Seeds, as a person writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from iml_bench.errors import shown
from iml_bench.spec.written import understood

LIMIT = 2**32
"""Seeds are smaller than this."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """``5`` is seeds 0 to 4, ``3-7`` is 3 to 7, ``1,4,9`` is those.

    Raises:
        ValueError: when it is none of these, names no seed, or one that is too large.
    """
    for number in re.findall("[0-9]+", text):
        if len(number) > 1 and number.startswith("0"):
            raise ValueError(understood("int", number))
        if len(number) > 10 or int(number) >= LIMIT:
            raise ValueError(f"{shown(repr(text))} names seeds that are not below {LIMIT}")
    seeds: list[int] = []
    if re.fullmatch("[0-9]+", text):
        seeds = list(range(int(text)))
    elif re.fullmatch("[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)+|[0-9]+-[0-9]+", text):
        for part in text.split(","):
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    if not seeds:
        raise ValueError(f"{text!r} names no seed; give a number (5: seeds 0 to 4), 3-7 or 1,4,9")
    return tuple(dict.fromkeys(seeds))


def show_seeds(seeds: Sequence[int]) -> str:
    """Seeds in order and as short as they can be written: ``0-4``, ``1,4,9``."""
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)
