"""The whole protocol at smoke size: what a cell's outcomes hold, and what the reference learners read."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from making import CPU, scored, small_cell

from iml_bench.registry import TASKS
from iml_bench.run.cell import run_cell
from iml_bench.spec import CellSpec

EMBEDDED = ("vision", "text")


@pytest.mark.parametrize("task", EMBEDDED)
def test_every_question_is_asked_once_per_fold(task: str) -> None:
    cell = small_cell("random", task=task)
    items, groups, questions = run_cell(cell, CPU).items, cell.task.groups, cell.task.world.n_attributes
    new = items.filter(pl.col("stage") == 2)
    n_new = groups.new_reliable + groups.new_unreliable + groups.new_fresh + groups.new_undefined
    assert len(new) == 2 * n_new * questions
    assert len(items) - len(new) == (groups.reliable + groups.unreliable + groups.undefined) * cell.task.heldout
    assert not new.select("fold", "entity", "attribute").is_duplicated().any()


@pytest.mark.parametrize("task", EMBEDDED)
def test_the_folds_exchange_the_tags_of_the_same_entities(task: str) -> None:
    items = run_cell(small_cell("random", task=task), CPU).items.filter(pl.col("stage") == 2)
    tags = items.unique(["entity", "fold"]).pivot("fold", index=["entity", "group"], values="tag")
    for group, first, second in (
        ("new_reliable", "reliable", "unreliable"),
        ("new_unreliable", "unreliable", "reliable"),
        ("new_fresh", "fresh", "fresh"),
        ("new_undefined", None, None),
    ):
        rows = tags.filter(pl.col("group") == group)
        assert set(rows["0"]) == {first}
        assert set(rows["1"]) == {second}


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
    groups = {"reliable": 60, "unreliable": 60, "new_reliable": 30, "new_unreliable": 30, "new_undefined": 10}
    size = {f"groups__{name}": n for name, n in groups.items()}
    size |= {"recipe__batch_size": 64, "recipe__stage1__steps": 500, "recipe__stage2__steps": 120}
    nats = {}
    for alpha in (1.0, 0.5):
        cells = [small_cell("mlp-l", seed, alpha=alpha, **size) for seed in (300, 301)]
        scores = [scored(run_cell(cell, CPU).items) for cell in cells]
        nats[alpha] = np.mean([score["iml_nats"] for score in scores])
    assert nats[1.0] > 0.8
    assert nats[0.5] < nats[1.0] / 2
