"""Measures: what they are of items, and that one more shows everywhere, for every record ever made."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from making import CPU, copy_records, item_rows, scored, shipped, write_result
from reading_pages import Page
from typer.testing import CliRunner

from iml_bench.board import build_board, build_rows
from iml_bench.cli.app import app
from iml_bench.errors import UsageError
from iml_bench.protocols import Measure, measures_of
from iml_bench.protocols.two_stage import TWO_STAGE, TwoStage
from iml_bench.records import Store, Stored, read_items, read_record
from iml_bench.site.build import build_site
from iml_bench.submit import check_submission, find_submission


@pytest.mark.parametrize("iml", [0.0, 0.1, 0.3, 0.5])
def test_iml_is_the_difference_built_into_the_items(iml: float) -> None:
    scores = scored(item_rows(iml))
    assert scores["iml"] == pytest.approx(iml)
    assert scores["iml_nats"] == pytest.approx(iml * 1.9)
    assert scores["uptake"] == pytest.approx(0.5 + iml)
    assert scores["discernment"] == pytest.approx(iml / (0.5 + iml))
    assert scores["stage1_gap"] == 1.0


def test_exchanging_the_tags_changes_only_the_sign_of_iml() -> None:
    items = item_rows(0.3)
    swapped = items.with_columns(
        pl.when((pl.col("stage") == 2) & pl.col("tag").is_not_null())
        .then(pl.col("tag").replace({"reliable": "unreliable", "unreliable": "reliable"}))
        .otherwise(pl.col("tag"))
        .alias("tag")
    )
    assert scored(swapped)["iml"] == pytest.approx(-0.3)


def test_the_order_of_rows_does_not_matter() -> None:
    items = item_rows(0.3)
    assert scored(items.sample(fraction=1, shuffle=True, seed=3)) == scored(items)


def test_a_score_without_its_groups_is_null_with_a_reason() -> None:
    items = item_rows(0.3).filter(pl.col("group") != "new_undefined")
    scores = scored(items)
    assert scores["uptake"] is None and scores["discernment"] is None and scores["trust"] is None
    assert "group" in scores.reasons["uptake"]
    assert scores["iml"] == pytest.approx(0.3)


def test_item_error_is_clustered_by_entity() -> None:
    items = item_rows(0.3)
    often = pl.concat([items, items, items])  # three identical questions per entity are no more evidence
    once, thrice = (scored(table)["iml_se_items"] for table in (items, often))
    differences = [1.0] * 6 + [0.0] * 14
    assert once == pytest.approx(np.std(differences, ddof=1) / np.sqrt(20))
    assert thrice == pytest.approx(once)


def alpha_run() -> pl.DataFrame:
    """Items of a stage 1 in which each tag stood on true and on false definitions."""
    items = item_rows(0.3).with_columns(truthful=pl.lit(None, pl.Boolean), claimed=pl.lit(None, pl.String))
    one = items.filter(pl.col("group").is_in(["reliable", "unreliable"]))
    parts = [
        one.with_columns(truthful=pl.lit(truth), exact_match=pl.lit(right), claimed=pl.lit("x"))
        for truth, right in ((True, True), (True, True), (False, True), (False, False))
    ]
    return pl.concat([items.filter(~pl.col("group").is_in(["reliable", "unreliable"])), *parts])


def test_true_and_false_definitions_are_told_apart_where_a_group_has_both(tmp_path: Path) -> None:
    both = alpha_run()
    match = scored(both).exact_match
    names = [f"{group}/{kind}" for group in ("reliable", "unreliable") for kind in ("true", "false")]
    assert {name: match[name] for name in match if "/" in name} == dict(zip(names, (1, 0.5) * 2, strict=True))
    assert match["reliable"] == 0.75
    one_kind = both.filter(pl.col("truthful").fill_null(value=True))
    older = both.drop("truthful", "claimed")
    assert not any("/" in name for table in (one_kind, older) for name in scored(table).exact_match)
    for number, table in enumerate((both, older, older.drop("set"))):
        path = write_result(tmp_path / str(number), table=table)
        assert read_items(Stored(path, read_record(path))).equals(table)


def test_a_record_with_a_score_out_of_its_bounds_is_refused(tmp_path: Path) -> None:
    path = write_result(tmp_path)
    for name, value in {"iml": 1.5, "iml_se_items": -0.1, "iml_nats": 1e7}.items():
        data = json.loads(path.read_text())
        data["scores"][name] = value
        (tmp_path / path.name).write_text(json.dumps(data))
        with pytest.raises(UsageError, match=f"scores.{name} lies between"):
            read_record(tmp_path / path.name)


def test_a_stored_score_that_nothing_here_knows_is_noted_and_one_that_differs_refused(tmp_path: Path) -> None:
    path, *_ = copy_records(shipped("random", seeds="0"), tmp_path / "results")
    data = json.loads(path.read_text())
    data["scores"] |= {"of_another_package": 0.5}
    path.write_text(json.dumps(data))
    checks = check_submission(find_submission(path), [], CPU)
    assert [check.failures for check in checks if check.failures] == []
    assert any("no measure of_another_package" in note for check in checks for note in check.notes)
    path.write_text(json.dumps(data | {"scores": data["scores"] | {"iml": 0.5}}))
    (failure,) = [failure for check in check_submission(find_submission(path), [], CPU) for failure in check.failures]
    assert "scores.iml: it says 0.5, and its items give" in failure.problem


SHARE = Measure(
    name="answered_x",
    label="share of x",
    heading="said x",
    description="how often the answer is x",
    of=lambda columns: float((columns["predicted"] == "x").mean()),
    low=0.0,
)


@pytest.fixture
def one_more(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """A measure that came after all records: one more entry in the protocol's list."""
    monkeypatch.setattr(TwoStage, "own_measures", (*TWO_STAGE.own_measures, SHARE))
    return SHARE


def printed(*arguments: str) -> str:
    """What the command line prints, in this process."""
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_one_more_measure_shows_for_every_record_ever_made(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for model, scores in {"mlp-m": (0.1, 0.2), "mlp-s": (0.4, 0.5)}.items():
        for seed, iml in enumerate(scores):
            write_result(tmp_path / "records", model, seed, iml)
    said = {  # of each seed, from the items: who is right says x
        model: [float((item_rows(iml)["predicted"] == "x").mean()) for iml in scores]  # type: ignore[union-attr]
        for model, scores in {"mlp-m": (0.1, 0.2), "mlp-s": (0.4, 0.5)}.items()
    }
    name = request.getfixturevalue("one_more").name
    folder = ("--records", str(tmp_path / "records"))

    rows = {row["model"]: row for row in json.loads(printed("leaderboard", *folder, "--json", "--sort", name))["rows"]}
    assert list(rows) == ["mlp-s", "mlp-m"]
    for model, values in said.items():
        assert [seed[name] for seed in rows[model]["per_seed"]] == values
        assert rows[model]["scores"][name]["mean"] == pytest.approx(np.mean(values))
    table = printed("leaderboard", *folder)
    assert "said x" in table and f"{np.mean(said['mlp-m']):.2f}" in table
    means = [rows[model]["scores"][name]["mean"] for model in ("mlp-s", "mlp-m")]
    lines = csv.DictReader(io.StringIO(printed("leaderboard", *folder, "--csv")))
    assert [float(line[name]) for line in lines] == means
    (versus,) = json.loads(printed("compare", "mlp-s", "mlp-m", "--measure", name, "--json", *folder))
    assert versus["difference"]["mean"] == pytest.approx(np.mean(said["mlp-s"]) - np.mean(said["mlp-m"]))
    assert "share of x" in printed("compare", "mlp-s", "mlp-m", "--measure", name, *folder)
    record = next((tmp_path / "records" / "mlp-m").glob("*-seed0.json"))
    assert f"{said['mlp-m'][0]:.3f}, share of x" in printed("show", str(record))

    printed("leaderboard", "build", "--out", str(tmp_path / "page"), *folder)
    cells = Page((tmp_path / "page" / "index.html").read_bytes()).find("td", "data-column")
    shown = [json.loads(cell.attributes["data-value"]) for cell in cells if cell.attributes["data-column"] == name]
    assert shown == means
    assert SHARE.description in (tmp_path / "page" / "guide.html").read_text()
    printed("leaderboard", "export", "--out", str(tmp_path / "export"), *folder)
    assert name in pl.read_parquet(tmp_path / "export" / "board.parquet").columns
    assert "share of x" in (tmp_path / "export" / "model-index" / "mlp-m.yaml").read_text()


def test_records_made_before_a_measure_pass_the_checks(one_more: Measure, tmp_path: Path) -> None:
    paths = copy_records(shipped("random", seeds="0"), tmp_path / "results")
    checks = check_submission(find_submission(paths[0]), [], CPU)
    assert [check.failures for check in checks if check.failures] == []


def test_items_are_read_only_for_what_a_record_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_result(tmp_path)
    path.with_suffix(".parquet").unlink()
    stored = Stored(path, read_record(path))
    assert build_rows([stored])[0].mean("iml") == pytest.approx(0.3)
    monkeypatch.setattr(
        TwoStage, "own_measures", (*TWO_STAGE.own_measures, replace(SHARE, missing="nobody said anything"))
    )
    (row,) = build_rows([stored])
    assert "answered_x" not in row.scores and "cannot be read" in row.reasons["answered_x"]
    assert row.mean("iml") == pytest.approx(0.3)


def test_what_older_items_cannot_say_is_null_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needy = replace(SHARE, needs=("truthful",), missing="no definition was false")
    path = write_result(tmp_path)
    monkeypatch.setattr(TwoStage, "own_measures", (*TWO_STAGE.own_measures, needy))
    (row,) = build_rows([Stored(path, read_record(path))])
    assert row.reasons["answered_x"] == "its items have no column truthful: an older iml-bench wrote them"
    assert scored(alpha_run())["answered_x"] is not None


def test_a_measure_that_fails_costs_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [
        replace(SHARE, name="raises", of=lambda columns: columns["no such"].mean()),
        replace(SHARE, name="nan", of=lambda columns: float("nan")),
    ]
    monkeypatch.setattr(TwoStage, "own_measures", (*TWO_STAGE.own_measures, *broken))
    scores = read_record(write_result(tmp_path)).scores
    assert scores is not None and scores["raises"] is None and scores["nan"] is None
    assert "KeyError" in scores.reasons["raises"] and "came out as nan" in scores.reasons["nan"]
    assert scores["iml"] == pytest.approx(0.3)


def test_a_protocol_with_a_single_measure_and_no_uptake_has_a_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TwoStage, "own_measures", (replace(SHARE, shown="headline"),))
    monkeypatch.setattr(TwoStage, "uptake", None)
    for seed in range(3):
        write_result(tmp_path, "mlp-m", seed, 0.1)
        write_result(tmp_path, "mlp-s", seed, 0.4)
    stored = Store(tmp_path).scan()[0]
    board = build_board(stored, [], [])
    assert [(row.model, row.ranks, row.internalised) for row in board.rows] == [
        ("mlp-s", {}, True),
        ("mlp-m", {}, True),
    ]
    page = Page(build_site(board, stored, [], [])["index.html"])
    assert "said x [95 %]" in [heading.said for heading in page.find("th")]
    assert {cell.attributes["data-column"] for cell in page.find("td", "data-column")}.isdisjoint({"iml"})


def test_every_measure_stands_in_the_readme() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    for measure in measures_of("two-stage"):
        family = f"`{measure.name.partition('_')[0]}_*`"
        assert f"`{measure.name}`" in readme or family in readme or measure.shown == "record", measure.name
