"""Whether the stage in which an alias was learnt can be told: who is compared with whom, and what is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from making import CPU, small_cell

from iml_bench.errors import UsageError
from iml_bench.probes.base import asked_of, scores_of_table, undone
from iml_bench.probes.linear import decode
from iml_bench.probes.order import HELD_OUT, ORDER, TAG, TRAINED, UNDEFINED, merged, stages_apart
from iml_bench.probes.residual import Sample, grouped_folds
from iml_bench.records import Attachments
from iml_bench.run.cell import prepare, run_cell

GROUPS = {
    **{f"groups__{name}": 56 for name in ("reliable", "unreliable", "undefined")},
    **{f"groups__new_{name}": 15 for name in ("reliable", "unreliable", "fresh", "undefined")},
}
"""Just enough of everybody."""
QUICK = "order?splits=2&permutations=2&elsewhere=1"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def prepared(model: str = "neox-xs", task: str = "text", **overrides: Any) -> tuple[Any, Any]:
    setting, learner, _ = prepare(small_cell(model, task=task, **{**GROUPS, **overrides}), CPU)
    return setting, learner


@pytest.mark.parametrize("crossover", ["square", "pair"])
@pytest.mark.parametrize("name", [TRAINED, HELD_OUT, UNDEFINED])
def test_every_stage_1_entity_has_a_partner_of_which_neither_tag_nor_truth_nor_question_tells(
    name: str, crossover: str
) -> None:
    more = (
        {} if crossover == "square" else {f"groups__new_{one}": 60 for one in ("reliable", "unreliable", "undefined")}
    )
    setting, _ = prepared(alpha=0.5, crossover=crossover, **more, groups__reliable=112, groups__unreliable=112)
    reader, at, sample = stages_apart(setting, name, 0)
    asked, design = reader.asked, setting.design
    entity, kind = asked.entity[at], asked.asked[at]
    assert len(np.unique(entity)) == len(at) >= 100
    new = np.isin(entity, design.members("new_reliable", "new_unreliable", "new_fresh", "new_undefined"))
    assert (sample.label == ~new).all()
    assert (np.diff(sample.stratum) >= 0).all() and len(set(sample.stratum)) == (4 if crossover == "square" else 2)
    for pair in np.unique(sample.entity):
        rows = np.flatnonzero(sample.entity == pair)
        assert sample.label[rows].tolist() == [True, False]
        assert len({*sample.stratum[rows]}) == len({*kind[rows]}) == 1
    taught = design.trained("stage1")
    trained = {*zip(taught.entity.tolist(), taught.asked.tolist(), strict=True)}
    shown = [pair in trained for pair in zip(entity.tolist(), kind.tolist(), strict=True)]
    assert shown == [name == TRAINED and label for label in sample.label.tolist()]
    for row, branch in zip(entity.tolist(), sample.stratum.tolist(), strict=True):
        tag, claim = (column[row] for column in design.shown(branch))
        assert (tag, claim) == ((-1, -1) if name == UNDEFINED else (0, row))


def test_the_layer_is_chosen_on_the_half_that_is_trained_on() -> None:
    n, rng = 120, np.random.default_rng(0)
    sample = Sample(np.tile([True, False], n // 2), np.repeat(np.arange(n // 2), 2), np.zeros(n, np.int64))
    states = [rng.normal(size=(n, 1, 2)).astype(np.float32) for _ in range(8)]
    for train, test in (halves := grouped_folds(sample, 2, rng)):
        assert len(train) == len(test) == n // 2
        assert not set(sample.entity[train]) & set(sample.entity[test])
        other = sample._replace(label=sample.label.copy())
        other.label[test] ^= True
        one, two = (decode(states, some, [(train, test)], (1, 0), np.random.default_rng(0)) for some in (sample, other))
        assert one.picked.tolist() == two.picked.tolist() and one.picked.sum() == 1
    parts = [decode(states, sample, folds, (2, 1), rng) for folds in (halves, grouped_folds(sample, 2, rng))]
    found = merged(parts)
    assert found.picked.sum() == 4 and found.chosen_control.shape == (4,)
    assert found.accuracy[3] == np.mean([part.accuracy[3] for part in parts])
    assert found.chosen == np.mean([part.chosen for part in parts])


def test_aliases_that_are_marked_by_stage_are_told_apart_and_tags_are_not() -> None:
    setting, learner = prepared()
    old = setting.design.members("reliable", "undefined")
    tokens = [ids[0] for ids in setting.renderer.codec.read([setting.renderer.aliases[e] for e in old])["input_ids"]]
    weight = learner.model.body.get_input_embeddings().weight
    with torch.no_grad():
        weight[tokens] += 4 * weight.std() * torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0))
    with undone(learner):
        table = asked_of(QUICK).probe(setting, learner, "stage1")
    assert table["set"].unique(maintain_order=True).to_list() == [TRAINED, HELD_OUT, UNDEFINED, TAG]
    assert set(table["token"]) == {"?"}
    cells = table.filter(~pl.col("chosen"))
    assert len(table) == 4 * (3 + 1) and set(cells["depth"]) == {0, 1, 2}
    scores = {name: value for name, (value, _) in scores_of_table(ORDER, table).items()}
    for name, which in (("stage_readable", TRAINED), ("heldout", HELD_OUT), ("undefined", UNDEFINED)):
        score = scores[name if which == TRAINED else f"stage_readable_{name}"]
        assert score is not None and score > 0.35
        # The last token is no alias, and its embedding is the same in all prompts.
        assert cells.filter(set=which, depth=0)["accuracy"].item() == 0.5
        assert cells.filter(set=which, depth=2)["accuracy"].item() > 0.9
        chosen = table.filter(set=which, chosen=True)
        assert chosen["accuracy"].item() > 0.9 and abs(chosen["control"].item() - 0.5) < 0.15
    assert scores["tag_readable"] is not None and abs(scores["tag_readable"]) < 0.2


def test_one_joint_stage_has_tags_to_tell_apart_and_no_stages() -> None:
    setting, learner = prepared(stages=1)
    with undone(learner):
        table = asked_of(QUICK).probe(setting, learner, "initial")
    assert set(table["set"]) == {TAG}
    scores = scores_of_table(ORDER, table)
    assert scores["tag_readable"][0] is not None
    assert scores["stage_readable"] == (
        None,
        "stage 1 is not trained on its own, or fewer than 50 examples of each class could be read",
    )


def test_what_cannot_be_probed_leaves_the_reason(tmp_path: Path) -> None:
    def reason(cell: Any) -> str | None:
        attachments = Attachments(tmp_path / "record.json")
        (one,) = run_cell(cell, replace(CPU, probes=(("order", "stage1"),)), attachments).attachments
        attachments.clear()
        return one.reason

    few = reason(small_cell("mlp-xs"))
    assert few is not None and few.startswith("a linear probe takes 50 examples of each class, and there are 8; a")
    assert reason(small_cell("oracle")) == "a reference learner has no weights to look into"
    apart = reason(small_cell("t5-m", task="text-sets"))
    assert apart == "the states of encoder-decoder models are not read: their prompts and answers are apart"
    setting, learner = prepared("mlp-xs", "vision", groups__undefined=0, until="stage1")
    with pytest.raises(UsageError, match="has no branches"):
        ORDER(setting, learner, "stage1")
    with pytest.raises(UsageError, match="nobody is there for stage, never defined"):
        stages_apart(prepared("mlp-xs", "vision", groups__undefined=0)[0], UNDEFINED, 0)
    with pytest.raises(UsageError, match="splits and permutations must be 1 or more"):
        asked_of("order?splits=0").probe(setting, learner, "stage1")


@pytest.mark.parametrize("model,task", [("mlp-xs", "vision"), ("neox-xs", "text")])
def test_the_record_is_the_same_bit_for_bit(model: str, task: str, tmp_path: Path) -> None:
    cell = small_cell(model, task=task, **GROUPS)
    plain = run_cell(cell, CPU)
    attachments = Attachments(tmp_path / "record.json")
    probed = run_cell(cell, replace(CPU, probes=((QUICK, "stage1"),)), attachments)
    assert probed.items.equals(plain.items)
    assert (probed.stages, probed.data_digest) == (plain.stages, plain.data_digest)
    (one,) = probed.attachments
    assert one.file is not None, one.reason
    assert set(one.scores) == {measure.name for measure in ORDER.scores}
    assert None not in one.scores.values()
    attachments.clear()
