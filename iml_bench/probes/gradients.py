"""Gradients of single examples, flattened, and their products by part of the network.

A loss is each example's own over its own mass, so that padding never counts (Krasheninnikov et al. 2024 averaged over
padding, too). The model is in evaluation mode and in the precision of its weights: no dropout, no autocast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from iml_bench.learners.base import Inspectable
from iml_bench.learners.blocks import blocks, title
from iml_bench.learners.network import training_loss
from iml_bench.modalities.base import Batch, Feed, Indices
from iml_bench.protocols.base import Ints

ALL: Final = "all"
"""All trained parameters together."""
AT_ONCE: Final = 2**28
"""Bytes of gradients that are held beside those of definitions."""


class Gradients:
    """Takes gradients of single examples with respect to all trained parameters, shared ones once."""

    def __init__(self, learner: Inspectable) -> None:
        """Args: learner: a network; it must be in a state that is put back, see ``probes.base.undone``."""
        network: Any = learner
        self.model: nn.Module = network.accelerator.unwrap_model(network.model)
        self.model.eval()
        self.weights = dict(learner.trainable())
        self.size = sum(weight.numel() for weight in self.weights.values())
        of = parts_of(self.model, list(self.weights))
        self.parts = (ALL, *dict.fromkeys(of))
        """``all``, then the parts in the order of the model's parameters."""
        self.slices: list[tuple[int, slice]] = []
        end = 0
        for part, weight in zip(of, self.weights.values(), strict=True):
            self.slices.append((self.parts.index(part), slice(end, end + weight.numel())))
            end += weight.numel()
        self.vmapped: bool | None = None
        """Whether several examples go through together; None before it was tried."""

    @property
    def chunk(self) -> int:
        """Gradients that are taken at a time."""
        return max(1, AT_ONCE // (4 * self.size))

    def of(self, feed: Feed, rows: Ints, noise: Tensor) -> Tensor:
        """Gradients of examples.

        Args:
            feed: the examples.
            rows: ``[n]``, rows of the feed.
            noise: ``[n, looks, feed.noise]``: the loss of an example is the mean over its looks.

        Returns:
            ``[n, P]`` float32, ``P`` trained parameters in the order of ``slices``.
        """
        with plain(self.model):
            batches = [_batch(feed, int(row), draws) for row, draws in zip(rows, noise, strict=True)]
            mass = feed.mass[torch.from_numpy(rows).to(feed.mass.device)] * noise.shape[1]
            found = torch.empty(len(rows), self.size, device=mass.device)
            for places in _alike(batches, self.chunk):
                chosen = [batches[place] for place in places]
                found[places] = self._together(chosen, mass[places])
            return found

    def _together(self, batches: list[Batch], mass: Tensor) -> Tensor:
        """Of examples of one form, ``[n, P]``."""
        if self.vmapped is None and len(batches) > 1:
            self.vmapped = self._can_be_vmapped(batches[:2], mass[:2])
        if self.vmapped and len(batches) > 1:
            return self._vmapped(batches, mass)
        return torch.stack([self._single(batch, own) for batch, own in zip(batches, mass, strict=True)])

    def _single(self, batch: Batch, mass: Tensor) -> Tensor:
        return self.flat(training_loss(self.model, batch) / mass)

    def flat(self, loss: Tensor) -> Tensor:
        """The gradient of a scalar, ``[P]`` float32; zero where it does not depend on a weight."""
        weights = list(self.weights.values())
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        pairs = zip(gradients, weights, strict=True)
        return torch.cat([(torch.zeros_like(w) if g is None else g).detach().flatten().float() for g, w in pairs])

    def _vmapped(self, batches: list[Batch], mass: Tensor) -> Tensor:
        weights = {name: weight.detach() for name, weight in self.weights.items()}

        def loss(weights: dict[str, Tensor], inputs: dict[str, Tensor], rest: tuple[Tensor, ...]) -> Tensor:
            targets, counts, own = rest
            logits = functional_call(self.model, weights, (), inputs)
            each = nn.functional.cross_entropy(logits.float(), targets, reduction="none")
            return torch.dot(each, counts) / own

        inputs = {name: torch.stack([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
        targets, counts = (torch.stack([getattr(one, name) for one in batches]) for name in ("targets", "weights"))
        with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for several at a time
            gradients = vmap(grad(loss), in_dims=(None, 0, 0))(weights, inputs, (targets, counts, mass))
        return torch.cat([gradients[name].flatten(1).float() for name in self.weights], dim=1)

    def _can_be_vmapped(self, batches: list[Batch], mass: Tensor) -> bool:
        """Whether two examples together have the gradients that each has alone."""
        alone = torch.stack([self._single(batch, own) for batch, own in zip(batches, mass, strict=True)])
        try:
            together = self._vmapped(batches, mass)
        except Exception:  # whatever a model's own code raises where it meets a tensor that is no plain one
            return False
        return torch.allclose(together, alone, rtol=1e-3, atol=1e-5 * float(alone.abs().max()))

    def products(self, one: Tensor, other: Tensor) -> Tensor:
        """``[parts, n, m]`` float64: products of gradients ``[n, P]`` and ``[m, P]``, summed by part."""
        found = torch.zeros(len(self.parts), len(one), len(other), dtype=torch.float64, device=one.device)
        for part, own in self.slices:
            found[part] += one[:, own].double() @ other[:, own].double().T
        found[0] = found[1:].sum(0)
        return found

    def squares(self, gradients: Tensor) -> Tensor:
        """``[parts, n]`` float64: squared lengths of gradients ``[n, P]``."""
        found = torch.zeros(len(self.parts), len(gradients), dtype=torch.float64, device=gradients.device)
        for part, own in self.slices:
            found[part] += gradients[:, own].double().square().sum(1)
        found[0] = found[1:].sum(0)
        return found


class Spread:
    """The variance of gradients about their mean in one pass: ``mean |g|^2 - |mean g|^2``, by part."""

    def __init__(self, gradients: Gradients, device: torch.device) -> None:
        """Args: gradients: whose; device: where they are."""
        self.gradients, self.n = gradients, 0
        self.sum = torch.zeros(gradients.size, dtype=torch.float64, device=device)
        self.squares = torch.zeros(len(gradients.parts), dtype=torch.float64, device=device)

    def add(self, found: Tensor) -> None:
        """Take gradients ``[n, P]`` in."""
        self.n += len(found)
        self.sum += found.double().sum(0)
        self.squares += self.gradients.squares(found).sum(1)

    @property
    def variance(self) -> list[float]:
        """One number a part."""
        mean = torch.zeros_like(self.squares)
        for part, own in self.gradients.slices:
            mean[part] += (self.sum[own] / self.n).square().sum()
        mean[0] = mean[1:].sum()
        return (self.squares / self.n - mean).tolist()


def parts_of(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The part of each parameter: its block, or, outside of blocks, the module that owns it.

    A block that has a number for a name is called by its kind, too: ``4 Linear``.

    Args:
        model: whose blocks these are, see ``learners.blocks``.
        names: of parameters, as the model names them.
    """
    inside = dict(blocks(model))
    found = []
    for name in names:
        block = next((path for path in inside if name.startswith(f"{path}.")), None)
        outside = name.rpartition(".")[0].removeprefix("body.") or name
        found.append(title(block, inside[block]) if block else outside)
    return found


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Without the automatic casting that Accelerate puts around a model's forward pass."""
    wrapped = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.__dict__["forward"] = wrapped


def _batch(feed: Feed, row: int, noise: Tensor) -> Batch:
    rows = Indices.of(np.full(len(noise), row), feed.mass.device)
    return feed.batch(rows, noise)


def _alike(batches: Sequence[Batch], most: int) -> Iterator[list[int]]:
    """Places of batches of one form, a few at a time."""
    by_form: dict[tuple[object, ...], list[int]] = {}
    for place, batch in enumerate(batches):
        form = (*((name, tensor.shape) for name, tensor in batch.inputs.items()), batch.targets.shape)
        by_form.setdefault(form, []).append(place)
    for places in by_form.values():
        yield from (places[start : start + most] for start in range(0, len(places), most))
