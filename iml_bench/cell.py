"""One cell from its specification to its per-item outcomes: the only place that knows the whole protocol.

::

    stage 1 ── held-out questions        fold 0: stage 2 ── all questions about new entities
       └────────── same weights ───────< fold 1: stage 2, tags exchanged ── the same questions
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch

from iml_bench.design import FOLDS, GROUPS, NONE, TAGS, Design, Examples, build_design
from iml_bench.evaluate import answer_questions
from iml_bench.models import Shape, TextShape, VisionShape, load_model, load_tokenizer
from iml_bench.reference import ReferenceLearner
from iml_bench.render import Feed, Renderer, build_renderer, draw_noise
from iml_bench.runtime import Runtime
from iml_bench.spec import CellSpec, LabelGridWorld, StageRecipe, TaskSpec
from iml_bench.streams import Streams
from iml_bench.train import NetworkLearner, StageOutcome, make_accelerator
from iml_bench.worlds import World, build_world

DIGESTED = 64
"""Examples per stage that the data digest covers."""


class Learner(Protocol):
    """What the protocol asks of a learner; networks and reference learners are both one."""

    @property
    def parameters(self) -> int: ...
    def fit(self, feed: Feed, stage: StageRecipe, name: str) -> StageOutcome: ...
    def logits(self, feed: Feed, rows: torch.Tensor, noise: torch.Tensor) -> torch.Tensor: ...
    def snapshot(self) -> Any: ...
    def restore(self, state: Any) -> None: ...


@dataclass
class CellOutcome:
    """What a cell gave, before it becomes a record."""

    items: pl.DataFrame
    """One row per asked question, fold and stage; the columns are those of ``ITEM_SCHEMA``."""
    parameters: int
    chance: float
    data_digest: str
    stages: list[StageOutcome]
    device: str
    processes: int
    is_main: bool
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by part: ``setup``, ``stage1``, ``stage2/fold0``, ``evaluation``, ..."""


ITEM_SCHEMA: dict[str, Any] = {
    "stage": pl.Int8,
    "fold": pl.Int8,
    "entity": pl.Int32,
    "group": pl.String,
    "tag": pl.String,
    "attribute": pl.String,
    "gold": pl.String,
    "predicted": pl.String,
    "exact_match": pl.Boolean,
    "log_likelihood": pl.Float64,
}
"""Columns of the per-item file. ``fold`` is 0 after stage 1; ``tag`` is the tag under which the entity
was defined in that fold, null where it was not."""


class Setting:
    """The data side of a cell, which no model can change: world, design and renderer."""

    def __init__(
        self, task: TaskSpec, seed: int, device: torch.device, runtime: Runtime, tokenizer: Any = None
    ) -> None:
        """Draw everything about ``task`` that depends on the seed."""
        self.task = task
        self.streams = Streams(seed)
        self.device = device
        self.world: World = build_world(task, self.streams)
        self.design: Design = build_design(task, self.world, self.streams)
        self.renderer: Renderer = build_renderer(
            task, self.world, self.streams, device, data_dir=runtime.data_dir, tokenizer=tokenizer
        )
        self._feeds: dict[tuple[str, int, int], Feed] = {}

    def train_feed(self, stage: int, fold: int = 0) -> Feed:
        """What stage 1, or a fold of stage 2, trains on."""
        examples = self.design.stage1() if stage == 1 else self.design.stage2(fold)
        return self._feed(("train", stage, fold), examples)

    def question_feed(self, stage: int) -> Feed:
        """What is asked after a stage."""
        return self._feed(("questions", stage, 0), self.design.questions(stage))

    def _feed(self, which: tuple[str, int, int], examples: Examples) -> Feed:
        """Feeds are made once: tokenising takes longer than a smoke run."""
        if which not in self._feeds:
            self._feeds[which] = self.renderer.feed(examples, evaluation=which[0] == "questions")
        return self._feeds[which]

    def shape(self) -> Shape:
        """What a model must take and give."""
        task = self.task
        if isinstance(task.world, LabelGridWorld):
            height, width = task.render.canvas  # type: ignore[union-attr]
            return VisionShape(height, width, 1, task.world.n_attributes, task.world.labels)
        tokenizer = self.renderer.tokenizer  # type: ignore[attr-defined]
        longest = max(self.train_feed(stage).weights.shape[1] for stage in (1, 2))
        return TextShape(self.renderer.classes, longest, tokenizer.pad_token_id, tokenizer.eos_token_id)

    def digest(self) -> str:
        """SHA-256 of the first examples of every stage, fold and evaluation, as rendered."""
        digest = hashlib.sha256()
        parts = [
            ("render/stage1", self.train_feed(1)),
            *(("render/stage2", self.train_feed(2, fold)) for fold in FOLDS),
            *(("render/evaluation", self.question_feed(stage)) for stage in (1, 2)),
        ]
        for stream, feed in parts:
            # A random choice with a fixed seed: the first rows of stage 1 would all be definitions.
            rows = np.random.default_rng(0).permutation(len(feed.examples))[:DIGESTED]
            noise = draw_noise(self.streams.generator(stream), len(rows), feed.noise)
            device = self.device
            digest.update(feed.fingerprint(torch.from_numpy(rows).to(device), torch.from_numpy(noise).to(device)))
        return digest.hexdigest()


def run_cell(cell: CellSpec, runtime: Runtime) -> CellOutcome:
    """Run one cell: stage 1 once, then stage 2 in both folds from the same weights.

    Raises:
        UsageError: when the model, the device or the data cannot be had.
        CellError: when training cannot go on.
    """
    clock = _Clock()
    task, recipe = cell.task, cell.task.recipe
    with clock("setup"):
        setting, learner, accelerator = prepare(cell, runtime)
        digest = setting.digest()
    if runtime.track:
        accelerator.init_trackers("iml-bench", config={"task": task.label, "model": cell.model.name, "seed": cell.seed})

    def ask(stage: int, fold: int) -> pl.DataFrame:
        with clock("evaluation"):
            rng = setting.streams.generator("render/evaluation")
            feed = setting.question_feed(stage)
            answers = answer_questions(learner, feed, setting.renderer, rng, accelerator.device)
            return _item_table(setting, feed.examples, stage, fold, answers._asdict())

    stages = []
    with clock("stage1"):
        stages.append(learner.fit(setting.train_feed(1), recipe.stage1, "stage1"))
    tables = [ask(1, 0)]
    weights = learner.snapshot()
    for fold in FOLDS:
        with clock(f"stage2/fold{fold}"):
            learner.restore(weights)
            stages.append(learner.fit(setting.train_feed(2, fold), recipe.stage2, "stage2"))
        tables.append(ask(2, fold))
    if runtime.track:
        accelerator.end_training()
    return CellOutcome(
        items=pl.concat(tables),
        parameters=learner.parameters,
        chance=setting.world.chance,
        data_digest=digest,
        stages=stages,
        device=_device_name(accelerator.device),
        processes=accelerator.num_processes,
        is_main=accelerator.is_main_process,
        seconds=clock.seconds,
    )


def prepare(cell: CellSpec, runtime: Runtime) -> tuple[Setting, Learner, Any]:
    """Everything up to the first training step: the data, the learner on its device, the Accelerator."""
    accelerator = make_accelerator(cell.task.recipe, runtime)
    tokenizer = load_tokenizer(cell.model)
    setting = Setting(cell.task, cell.seed, accelerator.device, runtime, tokenizer)
    if cell.model.is_reference:
        name = cell.model.parsed.target
        reference = ReferenceLearner(name, setting.renderer, setting.streams, accelerator.device)
        return setting, reference, accelerator
    model = load_model(cell.model, setting.shape(), setting.streams.integer("init"))
    learner = NetworkLearner(model, cell.task.recipe, setting.streams, accelerator, runtime)
    return setting, learner, accelerator


def _item_table(setting: Setting, examples: Examples, stage: int, fold: int, answers: dict[str, Any]) -> pl.DataFrame:
    design = setting.design
    tags = [TAGS[tag] if tag != NONE else None for tag in design.tag[fold][examples.entity]]
    n = len(examples)
    columns = {
        "stage": [stage] * n,
        "fold": [fold] * n,
        "entity": examples.entity,
        "group": [GROUPS[group] for group in design.group[examples.entity]],
        "tag": tags,
        "attribute": [setting.world.attributes[asked] for asked in examples.asked],
        **answers,
    }
    return pl.DataFrame({name: columns[name] for name in ITEM_SCHEMA}, schema=ITEM_SCHEMA)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class _Clock:
    """Wall time by part; the same part twice adds up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        before = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - before
