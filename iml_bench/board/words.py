"""How numbers are written, in a terminal and on a page; the same words everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from iml_bench.board.rows import Row
from iml_bench.protocols import Measure
from iml_bench.stats import Decision, Interval

NOTHING = "nothing internalised"
DECISIONS: Final[dict[Decision, str]] = {
    "supported": "supported",
    "contradicted": "contradicted",
    "no effect": "no effect larger than delta",
    "undecided": "undecided",
}
"""How the decision on a claim is called."""
NOT_MEASURED = "-"


def by_decision(found: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """``[("supported", ["mlp-m", "mlp-l"]), ("undecided", ["mlp-s"])]``: who, under what was decided.

    Args:
        found: who it is about, and one of the words of ``DECISIONS``.
    """
    named: dict[str, list[str]] = {}
    for who, word in found:
        named.setdefault(word, []).append(who)
    return [(word, named[word]) for word in DECISIONS.values() if word in named]


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign, also where it rounds to nought; a dash where it was not measured."""
    return NOT_MEASURED if value is None else f"{value + 0.0:+.{digits}f}"


def with_interval(value: Interval | None, digits: int = 2) -> str:
    """``+0.50 [+0.44, +0.56]``; the interval is left blank where there is none."""
    return NOT_MEASURED if value is None else signed(value.mean, digits) + interval(value, digits)


def interval(value: Interval | None, digits: int = 2) -> str:
    """`` [+0.44, +0.56]``, what follows the mean; empty where there is none."""
    if value is None or value.low is None:
        return ""
    return f" [{signed(value.low, digits)}, {signed(value.high, digits)}]"


def amount(value: float | None, measure: Measure, digits: int = 2) -> str:
    """A measure's value, with a sign where it can be negative."""
    text = signed(value, digits)
    return text if measure.low < 0 else text.replace("+", "")


def share(value: float | None) -> str:
    """``0.42``: exact match and chance have no sign."""
    return NOT_MEASURED if value is None else f"{value:.2f}"


def share_with_interval(value: Interval | None) -> str:
    """``0.42 [0.38, 0.46]``."""
    return NOT_MEASURED if value is None else with_interval(value).replace("+", "")


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


BEST = "may be the best"


def apart(separated: bool | None) -> str:
    """What the board says of two rows."""
    return {True: "apart", False: "not apart", None: "not tested"}[separated]


def ranks(row: Row, measure: Measure | None = None) -> str:
    """``2-7``: the ranks that a row may have by a measure, or by the headline; a star where 1 is among them."""
    found = row.ranks.get((measure or row.headline).name)
    if found is None:
        return NOT_MEASURED
    text = str(found.low) if found.low == found.high else f"{found.low}-{found.high}"
    return text + "*" * found.may_be_best


def heaps(row: Row) -> str:
    """What is said of seeds in two heaps; empty where they are in one."""
    if row.heaps is None:
        return ""
    low, high = signed(row.heaps.low), signed(row.heaps.high)
    return f"its seeds fall into two heaps: median {signed(row.heaps.median)}, {low} to {high}"


def remarks(rows: Iterable[Row]) -> list[str]:
    """A sentence for every row in two heaps, and for every reason why rows are not ranked."""
    rows = list(rows)
    unranked: dict[str, list[str]] = {}
    for row in rows:
        if row.unranked:
            unranked.setdefault(f"{row.label}: not ranked, {row.unranked}", []).append(row.model)
    found = [f"{row.label}: {row.model}: {said}" for row in rows if (said := heaps(row))]
    return found + [f"{reason}: {some(names)}" for reason, names in unranked.items()]


def some(names: Sequence[str], most: int = 8) -> str:
    """``a, b and 3 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def why_no_score(row: Row) -> str | None:
    """What stands in place of the score; None where the score can be read as it is."""
    if row.score is None:
        return "failed" if row.failed_seeds else row.reasons.get(row.headline.name, "not measured")
    return NOTHING if row.internalised is False and not row.reference else None


def score(row: Row) -> str:
    """The headline with its interval, or what is to be said in its place."""
    why = why_no_score(row)
    if why is None:
        return with_interval(row.score)
    return why if row.score is None else f"{why} ({signed(row.score.mean)})"


def headline(rows: Iterable[Row]) -> str:
    """What the headline column of some rows is called; several names where they are of several protocols."""
    return " / ".join(dict.fromkeys(row.headline.heading for row in rows))


def columns(rows: Iterable[Row]) -> list[Measure]:
    """The measures beside the headline that have a column of their own, as far as any of the rows has them."""
    rows = list(rows)
    known = {measure.name: measure for row in rows for measure in row.measures}
    leading = {row.headline.name for row in rows}
    return [
        measure
        for name, measure in known.items()
        if name not in leading and measure.shown != "record" and any(name in row.scores for row in rows)
    ]


def seeds(row: Row, wanted: int | None = None) -> str:
    """``5``, ``3 of 5``, ``4 of 5 (1 failed)``.

    Args:
        row: the row.
        wanted: how many there should be, where that is known.
    """
    missing = f" of {wanted}" if wanted is not None and wanted > row.n_seeds else ""
    failed = f" ({len(row.failed_seeds)} failed)" if row.failed_seeds else ""
    return f"{row.n_seeds}{missing}{failed}"
