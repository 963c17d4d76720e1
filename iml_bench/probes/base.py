"""The hook: a probe looks at a learner after a step of the schedule and returns a table of its own.

A probe is no part of a cell's key and leaves its outcomes bit for bit as they are: whatever it does to weights,
buffers, gradients, the mode of the model and the random generators is undone after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import polars as pl

from iml_bench.errors import UsageError, shown
from iml_bench.extensions import PROBES
from iml_bench.generators import kept
from iml_bench.learners.base import Inspectable, Learner
from iml_bench.modalities.trial import device_of
from iml_bench.protocols.base import Step, trains

if TYPE_CHECKING:
    from iml_bench.records import Attachments
    from iml_bench.run.cell import Setting

INITIAL: Final = "initial"
"""The moment before anything is trained."""


class Probe(Protocol):
    """One analysis, added by name (``extensions.PROBES``)."""

    description: str
    """What its table says, in a sentence."""

    def __call__(self, setting: Setting, learner: Inspectable, moment: str) -> pl.DataFrame:
        """Look at the learner.

        Args:
            setting: the data side of the cell: design, renderer, streams, feeds.
            learner: as it is at this moment; what is done to it is undone.
            moment: ``initial``, or the label of the training step that was just ended.

        Returns:
            A table with columns of its own.

        Raises:
            UsageError: when there is nothing to be measured, with the reason.
        """
        ...


def moments(schedule: Sequence[Step]) -> tuple[str, ...]:
    """The moments of a schedule at which a probe can look."""
    return (INITIAL, *(step.label for step in trains(tuple(schedule))))


def default_moment(schedule: Sequence[Step]) -> str:
    """The end of what all branches share: after stage 1, before any branch."""
    shared = [step.label for step in trains(tuple(schedule)) if step.branch is None]
    return shared[-1] if shared else INITIAL


def parse_probe(text: str, schedule: Sequence[Step]) -> tuple[str, str]:
    """``NAME`` or ``NAME@MOMENT`` as name and moment.

    Raises:
        UsageError: when there is no such probe, or the schedule has no such moment.
    """
    name, _, moment = text.partition("@")
    PROBES.get(name)
    known = moments(schedule)
    if moment and moment not in known:
        raise UsageError(f"probe {name!r}: there is no moment {shown(repr(moment))}; the task has {', '.join(known)}")
    return name, moment or default_moment(schedule)


def look(name: str, setting: Setting, learner: Learner, moment: str, attachments: Attachments) -> None:
    """Run a probe and file its table; what keeps it from a table is filed as the reason."""
    probe: Probe = PROBES.get(name)
    if not hasattr(learner, "losses"):
        attachments.missing(name, moment, "a reference learner has no weights to look into")
        return
    try:
        with undone(learner):
            table = probe(setting, cast(Inspectable, learner), moment)
    except Exception as error:
        # A cell is not lost for an analysis that failed.
        lines = str(error).strip().splitlines() or [""]
        reason = lines[0] if isinstance(error, UsageError) else f"{type(error).__name__}: {lines[0]}"
        attachments.missing(name, moment, reason)
        return
    attachments.table(name, moment, table)


@contextmanager
def undone(learner: Learner) -> Iterator[None]:
    """Undo whatever the block does to a network and to the random generators of torch, numpy and Python."""
    model: Any = learner.model  # type: ignore[attr-defined]
    state, training = learner.snapshot(), {name: module.training for name, module in model.named_modules()}
    wanting = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        with kept(device_of(model)):
            yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(wanting[name])
        for name, module in model.named_modules():
            module.training = training[name]
        learner.restore(state)
