"""What a run shows while it goes: bars on a terminal and in a notebook, a line for every finished cell elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from iml_bench.run.executors.base import Event
from iml_bench.run.job import Job
from iml_bench.run.session import Standing
from iml_bench.run.sweep import is_sweep
from iml_bench.runtime import is_first
from iml_bench.spec import LEARNING_RATE, TaskSpec
from iml_bench.spec.world import FileWorld

ABSENT: Final = object()
ESTIMATED: Final = 3600.0
"""Seconds from whose pace the time left is told; cells take minutes."""
SAID: Final = 5
"""Broken records that are named; the others are counted."""


class RunDisplay:
    """Listens to a session and shows how it goes: on stderr, or below the cell of a notebook.

    A notebook shows bars where ``ipywidgets`` is installed, and lines otherwise.
    """

    def __init__(self, jobs: Sequence[Job], *, quiet: bool = False, data: Path | None = None) -> None:
        """Args:
        jobs: those of the session, in its order.
        quiet: show nothing, and still keep ``failures``.
        data: the file of worlds that are read from one.
        """
        self.jobs, self.quiet, self.data = jobs, quiet or not is_first(), data
        self.console = Console(stderr=True, highlight=False)
        notebook = self.console.is_jupyter
        bars = find_spec("ipywidgets") is not None if notebook else self.console.is_terminal
        self.live = bars and not self.quiet
        # A notebook paints what goes to stderr red, as if something had gone wrong.
        self.lines: TextIO = sys.stdout if notebook else sys.stderr
        self.bars: dict[int, Any] = {}
        self.began: dict[int, float] = {}
        self.failures: dict[int, str] = {}
        """First line of the error of every job that failed, by its place."""
        self.detached: str | None = None
        """What goes on without this process, where cells were handed over to an engine."""
        self.ended: set[int] = set()
        self.others: set[int] = set()
        """Places of the cells that other processes have or had."""
        self.to_do = 0
        self.whole: Any = None
        """The bar of all cells, above those of each."""
        self.varying = _varying(jobs)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.live,
            transient=True,
            speed_estimate_period=ESTIMATED,
        )

    def begin(self, standing: Standing) -> None:
        """Say how much there is to do, and how the user's file was read.

        Raises:
            UsageError: when it cannot be.
        """
        self.to_do = len(standing.to_do)
        if self.quiet:
            return
        self._say(f"{standing}\n")
        if self.data is not None:
            worlds = {world.kind: world for world in (self.jobs[place].cell.task.world for place in standing.to_do)}
            for world in worlds.values():
                if isinstance(world, FileWorld) and (account := world.account(self.data)):
                    self._say(f"{account}\n")
        for sentence in standing.broken[:SAID]:
            self._say(f"{sentence}; its cell is run again, and what cannot be used is kept as .broken\n")
        if (more := len(standing.broken) - SAID) > 0:
            self._say(f"and so of {more} more\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if event.kind == "start":
            self.began[event.job] = time.monotonic()
            if self.live:
                self.progress.start()  # not before: until then a model's files may be downloaded, with bars of its own
                if self.whole is None and self.to_do > 1:
                    self.whole = self.progress.add_task("all cells", total=self.to_do, told=self._ended())
                self.bars[event.job] = self.progress.add_task(self._name(event.job), total=None, told=" setup")
        elif event.kind == "progress":
            self._advance(event)
        elif event.kind == "elsewhere":
            self._leave(event)
        else:
            self._end(event)

    def _leave(self, event: Event) -> None:
        """Show a cell that another process has, and as far as it says how far it is."""
        if event.job not in self.others and event.message is not None and not self.live and not self.quiet:
            self._say(f"{self._name(event.job)} is being run by {event.message}\n")
        if event.job in self.bars:
            told, progress = event.message or "another process", event.progress
            done, total = (progress.cell_step, progress.cell_total) if progress else (None, None)
            self.progress.update(self.bars[event.job], completed=done, total=total, told=f" {told}")
        if event.message is not None:
            self.others.add(event.job)

    def _advance(self, event: Event) -> None:
        assert event.progress is not None
        stage, _, _, loss, done, total = event.progress
        if event.job in self.bars:
            told = f"{stage:>6} {done:>6.0f} steps, loss {loss:.3f}"
            self.progress.update(self.bars[event.job], completed=done, total=total, told=told)

    def _end(self, event: Event) -> None:
        self.ended.add(event.job)  # some are told of twice: as done, and as failed where their record is not there
        if event.job in self.bars:
            self.progress.remove_task(self.bars.pop(event.job))
        if self.whole is not None:
            self.progress.update(self.whole, completed=len(self.ended), told=self._ended())
        if event.kind == "failed":
            self.failures[event.job] = event.message or ""
        if self.quiet:
            return
        seconds = time.monotonic() - self.began.get(event.job, time.monotonic())
        how = f"FAILED {event.message}; the others go on" if event.kind == "failed" else "done"
        line = f"[{len(self.ended)}/{self.to_do}] {self._name(event.job)} {how} ({seconds:.1f} s)"
        if self.live:
            self.progress.console.print(escape(line), style="red" if event.kind == "failed" else None)
        else:
            self._say(line + "\n")

    def _say(self, text: str) -> None:
        """A run goes on where its display cannot: stderr may be closed, or its reader gone."""
        with suppress(OSError, ValueError, AttributeError):
            self.lines.write(text)

    def _ended(self) -> str:
        return f"{len(self.ended)} of {self.to_do} cells"

    def _name(self, index: int) -> str:
        """A cell with the fields that tell it from the other cells of the run."""
        cell = self.jobs[index].cell
        rate = f" at learning rate {cell.task.recipe.lr:g}" if is_sweep(cell.task) else ""
        values = {path: _value(cell.task, path) for path in self.varying if not (rate and path == LEARNING_RATE)}
        fields = "".join(f" {path}={value}" for path, value in values.items() if value is not ABSENT)
        return f"{cell.task.label} {cell.model.name}{rate}{fields} seed {cell.seed}"


def _varying(jobs: Sequence[Job]) -> list[str]:
    """The fields of tasks that are not the same in all jobs of a task and a model."""
    paths = dict.fromkeys(path for job in jobs for path in job.changes)
    found = []
    for path in paths:
        seen: dict[tuple[str, str], set[str]] = {}
        for job in jobs:
            where = (job.cell.task.name, job.cell.model.name)
            seen.setdefault(where, set()).add(repr(_value(job.cell.task, path)))
        if any(len(values) > 1 for values in seen.values()):
            found.append(path)
    return found


def _value(task: TaskSpec, path: str) -> Any:
    """A field of a task; ``ABSENT`` where tasks of its kind have none."""
    found: Any = task
    for name in path.split("."):
        found = getattr(found, name, ABSENT)
    return found
