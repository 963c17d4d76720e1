"""How surprising every definition is under each tag, and every question: the loss that training would see now.

For the new entities, which no model has read yet at the end of stage 1: a model that already expects true things
under the reliable tag finds the same definition less surprising there. Compare rows of one entity with one another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch

from iml_bench.learners.base import Inspectable
from iml_bench.modalities.base import Indices, draw_noise
from iml_bench.probes.subjects import LOOKS
from iml_bench.protocols.base import NONE, Examples

if TYPE_CHECKING:
    from iml_bench.run.cell import Setting

AT_ONCE = 256


class Losses:
    """Loss of each definition under every shared tag, in nats per unit of its mass."""

    description = "loss of every defined entity's definition under each tag, in nats per scored position"

    def __call__(self, setting: Setting, learner: Inspectable, moment: str) -> pl.DataFrame:
        """One row per entity that has a definition in some branch, and shared tag: ``entity, group, tag, loss``."""
        design = setting.design
        claims = design.shown(0)[1]
        entities = np.flatnonzero(claims != NONE)
        tables = []
        for tag, name in enumerate(design.tags):
            none = np.full(len(entities), NONE)
            examples = Examples(entities, claims[entities], np.full(len(entities), tag), none, none)
            groups = [design.groups[index] for index in design.group[entities]]
            losses = mean_losses(setting, learner, examples)
            tables.append(pl.DataFrame({"entity": entities, "group": groups, "tag": name, "loss": losses}))
        return pl.concat(tables)


def mean_losses(
    setting: Setting, learner: Inspectable, examples: Examples
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """``[n]``: each example's loss, a mean over ``LOOKS`` pictures where pictures are drawn."""
    feed, device = setting.feed(examples, evaluation=False), setting.device
    looks = LOOKS if feed.noise else 1
    rng = setting.streams.generator("render/evaluation")
    total = torch.zeros(len(examples), dtype=torch.float64, device=device)
    with torch.no_grad():
        for _ in range(looks):
            noise = torch.from_numpy(draw_noise(rng, len(examples), feed.noise)).to(device)
            for rows in np.array_split(np.arange(len(examples)), -(-len(examples) // AT_ONCE)):
                indices = Indices.of(rows, device)
                total[indices.device] += learner.losses(feed, indices, noise[indices.device]).double()
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = (total / looks).cpu().numpy()
    return found


LOSSES = Losses()
