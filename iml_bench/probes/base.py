"""The hook: a probe looks at a learner after a step of the schedule and returns a table of its own.

A probe is no part of a cell's key and leaves its outcomes bit for bit as they are: whatever it does to weights,
buffers, gradients, the mode of the model and the random generators is undone after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import polars as pl

from iml_bench.errors import UsageError, shown, unknown
from iml_bench.extensions import PROBES
from iml_bench.generators import kept
from iml_bench.learners.base import Inspectable, Learner
from iml_bench.modalities.trial import device_of
from iml_bench.protocols import Measure, evaluate
from iml_bench.protocols.base import CURVE, Step, default_moment, moments
from iml_bench.spec.look import parse_look

if TYPE_CHECKING:
    from iml_bench.records import Attachments
    from iml_bench.run.cell import Setting


class Probe(Protocol):
    """One analysis, added by name (``extensions.PROBES``).

    The fields of a probe that is a frozen dataclass are its options, each with its default: ``alignment?entities=64``.
    It may have ``scores``, a sequence of ``Measure``: numbers of its table, which the record lists beside it and which
    a claim of a suite may be about (``alignment.gap``).
    """

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


class Asked(NamedTuple):
    """A probe that was asked for."""

    name: str
    options: dict[str, Any]
    """Those that were given."""
    probe: Probe
    """With these options."""
    moment: str = ""
    """Empty where none is given."""


def parse_probe(text: str, schedule: tuple[Step, ...]) -> tuple[str, str]:
    """``NAME[?OPTION=VALUE&...][@MOMENT]`` as the probe with its options, and the moment.

    Raises:
        UsageError: when there is no such probe or option, or the schedule has no such moment.
    """
    what, moment = text.partition("@")[0], asked_of(text).moment
    known = (*moments(schedule), CURVE)
    if moment and moment not in known:
        raise UsageError(f"probe {what!r}: there is no moment {shown(repr(moment))}; the task has {', '.join(known)}")
    return what, moment or default_moment(schedule)


def asked_of(text: str) -> Asked:
    """``NAME[?OPTION=VALUE&...][@MOMENT]`` as a probe.

    Raises:
        UsageError: when there is no such probe or option, or a value is of another type than the default.
    """
    name, options, moment = parse_look(text)
    probe: Any = PROBES.get(name)
    fields: dict[str, Any] = {}
    if dataclasses.is_dataclass(probe):
        fields = {field.name: getattr(probe, field.name) for field in dataclasses.fields(probe)}
    for key, value in options.items():
        if key not in fields:
            raise unknown(f"option of probe {name!r}", key, fields, "iml-bench probe --help")
        if type(value) is not type(fields[key]):
            raise UsageError(
                f"probe {name!r}: {key} is like {fields[key]!r}, which is its default, and not {shown(repr(value))}"
            )
    return Asked(name, options, dataclasses.replace(probe, **options) if options else probe, moment)


def look(text: str, setting: Setting, learner: Learner, moment: str, attachments: Attachments) -> None:
    """Run a probe and file its table with its scores; what keeps it from a table is filed as the reason.

    Args:
        text: ``NAME[?OPTION=VALUE&...]``.
        setting: the data side of the cell.
        learner: as it is at this moment, and after it.
        moment: what the table is filed under.
        attachments: takes it.
    """
    name, options, probe, _ = asked_of(text)
    if not hasattr(learner, "losses"):
        attachments.missing(name, moment, "a reference learner has no weights to look into", options=options)
        return
    try:
        with undone(learner):
            table = probe(setting, cast(Inspectable, learner), moment)
    except Exception as error:
        # A cell is not lost for an analysis that failed.
        lines = str(error).strip().splitlines() or [""]
        reason = lines[0] if isinstance(error, UsageError) else f"{type(error).__name__}: {lines[0]}"
        attachments.missing(name, moment, reason, options=options)
        return
    attachments.table(name, moment, table, scores_of_table(probe, table), options)


def scores_of_table(probe: Probe, table: pl.DataFrame) -> dict[str, tuple[float | None, str]]:
    """A table's scores by name, each with the reason why it is null; the only place where they are computed."""
    measures: Sequence[Measure] = getattr(probe, "scores", ())
    columns = {name: table[name].to_numpy() for name in table.columns}
    return {measure.name: evaluate(measure, columns) for measure in measures}


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
