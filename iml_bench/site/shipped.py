"""The reports on claims that are shipped with the leaderboard, as its pages show them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from iml_bench.board import Panel
from iml_bench.board.words import DECISIONS, by_decision
from iml_bench.errors import UsageError
from iml_bench.paths import data_root
from iml_bench.site.panels import PANELS, read_panels
from iml_bench.site.report import who

PLACE = "claims"
"""Where they lie, in the leaderboard's folder and on its page."""


class ShippedReport(NamedTuple):
    """One report."""

    name: str
    claims: list[tuple[str, str, list[tuple[str, list[str]]]]]
    """A claim's name, what it says, and what was decided of whom."""
    counts: str
    """``12 supported, 3 contradicted``, over all verdicts."""
    files: dict[str, bytes]
    """By their path on the page."""
    panels: list[Panel]
    """What probes found inside its models."""
    problems: list[str]
    """A sentence for what of it cannot be shown."""

    @property
    def page(self) -> str:
        """Its first page."""
        return f"{PLACE}/{self.name}/index.html"


def shipped_reports(root: Path | None = None) -> list[ShippedReport]:
    """All of them, by name.

    Args:
        root: the leaderboard's folder; the package's own without.
    """
    folder = (root or data_root() / "leaderboard") / PLACE
    return [_read(path.parent) for path in sorted(folder.glob("*/report.json"))]


def _read(folder: Path) -> ShippedReport:
    data = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    of: dict[str, list[tuple[str, str]]] = {claim["name"]: [] for claim in data["suite"]["claims"]}
    for one in data["claims"]:
        of[one["claim"]].append((who(one["model"], one["task"]), DECISIONS[one["decision"]]))
    claims = [(one["name"], one["says"], by_decision(of[one["name"]])) for one in data["suite"]["claims"]]
    counts = Counter(DECISIONS[one["decision"]] for one in data["claims"])
    shown = ", ".join(f"{counts[word]} {word}" for word in DECISIONS.values() if counts[word])
    files = {
        f"{PLACE}/{folder.name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    panels, problems = list[Panel](), list[str]()
    if (folder / PANELS).exists():
        try:
            panels = read_panels(folder / PANELS)
        except UsageError as error:
            problems.append(str(error))
    return ShippedReport(folder.name, claims, shown, files, panels, problems)
