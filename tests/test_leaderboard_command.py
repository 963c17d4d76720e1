"""``iml-bench leaderboard`` and ``iml-bench compare`` in a terminal."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from making import command, entry, write_failure, write_result
from rich.console import Console

from iml_bench.board import build_board, leaderboard_tasks, words
from iml_bench.cli.tables import PLOT, interval_plot, print_rows
from iml_bench.records import Store
from iml_bench.registry import MODELS
from iml_bench.stats import RankSet


def test_leaderboard_and_compare_print_the_same_numbers_as_their_json(tmp_path: Path) -> None:
    for seed in range(8):
        write_result(tmp_path, "mlp-m", seed, 0.3)
        write_result(tmp_path, "mlp-s", seed, 0.2 * (seed % 2))
    folder = ["--records", str(tmp_path)]
    rows = json.loads(command("leaderboard", *folder, "--json").stdout)["rows"]
    assert [(row["model"], round(row["scores"]["iml"]["mean"], 6)) for row in rows] == [("mlp-m", 0.3), ("mlp-s", 0.1)]
    shown = command("leaderboard", *folder).stdout
    assert "+0.30 [+0.30, +0.30]" in shown
    lines = [line.split()[:2] for line in shown.splitlines()]
    assert ["1*", "mlp-m"] in lines and ["2", "mlp-s"] in lines
    assert words.BEST in shown
    (versus,) = json.loads(command("compare", "mlp-m", "mlp-s", *folder, "--json").stdout)
    assert versus["difference"]["mean"] == pytest.approx(0.2)
    compared = command("compare", "mlp-m", "mlp-s", *folder).stdout
    assert f"{versus['p']:.3g}" in compared and "chosen beforehand. " in compared
    assert versus["separated"] and " apart" in compared
    unknown = command("compare", "mlp-m", "mlp-x", *folder)
    assert (unknown.returncode, "did you mean" in unknown.stderr) == (2, True)


def test_leaderboard_shows_exact_match_by_group(tmp_path: Path) -> None:
    for seed in range(3):
        write_result(tmp_path, "mlp-m", seed, 0.3)
    printed = command("leaderboard", "--records", str(tmp_path), "--groups").stdout
    lines = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    assert "0.80 [0.80, 0.80]" in lines["new_reliable"]
    assert "0.50 [0.50, 0.50]" in lines["new_unreliable"]


def test_markup_in_a_model_name_is_shown_as_it_is(tmp_path: Path) -> None:
    write_result(tmp_path, entry=entry("[red]x[/red]<b>", "ref:mlp"))
    assert "[red]x[/red]<b>" in command("leaderboard", "--records", str(tmp_path)).stdout


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two perceptrons and a convnet, three seeds each, and a failed one."""
    root = tmp_path_factory.mktemp("records")
    for seed in range(3):
        write_result(root, "mlp-m", seed, 0.3, parameters=2000)
        write_result(root, "mlp-s", seed, 0.1 * seed, parameters=1000)
        write_result(root, "convnet-s", seed, 0.2, parameters=3000)
        write_result(root, "oracle", seed, 0.5)
    write_failure(root, "convnet-m")
    return root


def rows_of(root: Path, *arguments: str) -> list[str]:
    printed = command("leaderboard", "--records", str(root), "--json", *arguments)
    assert printed.returncode == 0, printed.stderr
    return [row["model"] for row in json.loads(printed.stdout)["rows"]]


def test_the_json_is_the_board(three: Path) -> None:
    entries = [listed.spec for listed in MODELS.list() if listed.spec]
    board = build_board(Store(three).scan()[0], entries, leaderboard_tasks())
    printed = json.loads(command("leaderboard", "--records", str(three), "--json").stdout)
    assert printed == board.model_dump(mode="json")
    assert {row["model"] for row in printed["absent"]} >= {"mlp-l", "convnet-m", "neox-m"}


@pytest.mark.parametrize(
    ("column", "order"),
    {
        "iml": ["mlp-m", "convnet-s", "mlp-s", "convnet-m"],
        "iml_se_items": ["mlp-s", "convnet-s", "mlp-m", "convnet-m"],
        "parameters": ["convnet-s", "mlp-m", "mlp-s", "convnet-m"],
        "model": ["convnet-m", "convnet-s", "mlp-m", "mlp-s"],
    }.items(),
)
def test_rows_can_be_sorted_and_references_stay_last(three: Path, column: str, order: list[str]) -> None:
    assert rows_of(three, "--sort", column) == [*order, "oracle"]


def test_a_family_can_be_picked(three: Path) -> None:
    assert rows_of(three, "--family", "mlp") == ["mlp-m", "mlp-s", "oracle"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--family", "mpl"], "unknown family among the records 'mpl': did you mean 'mlp'?"),
        (["--task", "visoin"], "unknown task among the records 'visoin': did you mean 'vision'?"),
        (["--sort", "imls"], "unknown column 'imls': did you mean 'iml'?"),
        (["--csv", "--json"], "--csv and --json are two forms; give one"),
    ],
)
def test_what_is_not_there_gets_one_sentence(three: Path, arguments: list[str], sentence: str) -> None:
    done = command("leaderboard", "--records", str(three), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_the_csv_has_the_rows_in_order(three: Path) -> None:
    printed = command("leaderboard", "--records", str(three), "--csv", "--sort", "model").stdout
    assert [line["model"] for line in csv.DictReader(io.StringIO(printed))] == rows_of(three, "--sort", "model")


def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str], three: Path) -> None:
    rows = build_board(Store(three).scan()[0], [], []).rows
    long = rows[0].model_copy(update={"model": "test-efficientnet-ln"})
    ranks = {"iml": RankSet(low=1, high=14, of=14)}
    print_rows([row.model_copy(update={"ranks": ranks}) for row in (long, *rows[1:])], Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    (shown,) = (line for line in lines if " mlp-s " in line)
    assert shown.split()[:2] == ["1-14*", "mlp-s"] and shown.count("[") == 2
    assert not any("…" in line for line in lines)


def test_two_that_are_not_the_boards_are_not_tested(tmp_path: Path) -> None:
    for seed in range(8):
        write_result(tmp_path, "mlp-m", seed, 0.3 + 0.1 * (seed % 2))
        write_result(tmp_path, seed=seed, iml=0.1 * (seed % 3), entry=entry("one", "ref:mlp?hidden=9"))
        write_result(tmp_path, seed=seed, iml=0.4 + 0.1 * (seed % 3), entry=entry("other", "ref:mlp?hidden=7"))
    done = command("compare", "mlp-m", "one", "other", "--records", str(tmp_path), "--json")
    told = {(row["first"], row["second"]): row["separated"] for row in json.loads(done.stdout)}
    assert told == {("mlp-m", "one"): True, ("mlp-m", "other"): True, ("one", "other"): None}


def test_several_models_are_compared_two_by_two(three: Path) -> None:
    done = command("compare", "mlp-m", "mlp-s", "convnet-s", "--records", str(three))
    assert done.stdout.count("●") == 3
    assert "over the 3 comparisons" in done.stdout
    pairs = json.loads(command("compare", "mlp-m", "mlp-s", "convnet-s", "--records", str(three), "--json").stdout)
    assert {(row["first"], row["second"]) for row in pairs} == {
        ("mlp-m", "mlp-s"),
        ("mlp-m", "convnet-s"),
        ("mlp-s", "convnet-s"),
    }
    unknown = command("compare", "mlp-m", "mlp-s", "--measure", "discernmnet", "--records", str(three))
    assert (unknown.returncode, unknown.stdout) == (2, "") and "did you mean 'discernment'?" in unknown.stderr
    alone = command("compare", "mlp-m", "--records", str(three))
    assert alone.returncode == 2 and "name two models" in alone.stderr


def test_an_interval_is_drawn_where_it_lies() -> None:
    line = interval_plot(0.0, -0.5, 1.0, 1.0)
    assert len(line) == PLOT
    assert [line.index(mark) for mark in "├●┤"] == [round(0.25 * (PLOT - 1)), PLOT // 2, PLOT - 1]
    assert interval_plot(1.0, None, None, 1.0).strip(" ") == "|" + " " * (PLOT // 2 - 1) + "●"
    assert interval_plot(0.0, 0.0, 0.0, 0.0)[PLOT // 2] == "●"
