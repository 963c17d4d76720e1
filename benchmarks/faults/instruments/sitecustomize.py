"""What Python imports first in every process of a command under test: counts cells, and breaks what it is told to.

Environment variables say what, and without them nothing happens: ``IML_BENCH_FAULTS_COUNT`` is a file that takes a
line for each cell that begins or ends; ``IML_BENCH_FAULTS_LINKS=no`` makes hard links impossible;
``IML_BENCH_FAULTS_CLOCK`` is a file that, once it is there, says by how many seconds the clock is wrong. The machine's
own clock is never touched.
"""

from __future__ import annotations

import datetime
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CELL, JOB = "iml_bench.run.cell", "iml_bench.run.job"


class Changing(importlib.abc.MetaPathFinder):
    """Changes modules of the package when they have just been imported."""

    def __init__(self, change: Callable[[Any], None]) -> None:
        """Args: change: is given each module."""
        self.change = change

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        """See ``importlib``."""
        if not name.startswith("iml_bench."):
            return None
        place = sys.meta_path.index(self)
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(place, self)
        if spec is not None and spec.loader is not None:
            loader, load = spec.loader, spec.loader.exec_module

            def loaded(module: Any) -> None:
                load(module)
                self.change(module)

            loader.exec_module = loaded  # type: ignore[method-assign]
        return spec


class Counter:
    """Has ``run_cell`` and ``run_job`` write down what they begin and end."""

    def __init__(self, log: Path) -> None:
        """Args: log: where."""
        self.log = log

    def __call__(self, module: Any) -> None:
        """Change the two modules that they are in."""
        if module.__name__ == CELL:
            module.run_cell = self._said(module.run_cell, "begun", lambda cell: cell, first=True)
        elif module.__name__ == JOB:
            module.run_job = self._said(module.run_job, "ended", lambda job: job.cell, first=False)

    def _said(self, call: Callable[..., Any], what: str, cell_of: Callable[[Any], Any], *, first: bool) -> Any:
        from iml_bench.spec import cell_key

        def counted(given: Any, *more: Any, **named: Any) -> Any:
            line = f"{what} {cell_key(cell_of(given))} {os.getpid()}\n"
            if first:
                self._write(line)
            found = call(given, *more, **named)
            if not first:
                self._write(line)
            return found

        return counted

    def _write(self, line: str) -> None:
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(log, line.encode())
        finally:
            os.close(log)


def _forbid_links() -> None:
    def link(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    os.link = link


def _shift_clock(said: Path) -> None:
    seconds, nanoseconds, real = time.time, time.time_ns, datetime.datetime

    def wrong() -> float:
        try:
            return float(said.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0.0

    class Shifted(real):
        """In place of the class where the package asks for the time; libraries in C do not stand another one."""

        __slots__ = ()

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            """The wrong time."""
            return real.now(tz) + datetime.timedelta(seconds=wrong())

    def shift(module: Any) -> None:
        if vars(module).get("datetime") is real:
            module.datetime = Shifted

    time.time = lambda: seconds() + wrong()
    time.time_ns = lambda: nanoseconds() + int(wrong() * 1e9)
    sys.meta_path.insert(0, Changing(shift))


if "IML_BENCH_FAULTS_COUNT" in os.environ:
    sys.meta_path.insert(0, Changing(Counter(Path(os.environ["IML_BENCH_FAULTS_COUNT"]))))
if os.environ.get("IML_BENCH_FAULTS_LINKS") == "no":
    _forbid_links()
if "IML_BENCH_FAULTS_CLOCK" in os.environ:
    _shift_clock(Path(os.environ["IML_BENCH_FAULTS_CLOCK"]))
