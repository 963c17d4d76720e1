"""What is shown, asked and measured, in which order: one room a protocol. Never imports torch."""

from __future__ import annotations

from iml_bench.extensions import PROTOCOLS
from iml_bench.protocols.base import Protocol
from iml_bench.spec import TaskSpec
from iml_bench.streams import Streams


def protocol_of(task: TaskSpec) -> Protocol:
    """The protocol that a task names."""
    found: Protocol = PROTOCOLS.get(task.protocol)
    return found


def streams_of(task: TaskSpec, seed: int) -> Streams:
    """The random streams of a task's cells."""
    return Streams(seed, protocol_of(task).phases)
