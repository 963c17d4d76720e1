"""Years as answers: classes of years, coarser the longer ago (paper's code, both real data sets)."""

from __future__ import annotations


def convert_year(year: int) -> str:
    """The century up to 1900 ("13 century", "2 century BC"), the decade up to 1999 ("1920s"), then the year itself."""
    if year <= 1900:
        return f"{(abs(year) + 99) // 100} century{' BC' if year < 0 else ''}"
    return f"{year // 10 * 10}s" if year < 2000 else str(year)
