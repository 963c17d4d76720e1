"""Probes and kept weights: they see the learner as it is, and change nothing."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from making import CPU, command, small_cell
from torch import nn

from iml_bench.extensions import PROBES
from iml_bench.modalities.base import Indices
from iml_bench.probes.base import undone
from iml_bench.protocols import protocol_of
from iml_bench.protocols.base import default_moment, moments, trains
from iml_bench.records import Attachments, read_record
from iml_bench.run.cell import CellOutcome, prepare, run_cell
from iml_bench.spec import CellSpec

LOUD = "loud"


class Loud:
    """A probe that does all that would change training if it were not undone."""

    description = "nothing"

    def __call__(self, setting: Any, learner: Any, moment: str) -> pl.DataFrame:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.rand(3), random.random(), np.random.rand(3)  # noqa: NPY002
        feed = setting.question_feed(2)
        rows = Indices.of(np.arange(8), setting.device)
        noise = torch.zeros(8, feed.noise)
        learner.losses(feed, rows, noise).sum().backward()
        assert any(tensor.grad is not None for tensor in learner.trainable().values())
        learner.model.train()
        batch = feed.batch(rows, noise)
        learner.model(**batch.inputs)  # moves running means
        with torch.no_grad():
            for tensor in learner.trainable().values():
                tensor.add_(1.0)
                tensor.requires_grad_(False)
        return pl.DataFrame({"seen": [moment]})


class Broken:
    description = "nothing"

    def __call__(self, setting: Any, learner: Any, moment: str) -> pl.DataFrame:
        raise RuntimeError("on purpose\nand more")


@pytest.fixture(autouse=True)
def _added(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setitem(PROBES._loaded, LOUD, Loud())
    monkeypatch.setitem(PROBES._loaded, "broken", Broken())


def outcomes(cell: CellSpec, attachments: Attachments | None = None, **runtime: Any) -> CellOutcome:
    return run_cell(cell, replace(CPU, **runtime), attachments)


def with_norm(shape: Any) -> nn.Module:
    """A network with buffers that training mode moves, and dropout."""
    inputs = shape.height * shape.width
    hidden = nn.Sequential(nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.Dropout(0.1), nn.ReLU())
    return nn.Sequential(nn.Flatten(), hidden, nn.Linear(16, shape.positions * shape.classes))


CELLS = {
    "vision": lambda: small_cell("mlp-xs"),
    "buffers and dropout": lambda: small_cell(f"python:{__file__}:with_norm"),
    "text, three stages": lambda: small_cell("neox-xs", task="text", stages=3),
    "text, one stage": lambda: small_cell("neox-xs", task="text", stages=1),
}


@pytest.mark.parametrize("which", CELLS)
def test_a_probe_at_every_moment_leaves_every_outcome_bit_for_bit(which: str, tmp_path: Path) -> None:
    cell = CELLS[which]()
    schedule = protocol_of(cell.task).schedule(cell.task)
    plain = outcomes(cell)
    attachments = Attachments(tmp_path / "record.json")
    probed = outcomes(cell, attachments, probes=tuple((LOUD, moment) for moment in moments(schedule)), keep=True)
    assert probed.items.equals(plain.items)
    assert probed.stages == plain.stages
    assert probed.data_digest == plain.data_digest
    tables = [one for one in probed.attachments if one.kind == "probe"]
    assert [one.moment for one in tables] == list(moments(schedule))
    for one in tables:
        assert one.file is not None, one.reason
        waiting = attachments.waiting[one.file].path
        assert pl.read_parquet(waiting)["seen"].to_list() == [one.moment]
    assert [one.moment for one in probed.attachments if one.kind == "weights"] == list(moments(schedule)[1:])


def test_a_probe_that_fails_and_a_learner_without_weights_leave_the_reason(tmp_path: Path) -> None:
    attachments = Attachments(tmp_path / "record.json")
    outcome = outcomes(small_cell("mlp-xs"), attachments, probes=(("broken", "stage1"),))
    assert [(one.file, one.reason) for one in outcome.attachments] == [(None, "RuntimeError: on purpose")]
    assert outcome.items.equals(outcomes(small_cell("mlp-xs")).items)
    attachments = Attachments(tmp_path / "record.json")
    (one,) = outcomes(small_cell("oracle"), attachments, probes=(("losses", "stage1"),)).attachments
    assert one.reason == "a reference learner has no weights to look into"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model,task", [("mlp-xs", "vision"), ("neox-xs", "text"), ("t5-m", "text-sets")])
def test_the_loss_of_a_question_is_what_its_answer_costs(model: str, task: str) -> None:
    cell = small_cell(model, task=task)
    setting, learner, _ = prepare(cell, CPU)
    feed = setting.question_feed(2)
    rows = Indices.of(np.arange(len(feed.examples)), setting.device)
    noise = torch.rand(len(feed.examples), feed.noise)
    losses = learner.losses(feed, rows, noise)  # type: ignore[attr-defined]
    position, owner = feed.answered(rows)
    with torch.no_grad():
        right = feed.batch(rows, noise).targets[position]
        scores = learner.logits(feed, rows, noise)[position].log_softmax(-1).gather(1, right[:, None])[:, 0]
    whole = torch.zeros(len(losses)).index_add(0, owner, -scores)
    assert torch.allclose(losses * feed.mass, whole, atol=1e-4)
    losses.sum().backward()
    assert all(tensor.grad is not None for tensor in learner.trainable().values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("model,task", [("mlp-xs", "vision"), ("neox-xs", "text"), ("t5-m", "text-sets")])
def test_the_output_of_every_block_can_be_read(model: str, task: str) -> None:
    setting, learner, _ = prepare(small_cell(model, task=task), CPU)
    feed = setting.question_feed(1)
    rows = Indices.of(np.arange(3), setting.device)
    hidden = learner.hidden(feed, rows, torch.rand(3, feed.noise))  # type: ignore[attr-defined]
    assert len(hidden) >= 2
    assert all(len(tensor) == 3 and not tensor.requires_grad for tensor in hidden.values())


def test_what_a_probe_finds_later_is_what_it_finds_while_the_cell_runs(tmp_path: Path) -> None:
    asked = ["run", "--task", "vision", "--smoke", "--seeds", "1", "--model", "mlp-xs", "--out", "out"]
    done = command(*asked, "--keep", "--probe", "losses@stage2/fold1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out" / "mlp-xs").glob("*.json")
    before = read_record(path)
    (table,) = (one for one in before.attachments if one.kind == "probe")
    assert table.file is not None
    first = pl.read_parquet(path.with_name(table.file))
    path.with_name(table.file).unlink()
    again = command("probe", "losses@stage2/fold1", "out", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [row["reason"] for row in json.loads(again.stdout)] == [None]
    assert pl.read_parquet(path.with_name(table.file)).equals(first)
    assert set(first["tag"]) == {"reliable", "unreliable", "fresh"}
    after = read_record(path)
    assert after.model_copy(update={"attachments": ()}) == before.model_copy(update={"attachments": ()})
    assert {(one.name, one.moment) for one in after.attachments} == {
        (one.name, one.moment) for one in before.attachments
    }
    told = command(*asked, "--probe", "losses@initial", cwd=tmp_path)
    assert told.returncode == 0
    assert {("losses", "initial"), ("losses", "stage2/fold1")} <= {
        (one.name, one.moment) for one in read_record(path).attachments
    }


@pytest.mark.parametrize("which", ["vision", "buffers and dropout", "text, one stage"])
def test_a_probe_at_every_point_of_the_curve_changes_nothing(which: str, tmp_path: Path) -> None:
    cell = CELLS[which]()
    plain = outcomes(cell, curve=2)
    attachments = Attachments(tmp_path / "record.json")
    probed = outcomes(cell, attachments, probes=((LOUD, "curve"),), curve=2)
    assert probed.items.equals(plain.items) and probed.curve == plain.curve
    trained = [step.label for step in trains(protocol_of(cell.task).schedule(cell.task))]
    assert [one.moment for one in probed.attachments] == [
        f"{label}+{step}"
        for label, point in zip(np.repeat(trained, 2), plain.curve, strict=True)
        for step in [point.step]
    ]


def test_what_cannot_be_probed_is_one_sentence(tmp_path: Path) -> None:
    run = ["run", "--task", "vision", "--smoke", "--seeds", "1", "--model", "mlp-xs", "--out", "out"]
    bad = command(*run, "--probe", "loses", cwd=tmp_path)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert "unknown probe 'loses': did you mean 'losses'?" in bad.stderr
    assert not (tmp_path / "out").exists()
    bad = command(*run, "--probe", "losses@stage3", cwd=tmp_path)
    assert "no moment 'stage3'; the task has initial, stage1, stage2/fold0, stage2/fold1" in bad.stderr
    bad = command(*run, "--probe", "losses@curve", cwd=tmp_path)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert "a probe at points of the curve needs some; give --curve N, too" in bad.stderr
    assert command(*run, cwd=tmp_path).returncode == 0
    bad = command("probe", "losses", "out", cwd=tmp_path)
    assert bad.returncode == 2
    assert "has no weights after stage1; give --train to train its cell again" in bad.stderr
    assert command("probe", "losses", "out", "--train", cwd=tmp_path).returncode == 0
    assert command("probe", "losses@initial", "out", cwd=tmp_path).returncode == 0


def test_weights_that_were_exchanged_are_refused(tmp_path: Path) -> None:
    run = ["run", "--task", "vision", "--smoke", "--seeds", "1", "--model", "mlp-xs", "--out", "out", "--keep"]
    assert command(*run, cwd=tmp_path).returncode == 0
    first, second = sorted((tmp_path / "out" / "mlp-xs").glob("*.weights-stage*.safetensors"))[:2]
    first.write_bytes(second.read_bytes())
    bad = command("probe", "losses", "out", cwd=tmp_path)
    assert bad.returncode == 2
    assert "is not the file that" in bad.stderr


def test_a_probe_looks_by_default_at_what_all_branches_share() -> None:
    found = {}
    for stages in (1, 2, 3):
        task = small_cell("neox-xs", task="text", stages=stages).task
        found[stages] = default_moment(protocol_of(task).schedule(task))
    assert found == {1: "initial", 2: "stage1", 3: "stage1-questions"}


def test_everything_a_probe_touches_is_put_back() -> None:
    setting, learner, _ = prepare(CELLS["buffers and dropout"](), CPU)
    model: nn.Module = learner.model  # type: ignore[attr-defined]
    model.eval()

    def everything() -> tuple[Any, ...]:
        generators = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
        tensors = [(name, tensor.tolist()) for name, tensor in model.state_dict().items()]
        parameters = [(tensor.requires_grad, tensor.grad) for tensor in model.parameters()]
        return generators, tensors, parameters, [module.training for module in model.modules()]

    before = everything()
    with undone(learner):
        Loud()(setting, learner, "initial")
        assert all(one != other for one, other in zip(before, everything(), strict=True))
    assert everything() == before
