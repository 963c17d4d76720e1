"""The kinds of faults, how often each is tried, and the table of what held."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

import disks
import ends
import kills
from scene import DEMANDS, CannotError, Scene, Usual, run_undisturbed, words_of

DEMAND_ONCE: Final = True
"""Whether it is an error when several runs on one folder carry a cell out more often than once."""
Happens = Callable[[Scene, Random], None]


class Kind(NamedTuple):
    """A kind of fault."""

    name: str
    happens: Happens
    share: float
    """Of the number of moments: how often it is tried."""


KINDS: Final = (
    Kind("kill -9 of all processes", kills.kill_all, 0.34),
    Kind("kill -9 of the first process", kills.kill_driver, 0.34),
    Kind("kill -9 of a worker", kills.kill_worker, 0.32),
    Kind("kill -9 of the queue's process", kills.kill_queue, 0.1),
    Kind("two runs", kills.two_runs, 0.1),
    Kind("two runs that cannot see each other", kills.two_machines, 0.06),
    Kind("two runs, kill -9 of one", kills.two_runs_and_kill_one, 0.2),
    Kind("no hard links", kills.without_links, 0.04),
    Kind("no hard links, kill -9", kills.without_links_killed, 0.1),
    Kind("no hard links, two runs", kills.without_links_twice, 0.06),
    Kind("disk full", disks.full, 0.1),
    Kind("disk becomes read-only", disks.read_only, 0.06),
    Kind("disk unmounted", disks.unmounted, 0.06),
    Kind("folder removed", disks.removed, 0.06),
    Kind("folder exchanged", disks.exchanged, 0.06),
    Kind("SIGTERM", ends.sigterm, 0.08),
    Kind("SIGINT", ends.sigint, 0.08),
    Kind("SIGHUP", ends.sighup, 0.08),
    Kind("SIGINT in the first second", ends.interrupted_at_once, 0.08),
    Kind("SIGSTOP of a worker, SIGCONT", ends.stopped_worker, 0.06),
    Kind("SIGSTOP of one of two runs, SIGCONT", ends.stopped_run, 0.06),
    Kind("clock set back", ends.clock_set_back, 0.06),
    Kind("clock set back or ahead, kill -9", ends.clock_set_back_and_killed, 0.06),
)


@dataclass
class Row:
    """A kind of fault and what held of it."""

    name: str
    what: str
    """What was done."""
    times: int
    held: dict[str, int]
    """How often each of ``DEMANDS`` held; of mutations: how many came to what."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str | None = None
    """Why it was not tried."""

    @property
    def fine(self) -> bool:
        """Whether everything held."""
        return not self.problems


def try_kind(kind: Kind, times: int, usual: Usual, seed: int) -> Row:
    """Let a fault happen so often, each time to a run of its own in a new folder.

    Args:
        kind: of the fault.
        times: how often.
        usual: a run that nothing befell.
        seed: of the moments.
    """
    what = (kind.happens.__doc__ or kind.name).splitlines()[0]
    row = Row(kind.name, what, 0, dict.fromkeys(DEMANDS, 0))
    repeated = most = 0
    for number in range(times):
        scene = _scene(usual)
        try:
            kind.happens(scene, Random(f"{seed} {kind.name} {number}"))
        except CannotError as error:
            row.skipped = str(error)
            sys.stderr.write(f"skipped: {kind.name}: {error}\n")
            return row
        else:
            row.times += 1
            if scene.allowed is not None:
                here = scene.repeated()
                repeated, most = repeated + here, max(most, here)
                fine = here <= scene.allowed or not DEMAND_ONCE
                scene.demand("whole", fine, f"{here} cells were carried out again")
            for demand, found in scene.problems.items():
                row.held[demand] += not found
                row.problems += [f"{demand}: number {number}: {problem}" for problem in found]
        finally:
            _remove(scene)
        sys.stderr.write(f"{kind.name}: {number + 1} of {times}, {len(row.problems)} problems\n")
    if repeated:
        row.notes.append(f"{repeated} cells were carried out again though no kill had cut them, up to {most} at a time")
    return row


def _scene(usual: Usual) -> Scene:
    return Scene(Path(tempfile.mkdtemp(prefix="iml-bench-faults-")), usual, usual.words)


def _remove(scene: Scene) -> None:
    shutil.rmtree(scene.work, ignore_errors=True)


def undisturbed(seeds: int) -> Usual:
    """A run that nothing befalls, of so many seeds."""
    with tempfile.TemporaryDirectory(prefix="iml-bench-faults-") as work:
        return run_undisturbed(Path(work), words_of(seeds))


def chosen(names: Iterable[str] | None) -> list[Kind]:
    """The kinds whose names have one of these texts in them; all where none is given."""
    wanted = [name.lower() for name in names or ()]
    return [kind for kind in KINDS if not wanted or any(name in kind.name.lower() for name in wanted)]


def table_of(rows: Sequence[Row]) -> str:
    """What held, as a table of Markdown; below it a line for everything that did not."""
    columns = ("fault", "times", *DEMANDS, "said beside")
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row in rows:
        if row.skipped:
            cells = [row.name, "skipped", *["-"] * len(DEMANDS), row.skipped]
        else:
            cells = [row.name, str(row.times), *(str(row.held[name]) for name in DEMANDS), "; ".join(row.notes)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *problem_lines(rows)])


def problem_lines(rows: Sequence[Row]) -> list[str]:
    """A line for everything that did not hold, those that say the same as one."""
    lines = []
    for row in rows:
        numbers: dict[str, list[str]] = {}
        for problem in row.problems:
            kind, _, told = problem.partition("number ")
            number, _, what = told.partition(": ")
            numbers.setdefault(f"{kind}{what}", []).append(number)
        lines += [f"- {row.name}: {what} (number {', '.join(found)})" for what, found in numbers.items()]
    return lines
