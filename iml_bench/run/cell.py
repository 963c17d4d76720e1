"""One cell from its specification to its per-item outcomes: the only place that knows the whole protocol.

::

    stage 1 ── held-out questions        fold 0: stage 2 ── all questions about new entities
       └────────── same weights ───────< fold 1: stage 2, tags exchanged ── the same questions

With three stages, stage 1 comes in two: its definitions, then its questions. With one, both stages are
trained jointly, in each fold anew from the initial weights.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl
import torch

from iml_bench.learners.answers import Answering, answer_questions, generate_answers
from iml_bench.learners.network import NetworkLearner, StageOutcome, Watch, make_accelerator
from iml_bench.learners.reference import ReferenceLearner
from iml_bench.modalities import Feed, Form, Renderer, TextRenderer, build_renderer, draw_noise
from iml_bench.modalities.text.feed import TextFeed
from iml_bench.models import Shape, TextShape, VisionShape, load_form, load_model
from iml_bench.protocols.two_stage.design import (
    ATTRIBUTIONS,
    CLAIMS,
    FACTS,
    FOLDS,
    GROUPS,
    NONE,
    TAGS,
    Design,
    Examples,
    build_design,
    phases,
)
from iml_bench.runtime import Runtime
from iml_bench.spec import CellSpec, LabelGridWorld, StageRecipe, TaskSpec
from iml_bench.stats import ITEM_TYPES, exact_matches
from iml_bench.streams import Streams
from iml_bench.worlds import World, build_world

DIGESTED = 64
"""Examples per stage that the data digest covers."""


class Learner(Answering, Protocol):
    """What the protocol asks of a learner; networks and reference learners are both one."""

    @property
    def parameters(self) -> int: ...
    def fit(self, feed: Feed, stage: StageRecipe, name: str, watch: Watch | None = None) -> StageOutcome: ...
    def snapshot(self) -> Any: ...
    def restore(self, state: Any) -> None: ...


class CurvePoint(NamedTuple):
    """Exact match at one moment of training."""

    phase: str
    fold: int
    step: int
    exact_match: dict[str, float]
    """By what was shown, as in ``Scores.exact_match``."""


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
    curve: list[CurvePoint] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by part: ``setup``, ``stage1``, ``stage2/fold0``, ``evaluation``, ..."""


ITEM_SCHEMA: dict[str, Any] = {name: getattr(pl, kind) for name, kind in ITEM_TYPES.items()}
"""``ITEM_TYPES`` as polars has them."""


class Setting:
    """The data side of a cell, which no model can change: world, design and renderer."""

    def __init__(self, task: TaskSpec, seed: int, device: torch.device, runtime: Runtime, form: Form = Form()) -> None:
        """Draw everything about ``task`` that depends on the seed; ``form`` is how the model reads."""
        self.task = task
        self.streams = Streams(seed)
        self.device = device
        self.world: World = build_world(task, self.streams, runtime.data)
        self.design: Design = build_design(task, self.world, self.streams)
        self.renderer: Renderer = build_renderer(
            task, self.world, self.design, self.streams, device, data_dir=runtime.data_dir, form=form
        )
        self._feeds: dict[tuple[str, str, int], Feed] = {}

    def train_feed(self, phase: str, fold: int = 0) -> Feed:
        """What a phase of training shows, see ``Design.trained``."""
        return self._feed(("train", phase, fold), self.design.trained(phase, fold))

    def question_feed(self, stage: int, fold: int = 0, which: str = FACTS) -> Feed:
        """What is asked after a stage; it differs between folds only where definitions stand before questions."""
        fold = fold if self.design.in_context else 0
        if which == FACTS:
            examples = self.design.asked(stage, fold)
        else:
            examples = self.design.attributions(stage, fold, claimed=which == CLAIMS)
        return self._feed((which, str(stage), fold), examples)

    def _feed(self, which: tuple[str, str, int], examples: Examples) -> Feed:
        """Feeds are made once: tokenising takes longer than a smoke run."""
        if which not in self._feeds:
            self._feeds[which] = self.renderer.feed(examples, evaluation=which[0] != "train")
        return self._feeds[which]

    @property
    def question_sets(self) -> tuple[str, ...]:
        """The sets of questions that this task asks."""
        return (FACTS, ATTRIBUTIONS, CLAIMS) if self.task.attribution else (FACTS,)

    def shape(self) -> Shape:
        """What a model must take and give."""
        task = self.task
        if isinstance(task.world, LabelGridWorld):
            height, width = task.render.canvas  # type: ignore[union-attr]
            return VisionShape(height, width, 1, task.world.n_attributes, task.world.labels)
        codec = self.renderer.codec  # type: ignore[attr-defined]
        shared, own = phases(task)
        feeds = [self.train_feed(phase) for phase in shared]
        feeds += [self.train_feed(own, fold) for fold in FOLDS if own is not None]
        feeds += [self.question_feed(s, fold, w) for s in (1, 2) for fold in FOLDS for w in self.question_sets]
        longest = [feed.longest for feed in feeds if isinstance(feed, TextFeed)]
        length, target = (max(column) for column in zip(*longest, strict=True))
        return TextShape(codec.classes, length, codec.pad, codec.line_end, target)

    def digest(self) -> str:
        """SHA-256 of the first examples of both stages, folds and evaluations, as rendered."""
        digest = hashlib.sha256()
        parts = [
            ("render/stage1", self.train_feed("stage1")),
            *(("render/stage2", self.train_feed("stage2", fold)) for fold in FOLDS),
            *(("render/evaluation", self.question_feed(stage)) for stage in (1, 2)),
        ]
        for stream, feed in parts:
            # A random choice with a fixed seed: the first rows of stage 1 would all be definitions.
            rows = np.random.default_rng(0).permutation(len(feed.examples))[:DIGESTED]
            noise = draw_noise(self.streams.generator(stream), len(rows), feed.noise)
            device = self.device
            digest.update(feed.fingerprint(torch.from_numpy(rows).to(device), torch.from_numpy(noise).to(device)))
        return digest.hexdigest()


class _Run:
    """One cell under way."""

    def __init__(self, cell: CellSpec, runtime: Runtime) -> None:
        self.cell, self.runtime, self.recipe = cell, runtime, cell.task.recipe
        self.clock = _Clock()
        self.stages: list[StageOutcome] = []
        self.tables: list[pl.DataFrame] = []
        self.curve: list[CurvePoint] = []
        with self.clock("setup"):
            self.setting, self.learner, self.accelerator = prepare(cell, runtime)
            self.digest = self.setting.digest()

    def train_and_ask(self) -> None:
        """The whole protocol."""
        shared, own = phases(self.cell.task)
        for phase in shared:
            self.train(phase, 0)
        if shared:
            self.ask(1, 0)
        weights = self.learner.snapshot()
        for fold in FOLDS:
            if own is not None:
                self.learner.restore(weights)
                self.train(own, fold)
            if not shared:
                self.ask(1, fold)
            self.ask(2, fold)

    def train(self, phase: str, fold: int) -> None:
        stage = self.recipe.stage2 if phase == "stage2" else self.recipe.stage1
        part = f"{phase}/fold{fold}" if phase == phases(self.cell.task)[1] else phase
        watch = Watch(self.runtime.curve, lambda step: self.look(phase, fold, step)) if self.runtime.curve else None
        with self.clock(part):
            self.stages.append(self.learner.fit(self.setting.train_feed(phase, fold), stage, phase, watch))

    def ask(self, stage: int, fold: int) -> None:
        with self.clock("evaluation"):
            for which in self.setting.question_sets:
                table = self.table(stage, fold, which)
                if table is not None:
                    self.tables.append(table)

    def table(self, stage: int, fold: int, which: str) -> pl.DataFrame | None:
        """Per-item outcomes of one set of questions; None where it is empty."""
        setting, learner = self.setting, self.learner
        feed = setting.question_feed(stage, fold, which)
        if not len(feed.examples):
            return None
        rng = setting.streams.generator("render/evaluation")
        answers = answer_questions(learner, feed, setting.renderer, rng, self.accelerator.device)
        if self.cell.task.exact_match == "normalised" and isinstance(learner, NetworkLearner):
            assert isinstance(feed, TextFeed)
            assert isinstance(setting.renderer, TextRenderer)
            answers = generate_answers(learner, feed, setting.renderer, answers)
        return item_table(setting, feed.examples, {"stage": stage, "fold": fold, "set": which}, answers._asdict())

    def look(self, phase: str, fold: int, step: int) -> None:
        """One point of the learning curve: what is asked after this phase."""
        with self.clock("curve"):
            stages = {"stage2": (2,), "joint": (1, 2)}.get(phase, (1,))
            tables = [self.table(stage, fold, FACTS) for stage in stages]
            items = pl.concat([table for table in tables if table is not None])
            columns = {name: items[name].to_numpy() for name in items.columns}
            self.curve.append(CurvePoint(phase, fold, step, exact_matches(columns)))


def run_cell(cell: CellSpec, runtime: Runtime) -> CellOutcome:
    """Run one cell: the phases that both folds share once, then each fold's from the same weights.

    Raises:
        UsageError: when the model, the device or the data cannot be had.
        CellError: when training cannot go on.
    """
    run = _Run(cell, runtime)
    accelerator = run.accelerator
    run.train_and_ask()
    return CellOutcome(
        items=pl.concat(run.tables),
        parameters=run.learner.parameters,
        chance=run.setting.world.chance,
        data_digest=run.digest,
        stages=run.stages,
        device=_device_name(accelerator.device),
        processes=accelerator.num_processes,
        is_main=accelerator.is_main_process,
        curve=run.curve,
        seconds=run.clock.seconds,
    )


def prepare(cell: CellSpec, runtime: Runtime) -> tuple[Setting, Learner, Any]:
    """Everything up to the first training step: the data, the learner on its device, the Accelerator."""
    recipe = cell.task.recipe
    accelerator = make_accelerator(recipe, runtime)
    setting = Setting(cell.task, cell.seed, accelerator.device, runtime, load_form(cell.model))
    if cell.model.is_reference:
        name = cell.model.parsed.target
        reference = ReferenceLearner(name, setting.renderer, setting.streams, accelerator.device)
        return setting, reference, accelerator
    model = load_model(
        cell.model,
        setting.shape(),
        setting.streams.integer("init"),
        optimizer=recipe.optimizer,
        device=accelerator.device,
    )
    learner = NetworkLearner(model, recipe, setting.streams, accelerator, runtime)
    return setting, learner, accelerator


def item_table(setting: Setting, examples: Examples, constant: dict[str, Any], answers: dict[str, Any]) -> pl.DataFrame:
    """Per-item rows, in the order of ``ITEM_SCHEMA``.

    Args:
        setting: says who is in which group and under which tag.
        examples: the questions.
        constant: ``stage``, ``fold`` and ``set``, the same for all of them.
        answers: columns of ``Answers``; a column that is not there is left out.
    """
    design = setting.design
    tags = [TAGS[tag] if tag != NONE else None for tag in design.tag[constant["fold"]][examples.entity]]
    columns = {
        **{name: [value] * len(examples) for name, value in constant.items()},
        "entity": examples.entity,
        "group": [GROUPS[group] for group in design.group[examples.entity]],
        "tag": tags,
        "attribute": [setting.world.label(asked) for asked in examples.asked.tolist()],
        **answers,
    }
    schema = {name: kind for name, kind in ITEM_SCHEMA.items() if name in columns}
    return pl.DataFrame({name: columns[name] for name in schema}, schema=schema)


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
