"""What a run shows while it goes: a bar per running cell on a terminal, a line per finished one elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from iml_bench.run.executors.processes import Event
from iml_bench.run.job import Job


class RunDisplay:
    """Listens to the events of a run and shows them on stderr."""

    def __init__(self, jobs: Sequence[Job], *, quiet: bool = False) -> None:
        """Args: jobs: what runs; quiet: show nothing (other processes than the first)."""
        self.jobs, self.quiet = jobs, quiet
        self.console = Console(stderr=True, highlight=False)
        self.live = self.console.is_terminal and not quiet
        self.bars: dict[int, Any] = {}
        self.began: dict[int, float] = {}
        self.failures: dict[int, str] = {}
        self.finished = 0
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[stage]:>6} {task.completed:>6.0f}/{task.total:.0f} loss {task.fields[loss]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.live,
            transient=True,
        )

    def __enter__(self) -> Self:
        self.progress.start()
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
                self.bars[event.job] = self.progress.add_task(
                    self._name(event.job), total=self._total(event.job), stage="setup", loss="-"
                )
        elif event.kind == "progress":
            self._advance(event)
        else:
            self._end(event)

    def _advance(self, event: Event) -> None:
        assert event.progress is not None
        stage, step, total, loss = event.progress
        if event.job in self.bars:
            # Both folds report as stage2; each restarts its step count from the stage's start.
            self.progress.update(self.bars[event.job], completed=step, total=total, stage=stage, loss=f"{loss:.3f}")

    def _end(self, event: Event) -> None:
        self.finished += 1
        if event.job in self.bars:
            self.progress.remove_task(self.bars.pop(event.job))
        if event.kind == "failed":
            self.failures[event.job] = event.message or ""
        if self.quiet:
            return
        seconds = time.monotonic() - self.began.get(event.job, time.monotonic())
        how = f"FAILED {event.message}; the others go on" if event.kind == "failed" else "done"
        line = f"[{self.finished}/{len(self.jobs)}] {self._name(event.job)} {how} ({seconds:.1f} s)"
        if self.live:
            self.progress.console.print(escape(line), style="red" if event.kind == "failed" else None)
        else:
            sys.stderr.write(line + "\n")

    def _name(self, index: int) -> str:
        cell = self.jobs[index].cell
        return f"{cell.task.label} {cell.model.name} seed {cell.seed}"

    def _total(self, index: int) -> int:
        return self.jobs[index].cell.task.recipe.stage1.steps or 1
