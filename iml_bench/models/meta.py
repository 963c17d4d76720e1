"""The meta device, on which tensors have shapes and no memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")


@contextmanager
def scalars_are_zero() -> Iterator[None]:
    """Let code ask a meta tensor for its value, and answer 0 or False.

    Most language models look at their input once, such as for padding, and go on with tensors of the same shapes
    either way. What comes of a wrong answer is to be tried with real tensors; nothing is refused for it.
    """
    with _Zero():  # type: ignore[no-untyped-call]
        yield


class _Zero(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return torch.zeros((), dtype=args[0].dtype).item()
        return func(*args, **(kwargs or {}))
