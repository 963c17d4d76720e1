"""The real command line in processes of its own, and what can be done to these."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import psutil

INSTRUMENTS: Final = Path(__file__).parent / "instruments"
CODE: Final = Path(__file__).parents[2]
TOKEN: Final = "IML_BENCH_FAULTS_TOKEN"
"""In the environment of every process that a scene starts: by it those that are left are found."""
PATIENCE: Final = 300.0
"""Seconds after which a command that has not ended never will."""
LEAVING: Final = 60.0
"""Seconds that the children of a process that was killed have to end."""
GLANCE: Final = 0.01


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    status: int | None
    """None: it had to be killed because it did not end."""
    out: str
    err: str


class Command:
    """``python -m iml_bench`` with some words, in a group of processes of its own."""

    def __init__(
        self, words: Sequence[str], said: Path, environment: Mapping[str, str], within: Sequence[str] = ()
    ) -> None:
        """Args:
        words: what follows the program's name.
        said: the beginning of the names of two files that take stdout and stderr; no pipe can hold it up.
        environment: what is added to this process's own.
        within: a program that starts it, with its arguments.
        """
        self.out, self.err = said.with_suffix(".out"), said.with_suffix(".err")
        paths = [str(INSTRUMENTS), str(CODE), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-m", "iml_bench", *words],
                env={**os.environ, **own, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=heed_signals,
            )

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def said(self) -> str:
        """What it has said on stderr so far."""
        return self.err.read_text(encoding="utf-8", errors="replace")

    def children(self) -> list[psutil.Process]:
        """Its processes but the first, in the order in which they were made."""
        with suppress(psutil.Error):
            found = psutil.Process(self.process.pid).children(recursive=True)
            return sorted(found, key=lambda child: child.create_time())
        return []

    def workers(self) -> list[psutil.Process]:
        """Those of its children that run cells: not the one that holds the queue of events, nor Python's own."""
        spawned = [child for child in self.children() if "spawn_main" in " ".join(_words(child))]
        return spawned[1:]

    def kill_group(self) -> None:
        """Kill all its processes at once, with no chance to do anything."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def ended(self, while_waiting: Callable[[], object] = lambda: None) -> Ended:
        """Wait for its end."""
        deadline = time.monotonic() + PATIENCE
        while self.runs and time.monotonic() < deadline:
            while_waiting()
            time.sleep(GLANCE)
        status = self.process.poll()
        if status is None:
            self.kill_group()
            self.process.wait()
        return Ended(status, self.out.read_text(encoding="utf-8", errors="replace"), self.said())


def heed_signals() -> None:
    """In a child: whoever started this may have had some signals ignored, which a run respects."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


def living(token: str) -> list[psutil.Process]:
    """The processes of a scene that are alive."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(TOKEN) == token and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def left_behind(token: str) -> list[str]:
    """Wait until no process of a scene lives; those that do not end are killed, and told of."""
    deadline = time.monotonic() + LEAVING
    while (left := living(token)) and time.monotonic() < deadline:
        time.sleep(0.05)
    told = [f"process {process.pid} ({' '.join(_words(process))[:80]}) was left" for process in left]
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    return told
