"""Linear probes for the tag: what they read of planted, absent and leaking signals, and of real networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from making import CPU, small_cell
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_models import bpe_tokenizer
from tokenizers.processors import TemplateProcessing

from iml_bench.errors import UsageError
from iml_bench.modalities.base import Indices
from iml_bench.probes.base import asked_of, scores_of_table, undone
from iml_bench.probes.linear import AFTER_1, AFTER_2, LINEAR, TAG_GIVEN_TRUTH, TRUTH_GIVEN_TAG, decode, permuted
from iml_bench.probes.residual import (
    Reader,
    Sample,
    _pooled,
    equalised,
    grouped_folds,
    new_by_tag,
    one_question_each,
)
from iml_bench.probes.subjects import new_entities, questions
from iml_bench.records import Attachments
from iml_bench.run.cell import prepare, run_cell

GROUPS = {
    "groups__reliable": 80,
    "groups__unreliable": 84,
    **{f"groups__new_{name}": 15 for name in ("reliable", "unreliable", "fresh", "undefined")},
}
"""Just enough of everybody."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def crossed(entities: int = 100) -> Sample:
    """Every entity under both tags, in two of four branches, as in a square."""
    pairs = [((0, True), (1, False)), ((0, False), (3, True)), ((2, True), (3, False)), ((1, True), (2, False))]
    rows = [(label, entity, branch) for entity in range(entities) for branch, label in pairs[entity % 4]]
    label, entity, branch = (np.array(column) for column in zip(*rows, strict=True))
    return Sample(label, entity, branch)


def noise(sample: Sample, layers: int = 1, positions: int = 1, d: int = 6, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(len(sample.label), positions, d)).astype(np.float32) for _ in range(layers)]


def decoded(states: list[Any], sample: Sample, permutations: tuple[int, int] = (4, 2), seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return decode(states, sample, grouped_folds(sample, 5, rng), permutations, rng)


def test_a_planted_direction_is_read_where_it_is_and_nowhere_else() -> None:
    sample, states = crossed(), noise(crossed(), layers=3, positions=4)
    states[1][:, 2] += 6 * sample.label[:, None] * np.linspace(-1, 1, 6)
    found = decoded(states, sample)
    assert found.accuracy.shape == found.control.shape == found.picked.shape == (12,)
    cell = 1 * 4 + 2
    assert found.accuracy[cell] == found.chosen == 1.0
    assert found.picked.tolist() == [5 * (index == cell) for index in range(12)]
    assert all(found.within[branch][cell] == 1.0 for branch in range(4))
    assert np.abs(np.delete(found.accuracy, cell) - 0.5).max() < 4 * 0.5 / np.sqrt(200)
    assert np.abs(found.control - 0.5).max() < 0.15
    assert abs(found.chosen_control.mean() - 0.5) < 0.1


def test_more_dimensions_than_examples_change_nothing_about_that() -> None:
    sample, states = crossed(), noise(crossed(), d=400)
    absent = decoded(states, sample)
    assert abs(absent.chosen - 0.5) < 4 * 0.5 / np.sqrt(200)
    states[0][:, 0] += 2 * sample.label[:, None] * np.sign(np.linspace(-1, 1, 400))
    assert decoded(states, sample).chosen == 1.0


@pytest.mark.parametrize("both", [True, False], ids=["under both tags", "under one tag"])
def test_an_alias_does_not_tell_its_own_tag(both: bool) -> None:
    """Every entity has a vector of its own, in four examples: folds that part them read it."""
    entity = np.repeat(np.arange(60), 4)
    label = entity % 2 == 0
    sample = Sample(label, entity, np.tile(np.arange(4), 60))
    if both:  # of the same alias, in each branch another side, as many on each
        sample = sample._replace(label=label ^ (sample.stratum % 2 == 0))
    rng = np.random.default_rng(1)
    own = rng.normal(size=(60, 2, 160))
    told = own[entity, sample.label.astype(int)]
    states = [(told + 0.1 * rng.normal(size=told.shape)).astype(np.float32)[:, None]]
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=1.0))
    leaking = cross_val_score(plain, states[0][:, 0], sample.label, cv=StratifiedKFold(5, shuffle=True, random_state=0))
    assert leaking.mean() > 0.85
    found = decoded(states, sample)
    # Four examples of one alias are right or wrong together: the error is that of 60.
    assert abs(found.chosen - 0.5) < 3 * 0.5 / np.sqrt(60)
    assert abs(found.chosen_control.mean() - 0.5) < 3 * 0.5 / np.sqrt(60)


def test_the_scale_of_activations_changes_nothing() -> None:
    sample, states = crossed(), noise(crossed(), positions=3)
    states[0][:, 1, 0] += sample.label
    scales = np.float32(2.0) ** np.arange(-9, 9, 3)
    one, other = decoded(states, sample), decoded([states[0] * scales], sample)
    assert one.accuracy.tolist() == other.accuracy.tolist()
    assert (one.chosen, one.picked.tolist()) == (other.chosen, other.picked.tolist())
    assert one.chosen_control.tolist() == other.chosen_control.tolist()


def test_a_state_that_tells_only_the_branch_reads_a_half() -> None:
    sample = crossed(80)
    states = [np.eye(4, dtype=np.float32)[sample.stratum][:, None]]
    found = decoded(states, sample)
    assert found.accuracy.tolist() == [0.5]
    assert found.chosen_control.tolist() == [0.5] * 4


def test_permuted_labels_keep_what_examples_have_in_common() -> None:
    rng = np.random.default_rng(0)
    whole = Sample(np.repeat(rng.random(40) < 0.5, 3), np.repeat(np.arange(40), 3), np.tile(np.arange(3), 40))
    for sample in (crossed(80), whole):
        folds = grouped_folds(sample, 5, rng)
        drawn = np.stack([permuted(sample, folds, rng) for _ in range(60)])
        assert 0.4 < (drawn == sample.label).mean() < 0.6
        for _, test in folds:
            for stratum in np.unique(sample.stratum):
                rows = test[sample.stratum[test] == stratum]
                assert set(drawn[:, rows].sum(axis=1)) == {sample.label[rows].sum()}
        for entity in range(40):
            rows = np.flatnonzero(sample.entity == entity)
            assert set(drawn[:, rows].sum(axis=1)) <= {sample.label[rows].sum(), (~sample.label[rows]).sum()}


def test_folds_part_no_entity_and_have_each_class_in_each_branch_alike() -> None:
    sample = crossed(100)
    for train, test in grouped_folds(sample, 5, np.random.default_rng(0)):
        assert not set(sample.entity[train]) & set(sample.entity[test])
        counts = {
            (b, y): ((sample.stratum[test] == b) & (sample.label[test] == y)).sum() for b in range(4) for y in (0, 1)
        }
        assert set(counts.values()) == {5}


def test_classes_are_equally_many_in_every_stratum() -> None:
    rng = np.random.default_rng(0)
    sample = Sample(rng.random(300) < 0.3, np.arange(300), rng.integers(0, 3, 300))
    sample.label[sample.stratum == 2] = True
    for most in (0, 60):
        pairs = equalised(sample, rng, most)
        assert sample.label[pairs].tolist() == [[True, False]] * len(pairs)
        assert (sample.stratum[pairs[:, 0]] == sample.stratum[pairs[:, 1]]).all()
        assert set(sample.stratum[pairs[:, 0]]) == {0, 1}
        assert len(np.unique(pairs)) == 2 * len(pairs)
        least = [
            min(sum(sample.label[own]), sum(~sample.label[own])) for own in (sample.stratum == 0, sample.stratum == 1)
        ]
        assert len(pairs) == (30 if most else sum(least))


def test_no_maximum_of_many_cells_is_reported() -> None:
    """Of noise in thirty cells the best reads well above a half; what is chosen in inner folds does not."""
    best, chosen = [], []
    for seed in range(3):
        sample = crossed(80)
        found = decoded(noise(sample, layers=5, positions=6, d=2, seed=seed), sample, (1, 0), seed)
        best.append(found.accuracy.max())
        chosen.append(found.chosen)
    assert np.mean(best) > 0.57
    assert abs(np.mean(chosen) - 0.5) < 0.06


def test_the_cell_is_chosen_without_the_labels_of_the_test() -> None:
    sample, states = crossed(), noise(crossed(), layers=4, positions=4)
    split = grouped_folds(sample, 5, np.random.default_rng(0))[:1]
    other = sample._replace(label=sample.label.copy())
    other.label[split[0][1]] ^= True
    one, two = (decode(states, some, split, (1, 0), np.random.default_rng(0)) for some in (sample, other))
    assert one.picked.tolist() == two.picked.tolist()
    rows = split[0][1]
    assert one.within.keys() == two.within.keys() == {0, 1, 2, 3}
    assert len(rows) == 40


def prepared(model: str = "neox-xs", task: str = "text", **overrides: Any) -> tuple[Any, Any]:
    setting, learner, _ = prepare(small_cell(model, task=task, **{**GROUPS, **overrides}), CPU)
    return setting, learner


def marked(setting: Any, learner: Any, entities: np.ndarray[Any, Any]) -> None:
    """Move the embeddings of some aliases, each a token of its own, all in one direction."""
    tokens = [
        ids[0] for ids in setting.renderer.codec.read([setting.renderer.aliases[e] for e in entities])["input_ids"]
    ]
    weight = learner.model.body.get_input_embeddings().weight
    with torch.no_grad():
        weight[tokens] += 4 * weight.std() * torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0))


def test_positions_before_the_alias_read_a_half_and_a_marked_alias_is_read_from_it_on() -> None:
    setting, learner = prepared()
    marked(setting, learner, setting.design.members("reliable"))
    with undone(learner):
        table = asked_of("linear?permutations=4&elsewhere=1").probe(setting, learner, "stage1")
    cells = table.filter(~pl.col("chosen") & pl.col("branch").is_null())
    assert cells["token"].unique(maintain_order=True).to_list()[1] == "of"
    assert set(cells["position"]) == {-2, -1, 0, 1}
    assert cells.filter(set=AFTER_1, position=0, layer="embeddings")["accuracy"].item() == 1.0
    assert cells.filter(set=AFTER_1, position=1, depth=2)["accuracy"].item() > 0.9
    before = cells.filter(pl.col("position") < 0)
    assert set(before.filter(set=AFTER_2)["accuracy"].round(6)) == {0.5}
    error = 0.5 / np.sqrt(104)
    assert (before["accuracy"] - 0.5).abs().max() < 4 * error  # type: ignore[operator]
    assert (cells.filter(set=AFTER_2)["accuracy"] - 0.5).abs().max() < 4 * error  # type: ignore[operator]
    (one,) = table.filter(set=AFTER_1, chosen=True).rows(named=True)
    assert (one["position"], one["layer"], one["picked"]) == (0, "embeddings", 5)
    assert 100 <= one["n"] <= 160
    scores = scores_of_table(LINEAR, table)
    assert scores["tag_after_stage1"][0] == one["accuracy"] - one["control"] > 0.4
    assert abs(scores["tag_readable"][0] or 1.0) < 6 * error
    assert scores["tag_given_truth"] == scores["truth_given_tag"]
    assert scores["tag_given_truth"][1].startswith("tag and truth are one thing at this alpha, or fewer than 50")
    branches = table.filter(pl.col("branch").is_not_null())
    assert set(branches["branch"]) == {0, 1, 2, 3}
    assert set(branches["set"]) == {AFTER_2}
    assert branches.filter(position=0, depth=0)["n"].sum() == 120


def test_tag_and_truth_are_told_apart_where_alpha_allows_it() -> None:
    setting, learner = prepared(alpha=0.5, groups__reliable=100, groups__unreliable=100)
    marked(setting, learner, setting.design.members("reliable"))
    with undone(learner):
        table = asked_of("linear?permutations=3&elsewhere=0").probe(setting, learner, "stage1")
    assert table["set"].unique(maintain_order=True).to_list() == [AFTER_1, TAG_GIVEN_TRUTH, TRUTH_GIVEN_TAG, AFTER_2]
    scores = {name: value for name, (value, _) in scores_of_table(LINEAR, table).items()}
    assert scores["tag_given_truth"] is not None and scores["tag_given_truth"] > 0.4
    assert scores["truth_given_tag"] is not None and abs(scores["truth_given_tag"]) < 0.25
    assert table.filter(~pl.col("chosen"))["control"].null_count() == len(table.filter(~pl.col("chosen")))


def test_what_is_read_is_what_the_model_answers_from() -> None:
    """The last layer at the last token of the prompt, through norm and output layer, gives the answer's logits."""
    setting, learner = prepared()
    new = new_entities(setting)[:9]
    asked = one_question_each(questions(setting, new), new)
    aligned, last = Reader(setting, asked), Reader(setting, asked, last=True)
    rows = np.array([4, 0, 7])
    states, ends = aligned.read(learner, rows), last.read(learner, rows)
    assert aligned.cells.layers == ("embeddings", "gpt_neox.layers.0", "gpt_neox.layers.1")
    assert aligned.cells.depths == (0, 1, 2)
    assert all((one[:, -1] == other[:, 0]).all() for one, other in zip(states, ends, strict=True))
    body = learner.model.body
    with torch.no_grad():
        logits = body.get_output_embeddings()(body.gpt_neox.final_layer_norm(torch.from_numpy(ends[-1][:, 0])))
        indices = Indices.of(rows, setting.device)
        feed = aligned.feed
        whole = learner.logits(feed, indices, torch.zeros(3, 0))
        first = [int((feed.owners(indices) == place).nonzero()[0]) for place in range(3)]
    assert torch.allclose(logits, whole[first], atol=1e-5)
    tokens = setting.renderer.codec.read([setting.renderer.aliases[new[row]] for row in rows])["input_ids"]
    expected = body.get_input_embeddings().weight[[ids[0] for ids in tokens]].detach().numpy()
    assert (states[0][:, aligned.cells.positions.index(0)] == expected).all()
    assert [int(kind) for kind in aligned.asked.asked[:6]] == [0, 1, 2, 3, 4, 5]


def test_aliases_of_several_tokens_are_aligned_and_no_token_before_the_text_counts(
    make_setting: Callable[..., Any], text_task: Any
) -> None:
    tokenizer = bpe_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<end> $A", special_tokens=[("<end>", tokenizer.convert_tokens_to_ids("<end>"))]
    )
    setting = make_setting(text_task, tokenizer=tokenizer)
    new = new_entities(setting)
    reader = Reader(setting, one_question_each(questions(setting, new), new, 0))
    assert reader.places is not None and len(reader.rows) > 1
    assert len(setting.renderer.codec.prefix) == 1
    ids = reader.feed.prompts()  # type: ignore[attr-defined]
    start = reader.cells.positions, reader.places.positions
    assert start[1][0] < 0 < start[1][-1]
    lengths = set()
    for row, at in zip(reader.rows, reader.places.at, strict=True):
        alias = setting.renderer.aliases[reader.feed.examples.entity[row]]
        assert at[0] == 1 and at[-1] == len(ids[row]) - 1
        from_alias = tokenizer.decode([ids[row][place] for place in at[reader.places.positions.index(0) :]])
        assert from_alias.strip().startswith(alias)
        lengths.add(len(setting.renderer.codec.read([f" {alias}"])["input_ids"][0]))
    assert len(lengths) == 1


def test_pictures_are_pooled_over_all_but_channels() -> None:
    one = torch.rand(3, 5, 4, 4)
    for shaped in (one, one.movedim(1, -1)):
        assert torch.allclose(_pooled(shaped, 3), one.mean((2, 3))[:, None])  # type: ignore[arg-type]
    tokens = torch.rand(3, 7, 5)
    assert torch.allclose(_pooled(tokens, 3), tokens.mean(1)[:, None])  # type: ignore[arg-type]
    flat = torch.rand(3, 5)
    assert (_pooled(flat, 3) == flat[:, None]).all()  # type: ignore[union-attr]
    assert _pooled(flat, 4) is None and _pooled(torch.zeros(3, 4, dtype=torch.int64), 3) is None


def test_an_entity_is_asked_the_same_of_the_same_pictures_in_every_branch() -> None:
    setting, learner = prepared("mlp-xs", "vision")
    picked = new_by_tag(setting, 0, 0)
    assert set(picked.reader.asked.asked) == {0}
    one, other = (picked.reader.read(learner, picked.at[:5]) for _ in range(2))
    assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert picked.reader.cells.positions == (None,)
    assert picked.reader.cells.layers[:2] == ("0 Flatten", "1 Linear")
    for branch in range(4):
        role = setting.design.shown(branch)[0]
        rows = np.flatnonzero(picked.sample.stratum == branch)
        assert (role[picked.sample.entity[rows]] == np.where(picked.sample.label[rows], 0, 1)).all()
        assert len(rows) == 30


def test_what_cannot_be_probed_leaves_the_reason(tmp_path: Path) -> None:
    def reason(cell: Any, probe: str = "linear") -> str | None:
        attachments = Attachments(tmp_path / "record.json")
        (one,) = run_cell(cell, replace(CPU, probes=((probe, "stage1"),)), attachments).attachments
        attachments.clear()
        return one.reason

    few = reason(small_cell("mlp-xs"))
    assert few is not None and few.startswith("a linear probe takes 50 examples of each class, and there are 6; a")
    assert reason(small_cell("oracle")) == "a reference learner has no weights to look into"
    apart = reason(small_cell("t5-m", task="text-sets"))
    assert apart == "the states of encoder-decoder models are not read: their prompts and answers are apart"
    with pytest.raises(UsageError, match="permutations must be 1 or more"):
        asked_of("linear?permutations=0").probe(*prepared("mlp-xs", "vision"), "stage1")


@pytest.mark.parametrize("model,task", [("mlp-xs", "vision"), ("neox-xs", "text")])
def test_the_record_is_the_same_bit_for_bit(model: str, task: str, tmp_path: Path) -> None:
    cell = small_cell(model, task=task, **GROUPS)
    plain = run_cell(cell, CPU)
    attachments = Attachments(tmp_path / "record.json")
    asked = "linear?permutations=2&elsewhere=1"
    probed = run_cell(cell, replace(CPU, probes=((asked, "stage1"),)), attachments)
    assert probed.items.equals(plain.items)
    assert (probed.stages, probed.data_digest) == (plain.stages, plain.data_digest)
    (one,) = probed.attachments
    assert one.file is not None, one.reason
    assert one.scores["tag_readable"] is not None and one.scores["tag_after_stage1"] is not None
    found = pl.read_parquet(attachments.waiting[one.file].path)
    setting, learner, _ = prepare(cell, CPU)
    learner.fit(setting.train_feed("stage1"), cell.task.recipe.stage1, "stage1")
    with undone(learner):
        assert found.equals(asked_of(asked).probe(setting, learner, "stage1"))
    attachments.clear()
