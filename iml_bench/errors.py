"""The errors a user can mend, each one clear sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """What was asked for cannot be done as asked; the command line prints the sentence and exits with 2."""


class CellError(Exception):
    """One cell cannot go on (a diverged loss, no memory left); it fails and the other cells go on."""


class DivergedError(CellError):
    """A cell whose training or answers are no finite numbers any more: another learning rate may do."""


def shown(text: str, limit: int = 120) -> str:
    """Text that somebody else wrote, as it can stand in a sentence: one line, cut at ``limit``, nothing unprintable."""
    cut = text if len(text) <= limit else text[:limit] + "..."
    if cut.isprintable():  # nearly always
        return cut
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in cut)


def nearest(asked: str, names: Iterable[str]) -> str | None:
    """The name among ``names`` that looks most like ``asked``, or None when none is near."""
    by_lower = {name.lower(): name for name in names}
    found = difflib.get_close_matches(asked[:200].lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def unknown(kind: str, asked: str, names: Iterable[str], listing: str) -> UsageError:
    """The one sentence for every name that does not exist.

    Args:
        kind: what was looked up ("task", "model", "field of the task").
        asked: the name as the user gave it.
        names: the names that exist.
        listing: how to see them all, e.g. ``iml-bench tasks``.
    """
    near = nearest(asked, list(names))
    hint = f": did you mean {near!r}?" if near else ""
    return UsageError(f"unknown {kind} {shown(repr(asked))}{hint} ({listing} lists them all)")
