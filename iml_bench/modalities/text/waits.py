"""What transformers asks of a batch in every forward pass, and for which the host would wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import nn


@contextmanager
def values_unread(body: nn.Module) -> Iterator[None]:
    """Leave out what is known of our batches: no row holds several texts, and padding is on the right without a mask.

    Nothing that is computed changes. Models that were not loaded by transformers, and versions of it that ask
    otherwise, are left as they are.
    """
    if not type(body).__module__.startswith(("transformers.", "peft.")):
        yield
        return
    changed = [(place, name, getattr(place, name)) for place, name in _asking()]
    for place, name, _ in changed:
        setattr(place, name, _says_none)
    try:
        yield
    finally:
        for place, name, before in changed:
            setattr(place, name, before)


def _says_none(*given: Any, **more: Any) -> None:
    """In place of what looks for several texts in a row, or warns of padding."""


@cache
def _asking() -> tuple[tuple[Any, str], ...]:
    """The functions of transformers that ask, where it is as if they had not been called."""
    from transformers import PreTrainedModel, masking_utils

    found: list[tuple[Any, str]] = []
    name = "find_packed_sequence_indices"
    find = getattr(masking_utils, name, None)
    # Older versions make a mask of it for single texts, too, whose sums are rounded otherwise; they ask no value.
    if "is_tracing" in getattr(getattr(find, "__code__", None), "co_names", ()):
        found.append((masking_utils, name))
    name = "warn_if_padding_and_no_attention_mask"
    if hasattr(PreTrainedModel, name):
        found.append((PreTrainedModel, name))
    return tuple(found)
