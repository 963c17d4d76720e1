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


@pytest.mark.parametrize(("label", "least"), [("vision@2", 10), ("text@2", 8)])
def test_the_leaderboard_that_is_quoted_is_the_leaderboard(label: str, least: int) -> None:
    """All but the tier, which a model that comes later may move."""
    section = README.split(f"**`{label.partition('@')[0]}`**")[1].split("!")[0]
    quoted = re.findall(r"^\|[^|]*\| `(.+?)` \| (.+?) \|$", section, re.MULTILINE)
    rows = {row.model: row for row in BOARD.rows if row.label == label and not row.reference}
    assert len(quoted) >= least
    for model, cells in quoted:
        row = rows[model]
        names = ("lift_reliable", "lift_unreliable", "lift_fresh", "stage1_gap")
        wanted = [count(row.parameters), score(row), *(signed(row.mean(name)) for name in names)]
        assert cells.split(" | ") == wanted, model


def test_the_slopes_that_are_quoted_are_those_of_the_families() -> None:
    found = {family.family: family for family in BOARD.families}
    assert set(found) >= {"mlp", "convnet", "llama", "neox"}
    for name, family in found.items():
        quoted = with_interval(family.slope)
        assert f"`{name}` {quoted}" in README.replace("\n", " ")


def test_the_figures_that_are_shown_are_there() -> None:
    shown = re.findall(r"!\[.+?\]\((.+?)\)", README)
    assert len(shown) == 2
    assert all((Path(__file__).parent.parent / path).is_file() for path in shown)
