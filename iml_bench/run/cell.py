"""One cell from its specification to its per-item outcomes: carries the protocol's schedule out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from iml_bench.errors import UsageError
from iml_bench.extensions import LEARNERS, MODALITIES
from iml_bench.generators import seeded
from iml_bench.learners.answers import answer_questions
from iml_bench.learners.base import Learner, Watch
from iml_bench.learners.setup import make_accelerator
from iml_bench.modalities.base import Feed, Modality, Renderer, Scene, draw_noise
from iml_bench.models import load_form
from iml_bench.probes.base import look
from iml_bench.protocols import ITEM_TYPES, protocol_of, streams_of
from iml_bench.protocols.base import CURVE, FACTS, INITIAL, NONE, Ask, Examples, Keep, Restore, Train, asks, trains
from iml_bench.records import Attachment, Attachments
from iml_bench.runtime import Runtime, StageProgress
from iml_bench.spec import Audit, CellSpec, CurvePoint, StageOutcome, TaskSpec

DIGESTED = 64
"""Examples per step that the data digest covers."""


@dataclass
class CellOutcome:
    """What a cell gave, before it becomes a record."""

    items: pl.DataFrame
    """One row per asked question, branch and stage; the columns are those of ``ITEM_SCHEMA``."""
    parameters: int
    chance: float
    data_digest: str
    stages: list[StageOutcome]
    device: str
    processes: int
    is_main: bool
    audit: Audit | None = None
    curve: list[CurvePoint] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    """Weights and tables of probes, written while the cell ran."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by part: ``setup``, ``stage1``, ``stage2/fold0``, ``evaluation``, ..."""


ITEM_SCHEMA: dict[str, Any] = {name: getattr(pl, kind) for name, kind in ITEM_TYPES.items()}
"""``ITEM_TYPES`` as polars has them."""


class Setting:
    """The data side of a cell, which no model can change: world, design, renderer and schedule."""

    def __init__(self, task: TaskSpec, seed: int, device: torch.device, runtime: Runtime, form: Any = None) -> None:
        """Draw everything about ``task`` that depends on the seed; ``form`` is how the model reads.

        Raises:
            UsageError: when the data of the task are not there.
        """
        if task.world.reads_file and runtime.data is None:
            raise UsageError(f"task {task.name!r} reads its entities from a file; give --data FILE")
        self.task, self.device = task, device
        self.protocol = protocol_of(task)
        self.schedule = self.protocol.schedule(task)
        self.streams = streams_of(task, seed)
        self.world = task.world.build(task.n_entities, self.streams, runtime.data)
        self.design = self.protocol.design(task, self.world, self.streams)
        self.modality: Modality = MODALITIES.get(task.modality)
        scene = Scene(task, self.world, self.design, self.streams, device, runtime.data_dir, form)
        self.renderer: Renderer = self.modality.renderer(scene)
        self._feeds: dict[tuple[bool, bytes], Feed] = {}

    def train_feed(self, phase: str, branch: int = 0) -> Feed:
        """What a phase of training shows, see ``Design.trained``."""
        return self.feed(self.design.trained(phase, branch), evaluation=False)

    def question_feed(self, stage: int, branch: int = 0, which: str = FACTS) -> Feed:
        """What one set of questions asks after a stage, see ``Design.asked``."""
        return self.feed(self.design.asked(stage, branch, which), evaluation=True)

    def feed(self, examples: Examples, *, evaluation: bool) -> Feed:
        """Examples on the device. The same ones are put there once: tokenising takes longer than a smoke run."""
        key = evaluation, hashlib.sha256(np.stack(examples).tobytes()).digest()
        if key not in self._feeds:
            self._feeds[key] = self.renderer.feed(examples, evaluation=evaluation)
        return self._feeds[key]

    def shape(self) -> Any:
        """What a model must take and give, see ``Modality.shape``; the same where a cell ends early."""
        steps = (*self.schedule, *self.protocol.digested(self.task))
        feeds = [self.train_feed(step.phase, step.fold) for step in trains(steps)]
        feeds += [self.question_feed(step.stage, step.branch, w) for step in asks(steps) for w in step.sets]
        return self.modality.shape(self.renderer, feeds)

    def digest(self) -> str:
        """SHA-256 of the first examples of the steps that the protocol has digested, as rendered."""
        digest = hashlib.sha256()
        steps = self.protocol.digested(self.task)
        parts = [(f"render/{step.phase}", self.train_feed(step.phase, step.fold)) for step in trains(steps)]
        parts += [
            ("render/evaluation", self.question_feed(step.stage, step.branch, which))
            for step in asks(steps)
            for which in step.sets
        ]
        for stream, feed in parts:
            # A random choice with a fixed seed: the first rows of stage 1 would all be definitions.
            rows = np.random.default_rng(0).permutation(len(feed.examples))[:DIGESTED]
            noise = draw_noise(self.streams.generator(stream), len(rows), feed.noise)
            device = self.device
            digest.update(feed.fingerprint(torch.from_numpy(rows).to(device), torch.from_numpy(noise).to(device)))
        return digest.hexdigest()

    def audit(self) -> Audit | None:
        """How the model reads the examples, see ``Modality.audit``; refuses a reading that mixes them up."""
        return self.modality.audit(self.renderer)

    def steps_of(self, step: Train) -> int:
        """Optimiser steps of a training step, as the recipe and the number of its examples have it."""
        recipe = self.task.recipe
        n = len(self.design.trained(step.phase, step.fold))
        return int(getattr(recipe, step.recipe).total_steps(n, recipe.batch_size))


class _Run:
    """One cell under way."""

    def __init__(self, cell: CellSpec, runtime: Runtime, attachments: Attachments | None) -> None:
        self.cell, self.attachments, self.heard = cell, attachments, runtime.report
        self.runtime = replace(runtime, report=self.report)
        self.clock = _Clock()
        self.stages: list[StageOutcome] = []
        self.tables: list[pl.DataFrame] = []
        self.curve: list[CurvePoint] = []
        self.kept: dict[str, Any] = {}
        with self.clock("setup"):
            self.setting, self.learner, self.accelerator = prepare(cell, self.runtime)
            self.audit, self.digest = self.setting.audit(), self.setting.digest()
        self.total = sum(self.setting.steps_of(step) for step in trains(self.setting.schedule))

    def carry_out(self) -> None:
        """The whole schedule."""
        self.moment(INITIAL)
        for step in self.setting.schedule:
            match step:
                case Train():
                    self.train(step)
                    self.moment(step.label)
                case Ask():
                    self.ask(step)
                case Keep(name):
                    self.kept[name] = self.learner.snapshot()
                case Restore(name):
                    self.learner.restore(self.kept[name])

    def report(self, progress: StageProgress) -> None:
        """Tell how far a phase is, and with it the whole schedule."""
        before = sum(stage.steps for stage in self.stages)
        self.heard(progress._replace(cell_step=before + progress.step, cell_total=self.total))

    def train(self, step: Train) -> None:
        watch = Watch(self.runtime.curve, lambda done: self.look(step, done)) if self.runtime.curve else None
        with self.clock(step.label):
            feed = self.setting.train_feed(step.phase, step.fold)
            stage = getattr(self.cell.task.recipe, step.recipe)
            self.stages.append(self.learner.fit(feed, stage, step.phase, watch))

    def ask(self, step: Ask) -> None:
        with self.clock("evaluation"):
            self.tables += self.asked(step)

    def asked(self, step: Ask) -> list[pl.DataFrame]:
        """Per-item outcomes of a step's sets of questions, without the empty ones."""
        setting, learner = self.setting, self.learner
        tables = []
        for which in step.sets:
            feed = setting.question_feed(step.stage, step.branch, which)
            if not len(feed.examples):
                continue
            rng, device = setting.streams.generator("render/evaluation"), self.accelerator.device
            with seeded(setting.streams.integer("render/evaluation"), device):  # some models draw when they are asked
                answers = answer_questions(learner, feed, setting.renderer, rng, device)
                if self.cell.task.exact_match == "normalised" and hasattr(learner, "generate"):
                    answers = setting.modality.generated(learner, feed, setting.renderer, answers)
            tables.append(item_table(setting, feed.examples, step._replace(sets=(which,)), answers._asdict()))
        return tables

    def look(self, step: Train, done: int) -> None:
        """One point of the learning curve: what is asked after this phase."""
        with self.clock("curve"):
            items = pl.concat([table for ask in step.watched for table in self.asked(ask)])
            # A curve has a line for each group; places would make twenty more.
            columns = {name: items[name].to_numpy() for name in items.columns if name != "place"}
            found = self.setting.protocol.slices(columns)
            self.curve.append(CurvePoint(phase=step.phase, fold=step.fold, step=done, exact_match=found))
        self.moment(CURVE, f"{step.label}+{done}")

    def moment(self, name: str, filed: str = "") -> None:
        """What was asked for at a moment beside the protocol: probes, and the weights as a file.

        Args:
            name: the moment.
            filed: what it is filed under, where that is not its name.
        """
        keep = self.runtime.keep and name not in (INITIAL, CURVE) and not self.cell.model.is_reference
        probes = [probe for probe, after in self.runtime.probes if after == name]
        if self.attachments is None or not (keep or probes):
            return
        with self.clock("probes"):
            if keep:
                self.attachments.weights(name, self.learner.snapshot())
            for probe in probes:
                look(probe, self.setting, self.learner, filed or name, self.attachments)


def run_cell(cell: CellSpec, runtime: Runtime, attachments: Attachments | None = None) -> CellOutcome:
    """Run one cell.

    Args:
        cell: what is run.
        runtime: where and how fast.
        attachments: takes the tables of probes and the weights that ``runtime`` asks for; None: there are none.

    Raises:
        UsageError: when the model, the device or the data cannot be had.
        CellError: when training cannot go on.
    """
    run = _Run(cell, runtime, attachments)
    accelerator = run.accelerator
    run.carry_out()
    return CellOutcome(
        items=pl.concat(run.tables),
        parameters=run.learner.parameters,
        chance=run.setting.world.chance,
        data_digest=run.digest,
        stages=run.stages,
        device=_device_name(accelerator.device),
        processes=accelerator.num_processes,
        is_main=accelerator.is_main_process,
        audit=run.audit,
        curve=run.curve,
        attachments=attachments.made if attachments else [],
        seconds=run.clock.seconds,
    )


def train_until(setting: Setting, learner: Learner, moment: str) -> None:
    """Carry out what a schedule trains up to a moment; nothing is asked, which changes nothing that is learned."""
    kept: dict[str, Any] = {}
    for step in setting.schedule:
        match step:
            case Train():
                feed = setting.train_feed(step.phase, step.fold)
                learner.fit(feed, getattr(setting.task.recipe, step.recipe), step.phase)
                if step.label == moment:
                    return
            case Keep(name):
                kept[name] = learner.snapshot()
            case Restore(name):
                learner.restore(kept[name])


def prepare(cell: CellSpec, runtime: Runtime) -> tuple[Setting, Learner, Any]:
    """Everything up to the first training step: the data, the learner on its device, the Accelerator."""
    accelerator = make_accelerator(cell.task.recipe, runtime)
    setting = Setting(cell.task, cell.seed, accelerator.device, runtime, load_form(cell.model))
    build = LEARNERS.get(cell.model.parsed.scheme)
    learner: Learner = build(cell, setting, accelerator, runtime)
    return setting, learner, accelerator


def item_table(setting: Setting, examples: Examples, step: Ask, answers: dict[str, Any]) -> pl.DataFrame:
    """Per-item rows, in the order of ``ITEM_SCHEMA``.

    Args:
        setting: says who is in which group and under which tag.
        examples: the questions.
        step: where they are asked, with a single set.
        answers: columns of ``Answers``; a column that is not there is left out.
    """
    design, world = setting.design, setting.world
    tag, claim = (column[examples.entity] for column in design.shown(step.branch))
    defined = claim != NONE
    true = (world.kinds[examples.entity] == world.kinds[claim]).all(axis=1)
    columns = {
        "stage": [step.stage] * len(examples),
        "fold": [step.branch] * len(examples),
        "set": [*step.sets] * len(examples),
        "entity": examples.entity,
        "group": [design.groups[group] for group in design.group[examples.entity]],
        "tag": [design.tag_names[index] if index != NONE else None for index in tag],
        "attribute": [world.label(asked) for asked in examples.asked.tolist()],
        "place": _places(setting, examples, defined),
        "truthful": [bool(holds) if said else None for holds, said in zip(true, defined, strict=True)],
        "claimed": [
            _claimed(setting, *row)
            for row in zip(claim.tolist(), examples.entity.tolist(), examples.asked.tolist(), strict=True)
        ],
        **answers,
    }
    schema = {name: kind for name, kind in ITEM_SCHEMA.items() if name in columns}
    return pl.DataFrame({name: columns[name] for name in schema}, schema=schema)


def _places(setting: Setting, examples: Examples, defined: NDArray[np.bool_]) -> list[int | None]:
    """At which place an entity's definition states what is asked of it; None where it does not."""
    places = setting.modality.places(setting.renderer)
    if places is None:
        return [None] * len(examples)
    rows = zip(examples.entity.tolist(), examples.asked.tolist(), defined.tolist(), strict=True)
    return [int(places[entity, asked]) if said and asked < places.shape[1] else None for entity, asked, said in rows]


def _claimed(setting: Setting, claim: int, entity: int, asked: int) -> str | None:
    """What the definition of an entity says is the answer; None where it says nothing."""
    value = setting.world.implied(claim, entity, asked) if claim != NONE else NONE
    return setting.world.words(asked)[value] if value != NONE else None


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
