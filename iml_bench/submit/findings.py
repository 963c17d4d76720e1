"""What the checks of a submission found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from iml_bench.errors import shown


class Finding(NamedTuple):
    """What is wrong with one file."""

    file: str
    """Empty where the sentence names it."""
    problem: str
    """One sentence."""


class Check(NamedTuple):
    """One check of all that was handed in."""

    name: str
    passed: bool
    failures: tuple[Finding, ...]
    notes: tuple[str, ...]
    """What a reader should know, such as what could not be checked here."""


class Findings:
    """Collects what the checks find, in the order in which they are named."""

    def __init__(self, names: Iterable[str]) -> None:
        """Args: names: of the checks."""
        self.names = tuple(names)
        self._failures: dict[str, list[Finding]] = defaultdict(list)
        self._notes: dict[str, list[str]] = defaultdict(list)

    def add(self, name: str, path: Path | None, problems: Iterable[str]) -> None:
        """Note the failures of a check of one file."""
        assert name in self.names
        self._failures[name] += [Finding(shown(str(path), 300) if path else "", problem) for problem in problems]

    def note(self, name: str, text: str) -> None:
        """Note something once that is no failure."""
        if text not in self._notes[name]:
            self._notes[name].append(text)

    def results(self) -> list[Check]:
        """All checks."""
        return [
            Check(name, not self._failures[name], tuple(self._failures[name]), tuple(self._notes[name]))
            for name in self.names
        ]
