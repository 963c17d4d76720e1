"""kill -9 at random moments: of a run, of its first process, of one of its workers; and two runs on one folder."""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from random import Random

import psutil
from commands import Command
from scene import CannotError, Scene

BETWEEN = 0.1
"""Seconds in which a few more records are written."""
DIED = "the worker process died with exit code -9"


def wait_a_moment(scene: Scene, command: Command, rng: Random) -> bool:
    """Let a random time pass: in every second scene some of that before the first record, else until some more stand.

    Those are counted in records, so that many moments fall between writes however slow the machine is just then.

    Returns:
        Whether the command still runs.
    """
    assert scene.usual is not None
    if rng.random() < 0.5:
        return scene.pass_seconds(command, rng.uniform(0, scene.usual.first))
    records = rng.randrange(1, scene.usual.last + 1)
    return scene.pass_records(command, records) and scene.pass_seconds(command, rng.uniform(0, BETWEEN))


def kill_all(scene: Scene, rng: Random) -> None:
    """All processes of a run at once, as when a machine dies."""
    command = scene.start()
    wait_a_moment(scene, command, rng)
    command.kill_group()
    scene.end(command, (0, -signal.SIGKILL))
    scene.again()


def kill_driver(scene: Scene, rng: Random) -> None:
    """The process that the user started, which cannot end its children."""
    command = scene.start()
    wait_a_moment(scene, command, rng)
    command.process.kill()
    scene.end(command, (0, -signal.SIGKILL))
    scene.again()


def kill_worker(scene: Scene, rng: Random) -> None:
    """One worker: its cell fails, or its models cannot be prepared, and the others go on."""
    command = scene.start()
    wait_a_moment(scene, command, rng)
    if scene.pass_until(command, lambda: bool(command.workers())):
        with suppress(psutil.Error, IndexError):
            rng.choice(command.workers()).kill()
    scene.end(command, (0, 1, 2), DIED)
    scene.again()


def kill_queue(scene: Scene, rng: Random) -> None:
    """The process that holds the queue of events; nobody is told what goes on any more."""
    command = scene.start()
    wait_a_moment(scene, command, rng)
    others = {worker.pid for worker in command.workers()}
    spawned = [child for child in command.children() if child.pid not in others]
    for child in spawned[-1:]:
        with suppress(psutil.Error):
            child.kill()
    scene.end(command, (0, 1, 2))
    scene.again()


def two_runs(scene: Scene, rng: Random) -> None:
    """The same command twice at about the same time: both end as if they were alone."""
    first = scene.start()
    scene.pass_seconds(first, rng.choice([0.0, rng.uniform(0, 2)]))
    second = scene.start()
    for command in (first, second):
        scene.end_as_usual(command)
    scene.again()


def two_machines(scene: Scene, rng: Random) -> None:
    """The same command twice, each in process numbers and a network of its own, as on two machines with one disk."""
    apart = ("unshare", "--pid", "--net", "--fork", "--mount-proc")
    try:
        subprocess.run([*apart, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotError(f"unshare is not there or not allowed: {error}") from error
    commands = [scene.start(*apart), scene.start(*apart)]
    for command in commands:
        scene.end_as_usual(command)
    scene.again()


def two_runs_and_kill_one(scene: Scene, rng: Random) -> None:
    """The same command twice, and all processes of one are killed: the other ends as if it had been alone."""
    commands = [scene.start(), scene.start()]
    wait_a_moment(scene, commands[0], rng)
    killed = commands.pop(rng.randrange(2))
    killed.kill_group()
    scene.end(killed, (0, -signal.SIGKILL))
    scene.end_as_usual(commands[0])
    scene.again()


def without_links(scene: Scene, rng: Random) -> None:
    """A file system that has no hard links."""
    scene.environment["IML_BENCH_FAULTS_LINKS"] = "no"
    scene.end_as_usual(scene.start())
    scene.again()


def without_links_killed(scene: Scene, rng: Random) -> None:
    """No hard links, and all processes are killed."""
    scene.environment["IML_BENCH_FAULTS_LINKS"] = "no"
    kill_all(scene, rng)


def without_links_twice(scene: Scene, rng: Random) -> None:
    """No hard links, and the same command twice at about the same time."""
    scene.environment["IML_BENCH_FAULTS_LINKS"] = "no"
    two_runs(scene, rng)
