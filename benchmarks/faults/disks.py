"""Disks that get full or read-only or are unmounted, and folders that are removed or exchanged, while a run writes."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from scene import CannotError, Scene

ANOTHER = "is not the folder that this run began in"
FILE_BLOCKS = 4
"""Kilobytes; the files of a record take one block or two."""


def _mount(*words: str) -> None:
    try:
        done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotError(f"mount: {error.strerror}") from error
    if done.returncode:
        raise CannotError((done.stderr.strip() or "mount was refused").splitlines()[-1])


def _unmount(place: Path) -> None:
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


@contextmanager
def _disk(scene: Scene, size: str) -> Iterator[Path]:
    """A disk of its own, in memory, that takes the records."""
    scene.allowed = None
    place = scene.work / "disk"
    place.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    try:
        scene.out = place / "out"
        yield place
    finally:
        _unmount(place)


def full(scene: Scene, rng: Random) -> None:
    """A disk that takes a part of the records; it is made larger before the command is given again."""
    assert scene.usual is not None
    files = rng.randrange(2, 2 * len(scene.usual.records) - 2)
    with _disk(scene, f"{files * FILE_BLOCKS}k") as place:
        scene.end(scene.start(), (1,), "cannot be written: No space left on device", "to try the failed cells again")
        _mount("-o", "remount,size=64m", str(place))
        scene.again()


def read_only(scene: Scene, rng: Random) -> None:
    """A disk that becomes read-only midway, as a broken one does."""
    with _disk(scene, "64m") as place:
        command = scene.start()
        if scene.pass_records(command, _some(scene, rng)):
            _make_read_only(place)
        scene.end(command, (0, 1), "cannot be written: Read-only file system")
        _mount("-o", "remount,rw", str(place))
        scene.again()


def _make_read_only(place: Path) -> None:
    """It is refused while a file is open for writing."""
    deadline = time.monotonic() + 20
    while True:
        try:
            _mount("-o", "remount,ro", str(place))
            return
        except CannotError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def unmounted(scene: Scene, rng: Random) -> None:
    """A disk that is unmounted midway: nothing goes to the folder below it; then it is there again."""
    with _disk(scene, "64m") as place:
        below = scene.out = scene.work / "mounted"
        below.mkdir()
        _mount("--bind", str(place), str(below))
        try:
            command = scene.start()
            if scene.pass_records(command, _some(scene, rng)):
                _unmount(below)
            scene.end(command, (0, 1), ANOTHER)
            scene.demand("clean", below.is_mount() or not [*below.iterdir()], "something was written below the disk")
            _mount("--bind", str(place), str(below))
            scene.again()
        finally:
            for _ in range(2):
                _unmount(below)


def removed(scene: Scene, rng: Random) -> None:
    """The folder of records is removed midway: it is not made again by that run."""
    scene.allowed = None
    command = scene.start()
    gone = scene.pass_records(command, _some(scene, rng))
    if gone:
        scene.out.rename(scene.work / "removed")
        shutil.rmtree(scene.work / "removed", ignore_errors=True)
    scene.end(command, (1,) if gone else (0,), ANOTHER)
    scene.demand("clean", not gone or not scene.out.exists(), "the folder was made again")
    scene.forget()
    scene.again()


def exchanged(scene: Scene, rng: Random) -> None:
    """Another folder under the same path midway: it is left alone; then the first is there again."""
    scene.allowed = None
    away = scene.work / "away"
    command = scene.start()
    if scene.pass_records(command, _some(scene, rng)):
        scene.out.rename(away)
        scene.out.mkdir()
    scene.end(command, (0, 1), ANOTHER)
    if away.exists():
        scene.demand("clean", not [*scene.out.iterdir()], "something was written into the other folder")
        scene.out.rmdir()
        away.rename(scene.out)
    scene.again()


def _some(scene: Scene, rng: Random) -> int:
    """A number of records after which something happens: not the last, which may be the end of the run."""
    assert scene.usual is not None
    return rng.randrange(1, max(2, len(scene.usual.records) // 2))
