"""What a task generates for a seed, to be held against a record; nothing is trained for it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from iml_bench.errors import UsageError
from iml_bench.runtime import Runtime
from iml_bench.spec import FROM_FILE, CellSpec, DigitGridRender, SetsWorld, TaskSpec, task_key
from iml_bench.worlds.cities import cities_source

if TYPE_CHECKING:
    import polars as pl

    from iml_bench.run.cell import Setting

KEYS: Final = ("stage", "fold", "set", "entity", "group", "tag", "attribute")
"""Columns of a per-item file that no model can change, but the right answer."""
LARGEST_WORLD: Final = 1_000_000
"""Answers of a world that is generated for a check; the largest task has a fifth."""
LARGEST_LISTS: Final = 10 * LARGEST_WORLD
"""Numbers in the lists of all questions about sets."""
LARGEST_CANVAS: Final = 2**20
"""Pixels."""


class Generated(NamedTuple):
    """The data of one task and seed."""

    items: pl.DataFrame
    """``KEYS``, sorted by stage, fold and set, otherwise in the order in which they are asked."""
    answers: tuple[tuple[str, ...], ...]
    """For each item all right answers, the one that is trained first."""
    chance: float
    digest: str
    trained: tuple[int, ...]
    """How many examples each phase of training shows, in the order of ``Record.stages``."""


def what_is_missing(task: TaskSpec, runtime: Runtime) -> str | None:
    """Why the data of a task cannot be generated here, or None."""
    world = task.world
    if world.kind in FROM_FILE:
        if runtime.data is None:
            return f"{task.name} reads a file (--data FILE)"
        if _digest_of(runtime.data) != world.source:  # type: ignore[union-attr]
            return f"{task.name} reads another file than {runtime.data}"
    if world.kind == "cities":
        try:
            here = cities_source()
        except UsageError as error:
            return str(error)
        if here != world.source:
            return f"{task.name} is of {world.source}, and here is {here}"
    if isinstance(task.render, DigitGridRender) and task.render.source == "mnist" and runtime.data_dir is None:
        return f"{task.name} needs MNIST (--data-dir DIR)"
    return None


@cache
def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Generator:
    """Generates each task and seed once."""

    def __init__(self, runtime: Runtime) -> None:
        """Args: runtime: where data files are."""
        self.runtime = runtime
        self._known: dict[tuple[str, int], Generated] = {}

    def __call__(self, cell: CellSpec) -> Generated:
        """The data of a cell, whatever its model.

        Raises:
            UsageError: when there can be no such data.
        """
        key = task_key(cell), cell.seed
        if key not in self._known:
            _refuse_giants(cell.task)
            self._known[key] = _generate(cell.task, cell.seed, self.runtime)
        return self._known[key]


def _refuse_giants(task: TaskSpec) -> None:
    world = task.world
    size = task.groups.total * world.n_attributes
    listed = max(size * world.listed, world.largest) if isinstance(world, SetsWorld) else 0
    if size > LARGEST_WORLD or listed > LARGEST_LISTS:
        raise UsageError(f"a world of this size is not generated for a check ({size:,} answers)")
    if isinstance(task.render, DigitGridRender) and task.render.canvas[0] * task.render.canvas[1] > LARGEST_CANVAS:
        raise UsageError(f"pictures of {task.render.canvas[0]}x{task.render.canvas[1]} are not drawn for a check")


def _generate(task: TaskSpec, seed: int, runtime: Runtime) -> Generated:
    import polars as pl
    import torch

    from iml_bench.protocols.two_stage.design import FOLDS, phases
    from iml_bench.run.cell import Setting, item_table

    setting = Setting(task, seed, torch.device("cpu"), runtime)
    shared, _ = phases(task)
    tables: list[pl.DataFrame] = []
    answers: list[tuple[str, ...]] = []
    for stage in (1, 2):
        for fold in FOLDS if stage == 2 or not shared else FOLDS[:1]:
            for which in sorted(setting.question_sets):
                examples = setting.question_feed(stage, fold, which).examples
                if not len(examples):
                    continue
                tables.append(item_table(setting, examples, {"stage": stage, "fold": fold, "set": which}, {}))
                asked = zip(examples.content.tolist(), examples.asked.tolist(), strict=True)
                answers += [setting.world.answers(entity, question) for entity, question in asked]
    return Generated(pl.concat(tables), tuple(answers), setting.world.chance, setting.digest(), _trained(setting))


def _trained(setting: Setting) -> tuple[int, ...]:
    from iml_bench.protocols.two_stage.design import FOLDS, phases

    shared, own = phases(setting.task)
    phased = [(phase, 0) for phase in shared] + [(own, fold) for fold in FOLDS if own is not None]
    return tuple(len(setting.design.trained(phase, fold)) for phase, fold in phased)


@cache
def letters(text: str) -> str:
    """What of a text every tokenizer gives back: ASCII letters and digits."""
    return "".join(sign for sign in text.lower() if sign.isascii() and sign.isalnum())


@cache
def unspaced(text: str) -> str:
    """A text without spaces: a word-level tokenizer may put some where there were none."""
    return "".join(text.split())
