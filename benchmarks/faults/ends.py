"""Signals that ask a run to end, processes that are stopped and go on, and a clock that is set back."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import partial
from random import Random

import psutil
from commands import Command
from kills import BETWEEN, kill_all, wait_a_moment
from scene import Scene

TERM = 2.0
"""Seconds of a lease in scenes that stop a process for longer."""
DAY = 24 * 3600.0
BEGUN = "records in"
"""What a run says when it begins with its cells."""

CONTINUE = "interrupted; what is done is kept. To continue:\n  python -m iml_bench run"


def _ended_by(number: signal.Signals, scene: Scene, rng: Random) -> None:
    assert scene.usual is not None
    command = scene.start()
    if rng.random() < 0.5:
        lasting = scene.pass_until(command, lambda: BEGUN in command.said())
        lasting = lasting and scene.pass_seconds(command, rng.uniform(0, scene.usual.first / 2))
    else:
        lasting = scene.pass_records(command, rng.randrange(1, scene.usual.last + 1))
        lasting = lasting and scene.pass_seconds(command, rng.uniform(0, BETWEEN))
    if lasting:
        command.process.send_signal(number)
    # Once Python has begun to end, nothing can hear a signal; all has been said then.
    late = (-number,) if command.ended(scene.look).out else ()
    scene.end(command, (0, 128 + number, *late), *([] if late else [CONTINUE]))
    scene.again()


sigterm = partial(_ended_by, signal.SIGTERM)
sigint = partial(_ended_by, signal.SIGINT)
sighup = partial(_ended_by, signal.SIGHUP)


def interrupted_at_once(scene: Scene, rng: Random) -> None:
    """SIGINT before a run has said anything."""
    command = scene.start()
    if scene.pass_seconds(command, rng.uniform(0, 1.0)):
        command.process.send_signal(signal.SIGINT)
    scene.end(command, (0, -signal.SIGINT, 128 + signal.SIGINT))
    scene.again()


def stopped_worker(scene: Scene, rng: Random) -> None:
    """A worker that is stopped for longer than a lease lasts, and goes on."""
    scene.environment["IML_BENCH_LEASE_SECONDS"] = str(TERM)
    scene.allowed = 1
    command = scene.start()
    wait_a_moment(scene, command, rng)
    if scene.pass_until(command, lambda: bool(command.workers())):
        _stop_for(scene, command, [rng.choice(command.workers() or [psutil.Process(command.process.pid)])])
    scene.end_as_usual(command)
    scene.again()


def stopped_run(scene: Scene, rng: Random) -> None:
    """All processes of one of two runs are stopped for longer than a lease lasts, and go on: both end as usual."""
    scene.environment["IML_BENCH_LEASE_SECONDS"] = str(TERM)
    scene.allowed = 2
    first, second = scene.start(), scene.start()
    wait_a_moment(scene, first, rng)
    with suppress(psutil.Error):
        _stop_for(scene, second, [psutil.Process(first.process.pid), *first.children()])
    for command in (first, second):
        scene.end_as_usual(command)
    scene.again()


def _stop_for(scene: Scene, command: Command, processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            os.kill(process.pid, signal.SIGSTOP)
    try:
        scene.pass_seconds(command, 2 * TERM)
    finally:
        for process in processes:
            with suppress(psutil.Error, ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)


def clock_set_back(scene: Scene, rng: Random) -> None:
    """The clock is set back by a day midway."""
    _set_back(scene)
    command = scene.start()
    if wait_a_moment(scene, command, rng):
        (scene.work / "clock").write_text(str(-DAY), encoding="ascii")
    scene.end_as_usual(command)
    scene.again()


def clock_set_back_and_killed(scene: Scene, rng: Random) -> None:
    """The clock is set back by a day, and then all processes are killed."""
    _set_back(scene)
    (scene.work / "clock").write_text(str(rng.choice([-DAY, DAY])), encoding="ascii")
    kill_all(scene, rng)


def _set_back(scene: Scene) -> None:
    scene.environment["IML_BENCH_FAULTS_CLOCK"] = str(scene.work / "clock")
