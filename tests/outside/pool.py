"""Another package's engine: chunks in processes of this machine, which is the least that an engine has to do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pebble import ProcessPool

from iml_bench.errors import UsageError
from iml_bench.run.executors.engine import Chunk, State
from iml_bench.run.executors.worker import work
from iml_bench.spec import Needs


class PoolEngine:
    """Two chunks at a time, each in a process of its own."""

    name = "pool"
    shared = True
    detaches = False

    def open(self, folder: Path, needs: Sequence[Needs]) -> None:
        for need in needs:
            if need.cores > (os.cpu_count() or 1):
                raise UsageError(f"this machine can never hold a cell that takes {need}")
        self.pool = ProcessPool(max_workers=2, max_tasks=1, context=get_context("spawn"))
        self.tasks: dict[str, Any] = {}

    def submit(self, chunk: Chunk) -> str | None:
        self.tasks[chunk.name] = self.pool.schedule(work, args=[chunk])
        return chunk.name

    def poll(self, handles: Sequence[str]) -> Mapping[str, State]:
        return {handle: self._state(self.tasks.get(handle)) for handle in handles}

    def _state(self, task: Any) -> State:
        if task is None or not task.done():
            return State("running" if task else "lost")
        error = task.exception()
        return State("lost", f"{type(error).__name__}: {error}") if error else State("ended", "", task.result())

    def cancel(self, handles: Sequence[str]) -> None:
        for handle in handles:
            self.tasks.pop(handle).cancel()

    def close(self, detach: bool) -> None:
        if hasattr(self, "pool"):
            self.pool.stop()
            self.pool.join()
