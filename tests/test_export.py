"""``iml-bench leaderboard export``: the same numbers in every form."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from making import command, write_result

from iml_bench.spec import ModelEntry


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranked models, and a third over three seeds that carries the name of the first."""
    root = tmp_path_factory.mktemp("records")
    twin = ModelEntry(name="mlp-m", source="ref:mlp?hidden=9", modality="vision", family="mlp", architecture="other")
    for seed in range(8):
        write_result(root, "mlp-m", seed, 0.3)
        write_result(root, "convnet-s", seed, 0.1 * (seed % 3))
    for seed in range(3):
        write_result(root, seed=seed, iml=0.2, entry=twin)
    return root


@pytest.fixture(scope="module")
def exported(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "export"
    done = command("leaderboard", "export", "--out", str(out), "--records", str(records))
    assert done.returncode == 0, done.stderr
    return out


def board(records: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads(
        command("leaderboard", "--records", str(records), "--json").stdout
    )
    return found


def test_every_form_holds_the_board(exported: Path, records: Path) -> None:
    expected = board(records)
    assert json.loads((exported / "board.json").read_text()) == expected
    for table in (pl.read_parquet(exported / "board.parquet"), pl.read_csv(exported / "board.csv")):
        for column in ("model", "model_key", "registered"):
            assert table[column].to_list() == [row[column] for row in expected["rows"]], column
        for end in ("low", "high"):
            places = [row["ranks"].get("iml", {}).get(end) for row in expected["rows"]]
            assert table[f"iml_rank_{end}"].to_list() == places and set(places) > {None}
        for name, end in (("iml", "mean"), ("iml", "low"), ("discernment", "high"), ("trust", "mean")):
            scores = [row["scores"].get(name, {}).get(end) for row in expected["rows"]]
            assert table[name if end == "mean" else f"{name}_{end}"].to_list() == scores, name


def test_figures_are_drawn(exported: Path) -> None:
    names = {path.name for path in (exported / "figures").iterdir()}
    assert names == {f"vision-2-{kind}.{form}" for kind in ("iml", "lifts") for form in ("svg", "png")}
    for path in (exported / "figures").glob("*.png"):
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert width > 600 and height > 300
    drawn = (exported / "figures/vision-2-lifts.svg").read_text()
    assert "convnet-s" in drawn and "http" not in drawn.replace("http://www.w3.org", "")


def test_models_of_one_name_get_cards_of_their_own(exported: Path, records: Path) -> None:
    cards = [yaml.safe_load(path.read_text())["model-index"][0] for path in (exported / "model-index").iterdir()]
    values = {card["results"][0]["metrics"][0]["value"] for card in cards}
    assert len(cards) == 3
    assert values == {row["scores"]["iml"]["mean"] for row in board(records)["rows"]}


def test_the_same_records_give_the_same_bytes(exported: Path, records: Path, tmp_path: Path) -> None:
    assert command("leaderboard", "export", "--out", str(tmp_path), "--records", str(records)).returncode == 0
    first, second = ({p.relative_to(root): p.read_bytes() for p in root.rglob("*.*")} for root in (exported, tmp_path))
    assert first == second


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    "spoil", [lambda out: (out / "thesis.tex").write_text("years"), lambda out: (out / "x").mkdir()]
)
def test_a_folder_that_holds_something_else_is_left_alone(spoil: Spoil, records: Path, tmp_path: Path) -> None:
    spoil(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = command("leaderboard", "export", "--out", str(tmp_path), "--records", str(records))
    assert done.returncode == 2 and "not written here" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
