"""What is called neutral is: it changes no outcome of any model, or is refused, and the cause is named."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import CPU, command, log_likelihoods, small_cell

from iml_bench.errors import CellError, UsageError
from iml_bench.generators import kept, seeded
from iml_bench.learners.cut import BATCH_NORM, COUPLED, DROPOUT, STATE, causes_of, cut_problem
from iml_bench.learners.network import NetworkLearner
from iml_bench.learners.rounding import nudge
from iml_bench.models.meta import META, scalars_are_zero
from iml_bench.records import Store, read_items
from iml_bench.run.cell import prepare, run_cell
from iml_bench.run.checks import check_model
from iml_bench.runtime import Runtime, StageProgress
from iml_bench.spec import Recipe, StageRecipe, cell_key

MODELS = "python:peculiar:"
CAUSES = {
    "plain": (),
    "attention": (),
    "instance_norm": (),
    "numpy_weights": (),
    "dropout": (DROPOUT,),
    "dropout_when_asked": (DROPOUT,),
    "attention_dropout": (DROPOUT,),
    "seeding": (DROPOUT,),
    "noise": ("random numbers of torch (randn_like)",),
    "python_random": ("random numbers of Python",),
    "numpy_random": ("random numbers of numpy",),
    "batch_norm": (BATCH_NORM,),
    "centred": (COUPLED,),
    "remembering": (STATE,),
    "observing": (STATE,),
    "counting": (),
    "locked": (),
    "compiled": (),
}
"""Why the training of each network depends on how a batch is cut."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def causes(model: str, task: str = "vision", *, on_meta: bool = False) -> tuple[str, ...]:
    setting, learner, _ = prepare(small_cell(model, task=task), CPU)
    assert isinstance(learner, NetworkLearner)
    if not on_meta:
        return causes_of(learner.model, setting.train_feed("stage1"))
    with scalars_are_zero():
        return causes_of(learner.model.to(META), setting.train_feed("stage1"))


@pytest.mark.parametrize("name", CAUSES)
def test_the_cause_is_found_and_named(name: str) -> None:
    assert causes(MODELS + name) == CAUSES[name]


GPT2 = "hf-config:gpt2?n_embd=32&n_head=2&n_layer=1"
LIBRARIES = {
    ("vision", "convnet-xs"): (),
    ("vision", "timm:test_vit2"): (),
    ("vision", "timm:test_vit2?drop_path_rate=0.2"): (DROPOUT,),
    ("vision", "timm:resnet18"): (BATCH_NORM,),
    ("vision", "timm:nf_regnet_b0"): (),  # its weights are standardised by the operation of batch normalisation
    ("text", "llama-xs"): (),
    ("text", GPT2): (DROPOUT,),
    ("text", f"{GPT2}&resid_pdrop=0&embd_pdrop=0"): (DROPOUT,),
    ("text", f"{GPT2}&resid_pdrop=0&embd_pdrop=0&attn_pdrop=0"): (),
}


@pytest.mark.parametrize("on_meta", [False, True])
@pytest.mark.parametrize(("task", "model"), LIBRARIES)
def test_the_causes_in_libraries_are_found_without_weights_too(task: str, model: str, on_meta: bool) -> None:
    assert causes(model, task, on_meta=on_meta) == LIBRARIES[task, model]


@pytest.mark.parametrize("name", CAUSES)
def test_the_same_cell_is_the_same_whatever_the_generators_were(name: str) -> None:
    cell = small_cell(MODELS + name)
    first = run_cell(cell, CPU)
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    assert run_cell(cell, CPU).items.equals(first.items)
    after = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("name", CAUSES)
def test_looking_on_changes_nothing(name: str) -> None:
    """A learning curve asks in between, and a tracker that draws numbers hears of every loss."""

    def drawing(progress: StageProgress) -> None:
        torch.rand(1)
        np.random.rand()  # noqa: NPY002
        random.random()

    cell = small_cell(MODELS + name)
    alone = run_cell(cell, CPU)
    watched = run_cell(cell, replace(CPU, curve=3, report=drawing))
    assert watched.items.equals(alone.items)
    assert watched.stages == alone.stages


@pytest.mark.parametrize("name", CAUSES)
def test_a_smaller_micro_batch_gives_the_same_answer_or_is_refused(name: str) -> None:
    # Of seed 0, instance_norm meets an example without variance, at which rounding grows ten thousand times.
    cell, pieces = small_cell(MODELS + name, seed=1), replace(CPU, micro_batch=5)
    if CAUSES[name]:
        with pytest.raises(UsageError) as refusal:
            run_cell(cell, pieces)
        assert f"depends on how a batch is cut ({CAUSES[name][0]})" in str(refusal.value)
        assert "--set recipe.micro_batch=5" in str(refusal.value)
    else:
        gap = log_likelihoods(run_cell(cell, pieces).items) - log_likelihoods(run_cell(cell, CPU).items)
        assert np.abs(gap).max() < 1e-3


@pytest.mark.parametrize("name", ["dropout", "batch_norm"])
def test_a_cut_of_the_recipe_is_a_cell_of_its_own(name: str) -> None:
    whole, cut = small_cell(MODELS + name), small_cell(MODELS + name, recipe__micro_batch=5)
    assert cell_key(whole) != cell_key(cut)
    outcome = run_cell(cut, CPU)
    assert not outcome.items.equals(run_cell(whole, CPU).items)
    assert run_cell(cut, replace(CPU, curve=2)).items.equals(outcome.items)
    assert {(stage.micro_batch, stage.accumulation) for stage in outcome.stages} == {(5, 4)}
    with pytest.raises(UsageError, match=r"recipe.micro_batch=5 says how every batch is cut; leave --micro-batch out"):
        run_cell(cut, replace(CPU, micro_batch=2))


@pytest.mark.parametrize(
    ("model", "task", "said"),
    [
        ("t5-m", "text", "but for the cut (dropout): batches stay whole, or recipe.micro_batch is part of the key"),
        ("timm:resnet18", "vision", "but for the cut (batch normalisation)"),
        ("mlp-xs", "vision", "log-likelihoods within"),
    ],
)
def test_a_check_says_what_it_found(model: str, task: str, said: str) -> None:
    steps = {step.name: step for step in check_model(model, task, CPU)}
    assert all(step.passed for step in steps.values())
    assert steps["looking on and cutting batches is neutral"].detail.startswith(said)


class _OutOfMemory(NetworkLearner):
    """Runs out of memory once."""

    left = 1

    def _accumulate(self, *arguments: object) -> None:
        if self.left:
            self.left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. (as it would say)")
        super()._accumulate(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CAUSES)
def test_out_of_memory_cuts_a_batch_only_where_that_is_neutral(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iml_bench.learners.network.NetworkLearner", _OutOfMemory)
    cell = small_cell(MODELS + name)
    if CAUSES[name]:
        with pytest.raises(CellError, match=r"part of the answer .*recipe.micro_batch=8, which is a cell of its own"):
            run_cell(cell, CPU)
    else:
        assert run_cell(cell, CPU).stages[0].micro_batch == 8


def recipe(batch: int, micro_batch: int | None) -> Recipe:
    return Recipe(batch_size=batch, micro_batch=micro_batch, stage1=StageRecipe(steps=1))


@given(
    batch=st.integers(2, 40),
    fixed=st.none() | st.integers(1, 39),
    asked=st.none() | st.integers(1, 50),
    processes=st.integers(1, 4),
    found=st.sampled_from([(), (DROPOUT,), (BATCH_NORM,), (STATE,)]),
)
def test_no_batch_is_cut_in_silence(
    batch: int, fixed: int | None, asked: int | None, processes: int, found: tuple[str, ...]
) -> None:
    fixed = None if fixed is None or fixed >= batch else fixed
    problem = cut_problem(recipe(batch, fixed), asked, processes, lambda: found)
    whole = processes == 1 and (asked is None or asked >= batch)
    if problem is None and found and fixed is None:
        assert whole
    if not found and (fixed is None or asked is None):
        assert problem is None
    if fixed is not None and asked is None and processes == 1:
        asking = cut_problem(recipe(batch, fixed), None, 1, lambda: pytest.fail("nobody needs to look"))
        assert asking is None


def test_a_recipes_micro_batch_is_less_than_its_batch() -> None:
    with pytest.raises(ValueError, match="micro_batch: it is less than batch_size; null is the whole batch"):
        recipe(16, 16)


def test_processes_give_the_answer_of_one_with_noise_too(tmp_path: Path) -> None:
    arguments = ["run", "--task", "vision", "--model", MODELS + "dropout", "--smoke", "--seeds", "1", "--device", "cpu"]
    here = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    fixed = ["--set", "recipe.micro_batch=3"]
    refused = command(*arguments, "--processes", "2", "--out", str(tmp_path / "no"), **here)
    assert refused.returncode == 2
    assert "--set recipe.micro_batch=8, which is a cell of its own" in refused.stderr
    assert not (tmp_path / "no").exists()
    tables: list[pl.DataFrame] = []
    for number in (1, 2):
        out = tmp_path / str(number)
        more = ["--processes", str(number)] if number > 1 else ["--workers", "1"]
        done = command(*arguments, *fixed, *more, "--out", str(out), **here)
        assert done.returncode == 0, done.stderr
        (trained,) = (one for one in Store(out).scan()[0] if not one.record.cell.model.is_reference)
        assert trained.record.provenance.processes == number
        tables.append(read_items(trained))
    assert np.abs(log_likelihoods(tables[0]) - log_likelihoods(tables[1])).max() < 1e-3


@settings(max_examples=30)
@given(seed=st.integers(0, 2**63 - 1), draws=st.integers(0, 5))
def test_the_generators_are_put_back(seed: int, draws: int) -> None:
    def state() -> tuple[bytes, bytes, object]:
        numpys = np.random.get_state()  # noqa: NPY002
        return torch.get_rng_state().numpy().tobytes(), numpys[1].tobytes(), random.getstate()  # type: ignore[index,union-attr]

    def drawn() -> list[float]:
        return [x for _ in range(draws) for x in (torch.rand(1).item(), np.random.rand(), random.random())]  # noqa: NPY002

    before = state()
    with kept():
        drawn()
    with seeded(seed):
        first = drawn()
    with pytest.raises(ZeroDivisionError), seeded(seed):
        assert drawn() == first
        raise ZeroDivisionError
    assert state() == before


@given(
    weights=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=30), number=st.integers(1, 2**31)
)
def test_a_nudge_is_a_unit_in_the_last_place(weights: list[float], number: int) -> None:
    model = torch.nn.ParameterDict({"trained": torch.tensor(weights), "frozen": torch.tensor(weights)})
    model["frozen"].requires_grad_(requires_grad=False)
    before, state = torch.tensor(weights), torch.get_rng_state()
    nudge(model, number)
    now = model["trained"].detach()
    neighbours = [torch.nextafter(before, torch.tensor(far)) for far in (torch.inf, -torch.inf)]
    assert ((now == neighbours[0]) | (now == neighbours[1])).all() and not (now == before).any()
    assert torch.equal(model["frozen"], before) and torch.equal(torch.get_rng_state(), state)
    again = torch.nn.ParameterDict({"trained": torch.tensor(weights)})
    nudge(again, number)
    assert torch.equal(again["trained"], now)


@pytest.mark.parametrize(("model", "task"), [("mlp-xs", "vision"), ("neox-xs", "text")])
def test_a_nudge_changes_an_answer_by_rounding_only(model: str, task: str) -> None:
    """In the few steps of a smoke test; data, order and draws are the same."""
    cell = small_cell(model, task=task)
    plain, moved, other = (run_cell(cell, replace(CPU, nudge=number)) for number in (0, 1, 2))
    gaps = [log_likelihoods(one.items) - log_likelihoods(plain.items) for one in (moved, other)]
    assert all(0 < np.abs(gap).max() < 1e-3 for gap in gaps) and (gaps[0] != gaps[1]).any()
    assert plain.data_digest == moved.data_digest


def test_every_field_of_the_runtime_is_tried() -> None:
    """Here, or where processes, places on GPUs, probes, kept weights and trackers are tested."""
    tried = {"micro_batch", "curve", "report", "nudge"}
    elsewhere = {"device", "data_dir", "data", "checkpointing", "probes", "keep", "track", "track_dir"}
    elsewhere |= {"cells_per_gpu"}
    assert {*Runtime.__dataclass_fields__} == tried | elsewhere
