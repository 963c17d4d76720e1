"""One folder of records, commands on it that a fault befalls, and what must hold of it afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from commands import TOKEN, Command, Ended, left_behind

from iml_bench.errors import UsageError
from iml_bench.records import Store, Stored, damage_of, read_record
from iml_bench.records.files import DEAD_AFTER
from iml_bench.records.guard import MARKER

TRANSIENT: Final = ("timing", "seal", "commit", "dirty", "file")
"""Of a record: its times, which differ when its cell is run again, and the seals; the commit, which may be made
meanwhile; the names of the files beside it, which need not be the plain ones."""
DEMANDS: Final = {
    "again": "the same command again ends with 0 and the table of a run that nothing befell",
    "equal": "every record is that of such a run, bit for bit but for its times",
    "whole": "one record for each planned cell, and none was torn whenever it was looked at",
    "clean": "no process, temporary file, lease or sign is left",
    "told": "the exit status is right, and what was said is sentences and no traceback",
}


class CannotError(RuntimeError):
    """A fault that cannot be had here, and why."""


class Usual(NamedTuple):
    """A run that nothing befell."""

    words: tuple[str, ...]
    """The command, but for ``--out``."""
    table: Any
    records: dict[str, Any]
    """By the path below the folder: what the record says, and the digest of its items."""
    first: float
    """Seconds until its first record stood."""
    last: int
    """How many records may stand when something happens, at most."""


def words_of(seeds: int) -> tuple[str, ...]:
    """A grid of cheap cells: one model that is trained, and the four reference rows that go with it."""
    grid = ("--task", "vision", "--model", "mlp-xs", "--seeds", str(seeds), "--smoke")
    return ("run", *grid, "--device", "cpu", "--workers", "2", "--json")


class Scene:
    """A folder of records that something happens to."""

    def __init__(self, work: Path, usual: Usual | None, words: tuple[str, ...], out: Path | None = None) -> None:
        """Args:
        work: an empty folder of its own.
        usual: what is compared with; None: this is the run that nothing befalls.
        words: the command.
        out: the folder of records; None: one in ``work``.
        """
        self.work, self.usual, self.words = work, usual, words
        self.out = out or work / "out"
        self.token = secrets.token_hex(8)
        self.log = work / "cells"
        self.environment = {TOKEN: self.token, "IML_BENCH_FAULTS_COUNT": str(self.log)}
        self.problems: dict[str, list[str]] = {letter: [] for letter in DEMANDS}
        self.allowed: int | None = 0
        """How many cells may be carried out more often than once, beside those that were cut; None: any number, for
        their records are lost."""
        self._seen: dict[Path, tuple[int, int, int]] = {}
        self._started = 0

    def start(self, *within: str) -> Command:
        """Give the command, to a program that starts it where one is given."""
        self._started += 1
        said = self.work / f"said{self._started}"
        return Command([*self.words, "--out", str(self.out)], said, self.environment, within)

    def demand(self, what: str, holds: bool, sentence: str) -> None:
        """Note a sentence where one of ``DEMANDS`` does not hold."""
        if not holds:
            self.problems[what].append(sentence)

    def look(self) -> int:
        """See as any reader may, at any time, that no record is torn; how many stand."""
        stand = 0
        for path in self._files():
            if path.suffix != ".json":
                continue
            with suppress(OSError):
                status = path.stat()
                now = status.st_ino, status.st_mtime_ns, status.st_size
                stand += 1
                if self._seen.get(path) != now:
                    self._look_at(path, now)
        return stand

    def _files(self) -> list[Path]:
        """All files below the folder; others come and go meanwhile, and so do folders."""
        return [Path(folder) / name for folder, _, names in os.walk(self.out) for name in names]

    def _look_at(self, path: Path, now: tuple[int, int, int]) -> None:
        try:
            stored = Stored(path, read_record(path))
        except UsageError as error:
            if path.exists():
                self.demand("whole", False, f"torn: {error}")
            return
        if stored.record.status != "done":
            return
        damage = damage_of(stored)
        if damage is not None and not path.exists():
            return  # the folder has gone
        self.demand("whole", damage is None, f"torn: {damage}")
        self.demand("whole", path not in self._seen, f"a done record was replaced: {path.name}")
        self._seen[path] = now

    def forget(self) -> None:
        """What stood there was removed by the scene itself."""
        self._seen.clear()

    def pass_until(self, command: Command, holds: Callable[[], bool]) -> bool:
        """Watch until something holds; False where the command ended before."""
        while not holds():
            if not command.runs:
                return False
            self.look()
            time.sleep(0.005)
        return True

    def pass_seconds(self, command: Command, seconds: float) -> bool:
        """Watch for some time; False where the command ended before."""
        deadline = time.monotonic() + seconds
        return self.pass_until(command, lambda: time.monotonic() >= deadline)

    def pass_records(self, command: Command, number: int) -> bool:
        """Watch until so many records stand; False where the command ended before."""
        return self.pass_until(command, lambda: self.look() >= number)

    def end(self, command: Command, statuses: tuple[int, ...], *sentences: str) -> Ended:
        """Wait for a command's end, and see how it ended and what it said.

        Args:
            command: that of this scene.
            statuses: those that are right.
            sentences: parts of what must have been said where the status is not 0 nor that of SIGKILL.
        """
        ended = command.ended(self.look)
        last = ended.err.strip().splitlines()[-1:] or [""]
        self.demand("told", ended.status in statuses, f"exit status {ended.status}: {last[0][:300]}")
        said = ended.err[ended.err.find("Traceback") :].strip().splitlines()
        self.demand("told", "Traceback" not in ended.err, f"a traceback: {said[-1][:300] if said else ''}")
        if ended.status not in (0, -9):
            missing = [sentence for sentence in sentences if sentence not in ended.err]
            self.demand("told", not missing, f"not said: {missing}; but {last[0][:300]}")
        return ended

    def end_as_usual(self, command: Command) -> None:
        """See that a command ends as a run that nothing befell."""
        ended = self.end(command, (0,))
        if ended.status == 0:
            self._compare_table("told", ended)

    def again(self) -> None:
        """Give the same command again, and see that everything is as if nothing had happened."""
        for told in left_behind(self.token):
            self.demand("clean", False, told)
        self._make_old()
        ended = self.start().ended(self.look)
        self.demand("again", ended.status == 0, f"exit status {ended.status}: {ended.err.strip()[-300:]}")
        if ended.status == 0:
            self._compare_table("again", ended)
        self._compare_records()
        left = left_behind(self.token) + [f"{name} was left" for name in self._unlisted()]
        for told in left:
            self.demand("clean", False, told)

    def repeated(self) -> int:
        """How often a cell was carried out that had been carried out already, runs that were cut not counted."""
        ran: Counter[str] = Counter()
        begun: dict[str, str] = {}
        for line in self.log.read_text(encoding="ascii").splitlines() if self.log.exists() else ():
            what, key, process = line.split()
            if what == "begun":
                begun[process] = key
            elif begun.pop(process, None) == key:
                ran[key] += 1
        return sum(number - 1 for number in ran.values())

    def _make_old(self) -> None:
        """Let the temporary files of who was killed be as old as they are when somebody comes back after a week."""
        for path in self._files():
            if any(name.fullmatch(path.name) for name, _ in DEAD_AFTER):
                then = time.time() - 30 * 24 * 3600
                os.utime(path, (then, then))

    def _compare_table(self, what: str, ended: Ended) -> None:
        try:
            table = json.loads(ended.out)
        except ValueError:
            table = ended.out[:300]
        if self.usual is not None:
            self.demand(what, table == self.usual.table, "another table")

    def _compare_records(self) -> None:
        stored, problems = Store(self.out).scan()
        self.demand("whole", not problems, f"no record: {problems[:1]}")
        found = records_of(self.out, stored)
        expected = self.usual.records if self.usual is not None else found
        self.demand(
            "whole", found.keys() == expected.keys(), f"other records: {sorted(found.keys() ^ expected.keys())}"
        )
        differ = sorted(name for name in found.keys() & expected.keys() if found[name] != expected[name])
        self.demand("equal", not differ, f"{len(differ)} records differ: {differ[:3]}")

    def _unlisted(self) -> list[str]:
        """Files of the folder that belong to no record."""
        listed = {MARKER} if self.usual is None else set()
        for one in Store(self.out).scan()[0]:
            listed |= {one.path.name} | ({one.record.items.file} if one.record.items else set())
        return sorted(path.name for path in self._files() if path.name not in listed)


def records_of(root: Path, stored: list[Stored]) -> dict[str, Any]:
    """What records say and the digests of their items, by their paths, without what may differ."""
    found = {}
    for one in stored:
        data = json.loads(one.path.read_text(encoding="utf-8"), object_hook=_lasting)
        items = one.path.with_name(one.record.items.file).read_bytes() if one.record.items is not None else b""
        found[str(one.path.relative_to(root))] = data, hashlib.sha256(items).hexdigest()
    return found


def _lasting(pairs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in pairs.items() if name not in TRANSIENT}


def run_undisturbed(work: Path, words: tuple[str, ...]) -> Usual:
    """Give the command once with nothing happening to it.

    Raises:
        RuntimeError: when even that does not end well.
    """
    scene = Scene(work, None, words)
    began = time.monotonic()
    command = scene.start()
    scene.pass_records(command, 1)
    first = time.monotonic() - began
    ended = scene.end(command, (0,))
    seconds = time.monotonic() - began
    if any(scene.problems.values()):
        raise RuntimeError(f"a run that nothing befalls does not end well: {scene.problems}\n{ended.err}")
    sys.stderr.write(f"undisturbed: {seconds:.1f} s, the first record after {first:.1f} s\n")
    records = records_of(scene.out, Store(scene.out).scan()[0])
    return Usual(words, json.loads(ended.out), records, first, len(records))
