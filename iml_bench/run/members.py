"""A cell that several processes share: they are started for it, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from iml_bench.errors import CellError
from iml_bench.run.job import Job, record_failure, run_job
from iml_bench.runtime import THREADS, Runtime, StageProgress, silent
from iml_bench.system import follow_parent, script_left_out

GRACE: Final = 30.0
"""Seconds that the other processes have to end once one has failed: where a cell failed in all of them, the first has
yet to say so. Those that are left would wait for the one that is gone for ever."""
TO_END: Final = 5.0
"""Seconds that a process has to end once it was asked to."""


Heard = tuple[Connection, Callable[[Any], None]]
"""Where processes report to, and what is called with each report."""


def together(processes: int, what: Callable[..., None], *arguments: Any, heard: Heard | None = None) -> int:
    """Call a function in several processes that share every batch; the exit status of the first that failed.

    However this ends, none of them is left: not even where this process is killed.
    """
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    members = [
        context.Process(target=_take_part, args=(rank, processes, port, what, arguments)) for rank in range(processes)
    ]
    try:
        for member in members:
            member.start()
        return _first_failure(members, heard)
    finally:
        _end(members)


def _first_failure(members: Sequence[SpawnProcess], heard: Heard | None) -> int:
    """Wait for all, or for ``GRACE`` seconds once one has failed; the exit status as a shell has it."""
    running, status = {member.sentinel: member for member in members}, 0
    reports = [heard[0]] if heard else []
    while running and (ended := wait([*running, *reports], GRACE if status else None)):
        while heard and heard[0].poll():
            heard[1](heard[0].recv())
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


def _take_part(rank: int, processes: int, port: int, what: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    follow_parent()
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    own = {"RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in {**shared, **own}.items()})
    what(*arguments)


def run_in_processes(job: Job, runtime: Runtime) -> str | None:
    """Run a cell in as many processes as it needs, and write its record; like ``run_job``."""
    started = datetime.now(UTC)
    alone = replace(job, needs=job.needs.model_copy(update={"processes": 1}))
    reader, writer = multiprocessing.get_context("spawn").Pipe(duplex=False)
    said: list[str | None] = []

    def hear(report: StageProgress | tuple[str | None]) -> None:
        runtime.report(report) if isinstance(report, StageProgress) else said.extend(report)

    with script_left_out(), reader, writer:
        away = replace(runtime, report=silent)
        status = together(job.needs.processes, _run_member, alone, away, writer, heard=(reader, hear))
        while reader.poll():
            hear(reader.recv())
    if said:
        return said[0]
    died = CellError(
        f"one of its {job.needs.processes} processes died with exit status {status} (killed, or out of memory)"
    )
    return record_failure(job, started, died)


def _run_member(job: Job, runtime: Runtime, tells: Connection) -> None:
    # Read when libraries are loaded, which they are not yet.
    os.environ.update({"OMP_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "false"})
    sys.stdout = sys.stderr  # which is for what was asked of the command
    first = os.environ["RANK"] == "0"
    message = run_job(job, replace(runtime, report=tells.send) if first else runtime)
    if first:
        tells.send((message,))
