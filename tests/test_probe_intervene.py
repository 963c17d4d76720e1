"""The probe of interventions: its table and scores, what is refused, and that nothing is left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from making import CPU, small_cell
from torch import nn

from iml_bench.errors import UsageError
from iml_bench.learners.answers import answer_questions
from iml_bench.probes import intervene
from iml_bench.probes.base import scores_of_table
from iml_bench.probes.intervene import Intervene
from iml_bench.probes.subjects import branch_steps
from iml_bench.probes.tagged import hooked
from iml_bench.records import Attachments
from iml_bench.run.cell import CellOutcome, prepare, run_cell, train_until
from iml_bench.spec import CellSpec

LEARNT = {
    "mlp-xs": {"recipe__stage1__steps": 60, "recipe__stage2__steps": 30},
    "neox-xs": {"recipe__lr": 5e-3, "recipe__stage1__steps": 40, "recipe__stage2__steps": 12},
}
"""Enough for some answers to be right, so that scores are more than noughts."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def outcomes(cell: CellSpec, attachments: Attachments | None = None, **runtime: Any) -> CellOutcome:
    return run_cell(cell, replace(CPU, **runtime), attachments)


def at_stage1(cell: CellSpec, **runtime: Any) -> tuple[Any, Any]:
    """The data side of a cell, and its learner after stage 1."""
    setting, learner, _ = prepare(cell, replace(CPU, **runtime))
    train_until(setting, learner, "stage1")
    return setting, learner


def table(cell: CellSpec, probe: Intervene = Intervene(), **runtime: Any) -> pl.DataFrame:
    return probe(*at_stage1(cell, **runtime), "stage1")


def score(found: pl.DataFrame, name: str) -> float | None:
    return scores_of_table(Intervene(), found)[name][0]


def test_there_may_be_no_block_to_change() -> None:
    source = f"python:{Path(__file__).with_name('models_for_tests.py')}:linear"
    with pytest.raises(UsageError, match="no blocks"):
        table(small_cell(source))
    assert table(small_cell(source), Intervene(which="input"))["intervention"].to_list() == [
        "none",
        "input swap",
        "input ablate",
    ]


# The table.


@pytest.mark.parametrize("model,task", [("mlp-xs", "vision"), ("neox-xs", "text")])
@pytest.mark.parametrize("crossover", ["pair", "square"])
def test_without_a_change_it_is_the_cell(model: str, task: str, crossover: str, tmp_path: Path) -> None:
    cell = small_cell(model, task=task, crossover=crossover, **LEARNT[model])
    plain = outcomes(cell)
    attachments = Attachments(tmp_path / "record.json")
    probed = outcomes(cell, attachments, probes=(("intervene", "stage1"),))
    assert probed.items.equals(plain.items) and probed.stages == plain.stages
    (one,) = probed.attachments
    assert one.file is not None, one.reason
    found = pl.read_parquet(attachments.waiting[one.file].path)
    columns = {name: plain.items[name].to_numpy() for name in plain.items.columns}
    scores = intervene.score_items(cell.task, columns)
    first = found.row(0, named=True)
    for name in ("iml", "uptake", "discernment", "trust", "distrust"):
        assert first[name] == scores[name], name
    assert one.scores["iml_none"] == scores["iml"]
    assert scores["iml"]
    if crossover == "pair":
        assert one.scores["iml_input_swap"] == -scores["iml"]  # type: ignore[operator]
        assert one.scores["iml_input_ablate"] == 0
        taken = found.filter(pl.col("intervention") == "input swap")["taken"].item()
        assert taken == pytest.approx(first["taken"])
    swaps, places = (found.filter(pl.col("intervention") == name) for name in ("state swap", "direction ablate"))
    if task == "text":
        assert swaps["place"].to_list() == ["embeddings", "gpt_neox.layers.0", "gpt_neox.layers.1"]
        assert swaps["depth"].to_list() == [0, 1, 2]
        assert swaps["iml"][0] == one.scores["iml_input_swap"]
        assert swaps["iml"][2] == scores["iml"]  # behind the last block nothing reads the tag's token
        assert one.scores["iml_swap_first"] == swaps["iml"][1]
    else:
        assert places["place"].to_list() == ["3 ReLU", "6 ReLU"] and places["depth"].to_list() == [1, 2]
    assert one.scores["iml_ablate_first"] == places["iml"][0]


@pytest.mark.parametrize("model,task", [("mlp-xs", "vision"), ("neox-xs", "text")])
def test_items_are_asked_as_the_cell_asks_them(model: str, task: str) -> None:
    cell = small_cell(model, task=task, **LEARNT[model])
    own = outcomes(cell, micro_batch=5).items.filter(pl.col("stage") == 2)
    setting, learner = at_stage1(cell, micro_batch=5)
    subject = intervene._Subject(setting, learner, branch_steps(setting))
    seen: list[Any] = []
    original, intervene.answered = intervene.answered, lambda *arguments: seen.append(original(*arguments)) or seen[-1]
    try:
        subject.scores(subject.plan(("input swap",), 0)[0])
    finally:
        intervene.answered = original
    for name in ("fold", "entity", "group", "tag", "attribute", "exact_match", "log_likelihood"):
        assert np.concatenate([part[name] for part in seen]).tolist() == own[name].to_list(), name


def test_batches_may_be_cut() -> None:
    cell = small_cell("neox-xs", task="text", **LEARNT["neox-xs"])
    found = []
    for micro_batch in (None, 5):
        setting, learner, _ = prepare(cell, replace(CPU, micro_batch=micro_batch))
        found.append(Intervene(blocks=1)(setting, learner, "initial"))  # type: ignore[arg-type]
        assert hooks(learner.model) == hooks(prepare(cell, CPU)[1].model)  # type: ignore[attr-defined]
    for name in ("iml", "taken"):
        assert np.abs(found[0][name].to_numpy() - found[1][name].to_numpy()).max() < 0.05, name


def test_options_choose_interventions_blocks_and_branches() -> None:
    cell = small_cell("convnet-xs")
    setting, learner = at_stage1(cell)
    found = {
        (which, blocks): Intervene(which=which, blocks=blocks)(setting, learner, "stage1")
        for which, blocks in (("swap", 0), ("ablate", 2), ("input", 4))
    }
    names = {key: [(row["intervention"], row["depth"]) for row in one.to_dicts()] for key, one in found.items()}
    assert names["swap", 0] == [("none", 0), *(("direction swap", depth) for depth in (1, 2, 3))]
    assert names["ablate", 2] == [("none", 0)] + [
        (kind, depth) for depth in (1, 3) for kind in ("direction ablate", "random direction ablate")
    ]
    assert len({one["iml"][0] for one in found.values()}) == 1
    assert score(found["ablate", 2], "lost_first") is None or found["ablate", 2]["taken"][1] > 0.1
    assert scores_of_table(Intervene(), found["input", 4])["iml_swap_first"] == (None, intervene.NOT_ASKED)
    few = Intervene(which="input", branches=1)(setting, learner, "stage1")
    assert few["iml"].is_not_null().all()
    for wrong in (Intervene(which="none"), Intervene(blocks=-1), Intervene(branches=-1)):
        with pytest.raises(UsageError, match="which is one of input, swap, ablate, all"):
            wrong(setting, learner, "stage1")


def test_a_share_is_left_only_of_what_there_is() -> None:
    assert intervene._left({"iml": 0.1}, {"iml": 0.4}) == {"left": 0.25, "why": None}
    assert intervene._left({"iml": 0.1}, {"iml": 0.05})["left"] is None
    assert "not above 0.05" in intervene._left({"iml": 0.1}, {"iml": -0.4})["why"]
    assert intervene._left({"iml": None}, {"iml": 0.4})["why"] == "IML is not measured"


def rows_of_a_table(*rows: tuple[str, int, float, float]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["intervention", "depth", "iml", "taken"], orient="row")


def test_scores_are_of_fixed_rows() -> None:
    found = rows_of_a_table(
        ("none", 0, 0.4, 0.5),
        ("input swap", 0, -0.4, 0.5),
        ("state swap", 0, -0.3, 0.5),
        ("state swap", 1, -0.1, 0.5),
        ("state swap", 3, 0.2, 0.5),
        ("direction ablate", 1, 0.1, 0.4),
        ("random direction ablate", 1, 0.35, 0.4),
        ("direction ablate", 3, 0.1, 0.05),
        ("random direction ablate", 3, 0.35, 0.4),
    )
    scores = scores_of_table(Intervene(), found)
    values = {name: value for name, (value, _) in scores.items()}
    assert values == {
        "iml_none": 0.4,
        "iml_input_swap": -0.4,
        "iml_input_ablate": None,
        "iml_swap_first": -0.1,
        "iml_swap_last": 0.2,
        "iml_ablate_first": 0.1,
        "iml_ablate_last": 0.1,
        "lost_first": pytest.approx(0.25),
        "lost_last": None,  # the ablation destroyed learning itself
    }
    assert all(why for value, why in scores.values() if value is None)


# What is left behind, and what is refused.


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_hooks_are_removed_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    setting, learner = at_stage1(small_cell("neox-xs", task="text"))
    before, weights = hooks(learner.model), learner.snapshot()
    asked: list[int] = []

    def counted(*arguments: Any) -> Any:
        asked.append(hooks(learner.model))
        return answer_questions(*arguments)

    monkeypatch.setattr(intervene, "answer_questions", counted)
    Intervene(blocks=1)(setting, learner, "stage1")
    assert set(asked) == {before}  # whoever is asked is not changed
    assert hooks(learner.model) == before
    layer, fit = learner.model.body.gpt_neox.layers[0], type(learner).fit

    def broken(*arguments: Any, **more: Any) -> Any:
        if hooks(learner.model) > before:
            raise RuntimeError("on purpose")
        return fit(learner, *arguments, **more)

    monkeypatch.setattr(learner, "fit", broken)
    with pytest.raises(RuntimeError, match="on purpose"):
        Intervene(blocks=1)(setting, learner, "stage1")
    with pytest.raises(RuntimeError), hooked(layer, lambda state: state):
        raise RuntimeError
    assert hooks(learner.model) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in learner.snapshot().items())


REFUSED = {
    "dropout": ("python:models_for_tests.py:with_dropout", "vision", {}, "it has dropout"),
    "norm": ("python:models_for_tests.py:with_batch_norm", "vision", {}, "it has batch normalisation"),
    "encoder-decoder": ("t5-m", "text", {}, "an encoder-decoder model"),
    "one stage": ("neox-xs", "text", {"stages": 1}, "learn questions too"),
    "no branches": ("mlp-xs", "vision", {"until": "stage1"}, "no branches"),
    "identical tags": ("mlp-xs", "vision", {"stage2_tags": "identical"}, "both tags are the same"),
    "tag last": ("neox-xs", "text", {"render__order": "alias-entity-tag"}, "its tag alone"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_cannot_be_changed_exactly_is_refused_in_a_sentence(which: str, tmp_path: Path) -> None:
    model, task, more, reason = REFUSED[which]
    model = model.replace("python:", f"python:{Path(__file__).parent}/")
    cell = small_cell(model, task=task, **more)
    setting, learner, _ = prepare(cell, CPU)
    with pytest.raises(UsageError, match=reason) as caught:
        Intervene()(setting, learner, "initial")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_states_that_are_computed_twice_are_refused() -> None:
    setting, learner, _ = prepare(small_cell("neox-xs", task="text"), replace(CPU, checkpointing=True))
    with pytest.raises(UsageError, match="gradient-checkpointing"):
        Intervene()(setting, learner, "initial")  # type: ignore[arg-type]


def test_a_branchs_weights_and_reference_learners_are_no_beginning(tmp_path: Path) -> None:
    setting, learner, _ = prepare(small_cell(), CPU)
    with pytest.raises(UsageError, match="all branches share"):
        Intervene()(setting, learner, "stage2/fold1")  # type: ignore[arg-type]
    attachments = Attachments(tmp_path / "record.json")
    (one,) = outcomes(small_cell("oracle"), attachments, probes=(("intervene", "stage1"),)).attachments
    assert one.reason == "a reference learner has no weights to look into"
