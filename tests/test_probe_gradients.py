"""Gradients of single examples, alignment and one-step uptake, against exact answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from making import CPU, command, small_cell, small_task
from test_probes import CELLS
from torch import nn

from iml_bench.modalities.base import Indices
from iml_bench.probes.alignment import ALIGNMENT, NEW, _Pair, _products, _rows, _Set
from iml_bench.probes.base import asked_of, scores_of_table, undone
from iml_bench.probes.gradients import Gradients, Spread, parts_of
from iml_bench.probes.subjects import definitions, new_entities, questions
from iml_bench.probes.uptake import UPTAKE
from iml_bench.protocols import protocol_of
from iml_bench.protocols.base import Examples, default_moment
from iml_bench.records import Attachments, read_record
from iml_bench.run.cell import prepare, run_cell

EVERY = pytest.mark.parametrize(
    "model,task", [("mlp-xs", "vision"), ("convnet-xs", "vision"), ("neox-xs", "text"), ("t5-m", "text-sets")]
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def prepared(model: str, task: str = "vision", **overrides: Any) -> tuple[Any, Any]:
    setting, learner, _ = prepare(small_cell(model, task=task, **overrides), CPU)
    return setting, learner


def looks_at(setting: Any, examples: Examples, looks: int = 1) -> tuple[Any, torch.Tensor]:
    feed = setting.feed(examples, evaluation=False)
    drawn = np.random.default_rng(0).random((len(examples), looks, feed.noise), dtype=np.float32)
    return feed, torch.from_numpy(drawn)


def directly(learner: Any, feed: Any, row: int, noise: torch.Tensor) -> torch.Tensor:
    rows = Indices.of(np.full(len(noise), row), torch.device("cpu"))
    loss = learner.losses(feed, rows, noise).mean()
    found = torch.autograd.grad(loss, list(learner.trainable().values()), allow_unused=True)
    pairs = zip(found, learner.trainable().values(), strict=True)
    return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for g, w in pairs])


@EVERY
def test_each_gradient_is_that_of_its_own_loss_the_first_as_exact_as_the_last(model: str, task: str) -> None:
    setting, learner = prepared(model, task)
    feed, noise = looks_at(setting, questions(setting, new_entities(setting)), looks=2)
    rows = np.arange(len(feed.examples))[:9]
    with undone(learner):
        found = Gradients(learner).of(feed, rows, noise[rows])
        for row in rows:
            own = directly(learner, feed, int(row), noise[row])
            assert torch.allclose(found[row], own, atol=1e-5 * float(own.abs().max()))


@EVERY
def test_several_at_a_time_are_as_one_by_one(model: str, task: str) -> None:
    setting, learner = prepared(model, task)
    feed, noise = looks_at(setting, definitions(new_entities(setting), 0))
    rows = np.arange(6)
    with undone(learner):
        gradients = Gradients(learner)
        gradients.vmapped = False
        loops = gradients.of(feed, rows, noise[rows])
        gradients.vmapped = None
        together = gradients.of(feed, rows, noise[rows])
    assert gradients.vmapped is not None
    assert torch.allclose(together, loops, atol=1e-4 * float(loops.abs().max()))


def test_small_networks_and_transformers_are_taken_several_at_a_time() -> None:
    for model, task in (("mlp-xs", "vision"), ("convnet-xs", "vision"), ("neox-xs", "text"), ("llama-xs", "text")):
        setting, learner = prepared(model, task)
        feed, noise = looks_at(setting, definitions(new_entities(setting), 0))
        with undone(learner):
            gradients = Gradients(learner)
            gradients.of(feed, np.arange(2), noise[:2])
        assert gradients.vmapped, model


def linear(shape: Any) -> nn.Module:
    """Pixels to logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape.height * shape.width, shape.positions * shape.classes))


def test_the_gradient_of_a_linear_classifier_is_the_closed_form() -> None:
    setting, learner = prepared(f"python:{__file__}:linear")
    feed, noise = looks_at(setting, definitions(new_entities(setting), 1))
    weights = [weight.detach().double().numpy() for weight in learner.trainable().values()]
    with undone(learner):
        gradients = Gradients(learner)
        found = gradients.of(feed, np.arange(4), noise[:4])
    batch = feed.batch(Indices.of(np.arange(4), torch.device("cpu")), noise[:4, 0])
    pixels = batch.inputs["pixels"].flatten(1).double().numpy()
    cells, labels = 4, 10
    logits = (pixels @ weights[0].T + weights[1]).reshape(4, cells, labels)
    right = np.eye(labels)[batch.targets.numpy().reshape(4, cells)]
    likely = np.exp(logits - logits.max(-1, keepdims=True))
    wrong = ((likely / likely.sum(-1, keepdims=True) - right) / cells).reshape(4, -1)
    for row in range(4):
        closed = np.concatenate([np.outer(wrong[row], pixels[row]).ravel(), wrong[row]])
        assert np.allclose(found[row].numpy(), closed, atol=1e-6)
    # The product of two such gradients factors: (1 + x.x') times the product of the errors.
    products = gradients.products(found, found)[0].numpy()
    assert np.allclose(products, (1 + pixels @ pixels.T) * (wrong @ wrong.T), rtol=1e-4)


def test_finite_differences_on_ten_parameters() -> None:
    setting, learner = prepared("neox-xs", "text")
    feed, noise = looks_at(setting, definitions(new_entities(setting), 0))
    rows = Indices.of(np.zeros(1, np.int64), torch.device("cpu"))
    with undone(learner):
        gradient = Gradients(learner).of(feed, rows.host, noise[:1])[0]
        places = np.random.default_rng(1).choice(len(gradient), 200, replace=False)
        places = places[np.argsort(-gradient[places].abs().numpy())[:10]]
        for place in places.tolist():
            weight, at = located(learner, place)
            values = []
            for move in (1e-2, -1e-2):
                with torch.no_grad():
                    weight[at] += move
                    values.append(float(learner.losses(feed, rows, noise[0]).double()[0]))
                    weight[at] -= move
            assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(gradient[place]), rel=0.02, abs=1e-3)


def located(learner: Any, place: int) -> tuple[torch.Tensor, int]:
    for weight in learner.trainable().values():
        if place < weight.numel():
            return weight.view(-1), place
        place -= weight.numel()
    raise AssertionError


def test_more_padding_changes_nothing() -> None:
    setting, learner = prepared("neox-xs", "text", recipe__loss_on="text")
    entities = new_entities(setting)
    examples = Examples.joined(questions(setting, entities[:1]), definitions(entities[:1], 0))
    feed, noise = looks_at(setting, examples)
    assert len(set(feed.lengths.tolist())) > 1
    rows = Indices.of(np.arange(len(examples)), torch.device("cpu"))
    with undone(learner):
        padded = learner.losses(feed, rows, noise[:, 0])[0]
        weights = list(learner.trainable().values())
        with_padding = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(padded, weights)])
        alone = Gradients(learner).of(feed, np.zeros(1, np.int64), noise[:1])[0]
    assert torch.allclose(with_padding, alone, atol=1e-5 * float(alone.abs().max()))


def pair_table(setting: Any, gradients: Gradients, asked: Examples, entities: np.ndarray[Any, Any]) -> pl.DataFrame:
    """The rows of two entities whose definitions are under every tag the examples ``asked`` about them."""
    one = _Set(NEW, entities, entities, asked)
    feed, noise = looks_at(setting, asked)
    told = []
    for tag in range(len(setting.design.tags)):
        shown, draws = looks_at(setting, definitions(entities, tag))
        told.append(gradients.of(shown, np.arange(2), draws))
    rows = [np.flatnonzero(asked.entity == entity) for entity in entities]
    pair = _Pair([0, 1], rows)
    spread = Spread(gradients, setting.device)
    chosen = np.concatenate(rows)
    found = _products(gradients, torch.cat(told), feed, (chosen, noise[chosen]), spread)
    return _rows(setting, one, pair, found, gradients.parts)


def test_a_definition_is_aligned_with_itself_and_only_under_its_own_tag() -> None:
    setting, learner = prepared("neox-xs", "text")
    entities = new_entities(setting, 2)
    with undone(learner):
        table = pair_table(setting, Gradients(learner), definitions(entities, 1), entities)
    own = table.filter((pl.col("tag") == "unreliable") & (pl.col("part") == "all"))
    assert own["cosine"].to_list() == pytest.approx([1, 1], abs=1e-6)
    assert own["distance"].to_list() == pytest.approx([0, 0], abs=1e-2)
    others = table.filter((pl.col("tag") != "unreliable") & (pl.col("part") == "all"))
    assert max(others["cosine"]) < 1 - 1e-4


def test_gradients_in_different_weights_are_orthogonal() -> None:
    _, learner = prepared("mlp-xs")
    with undone(learner):
        gradients = Gradients(learner)
        (_, first), *_, (_, last) = gradients.slices
        one, other = torch.zeros(2, gradients.size), torch.zeros(2, gradients.size)
        one[:, first], other[:, last] = 1.0, 1.0
        assert gradients.products(one, other).abs().max() == 0
        assert gradients.products(one, one)[0, 0, 0] == first.stop - first.start


def test_permuting_questions_and_their_number_change_no_pair() -> None:
    setting, learner = prepared("neox-xs", "text")
    entities = new_entities(setting, 2)
    asked = questions(setting, entities)
    # One entity with two questions fewer than the other, as worlds read from files have them.
    fewer = Examples(*(column[2:] for column in asked))
    shuffled = np.random.default_rng(3).permutation(len(fewer))
    with undone(learner):
        gradients = Gradients(learner)
        straight = pair_table(setting, gradients, fewer, entities)
        mixed = pair_table(setting, gradients, Examples(*(column[shuffled] for column in fewer)), entities)
        whole = pair_table(setting, gradients, asked, entities)
    assert sorted(set(straight["questions"])) == [len(asked) // 2 - 2, len(asked) // 2]
    for column in ("cosine", "cosine_other", "dot", "distance"):
        assert straight[column].to_list() == pytest.approx(mixed[column].to_list(), abs=1e-6)
    second = pl.col("entity") == int(entities[1])
    assert straight.filter(second)["cosine"].to_list() == pytest.approx(whole.filter(second)["cosine"].to_list())


def test_the_variance_in_one_pass_is_that_of_all_gradients() -> None:
    setting, learner = prepared("mlp-xs")
    with undone(learner):
        gradients = Gradients(learner)
        found = torch.randn(7, gradients.size) + 3
        spread = Spread(gradients, setting.device)
        spread.add(found[:3])
        spread.add(found[3:])
    assert spread.variance[0] == pytest.approx(found.double().var(0, unbiased=False).sum().item(), rel=1e-9)
    assert sum(spread.variance[1:]) == pytest.approx(spread.variance[0])


def test_parts_are_blocks_and_what_lies_outside_of_them() -> None:
    _, learner = prepared("neox-xs", "text")
    parts = parts_of(learner.model, list(learner.trainable()))
    assert list(dict.fromkeys(parts)) == [
        "gpt_neox.embed_in",
        "gpt_neox.layers.0",
        "gpt_neox.layers.1",
        "gpt_neox.final_layer_norm",
        "lm_head",
    ]
    _, learner = prepared("mlp-xs")
    assert parts_of(learner.model, list(learner.trainable()))[:2] == ["1 Linear", "1 Linear"]


@pytest.mark.parametrize("probe", [ALIGNMENT, UPTAKE])
def test_a_model_with_dropout_reads_the_same_twice(probe: Any) -> None:
    setting, learner, _ = prepare(CELLS["buffers and dropout"](), CPU)
    probe = replace(probe, entities=4)
    tables = []
    for _ in range(2):
        with undone(learner):
            tables.append(probe(setting, learner, "stage1").sort(pl.all().exclude("variance")))
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize("which", CELLS)
def test_a_cell_is_bit_for_bit_the_same_with_the_probes(which: str, tmp_path: Path) -> None:
    cell = CELLS[which]()
    moment = default_moment(protocol_of(cell.task).schedule(cell.task))
    probes = tuple((f"{name}?entities=4", moment) for name in ("alignment", "uptake"))
    probed = run_cell(cell, replace(CPU, probes=probes), Attachments(tmp_path / "record.json"))
    plain = run_cell(cell, CPU)
    assert probed.items.equals(plain.items) and probed.stages == plain.stages
    assert [one.reason for one in probed.attachments] == [None, None]
    assert {"gap", "specific"} <= {*probed.attachments[0].scores}
    assert probed.attachments[0].options == {"entities": 4}


def test_what_first_order_predicts_is_what_a_small_step_does() -> None:
    setting, learner = prepared("mlp-xs")
    before = {name: weight.detach().clone() for name, weight in learner.trainable().items()}
    table = replace(UPTAKE, entities=6, lr=1e-5)(setting, learner, "stage1")
    assert all(torch.equal(weight, before[name]) for name, weight in learner.trainable().items())
    sgd = table.filter(pl.col("step") == "sgd")
    assert (sgd["predicted"] - sgd["change"]).abs().max() < 0.02 * sgd["change"].abs().max()  # type: ignore[operator]
    assert scores_of_table(UPTAKE, table)["agreement"][0] == pytest.approx(1, abs=1e-3)


def test_the_scores_are_differences_of_the_table() -> None:
    setting, learner = prepared("mlp-xs")
    with undone(learner):
        table = replace(ALIGNMENT, entities=8)(setting, learner, "stage1")
    whole = table.filter((pl.col("set") == "new") & (pl.col("part") == "all") & pl.col("entity").is_not_null())
    mean = {tag: whole.filter(pl.col("tag") == tag)["cosine"].mean() for tag in ("reliable", "unreliable")}
    gap = scores_of_table(ALIGNMENT, table)["gap"][0]
    assert gap == pytest.approx(mean["reliable"] - mean["unreliable"])  # type: ignore[operator]
    assert {"new", "stage 1, trained", "stage 1, held out"} == {*table["set"]}


@pytest.mark.parametrize(
    "text,said",
    [
        ("alignment?entitis=3", "unknown option of probe 'alignment' 'entitis': did you mean 'entities'?"),
        ("alignment?entities=many", "entities is like 64, which is its default, and not 'many'"),
        ("alignment?entities=", "there is no value"),
        ("losses?x=1", "unknown option of probe 'losses' 'x'"),
    ],
)
def test_options_that_a_probe_has_not_are_one_sentence(text: str, said: str) -> None:
    with pytest.raises(Exception, match="probe") as caught:
        asked_of(text)
    assert said in str(caught.value)


def test_a_task_is_probed_from_the_command_line_and_again_only_where_it_was_not(tmp_path: Path) -> None:
    task = small_task().model_dump(mode="json") | {"name": "little"}
    (tmp_path / "little.yaml").write_text(yaml.safe_dump(task))
    asked = ["--task", "little.yaml", "--model", "mlp-xs", "--seeds", "1", "--out", "out", "--json"]
    plain = command("run", *asked, cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    (path,) = (tmp_path / "out" / "mlp-xs").glob("*.json")
    before = read_record(path)
    done = command("probe", "alignment?entities=4", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["scores"]["gap"] == read_record(path).attachments[0].scores["gap"]
    assert read_record(path).model_copy(update={"attachments": ()}) == before
    again = command("probe", "alignment?entities=4", *asked, cwd=tmp_path)
    assert "0 to run" in again.stderr and json.loads(again.stdout) == [row]
    bad = command("probe", "alignment", cwd=tmp_path)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert "give records, or folders of them, or --task with --model" in bad.stderr
