"""Whether what a model learns depends on how a batch is cut into pieces, and what in the model makes it so.

The gradients of the pieces add up to the batch's whatever the cut, unless the examples of a piece influence one
another, or random numbers are drawn: a piece of another size draws others.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from iml_bench.generators import kept, reseed
from iml_bench.modalities.base import Batch, Feed, Indices
from iml_bench.modalities.trial import device_of
from iml_bench.models.meta import META
from iml_bench.spec import Recipe

BATCH_NORM: Final = "batch normalisation"
DROPOUT: Final = "dropout"
STATE: Final = "something that it keeps from one forward pass to the next"
COUPLED: Final = "examples of a batch that influence one another"
TOLERANCE: Final = 1e-3
"""Of the largest logit: rounding is far below it, and whatever couples examples far above."""


def causes_of(model: nn.Module, feed: Feed) -> tuple[str, ...]:
    """What makes the training of a model depend on how a batch is cut, in words; empty where nothing does.

    Two examples go through it in training mode, together and one of them alone. The random generators and the
    model's mode are left as they were. Its buffers may move.

    Args:
        model: wrapped; of one on the meta device only the operations are looked at that it uses.
        feed: examples to train on.
    """
    device, training = device_of(model), model.training
    model.train()
    try:
        with torch.no_grad(), kept(device):
            watch = _Watch()
            with watch:
                together, drew = _passed(model, feed, 2)
            causes = tuple(dict.fromkeys((*watch.found, *drew)))
            if causes or device == META:
                return causes
            before = _buffers(model)
            again, _ = _passed(model, feed, 2)
            if not _near(again, together) or not all(map(torch.equal, before, _buffers(model))):
                return (STATE,)
            alone, _ = _passed(model, feed, 1)
            return () if _near(alone, together[: len(alone)]) else (COUPLED,)
    finally:
        model.train(training)


def largest_piece(recipe: Recipe, asked: int | None, processes: int) -> int:
    """The most examples that go through the model together in each process, while memory lasts.

    Args:
        recipe: says how a batch is cut where that is part of the answer.
        asked: ``Runtime.micro_batch``.
        processes: that share every batch.
    """
    local = -(-recipe.batch_size // processes)
    return min(local, recipe.micro_batch or asked or local)


def same_twice(one: nn.Module, other: nn.Module, feed: Feed) -> bool:
    """Whether two makings of a model, of one seed, begin with the same weights and the same training pass.

    They do not where its code has a generator of its own that nobody seeds.
    """
    ours, theirs = one.state_dict(), other.state_dict()
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        return False
    passes = []
    for model in (one, other):
        model.train()
        with torch.no_grad(), kept(device_of(model)):
            passes += [_passed(model, feed, 2)[0] for _ in range(3)]
    return all(_near(passes[number], passes[number + 3]) for number in range(3))


def cut_problem(recipe: Recipe, asked: int | None, processes: int, causes: Callable[[], tuple[str, ...]]) -> str | None:
    """Why a batch cannot be cut as it would be, in words and with what to give instead; None: it can.

    Args:
        recipe: as for ``largest_piece``.
        asked: as for ``largest_piece``.
        processes: as for ``largest_piece``.
        causes: looks for what makes the cut matter (``causes_of``); asked only where there is a cut.
    """
    whole, fixed, piece = recipe.batch_size, recipe.micro_batch, largest_piece(recipe, asked, processes)
    if fixed is not None and asked is not None:
        return f"recipe.micro_batch={fixed} says how every batch is cut; leave --micro-batch out"
    # In one process the recipe's cut is what it is; whether it matters is of no matter.
    if piece >= whole or (fixed is not None and processes == 1) or not (found := causes()):
        return None
    why = f"what it learns depends on how a batch is cut ({', '.join(found)})"
    if fixed is None:
        return f"{why}; give --set recipe.micro_batch={piece}, which is a cell of its own"
    if {BATCH_NORM, STATE} & {*found}:
        return f"{why}, and every process would keep its own of what it sums up; leave --processes out"
    return None


def copied(model: nn.Module) -> nn.Module:
    """A copy to try things with; the model itself where it cannot be copied."""
    try:
        made = copy.deepcopy(model)
    except Exception:  # whatever a model's own parts raise: locks, handles
        return model
    # The weights of a copy of compiled code are results of something, which no optimiser takes.
    same = [(weight.is_leaf, weight.requires_grad) for weight in model.parameters()]
    return made if [(weight.is_leaf, weight.requires_grad) for weight in made.parameters()] == same else model


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch on another device, which may be meta."""
    inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
    return Batch(inputs, batch.targets.to(device), batch.weights.to(device))


def _passed(model: nn.Module, feed: Feed, n: int) -> tuple[Tensor, list[str]]:
    """Logits of one or two examples under the same random numbers, and whose generator they moved."""
    rows = _two_alike(feed)[:n]
    noise = torch.full((n, feed.noise), 0.5, device=feed.mass.device)
    batch = moved(feed.batch(Indices.of(rows, feed.mass.device), noise), device_of(model))
    reseed(0)
    ours, numpys = random.getstate(), _numpy_state()
    logits: Tensor = model(**batch.inputs)
    drew = ["random numbers of Python"] if random.getstate() != ours else []
    return logits.float(), drew + (["random numbers of numpy"] if _numpy_state() != numpys else [])


def _buffers(model: nn.Module) -> list[Tensor]:
    """What a model keeps beside its weights; it may be read when it is asked only, or move too slowly to be seen."""
    return [buffer.clone() for buffer in model.buffers() if buffer.is_floating_point()]


def _two_alike(feed: Feed) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Two different examples of one length, where there are such: they are then not padded, or cut, otherwise."""
    n = len(feed.examples)
    order = np.arange(n) if feed.lengths is None else np.argsort(feed.lengths, kind="stable")
    if n == 1:
        return np.zeros(2, dtype=np.int64)
    gaps = np.zeros(n - 1) if feed.lengths is None else np.diff(feed.lengths[order])
    first = int(np.argmin(gaps))
    return order[first : first + 2]


def _numpy_state() -> tuple[bytes, int]:
    state: Any = np.random.get_state()  # noqa: NPY002
    return state[1].tobytes(), state[2]


def _near(one: Tensor, other: Tensor) -> bool:
    largest = float(other.abs().max())
    return torch.allclose(one, other, rtol=0, atol=TOLERANCE * largest, equal_nan=True)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hears of every operation of torch, and keeps what makes a cut matter."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments, name = func._schema.arguments, func._schema.name.removeprefix("aten::").strip("_")
        defaults = {argument.name: argument.default_value for argument in arguments}
        given = defaults | dict(zip(defaults, args, strict=False)) | (kwargs or {})
        if "batch_norm" in name and _over_the_batch(name, given):
            self.found.append(BATCH_NORM)
        elif torch.Tag.nondeterministic_seeded in func.tags and _draws(given):
            is_dropout = "dropout" in name or "bernoulli" in name or "dropout_p" in given
            self.found.append(DROPOUT if is_dropout else f"random numbers of torch ({name})")
        return func(*args, **(kwargs or {}))


def _over_the_batch(name: str, given: dict[str, Any]) -> bool:
    """Whether a batch normalisation takes its statistics from the batch, and not from one instance or from weights.

    Those two call the same operation with a single row.
    """
    training = given.get("training", given.get("train", "with_update" in name))
    return bool(training) and len(given["input"]) > 1


def _draws(given: dict[str, Any]) -> bool:
    """Whether an operation that may draw random numbers does: attention has dropout as an option."""
    return bool(given.get("dropout_p", True)) and given.get("train") is not False
