"""What rounding makes of a cell, tried without another machine."""

from __future__ import annotations

import torch
from torch import nn


def nudge(model: nn.Module, number: int) -> None:
    """Move every trained weight to the next number above or below it that its type can hold, at random.

    That is the least by which two machines can come to differ, and less than what their sums differ by after a single
    step. Training makes as much of it: which of the two began it is soon forgotten. Data, order and every draw stay as
    they were, so it is the same experiment, and unlike another cut of the batch it is one for every model, also where
    a piece of another size draws other dropout or normalises over other examples.

    Args:
        model: on any device.
        number: draws the directions; the global generators are left as they are.
    """
    directions = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad and weight.is_floating_point():
                up = torch.rand(weight.shape, generator=directions) < 0.5
                far = torch.where(up, torch.inf, -torch.inf).to(weight)
                weight.copy_(torch.nextafter(weight, far))
