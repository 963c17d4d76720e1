"""Cells as tasks of Ray, on a cluster that runs (``RAY_ADDRESS``) or on one that is started here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from iml_bench.errors import UsageError, shown
from iml_bench.run.executors.engine import Chunk, State
from iml_bench.spec import Needs

GB = 1_000_000_000


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
        self._tasks: dict[str, Any] = {}

    def open(self, folder: Path, needs: Sequence[Needs]) -> None:
        """See ``Engine.open``. Ray would wait for ever for what no node has."""
        try:
            self._ray.init(
                address=os.environ.get("RAY_ADDRESS") or "local",
                log_to_driver=False,
                logging_level="ERROR",
                include_dashboard=False if not os.environ.get("RAY_ADDRESS") else None,
            )
        except Exception as error:
            raise UsageError(f"no cluster of Ray can be reached or started: {shown(str(error), 300)}") from error
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for need in needs:
            asked = _resources(need)
            if not any(
                node.get("CPU", 0) >= asked["num_cpus"]
                and node.get("GPU", 0) >= asked["num_gpus"]
                and node.get("memory", 0) >= asked.get("memory", 0)
                for node in nodes
            ):
                largest = {name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU")}
                raise UsageError(
                    f"no node of Ray's can ever hold a cell that takes {need}; the largest has "
                    f"{largest['CPU']:g} cores and {largest['GPU']:g} GPUs"
                )

    def submit(self, chunk: Chunk) -> str | None:
        """See ``Engine.submit``."""
        from iml_bench.run.executors.worker import work

        # A worker process is used for one task only: torch must see the GPUs of this one.
        task = self._ray.remote(max_calls=1, max_retries=0, **_resources(chunk.needs))(work)
        self._tasks[chunk.name] = task.options(name=chunk.name).remote(chunk)
        return chunk.name

    def poll(self, handles: Sequence[str]) -> Mapping[str, State]:
        """See ``Engine.poll``; what waits and what runs, leases say."""
        found = {}
        for handle in handles:
            task = self._tasks.get(handle)
            if task is None:
                found[handle] = State("lost", "its driver has ended")
            elif not self._ray.wait([task], timeout=0)[0]:
                found[handle] = State("running")
            else:
                found[handle] = self._ended(self._tasks.pop(handle))
        return found

    def _ended(self, task: Any) -> State:
        try:
            return State("ended", "", self._ray.get(task))
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return State("lost", f"{type(error).__name__}: {shown(lines[0] if lines else '', 300)}")

    def cancel(self, handles: Sequence[str]) -> None:
        """See ``Engine.cancel``."""
        for handle in handles:
            with suppress(Exception):
                self._ray.cancel(self._tasks.pop(handle), force=True)

    def close(self, detach: bool) -> None:
        """See ``Engine.close``."""
        with suppress(Exception):
            self._ray.shutdown()


def _resources(needs: Needs) -> dict[str, Any]:
    found: dict[str, Any] = {"num_cpus": max(needs.cpus, needs.processes), "num_gpus": needs.gpus}
    return found | ({"memory": int(needs.memory * GB)} if needs.memory else {})
