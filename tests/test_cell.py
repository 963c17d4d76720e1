"""The whole protocol at smoke size: what a cell's outcomes hold, and what the reference learners read."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from making import CPU, SEATS, scored, small_cell

from iml_bench.registry import TASKS
from iml_bench.run.cell import run_cell
from iml_bench.spec import CellSpec

EMBEDDED = ("vision", "text")


@pytest.mark.parametrize("task", EMBEDDED)
def test_every_question_is_asked_once_per_branch(task: str) -> None:
    cell = small_cell("random", task=task)
    items, groups, questions = run_cell(cell, CPU).items, cell.task.groups, cell.task.world.n_attributes
    new = items.filter(pl.col("stage") == 2)
    n_new = groups.new_reliable + groups.new_unreliable + groups.new_fresh + groups.new_undefined
    assert len(new) == 4 * n_new * questions
    assert len(items) - len(new) == (groups.reliable + groups.unreliable + groups.undefined) * cell.task.heldout
    assert not new.select("fold", "entity", "attribute").is_duplicated().any()


@pytest.mark.parametrize("task", EMBEDDED)
@pytest.mark.parametrize("crossover", SEATS)
def test_the_branches_exchange_the_tags_of_the_same_entities(task: str, crossover: str) -> None:
    cell = small_cell("random", task=task, crossover=crossover)
    items = run_cell(cell, CPU).items.filter(pl.col("stage") == 2)
    assert set(items["group"]) == set(SEATS[crossover])
    for group, tags in SEATS[crossover].items():
        for branch, tag in enumerate(tags):
            rows = items.filter(pl.col("group") == group, pl.col("fold") == branch)
            assert rows["entity"].n_unique() == 4
            assert set(rows["tag"]) == {tag}
            assert set(rows["truthful"]) == {None if tag is None else True}
            claimed = rows["claimed"]
            assert (claimed.is_null() if tag is None else claimed.eq_missing(rows["gold"])).all()
            stated = set(range(6)) if task == "text" and tag is not None else {None}
            assert set(rows["place"]) == stated, "at which place a definition states an attribute"
    assert set(items["fold"]) == set(range(len(SEATS[crossover]["new_fresh"])))


@pytest.mark.parametrize("task", EMBEDDED)
@pytest.mark.parametrize(("reference", "iml"), [("oracle", 1.0), ("gullible", 0.0)])
def test_the_oracle_reads_the_ceiling_and_the_gullible_zero(task: str, reference: str, iml: float) -> None:
    for seed in range(3):
        scores = scored(run_cell(small_cell(reference, seed, task), CPU).items)
        assert scores["iml"] == iml
        assert scores["iml_nats"] == pytest.approx(iml * np.log(10), abs=0.01)
        assert scores.exact_match["reliable"] == 1.0


@pytest.mark.parametrize("task", EMBEDDED)
def test_the_random_learner_reads_zero_within_its_error(task: str) -> None:
    scores = scored(run_cell(CellSpec(task=TASKS.get(task), model=small_cell("random").model, seed=0), CPU).items)
    assert scores["iml"] is not None and scores["iml_se_items"] is not None
    assert abs(scores["iml"]) < 4 * scores["iml_se_items"]
    assert scores.exact_match["new_reliable"] == pytest.approx(0.1, abs=0.06)


def test_a_small_network_learns_whom_to_believe_and_not_at_alpha_one_half() -> None:
    """The instrument reads something where there is something to read, at a fraction of the default size."""
    size = {f"groups__{name}": 60 for name in ("reliable", "unreliable")}
    size |= {f"groups__{name}": 30 for name in SEATS["square"]}
    size |= {"recipe__batch_size": 64, "recipe__stage1__steps": 500, "recipe__stage2__steps": 120}
    nats = {}
    for alpha in (1.0, 0.5):
        cells = [small_cell("mlp-l", seed, alpha=alpha, **size) for seed in (300, 301)]
        scores = [scored(run_cell(cell, CPU).items) for cell in cells]
        nats[alpha] = np.mean([score["iml_nats"] for score in scores])
    assert nats[1.0] > 0.8
    assert nats[0.5] < nats[1.0] / 2
