"""What must fail fails before the first cell, in one sentence, and nothing is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from making import CPU, small_cell

from iml_bench.errors import UsageError
from iml_bench.run import rehearsal
from iml_bench.run.cell import run_cell
from iml_bench.run.job import Job, check_job
from iml_bench.run.rehearsal import rehearse
from iml_bench.runtime import Runtime

MODELS = "python:peculiar:"
ONE = replace(CPU, micro_batch=1)
FAILING = {
    "two_outputs": (CPU, "cannot be trained on task 'vision': in training it returns tuple, not a tensor of logits"),
    "one_at_a_time": (ONE, "cannot be trained on task 'vision': more than 1 value per channel is needed"),
    "sparse": (CPU, "cannot be trained on task 'vision': .*sparse"),
    "keeping_the_graph": (
        CPU,
        "cannot be trained on task .*: Trying to backward through the graph a second time",
    ),
    "nan_weights": (CPU, "its loss is nan at step 1"),
    "nan_when_asked": (CPU, "answers with NaN when it is asked"),
    "frozen": (CPU, "has no weights that are trained"),
    "wider_in_training": (
        CPU,
        r"cannot be trained on task .*: in training it gave logits of shape \(16, 80\), not",
    ),
    "complex_logits": (CPU, "gives torch.complex64 for images of 32x32; logits are real numbers"),
    "own_generator": (CPU, "is another each time it is made, of one seed too"),
    "own_weights": (CPU, "is another each time it is made, of one seed too"),
    "detached": (CPU, "cannot be trained on task 'vision': element 0 of tensors does not require grad"),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", FAILING)
def test_what_fails_in_a_step_of_training_is_one_sentence(name: str, tmp_path: Path) -> None:
    runtime, sentence = FAILING[name]
    cell = small_cell(MODELS + name)
    with pytest.raises(UsageError, match=sentence):
        check_job(Job(cell, {}, True, tmp_path), runtime)
    if not name.startswith("own_"):
        with pytest.raises(Exception):  # noqa: B017  (and a cell fails indeed)
            run_cell(cell, runtime)


@pytest.mark.parametrize("name", ["locked", "compiled", "counting"])
def test_what_can_be_trained_is_not_refused_for_how_it_is_made(name: str) -> None:
    cell = small_cell(MODELS + name)
    rehearse(cell, CPU)
    assert run_cell(cell, CPU).items.equals(run_cell(cell, CPU).items)


def test_a_weight_without_a_part_is_refused_where_processes_would_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearse(small_cell(MODELS + "unused"), CPU)
    make = rehearsal.make_accelerator

    def of_two(*arguments: Any) -> Any:
        accelerator = make(*arguments)
        state = {"num_processes": 2, "process_index": 0, "device": accelerator.device, "autocast": accelerator.autocast}
        return SimpleNamespace(**state)

    monkeypatch.setattr(rehearsal, "make_accelerator", of_two)
    rehearse(small_cell(MODELS + "plain"), CPU)
    with pytest.raises(UsageError, match=r"its weight .*spare\.weight has no part in its answers"):
        rehearse(small_cell(MODELS + "unused"), CPU)


def test_a_batch_norm_that_sees_one_value_is_found() -> None:
    cell = small_cell("timm:resnet18")
    with pytest.raises(UsageError, match="model 'timm:resnet18' cannot be trained on task 'vision': Expected more tha"):
        rehearse(cell, ONE)


@pytest.mark.parametrize(
    ("task", "model"), [("vision", "mlp-xs"), ("vision", "timm:test_vit2"), ("text", "llama-xs"), ("text", "t5-m")]
)
def test_what_can_be_trained_passes_without_weights(task: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    with_model = rehearsal.Rehearsal.with_model

    def counted(self: rehearsal.Rehearsal, network: torch.nn.Module) -> None:
        tried.append(rehearsal.device_of(network).type)
        with_model(self, network)

    monkeypatch.setattr(rehearsal.Rehearsal, "with_model", counted)
    rehearse(small_cell(model, task=task), CPU)
    small = model in ("llama-xs", "t5-m")  # whether it looks ahead is seen with weights only
    assert tried == (["cpu"] if small else ["meta"])


def test_a_model_that_its_code_keeps_goes_untrained_into_its_cells() -> None:
    cell = small_cell(MODELS + "shared")
    from peculiar import _kept, shared

    rehearse(cell, CPU)
    (module,) = _kept.values()
    assert shared(next(iter(_kept))) is module
    assert all((parameter == 0.01).all() and parameter.grad is None for parameter in module.parameters())


def test_the_smallest_piece_is_the_one_that_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    loss = rehearsal.training_loss

    def counted(model: torch.nn.Module, batch: rehearsal.Batch) -> torch.Tensor:
        sizes.append(len(batch.inputs["pixels"]))
        return loss(model, batch)

    monkeypatch.setattr(rehearsal, "training_loss", counted)
    for micro_batch in (None, 5, 16, 3):
        rehearse(small_cell("mlp-xs"), replace(CPU, micro_batch=micro_batch))
    assert sizes == [16, 16, 4, 4, 16, 16, 1, 1], "two steps of each"


def test_a_cut_that_would_change_the_answer_is_refused_before_the_run() -> None:
    for model, task, cause in (("t5-m", "text", "dropout"), ("timm:resnet18", "vision", "batch normalisation")):
        with pytest.raises(UsageError, match=rf"model '{model}': what it learns .*\({cause}\); give --set recipe.micr"):
            rehearse(small_cell(model, task=task), replace(CPU, micro_batch=4))
    rehearse(small_cell("t5-m", task="text", recipe__micro_batch=4), CPU)


def test_generated_answers_need_a_model_that_generates() -> None:
    cell = small_cell("python:test_language_models:odd?how=plain", task="text", exact_match="normalised")
    with pytest.raises(UsageError, match=r"has no generate\(\), which exact_match: normalised needs"):
        rehearse(cell, CPU)


def test_memory_that_runs_out_is_left_to_the_cell() -> None:
    rehearse(small_cell("python:models_for_tests:picky?limit=4"), CPU)


def test_a_reference_learner_needs_its_data_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "check_model", lambda *arguments, **options: pytest.fail("it has no model"))
    rehearse(small_cell("oracle"), Runtime(device="cpu"))
