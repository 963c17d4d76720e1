"""``--processes N``: the same command in several processes that share every global batch."""

from __future__ import annotations

import os
import runpy
import socket
import sys
from multiprocessing.connection import wait
from typing import Any, Final

GRACE: Final = 30.0
"""Seconds that the other processes have to end once one has failed."""


def launch(processes: int) -> int:
    """Start this command again in every process, wait for all, and return the exit status of the first that failed.

    When one dies, the others are ended: they would wait for it for ever. Before that they have ``GRACE`` seconds: where
    a cell failed in all of them, the first has yet to say so.
    """
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    try:
        arguments = (processes, port, sys.argv)
        context: Any = start_processes(_take_part, arguments, processes, join=False, start_method="spawn")  # type: ignore[no-untyped-call]
        running, failed = {process.sentinel: process for process in context.processes}, False
        while running and (ended := wait([*running], GRACE if failed else None)):
            for process in map(running.pop, ended):
                process.join()
                failed = failed or process.exitcode != 0
        while not context.join():
            pass
    except ProcessExitedException as error:
        return int(error.exit_code)
    except ProcessRaisedException as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _take_part(rank: int, processes: int, port: int, arguments: list[str]) -> None:
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    own = {"RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in {**shared, **own}.items()})
    sys.argv = arguments
    runpy.run_module("iml_bench", run_name="__main__")
