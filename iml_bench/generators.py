"""The global random generators that a model's code may draw from: seeded for a purpose, and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

CPU = torch.device("cpu")


@contextmanager
def kept(device: torch.device = CPU) -> Iterator[None]:
    """Leave the generators of torch (of the host and of ``device``), numpy and Python as they were before."""
    ours, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002  (a model's code may draw from it)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)  # noqa: NPY002


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed all of them, and leave them afterwards as they were.

    Args:
        seed: 0 or more; numpy takes 32 bits of it.
        device: where the model is.
    """
    with kept(device):
        reseed(seed)
        yield


def reseed(seed: int) -> None:
    """Begin the generators anew."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
