"""What several test modules share: small tasks of both modalities, and their data on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from iml_bench.spec import CellSpec, ModelEntry, TaskSpec, apply_overrides

if TYPE_CHECKING:
    from iml_bench.run.cell import Setting

settings.register_profile("iml", max_examples=30, deadline=None, derandomize=True, database=None)
settings.load_profile("iml")

pytest.register_assert_rewrite("slurm_grids")  # it asserts, and test modules import it
SLOW = frozenset(
    (
        *(
            "test_browser",
            "test_cell",
            "test_check_gguf",
            "test_check_model",
            "test_controls",
            "test_cli",
            "test_ends",
            "test_executors",
            "test_export",
        ),
        *(
            "test_extend",
            "test_generation",
            "test_gpu_slots",
            "test_fake_cuda",
            "test_gpu_box",
            "test_hostile",
            "test_neutral",
            "test_references",
            "test_rehearsal",
        ),
        *(
            "test_leaderboard_command",
            "test_library",
            "test_mechanisms",
            "test_model_files",
            "test_next_step",
            "test_probes",
        ),
        *(
            "test_probe_gradients",
            "test_probe_intervene",
            "test_probe_linear",
            "test_probe_order",
            "test_probed_claims",
        ),
        *(
            "test_processes",
            "test_site",
            "test_slurm",
            "test_slurm_drivers",
            "test_site_parts",
            "test_speed_scripts",
            "test_submit",
            "test_submit_tuned",
            "test_suite_command",
            "test_system",
            "test_wheel",
        ),
    )
)
"""Modules that start processes or a browser, or train for more than a moment; ``pytest -m "not slow"`` is the rest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the slow modules."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


GROUPS = {
    "reliable": 8,
    "unreliable": 8,
    "undefined": 4,
    "new_reliable": 4,
    "new_unreliable": 4,
    "new_fresh": 3,
    "new_undefined": 2,
}
STAGES = {"stage1": {"steps": 6}, "stage2": {"steps": 4}}
VISION: dict[str, Any] = {
    "name": "small-vision",
    "version": 1,
    "description": "digits",
    "model": "mlp-xs",
    "world": {"kind": "label-grid", "rows": 2, "cols": 2, "labels": 10},
    "render": {"kind": "digit-grid"},
    "groups": GROUPS,
    "recipe": {"batch_size": 16, **STAGES},
}
TEXT: dict[str, Any] = {
    "name": "small-text",
    "version": 1,
    "description": "profiles",
    "model": "neox-xs",
    "world": {"kind": "profiles", "attributes": 4, "values": 6},
    "render": {"kind": "text"},
    "groups": GROUPS,
    "recipe": {"batch_size": 16, "loss_on": "text", **STAGES},
}


NAMES: dict[str, Any] = {
    **TEXT,
    "name": "small-names",
    "world": {"kind": "cities"},
    "render": {"kind": "text", "question": "{question}"},
}
SETS: dict[str, Any] = {
    **TEXT,
    "name": "small-sets",
    "world": {"kind": "sets", "questions": 8},
    "render": {"kind": "text", "question": "{question}"},
    "heldout": 4,
}


@pytest.fixture(scope="session")
def vision_task() -> TaskSpec:
    """33 digit grids of 2x2 cells and ten labels."""
    return TaskSpec.model_validate(VISION)


@pytest.fixture(scope="session")
def text_task() -> TaskSpec:
    """33 profiles of four attributes with six values each."""
    return TaskSpec.model_validate(TEXT)


@pytest.fixture(scope="session")
def cells(vision_task: TaskSpec, text_task: TaskSpec) -> dict[str, CellSpec]:
    """One cell of each kind of task."""
    mlp = ModelEntry(
        name="mlp", source="ref:mlp?depth=2&hidden=8", modality="vision", family="mlp", architecture="perceptron"
    )
    neox = ModelEntry(
        name="neox", source="hf-config:gpt_neox?hidden_size=8", modality="text", family="neox", architecture="decoder"
    )
    return {
        "vision": CellSpec(task=vision_task, model=mlp, seed=3),
        "text": CellSpec(task=text_task, model=neox, seed=3),
        "names": CellSpec(task=TaskSpec.model_validate(NAMES), model=neox, seed=3),
        "sets": CellSpec(task=TaskSpec.model_validate(SETS), model=neox, seed=3),
    }


@pytest.fixture(scope="session")
def make_setting() -> Callable[..., Setting]:
    """The data side of a cell on the CPU; keyword arguments are overrides with ``__`` for the dots."""
    import torch

    from iml_bench.modalities.text.tokens import Form
    from iml_bench.run.cell import Setting
    from iml_bench.runtime import Runtime

    torch.set_num_threads(1)

    def make(task: TaskSpec, seed: int = 0, tokenizer: Any = None, **overrides: Any) -> Setting:
        changed = apply_overrides(task, {path.replace("__", "."): value for path, value in overrides.items()})
        form = Form(tokenizer)
        return Setting(changed, seed, torch.device("cpu"), Runtime(device="cpu"), form)

    return make
