"""Cells as tasks of Ray, on a cluster that runs (``RAY_ADDRESS``) or on one that is started here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from iml_bench.errors import UsageError, shown
from iml_bench.run.executors.engine import Chunk, State
from iml_bench.spec import Needs

GB: Final = 1_000_000_000
TO_END: Final = 10.0
"""Seconds that tasks have to let go of their cells once they were cancelled; then their processes are killed."""
PATIENCE: Final = 300.0
"""Seconds for which a task waits for a node that could hold it, where none is left: Ray itself waits for ever."""


class _Task(NamedTuple):
    """A chunk as a task of Ray."""

    result: Any
    """Where Ray will have it."""
    needs: Needs


class RayEngine:
    """Hands chunks to Ray as tasks. They end with this process."""

    name = "ray"
    shared = False
    detaches = False

    def __init__(self, options: str = "") -> None:
        """Args: options: none are taken.

        Raises:
            UsageError: when Ray is not installed.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError:
            raise UsageError("--executor ray needs Ray: pip install 'iml-bench[ray]'") from None
        self._ray: Any = ray
        self._tasks: dict[str, _Task] = {}
        self._homeless: dict[Needs, float] = {}
        """Needs that no node can hold any more, and since when."""
        self._own = False

    def open(self, folder: Path, needs: Sequence[Needs]) -> None:
        """See ``Engine.open``. Ray would wait for ever for what no node has."""
        if not self._ray.is_initialized():
            self._own = True
            address = os.environ.get("RAY_ADDRESS")
            try:
                self._ray.init(
                    address=address or "local",
                    log_to_driver=False,
                    logging_level="ERROR",
                    include_dashboard=None if address else False,
                )
            except Exception as error:
                raise UsageError(f"no cluster of Ray can be reached or started: {_told(error)}") from error
        nodes = self._nodes()
        for need in needs:
            if not _fits(need, nodes):
                largest = {name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU")}
                memory = max((node.get("memory", 0) for node in nodes), default=0) / GB
                raise UsageError(
                    f"no node of Ray's can ever hold a cell that takes {need}; the largest has "
                    f"{largest['CPU']:g} cores, {largest['GPU']:g} GPUs and {memory:.0f} GB"
                )

    def _nodes(self) -> list[Mapping[str, float]]:
        """What each living node has."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def submit(self, chunk: Chunk) -> str | None:
        """See ``Engine.submit``."""
        from iml_bench.run.executors.worker import work

        # A worker process is used for one task only: torch must see the GPUs of this one.
        task = self._ray.remote(max_calls=1, max_retries=0, **_resources(chunk.needs))(work)
        with _gone():
            self._tasks[chunk.name] = _Task(task.options(name=chunk.name).remote(chunk), chunk.needs)
        return chunk.name

    def poll(self, handles: Sequence[str]) -> Mapping[str, State]:
        """See ``Engine.poll``; what waits and what runs, leases say."""
        found = {}
        with _gone():
            mine = [handle for handle in handles if handle in self._tasks]
            homeless = self._without_node({self._tasks[handle].needs for handle in mine})
            results = {self._tasks[handle].result: handle for handle in mine}
            ready = self._ray.wait([*results], num_returns=len(results), timeout=0)[0] if results else []
            over = {results[result] for result in ready}
        for handle in handles:
            if handle not in self._tasks:
                found[handle] = State("lost", "its driver has ended")
            elif handle in over:
                found[handle] = self._ended(self._tasks.pop(handle))
            elif (needs := self._tasks[handle].needs) in homeless:
                self.cancel([handle])
                found[handle] = State("lost", f"no node of Ray's is left that has {needs}")
            else:
                found[handle] = State("running")
        return found

    def _without_node(self, needs: set[Needs]) -> set[Needs]:
        """Those that no node could hold for a while, if it were free."""
        nodes, now = self._nodes(), time.monotonic()
        self._homeless = {need: self._homeless.get(need, now) for need in needs if not _fits(need, nodes)}
        return {need for need, since in self._homeless.items() if now - since > PATIENCE}

    def _ended(self, task: _Task) -> State:
        try:
            return State("ended", "", self._ray.get(task.result))
        except Exception as error:
            return State("lost", _told(error))

    def cancel(self, handles: Sequence[str]) -> None:
        """See ``Engine.cancel``. Tasks are interrupted first, so that they let go of their cells."""
        results = [self._tasks.pop(handle).result for handle in handles if handle in self._tasks]
        for force in (False, True):
            for result in results:
                with suppress(Exception):
                    self._ray.cancel(result, force=force)
            with suppress(Exception):
                results = self._ray.wait(results, num_returns=len(results), timeout=TO_END)[1] if results else []

    def close(self, detach: bool) -> None:
        """See ``Engine.close``; a cluster that this process was at before stays."""
        if self._own:
            with suppress(Exception):
                self._ray.shutdown()
        self._own = False
        self._homeless.clear()


@contextmanager
def _gone() -> Iterator[None]:
    """Turn what Ray says of a cluster that is gone into a sentence.

    Raises:
        UsageError: that sentence.
    """
    try:
        yield
    except Exception as error:
        raise UsageError(f"the cluster of Ray is not to be reached any more: {_told(error)}") from error


def _told(error: Exception) -> str:
    """An error of Ray's in one line; that of a task ends with what the task itself raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = type(error).__name__ == "RayTaskError" or type(error).__name__.startswith("RayTaskError(")
    return f"{type(error).__name__}: {shown(lines[-1 if last else 0] if lines else '', 300)}"


def _fits(needs: Needs, nodes: Sequence[Mapping[str, float]]) -> bool:
    """Whether any node could hold a cell, if it were free."""
    asked = _resources(needs)
    wanted = {"CPU": asked["num_cpus"], "GPU": asked["num_gpus"], "memory": asked.get("memory", 0)}
    return any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes)


def _resources(needs: Needs) -> dict[str, Any]:
    found: dict[str, Any] = {"num_cpus": needs.cores, "num_gpus": needs.gpus}
    return found | ({"memory": int(needs.memory * GB)} if needs.memory else {})
