"""How numbers are written, in a terminal and on a page; the same words everywhere."""

from __future__ import annotations

from iml_bench.board.rows import Interval, Row

NOTHING = "nothing internalised"
NOT_MEASURED = "-"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign, also where it rounds to nought; a dash where it was not measured."""
    return NOT_MEASURED if value is None else f"{value + 0.0:+.{digits}f}"


def with_interval(mean: float | None, low: float | None, high: float | None) -> str:
    """``+0.50 [+0.44, +0.56]``; the interval is left blank where there is none."""
    return signed(mean) + interval(mean, low, high)


def interval(mean: float | None, low: float | None, high: float | None) -> str:
    """`` [+0.44, +0.56]``, what follows the mean; empty where there is none."""
    return "" if mean is None or low is None or high is None else f" [{signed(low)}, {signed(high)}]"


def share(value: float | None) -> str:
    """``0.42``: exact match and chance have no sign."""
    return NOT_MEASURED if value is None else f"{value:.2f}"


def share_with_interval(value: Interval | None) -> str:
    """``0.42 [0.38, 0.46]``."""
    return NOT_MEASURED if value is None else with_interval(value.mean, value.low, value.high).replace("+", "")


def count(parameters: int | None) -> str:
    """``153k``, ``1.2M``."""
    if parameters is None:
        return NOT_MEASURED
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if parameters >= size:
            return f"{parameters / size:.{1 if parameters < 10 * size else 0}f}{unit}"
    return str(parameters)


def p_value(p: float | None) -> str:
    """Three significant digits; a dash for a single shared seed."""
    return NOT_MEASURED if p is None else f"{p:.3g}"


def why_no_score(row: Row) -> str | None:
    """What stands in place of the score; None where the score can be read as it is."""
    if row.iml is None:
        return "failed" if row.failed_seeds else row.reasons.get("iml", "not measured")
    return None if row.internalised or row.reference else NOTHING


def score(row: Row) -> str:
    """IML with its interval, or what is to be said in its place."""
    why = why_no_score(row)
    if why is None:
        return with_interval(row.iml, row.iml_low, row.iml_high)
    return why if row.iml is None else f"{why} ({signed(row.iml)})"


def seeds(row: Row, wanted: int | None = None) -> str:
    """``5``, ``3 of 5``, ``4 of 5 (1 failed)``.

    Args:
        row: the row.
        wanted: how many there should be, where that is known.
    """
    missing = f" of {wanted}" if wanted is not None and wanted > row.n_seeds else ""
    failed = f" ({len(row.failed_seeds)} failed)" if row.failed_seeds else ""
    return f"{row.n_seeds}{missing}{failed}"
