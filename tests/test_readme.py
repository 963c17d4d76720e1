"""What the README quotes is what the shipped records say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from iml_bench.board import build_board, leaderboard_tasks
from iml_bench.board.words import count, score, signed, with_interval
from iml_bench.paths import data_root
from iml_bench.records import Store

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BOARD = build_board(Store(data_root() / "leaderboard" / "results").scan()[0], [], leaderboard_tasks())


@pytest.mark.parametrize(("label", "least"), [("vision@2 tuned", 12), ("text@2 tuned", 8)])
def test_the_leaderboard_that_is_quoted_is_the_leaderboard(label: str, least: int) -> None:
    """All but the ranks, which a model that comes later may move."""
    section = README.split(f"**`{label.partition('@')[0]}`**")[1].split("!")[0]
    quoted = re.findall(r"^\|[^|]*\| `(.+?)` \| (.+?) \|$", section, re.MULTILINE)
    rows = {row.model: row for row in BOARD.rows if row.label == label and not row.reference}
    assert len(quoted) >= least
    for model, cells in quoted:
        row = rows[model]
        shown = cells.split(" | ")
        wanted = [count(row.parameters), f"{row.tuned['recipe.lr']:g}", score(row)]
        wanted += [with_interval(row.scores.get("discernment"))]
        wanted += [signed(row.mean(name)) for name in ("uptake", "trust", "distrust", "stage1_gap")]
        assert [*shown[:4], *shown[5:]] == wanted, model


def test_the_slopes_that_are_quoted_are_those_of_the_families() -> None:
    assert {family.family for family in BOARD.families} >= {"mlp"}
    for family in BOARD.families:
        quoted = f"`{family.family}` {family.measure} {with_interval(family.slope)}"
        assert quoted in README.replace("\n", " ")


def test_the_figures_that_are_shown_are_there() -> None:
    shown = re.findall(r"!\[.+?\]\((.+?)\)", README)
    assert shown
    assert all((Path(__file__).parent.parent / path).is_file() for path in shown)
