"""What the tests of hostile records and entries share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iml_bench.runtime import Runtime
from iml_bench.submit import check_submission, find_submission

MEANING = (
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "mlp-m</td><b>", "&lt;x&gt;<i>", "javascript:<x>"),
    *("=HYPERLINK('http://x')", "+1+1", "-2+3", "@SUM(A1)", "=cmd|' /C calc'!A0"),
    *("../../etc/passwd", "/etc/passwd", "..\\..\\x", "a/../../b", "~root", ".", "..", "CON", "x\u0000y"),
    *("two\nlines", "bell\x07", "\x1b[31mred", "\u202egnp.exe", "\ud800", "x" * 300, "x" * 200_000, " ", ""),
)
"""Texts that a browser, a spreadsheet, a shell or a terminal would take for more than a text."""


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value of plain data that holds no other, with where it stands."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for key, part in inside:
        found = True
        yield from leaves(part, (*path, key))
    if not found:
        yield path, value


def refusals(path: Path) -> list[str]:
    """The sentences of everything that does not pass; each is one line of moderate length that can be printed."""
    before = sorted(part for part in path.parent.rglob("*"))
    checks = check_submission(find_submission(path), [], Runtime(device="cpu"))
    assert sorted(part for part in path.parent.rglob("*")) == before, "a check writes nothing"
    sentences = [failure.problem for check in checks for failure in check.failures]
    for text in sentences:
        assert text.isprintable() and 10 < len(text) < 1200 and "Traceback" not in text, text[:2000]
    assert all(check.passed != bool(check.failures) for check in checks)
    return sentences
