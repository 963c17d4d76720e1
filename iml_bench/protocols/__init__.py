"""What is shown, asked and measured, in which order: one room a protocol. Never imports torch.

What a protocol measures is asked for here, and nowhere else.
"""

from __future__ import annotations

from iml_bench.errors import unknown
from iml_bench.extensions import PROTOCOLS
from iml_bench.protocols.base import Protocol
from iml_bench.protocols.items import ITEM_TYPES, Columns
from iml_bench.protocols.measures import Measure, evaluate
from iml_bench.protocols.scores import Scores
from iml_bench.spec import TaskSpec
from iml_bench.streams import Streams

__all__ = [
    "ITEM_TYPES",
    "Columns",
    "Measure",
    "Protocol",
    "Scores",
    "bound_problem",
    "evaluate",
    "headline_of",
    "measure_of",
    "measures_of",
    "protocol_of",
    "score_items",
    "streams_of",
]


def protocol_of(task: TaskSpec | str) -> Protocol:
    """The protocol that a task names, or of a name.

    Raises:
        UsageError: when there is none.
    """
    found: Protocol = PROTOCOLS.get(task if isinstance(task, str) else task.protocol)
    return found


def streams_of(task: TaskSpec, seed: int) -> Streams:
    """The random streams of a task's cells."""
    return Streams(seed, protocol_of(task).phases)


def measures_of(protocol: TaskSpec | str) -> tuple[Measure, ...]:
    """Everything that a protocol measures, in the order in which it is shown; those of other packages come last."""
    return protocol_of(protocol).measures


def headline_of(protocol: TaskSpec | str) -> Measure:
    """The measure that ranks models."""
    return next(measure for measure in measures_of(protocol) if measure.shown == "headline")


def measure_of(protocol: TaskSpec | str, name: str) -> Measure:
    """One measure by name.

    Raises:
        UsageError: when the protocol has no such measure.
    """
    known = {measure.name: measure for measure in measures_of(protocol)}
    if name not in known:
        raise unknown("measure", name, known, "iml-bench leaderboard --json")
    return known[name]


def score_items(protocol: TaskSpec | str, columns: Columns) -> Scores:
    """The scores of one cell, the only place where they are computed.

    Args:
        protocol: the cell's task, or the name of its protocol.
        columns: of a per-item file, see ``ITEM_TYPES``; ``OPTIONAL`` ones may be absent.
    """
    found = {measure.name: evaluate(measure, columns) for measure in measures_of(protocol)}
    return Scores(
        **{name: value for name, (value, _) in found.items()},
        exact_match=protocol_of(protocol).slices(columns),
        reasons={name: why for name, (_, why) in found.items() if why},
    )


def bound_problem(protocol: TaskSpec | str, scores: Scores) -> str | None:
    """A sentence for the first score that cannot be one; names that the protocol does not know have no bounds."""
    for measure in measures_of(protocol):
        value = scores.get(measure.name)
        if value is not None and not measure.allows(value):
            return f"scores.{measure.name} lies between {measure.low:g} and {measure.high:g}, and it says {value:g}"
    return None
