"""The states behind a network's blocks: where they are, how they differ between two tags, and moved along that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from iml_bench.errors import UsageError
from iml_bench.learners.base import Inspectable
from iml_bench.learners.blocks import blocks, input_embedding
from iml_bench.modalities.base import Indices, to_device
from iml_bench.probes.tagged import Move, Slots, Told, in_slots, outputs_of
from iml_bench.protocols.base import Ints

AT_ONCE: Final = 64
"""Definitions in a forward pass; the states of all blocks are kept until it ends."""
ROUNDING: Final = 1e-4
"""Of the length of a mean state; shorter differences are rounding."""


def places_of(learner: Inspectable, model: nn.Module, one: Told) -> list[str]:
    """The blocks behind which a state can be changed, in the order in which they are computed.

    Blocks that are computed several times are none, nor is what gives the network's answer.

    Args:
        learner: whose network it is.
        model: the network, not wrapped.
        one: some definitions.

    Raises:
        UsageError: when there are none.
    """
    feed, device = one.feed, one.slots.offset.device
    rows = Indices.of(np.arange(min(2, len(feed.examples))), device)
    noise = torch.zeros(len(rows.host), feed.noise, device=device)
    inputs = feed.batch(rows, noise).inputs
    ids = inputs.get("input_ids")
    shape = (len(rows.host),) if ids is None else tuple(ids.shape)
    found = []
    with torch.no_grad():
        logits = learner.logits(feed, rows, noise)
        hidden, ends = learner.hidden(feed, rows, noise), {*_ends(model)}
        for name, state in hidden.items():
            fits = state.shape[: len(shape)] == shape and state.dim() > len(shape) and state.is_floating_point()
            if name in ends and fits and not _same(state, logits, inputs):
                seen = outputs_of(model.get_submodule(name), lambda: learner.logits(feed, rows, noise))
                found += [name] if len(seen) == 1 else []
    if not found:
        raise UsageError("this model has no blocks behind which a state could be changed")
    return found


def embedding_of(model: nn.Module) -> nn.Module:
    """The module that gives a token's vector.

    Raises:
        UsageError: when there is none.
    """
    found = input_embedding(model)
    if found is None:
        raise UsageError("this model has no input embedding")
    return found


def _ends(model: nn.Module) -> Iterator[str]:
    """The last members of blocks: those before the next matrix of weights in the same sequence."""
    members: dict[str, list[tuple[str, bool]]] = {}
    for name, module in blocks(model):
        matrix = any(weight.dim() > 1 for weight in module.parameters())
        members.setdefault(name.rpartition(".")[0], []).append((name, matrix))
    for sequence in members.values():
        for at, (name, _) in enumerate(sequence):
            begun = any(matrix for _, matrix in sequence[: at + 1])
            if begun and (at + 1 == len(sequence) or sequence[at + 1][1]):
                yield name


def _same(state: Tensor, logits: Tensor, inputs: dict[str, Tensor]) -> bool:
    """Whether what a block gives is the network's answer itself."""
    if "keep" in inputs:
        state = state.flatten(0, -2).index_select(0, inputs["keep"])
    return state.numel() == logits.numel() and torch.equal(state.flatten(), logits.flatten())


class Direction(NamedTuple):
    """How the states behind a block differ between the tags of a pair, at each of ``P`` offsets; a row of noughts
    stands at the end, for slots that the tag cannot have got to.
    """

    difference: Tensor
    """``[P + 1, d]`` float32: mean state under the reliable tag minus under the unreliable one, same entities."""
    unit: Tensor
    """``[P + 1, d]``: the same, of length 1; noughts where there is no difference but rounding."""
    middle: Tensor
    """``[P + 1]``: the component along ``unit`` of the mean of both."""
    random: Tensor
    """``[P + 1, d]``: of length 1, between the means of two random halves of the entities, orthogonal to ``unit``."""
    random_middle: Tensor
    """``[P + 1]``: the component along ``random`` of the mean."""


def rows_of(slots: Slots, rows: Indices, width: int, last: int) -> Tensor:
    """``[b, width]``: the row of a ``Direction`` that belongs to each slot."""
    offset = slots.of(rows, width)
    return torch.where(offset < 0, last, offset)


def directions(
    learner: Inspectable, one: Told, names: Sequence[str], looks: Tensor, half: Ints
) -> dict[str, Direction]:
    """The directions behind some blocks, at the learner's present weights.

    Args:
        learner: in which blocks are looked at.
        one: each entity's definition, once.
        names: of the blocks.
        looks: ``[looks, n, noise]``, the draws of each look at an example, the same under both tags.
        half: ``[n]``, 0 or 1: to which of two random halves each entity belongs.
    """
    last, n, device = int(one.slots.offset.max()) + 1, len(half), looks.device
    order = np.arange(n) if one.feed.lengths is None else np.argsort(one.feed.lengths, kind="stable")
    sums: dict[str, Tensor] = {}
    count = torch.zeros(4 * (last + 1), 1, dtype=torch.float64, device=device)
    for noise in looks:
        for host in np.split(order, range(AT_ONCE, n, AT_ONCE)):
            rows = Indices.of(host, device)
            of_half = to_device(half[host], device)[:, None]
            for tag, feed in enumerate(one.under):
                hidden = learner.hidden(feed, rows, noise.index_select(0, rows.device))
                for name in names:
                    state = in_slots(hidden[name], one.slots).double()
                    at = (tag * 2 + of_half) * (last + 1) + rows_of(one.slots, rows, state.shape[1], last)
                    total = sums.setdefault(name, torch.zeros(len(count), state.shape[2], device=device).double())
                    total.index_add_(0, at.flatten(), state.flatten(0, 1))
                count.index_add_(0, at.flatten(), torch.ones_like(at.flatten()[:, None], dtype=torch.float64))
    return {name: _direction(total.view(2, 2, last + 1, -1), count.view(2, 2, -1, 1)) for name, total in sums.items()}


def _direction(sums: Tensor, count: Tensor) -> Direction:
    """A direction from sums ``[tag, half, P + 1, d]`` of states and their number ``[tag, half, P + 1, 1]``."""
    by_tag, by_half = (sums.sum(dim) / count.sum(dim).clamp(min=1) for dim in (1, 0))
    middle = by_tag.mean(0)
    middle[-1] = by_tag[:, -1] = by_half[:, -1] = 0
    least = ROUNDING * middle.norm(dim=1, keepdim=True)
    difference, between = by_tag[0] - by_tag[1], by_half[0] - by_half[1]
    unit = _of_length_1(difference, least)
    random = _of_length_1(between - (between * unit).sum(1, keepdim=True) * unit, least)
    found = (difference, unit, (middle * unit).sum(1), random, (middle * random).sum(1))
    return Direction(*(part.float() for part in found))


def _of_length_1(vectors: Tensor, least: Tensor) -> Tensor:
    length = vectors.norm(dim=1, keepdim=True)
    return torch.where(length > least, vectors / length.clamp(min=torch.finfo(vectors.dtype).tiny), 0)


def without(one: Told, unit: Tensor, middle: Tensor) -> Move:
    """Set the component along a direction ``[P + 1, d]`` to what it is in the middle, ``[P + 1]``, slot by slot."""

    def move(state: Tensor, rows: Indices) -> Tensor:
        now = in_slots(state, one.slots).float()
        at = rows_of(one.slots, rows, now.shape[1], len(unit) - 1)
        surplus = (now * unit[at]).sum(-1, keepdim=True) - middle[at].unsqueeze(-1)
        return (now - surplus * unit[at]).view_as(state).to(state.dtype)

    return move


def shifted(one: Told, line: Direction) -> Move:
    """Move states by the difference of the tags' means towards the other tag; under a third tag they stay."""

    def move(state: Tensor, rows: Indices) -> Tensor:
        now = in_slots(state, one.slots).float()
        difference = line.difference[rows_of(one.slots, rows, now.shape[1], len(line.unit) - 1)]
        sign = one.sign.index_select(0, rows.device)[:, None, None]
        return (now - sign * difference).view_as(state).to(state.dtype)

    return move
