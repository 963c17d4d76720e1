"""From what a user asks for to the cells that are run."""

from __future__ import annotations

from pathlib import Path

import pytest
from making import small_cell

from iml_bench.errors import UsageError
from iml_bench.protocols.two_stage import TWO_STAGE
from iml_bench.registry import TASKS
from iml_bench.run.executors.base import distinct
from iml_bench.run.job import Job
from iml_bench.run.plan import Request, plan
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, ModelEntry, apply_overrides, cell_key

REFERENCES = tuple(TWO_STAGE.attitudes(TASKS.get("vision")))

OUT = Path("results")


def names(jobs: list[Job]) -> list[tuple[str, int]]:
    return [(job.cell.model.name, job.cell.seed) for job in jobs]


def key_of(entry: ModelEntry, task: str = "vision") -> str:
    return cell_key(CellSpec(task=TASKS.get(task), model=entry, seed=0))


def refusal(name: str, task: str | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        find_model(name, TASKS.get(task) if task else None)
    return str(caught.value)


def test_every_model_and_seed_is_a_cell_and_the_references_come_last() -> None:
    jobs = plan([Request("vision", ("mlp-s", "convnet-s"), seeds=(4, 2))], OUT)
    trained = [("mlp-s", 4), ("mlp-s", 2), ("convnet-s", 4), ("convnet-s", 2)]
    assert names(jobs) == trained + [(name, seed) for name in REFERENCES for seed in (4, 2)]
    assert all(job.out == OUT and not job.smoke and job.changes == {} for job in jobs)


def test_without_a_model_the_tasks_own_is_run() -> None:
    jobs = plan([Request("text", seeds=(0,))], OUT)
    assert names(jobs)[0] == (TASKS.get("text").model, 0)
    assert len(jobs) == 1 + len(REFERENCES)


def test_the_same_cell_is_run_once() -> None:
    once = plan([Request("vision", ("mlp-s",), seeds=(0, 1))], OUT)
    again = Request("vision", ("mlp-s", "mlp-s", "oracle"), seeds=(1, 0, 1))
    jobs = plan([Request("vision", ("mlp-s",), seeds=(0, 1)), again], OUT)
    assert names(jobs) == names(once)


def test_a_registered_model_and_its_source_are_the_same_cell() -> None:
    jobs = plan([Request("vision", ("mlp-s", "ref:mlp?hidden=64"), seeds=(0,))], OUT)
    assert len(jobs) == 1 + len(REFERENCES)


def test_references_are_added_once_for_each_setting() -> None:
    requests = [
        Request("vision", ("mlp-s",), seeds=(0,)),
        Request("vision", ("convnet-s",), seeds=(0,)),
        Request("vision", ("mlp-s",), seeds=(0,), overrides={"alpha": 0.5}),
    ]
    jobs = plan(requests, OUT)
    assert [name for name, _ in names(jobs)] == ["mlp-s", "convnet-s", "mlp-s", *REFERENCES, *REFERENCES]
    assert [job.changes for job in jobs[2:]] == [
        {"alpha": 0.5},
        *[{}] * len(REFERENCES),
        *[{"alpha": 0.5}] * len(REFERENCES),
    ]


def test_smoke_shrinks_the_task_and_says_so_and_overrides_win() -> None:
    base = TASKS.get("vision")
    (job, *_) = plan(
        [Request("vision", seeds=(0,), smoke=True, overrides={"groups.reliable": 6, "recipe.lr": 0.1})], OUT
    )
    expected = {**base.smoke, "groups.reliable": 6, "recipe.lr": 0.1}
    assert job.smoke
    assert job.changes == expected
    assert job.cell.task == apply_overrides(base, expected)


def test_epochs_can_be_set_together_with_smoke() -> None:
    (job, *_) = plan([Request("vision", seeds=(0,), smoke=True, overrides={"recipe.stage1.epochs": 1})], OUT)
    assert (job.cell.task.recipe.stage1.epochs, job.cell.task.recipe.stage1.steps) == (1.0, None)


def test_nothing_is_planned_when_anything_is_wrong() -> None:
    for wrong in (Request("visoin"), Request("vision", ("mlp-mm",)), Request("vision", overrides={"alhpa": 1})):
        with pytest.raises(UsageError, match="did you mean"):
            plan([Request("vision"), wrong], OUT)


def test_a_model_of_the_other_modality_is_refused() -> None:
    assert refusal("neox-m", "vision") == (
        "model 'neox-m' reads text and task 'vision' is vision; iml-bench models --modality vision lists what fits"
    )
    assert refusal("timm:resnet18", "text") == (
        "model 'timm:resnet18' reads vision and task 'text' is text; iml-bench models --modality text lists what fits"
    )
    for task in ("vision", "text"):
        assert find_model("oracle", TASKS.get(task)).modality == "any"


def test_a_mistyped_scheme_is_told_apart_from_a_name() -> None:
    assert refusal("tim:resnet18").startswith("unknown model source 'tim': did you mean 'timm'?")
    assert refusal("resnet18").startswith("unknown model 'resnet18'")


def test_a_file_of_ones_own_is_digested_and_its_change_changes_the_key(tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text("def build(shape): ...\n")
    before = find_model(f"python:{file}:build", TASKS.get("vision"))
    assert before.digest is not None and len(before.digest) == 64
    assert find_model(f"python:{file}:build") == before
    file.write_text("def build(shape): return 1\n")
    after = find_model(f"python:{file}:build")
    assert after.digest != before.digest
    assert key_of(after) != key_of(before)


def test_a_module_is_digested_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_nets.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_model("python:their_nets:build").digest is not None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("python:nets.py", "'python:nets.py' is not of the form python:module:callable"),
        ("python:no/such/nets.py:build", "'python:no/such/nets.py:build': there is no file no/such/nets.py"),
        (
            "python:no_such_module:build",
            "'python:no_such_module:build': there is no module 'no_such_module'; give a path ending in .py, or",
        ),
        ("python:no_such.module:build", "'python:no_such.module:build': there is no module 'no_such.module'"),
    ],
)
def test_a_callable_that_cannot_be_found_is_refused(source: str, message: str) -> None:
    assert refusal(source).startswith(message)


def test_a_local_model_is_digested_by_its_weights_configuration_and_tokenizer(tmp_path: Path) -> None:
    for file in ("model.safetensors", "config.json", "README.md"):
        (tmp_path / file).write_text(file)
    source = f"hf:{tmp_path}"
    before = find_model(source).digest
    (tmp_path / "README.md").write_text("other")
    assert find_model(source).digest == before
    seen = {before}
    for file in ("model.safetensors", "config.json", "merges.txt", "modeling.py"):
        (tmp_path / file).write_text("other")
        seen.add(find_model(source).digest)
    assert len(seen) == 5
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.txt")
    assert find_model(source).digest not in seen


def test_what_is_not_a_local_file_has_no_digest() -> None:
    for source in ("hf:nobody/no-such-model", "timm:resnet18", "ref:mlp", "mlp-m"):
        assert find_model(source).digest is None


def test_remote_code_is_trusted_only_when_asked_for() -> None:
    assert not find_model("hf:a/b").trust_remote_code
    trusted = find_model("hf:a/b", trust_remote_code=True)
    assert trusted.trust_remote_code
    assert key_of(trusted, "text") != key_of(find_model("hf:a/b"), "text")


def test_models_of_one_source_that_differ_in_their_tokenizer_are_both_prepared(tmp_path: Path) -> None:
    cell = small_cell("neox-xs", task="text")
    one = cell.model.model_copy(update={"source": "hf:folder/model"})
    models = [one, one.model_copy(update={"tokenizer": "own"}), one.model_copy(update={"name": "a label"})]
    jobs = [Job(cell.model_copy(update={"model": model}), {}, smoke=True, out=tmp_path) for model in models]
    assert [job.cell.model.tokenizer for job in distinct([jobs])] == ["task", "own"]
