"""``--processes N``: the same command in several processes that share every global batch."""

from __future__ import annotations

import multiprocessing
import runpy
import sys
from typing import Any

from iml_bench.run.members import together


def launch(processes: int) -> int:
    """Start this command again in every process, wait for all, and return the exit status of the first that failed.

    However this ends, none of them is left.
    """
    return together(processes, _take_part, sys.argv, multiprocessing.get_context("spawn").Lock())


_voice: Any = None
"""In a process that was started here: the lock that the first takes who has to say what cannot be done."""


def may_speak() -> bool:
    """Whether nobody else of several processes has said what cannot be done: it is one sentence, not one from each."""
    return _voice is None or bool(_voice.acquire(block=False))


def _take_part(arguments: list[str], voice: Any) -> None:
    global _voice
    _voice = voice
    sys.argv = arguments
    runpy.run_module("iml_bench", run_name="__main__")
