"""``--processes N``: the same command in several processes that share every global batch."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from iml_bench.system import follow_parent

GRACE: Final = 30.0
"""Seconds that the other processes have to end once one has failed: where a cell failed in all of them, the first has
yet to say so. Those that are left would wait for the one that is gone for ever."""
TO_END: Final = 5.0
"""Seconds that a process has to end once it was asked to."""


def launch(processes: int) -> int:
    """Start this command again in every process, wait for all, and return the exit status of the first that failed.

    However this ends, none of them is left.
    """
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    arguments = (processes, port, sys.argv, context.Lock())
    members = [context.Process(target=_take_part, args=(rank, *arguments)) for rank in range(processes)]
    try:
        for member in members:
            member.start()
        return _first_failure(members)
    finally:
        _end(members)


def _first_failure(members: Sequence[SpawnProcess]) -> int:
    """Wait for all, or for ``GRACE`` seconds once one has failed; the exit status as a shell has it."""
    running, status = {member.sentinel: member for member in members}, 0
    while running and (ended := wait([*running], GRACE if status else None)):
        for member in [running.pop(sentinel) for sentinel in ended if isinstance(sentinel, int)]:
            member.join()
            code = member.exitcode or 0
            status = status or (code if code >= 0 else 128 - code)
    return status


def _end(members: Sequence[SpawnProcess]) -> None:
    started = [member for member in members if member.pid is not None]
    for end in (SpawnProcess.terminate, SpawnProcess.kill):
        for member in started:
            end(member)
        for member in started:
            member.join(TO_END)


_voice: Any = None
"""In a process that was started here: the lock that the first takes who has to say what cannot be done."""


def may_speak() -> bool:
    """Whether nobody else of several processes has said what cannot be done: it is one sentence, not one from each."""
    return _voice is None or bool(_voice.acquire(block=False))


def _take_part(rank: int, processes: int, port: int, arguments: list[str], voice: Any) -> None:
    global _voice
    follow_parent()
    _voice = voice
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    own = {"RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in {**shared, **own}.items()})
    sys.argv = arguments
    runpy.run_module("iml_bench", run_name="__main__")
