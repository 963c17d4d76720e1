"""Where the host waits for the device within an optimiser step; each wait leaves the device without work."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from iml_bench.learners.network import NetworkLearner

READS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
)
"""Operations whose result the host needs: ``item()`` and ``if tensor:``, shapes that depend on values."""
TORCH = Path(torch.__file__).parent


@contextmanager
def watched_steps(learner: NetworkLearner) -> Iterator[list[str]]:
    """Gather ``file:line`` of every wait within ``NetworkLearner``'s steps; between them it may wait.

    On a GPU torch itself says where (``torch.cuda.set_sync_debug_mode``); elsewhere nothing waits, and
    the operations that would are found instead. Copies to the device are not among these.
    """
    places: list[str] = []
    step = learner._step
    watch = _asking_cuda if learner.accelerator.device.type == "cuda" else _looking_for_reads

    def watched(*arguments: Any) -> None:
        watch(lambda: step(*arguments), places)

    learner._step = watched  # type: ignore[method-assign]
    try:
        yield places
    finally:
        del learner._step  # type: ignore[method-assign]


def _asking_cuda(action: Callable[[], None], places: list[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            action()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [one for one in caught if "called a synchronizing CUDA operation" in str(one.message)]
    places += [_place(one.filename, one.lineno) for one in found]


def _looking_for_reads(action: Callable[[], None], places: list[str]) -> None:
    with _Reads(places):
        action()


class _Reads(TorchDispatchMode):
    def __init__(self, places: list[str]) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            frames = [frame for frame in traceback.extract_stack()[:-1] if TORCH not in Path(frame.filename).parents]
            self.places.append(_place(frames[-1].filename, frames[-1].lineno or 0))
        return func(*args, **(kwargs or {}))


def _place(file: str, line: int) -> str:
    return f"{Path(*Path(file).parts[-2:])}:{line}"
