"""``--processes N``: the same command in several processes that share every global batch."""

from __future__ import annotations

import os
import runpy
import socket
import sys


def launch(processes: int) -> int:
    """Start this command again in every process, wait for all, and return the exit status of the first that failed.

    When one dies, the others are ended: they would wait for it for ever.
    """
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    try:
        start_processes(_take_part, args=(processes, port, sys.argv), nprocs=processes, start_method="spawn")  # type: ignore[no-untyped-call]
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
