"""Real submissions, changed: what is forged is refused by the check that should, what is harmless is accepted.

A few of each kind; ``benchmarks/faults/submissions.py`` makes a thousand.
"""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from making import CPU, copy_records, shipped

from iml_bench.records import Stored, read_items, read_record
from iml_bench.submit import Submission, check_submission, checking, find_submission
from iml_bench.submit.together import copied, likelihoods

FOLDER = Path(__file__).parents[1] / "benchmarks" / "faults"
sys.path.insert(0, str(FOLDER))
submissions, submitted, variations, wrappings = (
    importlib.import_module(name) for name in ("submissions", "submitted", "variations", "wrappings")
)
KINDS = sorted({way.kind for way in submitted.FORGERIES})


@pytest.fixture(scope="module")
def board() -> list[Stored]:
    found: list[Stored] = submissions.board_of([*submissions.forged_items.OTHERS.values()])
    return found


@pytest.fixture(autouse=True)
def _of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry of pictures and one of texts."""
    monkeypatch.setattr(submissions, "ENTRIES", ("mlp-xs", "neox-xs"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_forged_submissions_are_refused_by_the_check_that_should(kind: str, board: list[Stored]) -> None:
    rng = random.Random(kind)
    ways = [way for way in submitted.FORGERIES if way.kind == kind]
    (tally,) = submissions.refuse(rng.sample(ways, 4), rng, board)
    assert tally.problems == []
    assert (tally.made, tally.refused, tally.by_the_check, tally.accepted, tally.tracebacks) == (4, 4, 4, 0, 0)


@pytest.mark.slow
def test_harmless_variations_are_accepted(board: list[Stored]) -> None:
    tally = submissions.accept(len(variations.HARMLESS), random.Random(0), board)
    assert tally.problems == [] and tally.accepted == tally.made == len(variations.HARMLESS)


@pytest.mark.slow
def test_what_agrees_with_itself_is_for_the_rerun(board: list[Stored]) -> None:
    """These are accepted: should a check come to see one, it belongs among those that must be refused."""
    for tally in submissions.refuse(submitted.UNSEEN, random.Random(0), board):
        assert tally.accepted == tally.made and tally.problems == []


def test_every_check_is_met_and_every_kind_has_several_ways() -> None:
    assert {way.expected for way in submitted.FORGERIES} == {*checking.CHECKS}
    assert all(sum(way.kind == kind for way in submitted.FORGERIES) >= 4 for kind in KINDS)
    assert len({(way.kind, way.what) for way in submitted.FORGERIES}) == len(submitted.FORGERIES)
    drawn = [*submissions.drawn(submitted.FORGERIES, 1000, random.Random(0))]
    assert {(way.kind, way.what) for way in drawn} == {(way.kind, way.what) for way in submitted.FORGERIES}


def test_what_is_accepted_refused_otherwise_or_falls_over_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    (way,) = (way for way in submitted.FORGERIES if way.what == "no time")

    def tally(way: Any = way) -> Any:
        return submissions.refuse([way], random.Random(0), [])[0]

    assert tally().problems == []
    other = tally(way._replace(expected=checking.SCORES))
    assert (other.refused, other.by_the_check) == (1, 0) and "and not by 'scores are those" in other.problems[0]
    monkeypatch.setattr(checking, "form_problems", lambda stored: iter(()))
    blind = tally()
    assert blind.accepted == 1 and "it is accepted" in blind.problems[0]
    monkeypatch.setattr(checking, "form_notes", lambda record: 1 / 0)
    fallen = tally()
    assert (fallen.tracebacks, fallen.accepted) == (1, 0) and "ZeroDivisionError" in fallen.problems[0]
    table = submissions.table_of([blind], submissions.Tally("harmless", 3, accepted=3), [fallen])
    assert "| together | 1 | 0 | 0 | 1 | 0 |" in table and "| harmless | 3 | 0 | - | 3 | 0 |" in table


def refusals(root: Path) -> list[str]:
    checks = check_submission(find_submission(root), [], CPU)
    return [failure.problem for check in checks for failure in check.failures]


def test_what_lies_beside_records_is_named(tmp_path: Path) -> None:
    paths = copy_records(shipped("mlp-xs", seeds="0") + shipped("mlp-xs", seeds="10[01]"), tmp_path)
    assert refusals(tmp_path) == []
    (tmp_path / ".iml-bench-store").touch()
    assert refusals(tmp_path) == [], "what a run leaves in its folder"
    (tmp_path / "mlp-xs" / "deep.json").mkdir()
    (tmp_path / "mlp-xs" / "deep.json" / "all.zip").touch()
    (tmp_path / "away").symlink_to("mlp-xs")
    (tmp_path / "mlp-xs" / "x.parquet").symlink_to(paths[0].with_suffix(".parquet"))
    link, inner, stranger = sorted(refusals(tmp_path), key=lambda text: "deep" in text or "x.parquet" in text)
    assert link == f"{tmp_path}/away is not looked into: it is a link"
    assert {inner, stranger} == {
        f"{tmp_path}/mlp-xs/x.parquet is not looked into: it is a link",
        f"{tmp_path}/mlp-xs/deep.json/all.zip belongs to no record and is no entry",
    }


def test_a_results_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    made = submitted.Submitted.taken(tmp_path / "made", "mlp-xs", random.Random(0), 1)
    assert refusals(made.root) == []
    for part in ("models", "results"):
        (made.root / part).rename(tmp_path / part)
        (made.root / part).symlink_to(tmp_path / part)
        assert f"{made.root}/{part} is not looked into: it is a link" in refusals(made.root)


@pytest.mark.parametrize(("share", "seen"), [(1.0, True), (0.1, True), (0.02, False)])
def test_a_part_of_another_trainings_outcomes_is_a_copy(share: float, seen: bool) -> None:
    one, other = shipped("mlp-xs", seeds="[01]")
    ours, theirs = (read_items(stored)["log_likelihood"].to_numpy().copy() for stored in (one, other))
    rows = np.random.default_rng(0).permutation(len(ours))[: int(share * len(ours))]
    ours[rows] = theirs[rows]
    tables = (pl.DataFrame({"log_likelihood": values}) for values in (ours, theirs))
    trained = dict(zip((one.path, other.path), map(likelihoods, tables), strict=True))
    found = list(copied({one.path: one, other.path: other}, trained, {}))
    assert [path for path, _ in found] == ([other.path] if seen else [])


def test_nearly_nothing_but_certainty_is_often_the_same_and_no_copy() -> None:
    one, other = shipped("mlp-xs", seeds="[01]")
    both = {one.path: one, other.path: other}

    def found(*columns: list[float]) -> list[Path]:
        tables = [likelihoods(pl.DataFrame({"log_likelihood": values})) for values in columns]
        return [path for path, _ in copied(both, dict(zip(both, tables, strict=True)), {})]

    certain = [-1e-7 * step for step in range(40)]
    assert found(certain, certain) == [other.path]
    assert found(certain, [*certain[1:], -1.0]) == []


def test_no_parameters_are_believed(tmp_path: Path) -> None:
    """Of texts a cell's vocabulary is part of the model; an encoder-decoder model reads otherwise."""
    for model, task in (("mlp-xs", "vision"), ("t5-m", "text")):
        (stored,) = shipped(model, task, seeds="0")[:1]
        record = read_record(stored.path)
        for by in (0, 1):
            changed = record.model_copy(update={"parameters": (record.parameters or 0) + by})
            submission = Submission((Stored(stored.path, changed),), (), ())
            found = [
                check.failures for check in check_submission(submission, [], CPU) if check.name == checking.TRAINING
            ]
            assert ["parameters: it says" in one.problem for one in found[0]] == [True] * by
