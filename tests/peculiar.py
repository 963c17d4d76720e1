"""Networks with one peculiarity each, as ``python:peculiar:NAME`` names them."""

from __future__ import annotations

import random
import threading

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from iml_bench.modalities.vision.model import VisionShape

WIDTH = 8


class _Network(nn.Module):
    """Two layers; what is peculiar comes between them."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.inner = nn.Linear(shape.height * shape.width, WIDTH)
        self.outer = nn.Linear(WIDTH, shape.positions * shape.classes)

    def between(self, hidden: Tensor) -> Tensor:
        return hidden

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.outer(self.between(torch.relu(self.inner(pixels.flatten(1)))))
        return out


class plain(_Network):  # noqa: N801  (named in sources)
    """Nothing."""


class dropout(_Network):  # noqa: N801
    """Draws from torch while it trains."""

    def between(self, hidden: Tensor) -> Tensor:
        return functional.dropout(hidden, 0.5, self.training)


class dropout_when_asked(_Network):  # noqa: N801
    """Draws from torch always."""

    def between(self, hidden: Tensor) -> Tensor:
        return functional.dropout(hidden, 0.5)


class noise(_Network):  # noqa: N801
    """Adds Gaussian noise."""

    def between(self, hidden: Tensor) -> Tensor:
        return hidden + 0.1 * torch.randn_like(hidden) if self.training else hidden


class attention_dropout(_Network):  # noqa: N801
    """Drops attention weights in a fused operation."""

    p = 0.5

    def between(self, hidden: Tensor) -> Tensor:
        words = hidden.view(-1, 1, 4, WIDTH // 4)
        p = self.p if self.training else 0.0
        return functional.scaled_dot_product_attention(words, words, words, dropout_p=p).flatten(1)


class attention(attention_dropout):  # noqa: N801
    """The same operation without dropout."""

    p = 0.0


class python_random(_Network):  # noqa: N801
    """Skips what is between by Python's generator."""

    def between(self, hidden: Tensor) -> Tensor:
        return hidden * 2 if self.training and random.random() < 0.5 else hidden


class numpy_random(_Network):  # noqa: N801
    """Scales by numpy's generator."""

    def between(self, hidden: Tensor) -> Tensor:
        return hidden * float(np.random.rand()) if self.training else hidden  # noqa: NPY002


class numpy_weights(_Network):  # noqa: N801
    """Draws its first weights from numpy and Python."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__(shape)
        drawn = np.random.randn(*self.inner.weight.shape) * random.random()  # noqa: NPY002
        self.inner.weight.data.copy_(torch.from_numpy(drawn * 0.03))


class batch_norm(_Network):  # noqa: N801
    """Normalises over the batch."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__(shape)
        self.norm = nn.BatchNorm1d(WIDTH)

    def between(self, hidden: Tensor) -> Tensor:
        found: Tensor = self.norm(hidden)
        return found


class instance_norm(_Network):  # noqa: N801
    """Normalises over every example, by the same operation of torch."""

    def between(self, hidden: Tensor) -> Tensor:
        return functional.instance_norm(hidden.view(-1, 2, WIDTH // 2)).flatten(1)


class centred(_Network):  # noqa: N801
    """Takes the mean of the batch away, by operations that are used for other things too."""

    def between(self, hidden: Tensor) -> Tensor:
        return hidden - hidden.mean(0) if self.training else hidden


class remembering(_Network):  # noqa: N801
    """Keeps a running mean that is no buffer."""

    mean = 0.0

    def between(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        return hidden - self.mean


class seeding(_Network):  # noqa: N801
    """Seeds torch's generator in every forward pass."""

    def between(self, hidden: Tensor) -> Tensor:
        torch.manual_seed(0)
        return functional.dropout(hidden, 0.1, self.training)


class two_outputs(_Network):  # noqa: N801
    """Gives a second output while it trains, as some architectures with auxiliary heads do."""

    def forward(self, pixels: Tensor) -> Tensor:
        out = super().forward(pixels)
        return (out, out) if self.training else out  # type: ignore[return-value]


class one_at_a_time(_Network):  # noqa: N801
    """Cannot be trained on a single example."""

    def between(self, hidden: Tensor) -> Tensor:
        if self.training and len(hidden) == 1:
            raise ValueError("more than 1 value per channel is needed")
        return hidden


class sparse(_Network):  # noqa: N801
    """Has gradients that AdamW does not take."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__(shape)
        self.table = nn.Embedding(4, WIDTH, sparse=True)

    def between(self, hidden: Tensor) -> Tensor:
        return hidden + self.table(torch.zeros(len(hidden), dtype=torch.long, device=hidden.device))


class detached(_Network):  # noqa: N801
    """Has no gradient at all."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels).detach()


class observing(_Network):  # noqa: N801
    """Moves a buffer while it trains, which it reads when it is asked only."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__(shape)
        self.register_buffer("mean", torch.zeros(WIDTH))

    def between(self, hidden: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(hidden.detach().mean(0), 0.1)
            return hidden
        return hidden - self.mean


class counting(_Network):  # noqa: N801
    """Counts its forward passes, to no effect."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__(shape)
        self.register_buffer("n", torch.zeros((), dtype=torch.long))

    def between(self, hidden: Tensor) -> Tensor:
        self.n += 1
        return hidden


class nan_when_asked(_Network):  # noqa: N801
    """Answers with NaN."""

    def between(self, hidden: Tensor) -> Tensor:
        return hidden if self.training else hidden * float("nan")


class nan_weights(_Network):  # noqa: N801
    """Begins with NaN."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__(shape)
        self.inner.weight.data.fill_(float("nan"))


class keeping_the_graph(_Network):  # noqa: N801
    """Keeps a result of the last step, which cannot be differentiated twice."""

    last: Tensor | float = 0.0

    def between(self, hidden: Tensor) -> Tensor:
        if self.training:
            hidden = self.last = hidden + 0.1 * self.last
        return hidden


class unused(_Network):  # noqa: N801
    """Has a weight that no answer depends on."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__(shape)
        self.spare = nn.Linear(2, 2)


class frozen(_Network):  # noqa: N801
    """Has no weight that is trained."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__(shape)
        self.requires_grad_(False)


class wider_in_training(_Network):  # noqa: N801
    """Gives more logits while it trains."""

    def forward(self, pixels: Tensor) -> Tensor:
        out = super().forward(pixels)
        return torch.cat([out, out], dim=1) if self.training else out


class complex_logits(_Network):  # noqa: N801
    """Gives complex numbers."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels) + 0j


class own_generator(_Network):  # noqa: N801
    """Scales by a generator that nobody seeds."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__(shape)
        self.generator = np.random.default_rng()

    def between(self, hidden: Tensor) -> Tensor:
        return hidden * float(self.generator.random()) if self.training else hidden


class own_weights(_Network):  # noqa: N801
    """Draws its first weights from a generator that nobody seeds."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__(shape)
        self.inner.bias.data.fill_(float(np.random.default_rng().random()))


class locked(_Network):  # noqa: N801
    """Cannot be copied."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__(shape)
        self.lock = threading.Lock()


def compiled(shape: VisionShape) -> nn.Module:
    """A network as TorchScript."""
    outputs = shape.positions * shape.classes
    network: nn.Module = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(shape.height * shape.width, outputs)))
    return network


_kept: dict[VisionShape, nn.Module] = {}


def shared(shape: VisionShape) -> nn.Module:
    """The same module every time, with weights that do not depend on the seed."""
    if shape not in _kept:
        _kept[shape] = plain(shape)
        for parameter in _kept[shape].parameters():
            parameter.data.fill_(0.01)
    return _kept[shape]
