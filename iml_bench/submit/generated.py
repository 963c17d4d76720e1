"""What a task generates for a seed, to be held against a record; nothing is trained for it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iml_bench.errors import UsageError
from iml_bench.protocols.base import Ask, asks, trains
from iml_bench.runtime import Runtime
from iml_bench.spec import CellSpec, TaskSpec, digest_of, entry_from_source

if TYPE_CHECKING:
    import polars as pl


KEYS: Final = ("stage", "fold", "set", "entity", "group", "tag", "attribute")
"""Columns of a per-item file that no model can change, but the right answer."""
LARGEST_WORLD: Final = 1_000_000
"""Answers of a world that is generated for a check; the largest task has a fifth."""


class Generated(NamedTuple):
    """The data of one task and seed."""

    items: pl.DataFrame
    """``KEYS``, sorted by stage, fold and set, otherwise in the order in which they are asked."""
    answers: tuple[tuple[str, ...], ...]
    """For each item all right answers, the one that is trained first."""
    chance: float
    digest: str
    steps: dict[str, int]
    """Optimiser steps of every training step, by its label."""


def what_is_missing(task: TaskSpec, runtime: Runtime) -> str | None:
    """Why the data of a task cannot be generated here, or None."""
    why = task.world.missing(runtime.data) or task.render.missing(runtime.data_dir)
    return f"{task.name} {why}" if why else None


class Generator:
    """Generates each task and seed once."""

    def __init__(self, runtime: Runtime) -> None:
        """Args: runtime: where data files are."""
        self.runtime = runtime
        self._known: dict[tuple[str, int], Generated] = {}
        self._shapes: dict[tuple[Any, ...], Any] = {}

    def __call__(self, cell: CellSpec) -> Generated:
        """The data of a cell, whatever its model.

        Raises:
            UsageError: when there can be no such data.
        """
        key = _asked(cell, {"recipe": {"lr"}}), cell.seed  # which no data depend on, and sweeps differ in alone
        if key not in self._known:
            _refuse_giants(cell.task)
            self._known[key] = _generate(cell.task, cell.seed, self.runtime)
        return self._known[key]

    def parameters(self, cell: CellSpec) -> int:
        """Trainable parameters of a cell's model, which is built from its options, without weights.

        Raises:
            UsageError: when it cannot be built here.
        """
        import torch

        from iml_bench.models import load_form
        from iml_bench.run.cell import Setting

        form = load_form(cell.model)
        asked = _asked(cell, {"recipe": True, "until": True})
        key = asked, form.encoder_decoder, cell.seed if vocabulary_varies(cell) else None
        if key not in self._shapes:  # texts are all tokenised for it, which takes longer than to generate them
            setting = Setting(cell.task, cell.seed, torch.device("cpu"), self.runtime, form)
            self._shapes[key] = setting.shape()
        return _parameters(cell.model.source, self._shapes[key])


def _asked(cell: CellSpec, without: Mapping[str, Any]) -> str:
    return digest_of(cell.task.model_dump(mode="json", exclude=dict(without)))


@cache
def _parameters(source: str, shape: Any) -> int:
    from iml_bench.models import check_model

    return check_model(entry_from_source(source), shape)


def vocabulary_varies(cell: CellSpec) -> bool:
    """Whether the task's own tokenizer knows other words for another seed."""
    return cell.model.tokenizer == "task" and cell.task.world.named


def _refuse_giants(task: TaskSpec) -> None:
    size = task.world.generated_size(task.n_entities)
    if size > LARGEST_WORLD:
        raise UsageError(f"a world of this size is not generated for a check ({size:,} answers)")
    if why := task.render.too_large():
        raise UsageError(why)


def _generate(task: TaskSpec, seed: int, runtime: Runtime) -> Generated:
    import polars as pl
    import torch

    from iml_bench.run.cell import Setting, item_table

    setting = Setting(task, seed, torch.device("cpu"), runtime)
    tables: list[pl.DataFrame] = []
    answers: list[tuple[str, ...]] = []
    asked = ((ask.stage, ask.branch, which) for ask in asks(setting.schedule) for which in ask.sets)
    for stage, branch, which in sorted(asked):
        examples = setting.question_feed(stage, branch, which).examples
        if not len(examples):
            continue
        tables.append(item_table(setting, examples, Ask(stage, branch, (which,)), {}))
        rows = zip(examples.content.tolist(), examples.asked.tolist(), strict=True)
        answers += [setting.world.answers(entity, question) for entity, question in rows]
    steps = {step.label: setting.steps_of(step) for step in trains(setting.schedule)}
    return Generated(pl.concat(tables), tuple(answers), setting.world.chance, setting.digest(), steps)


@cache
def letters(text: str) -> str:
    """What of a text every tokenizer gives back: ASCII letters and digits."""
    return "".join(sign for sign in text.lower() if sign.isascii() and sign.isalnum())


@cache
def unspaced(text: str) -> str:
    """A text without spaces: a word-level tokenizer may put some where there were none."""
    return "".join(text.split())
