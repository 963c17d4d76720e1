"""Leases: who is at which cell of a folder of records, so that several commands share its cells.

A lease is one small file for a cell that runs, below ``.iml-bench-leases``. Whoever runs the cell makes it, in a step
that only one can win, and writes it anew every few seconds, with a growing pulse and how far the cell is. It is dead
when its bytes have not changed for its term on the clock of whoever looks, so that no two clocks are ever compared; or
at once, where its process was one of this machine and is gone. One looker takes a dead lease away.

Leases spare work and guard nothing: where one fails, a cell runs twice and one record stands (``records/publish.py``).
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from iml_bench.errors import UsageError, shown
from iml_bench.records.files import Temporary, clear_dead, link_new
from iml_bench.records.guard import guarded, has_ended, this_machine
from iml_bench.records.names import OWN
from iml_bench.runtime import StageProgress

FOLDER: Final = f"{OWN}leases"
TERM: Final = 300.0
"""Seconds without a sign of life after which a lease is dead."""
VARIABLE: Final = "IML_BENCH_LEASE_SECONDS"
"""Of the environment: another term for the leases that this process takes."""
BEATS: Final = 5
"""Times in a term that a lease is written anew, at least."""
SLOWEST: Final = 10.0
"""Seconds between these times, at most: whoever looks wants to see how far a cell is."""
ATTEMPTS: Final = 20
SIZE: Final = 1024
"""Bytes of a lease, always: writing it anew needs no more room on the disk."""


class About(NamedTuple):
    """What a lease says of whoever has it and how far they are."""

    cell: str
    """What is run, in words."""
    host: str
    pid: int
    started: str
    """When, by the holder's own clock; only ever shown."""
    term: float
    machine: str
    """Where ``pid`` means a process, see ``guard.this_machine``."""
    engine: str = ""
    """What started the process, where it says so: a job of Slurm."""
    restart: int = 0
    """How often that job had been started before."""
    chunk: str = ""
    """Of an engine, whose worker the process is."""
    pulse: int = 0
    stage: str = ""
    done: int = 0
    """Steps of the whole cell so far."""
    total: int = 0
    """Steps of the whole cell; 0 where they are not told."""
    token: str = ""
    """Of this lease alone."""

    @property
    def where(self) -> str:
        """The process, in words."""
        return f"{self.host} (process {self.pid}{', ' + self.engine if self.engine else ''})"


def term_here() -> float:
    """Seconds of the leases that this process takes.

    Raises:
        UsageError: when the environment asks for what is no such number.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return TERM
    with suppress(ValueError):
        if 0.05 <= (found := float(text)) <= 86_400:
            return found
    raise UsageError(f"{VARIABLE}={shown(text)} is no number of seconds from 0.05 to 86400; unset it, or give one")


class Lease:
    """A cell that this process is at, until the block ends."""

    def __init__(self, path: Path, marker: int, about: About) -> None:
        """Args: path: of the file; marker: it, open; about: what it says."""
        self.path, self._marker, self._about = path, marker, about
        self._over = threading.Event()
        self._beat = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._beat.join()
        with suppress(OSError):
            # Whoever believed this process dead may have taken the cell, and has a file of that name.
            if os.path.samestat(os.fstat(self._marker), os.lstat(self.path)):
                self.path.unlink()
        with suppress(OSError):
            os.close(self._marker)
        with suppress(OSError):
            self.path.parent.rmdir()  # only where no other lease is there

    def tell(self, progress: StageProgress) -> None:
        """Note how far the cell is; the next beat says it."""
        self._about = self._about._replace(stage=progress.stage, done=progress.cell_step, total=progress.cell_total)

    def _keep(self) -> None:
        while not self._over.wait(min(SLOWEST, self._about.term / BEATS)):
            self._about = self._about._replace(pulse=self._about.pulse + 1)
            # Into the file that was made, whatever has its name now. A disk that is away for a while costs the lease.
            with suppress(OSError):
                _write(self._marker, self._about)
                os.fsync(self._marker)


class Leases:
    """The leases of a folder, and what was seen of them so far."""

    def __init__(self, root: Path) -> None:
        """Args: root: the folder of records."""
        self.folder = root / FOLDER
        self._seen: dict[str, tuple[bytes, float]] = {}

    def take(self, key: str, cell: str, chunk: str = "") -> Lease | None:
        """Take a cell, unless another process has it.

        Where the folder takes no file of this kind the cell is run without one: what is wrong with the folder is said
        when its record is written.

        Args:
            key: of the cell.
            cell: what it is, in words.
            chunk: the name of the engine's chunk that it is of, where it is of one.

        Returns:
            The lease, to be entered; None where a living process has the cell.

        Raises:
            UsageError: see ``term_here``.
        """
        about = About(
            cell=cell,
            host=platform.node(),
            pid=os.getpid(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            term=term_here(),
            machine=this_machine(),
            engine=_engine(),
            restart=_restart(),
            chunk=chunk,
            token=secrets.token_hex(8),
        )
        path = self.path_of(key)
        for _ in range(ATTEMPTS):
            try:
                self.folder.mkdir(exist_ok=True)
                marker = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                if self.living(key) is not None:
                    return None
            except FileNotFoundError:
                if not self.folder.parent.is_dir():
                    return _without(path, about)
                # Another process has ended its last lease just now, and with it the folder of them.
            except OSError:
                return _without(path, about)
            else:
                with suppress(OSError):
                    _write(marker, about)  # the first beat waits for the disk; a small cell need not
                return Lease(path, marker, about)
        return _without(path, about)  # a dead lease is there that cannot be taken away

    def living(self, key: str) -> About | None:
        """Who has a cell; None where nobody has, or only somebody dead, whose lease is taken away."""
        path = self.path_of(key)
        content = _read(path)
        if content is None:
            self._seen.pop(key, None)
            return None
        now = time.monotonic()
        before, since = self._seen.get(key, (b"", now))
        if content != before:
            since = now
            self._seen[key] = content, since
        about = _parsed(content)
        if now - since <= about.term and not _is_gone(about):
            return about
        self._seen.pop(key, None)
        self._take_away(path, content)
        return None

    def all(self) -> dict[str, About]:
        """Every lease that is there by the key of its cell, dead ones among them."""
        found = {}
        with suppress(OSError):
            for path in self.folder.iterdir():
                if path.suffix == ".lease" and (content := _read(path)) is not None:
                    found[path.stem] = _parsed(content)
        return found

    def end(self, key: str, about: About) -> None:
        """Take away a lease whose holder is known to be dead; of another one nothing is touched."""
        content = _read(self.path_of(key))
        if content is not None and _parsed(content).token == about.token:
            self._take_away(self.path_of(key), content)

    def sweep(self) -> None:
        """Take the leases of processes of this machine away that were killed, and what else they have left."""
        for key in self.all():
            self.living(key)
        clear_dead(self.folder, time.time())
        with suppress(OSError):
            self.folder.rmdir()

    def path_of(self, key: str) -> Path:
        """Where the lease of a cell is."""
        return self.folder / f"{key}.lease"

    def _take_away(self, path: Path, content: bytes) -> None:
        """Remove a dead lease, and nothing that another has put there meanwhile."""
        with suppress(OSError), guarded(self.folder.parent, None) as alone:
            if not alone:
                # Without locks one of several lookers wins the renaming, and may find that it has the next one's.
                aside = Temporary(path.parent).path
                path.rename(aside)
                if _read(aside) != content:
                    link_new(aside, path)
                aside.unlink()
            elif _read(path) == content:
                path.unlink()
            self.folder.rmdir()  # only where no other lease is there


def _without(path: Path, about: About) -> Lease:
    """A lease that nobody sees."""
    return Lease(path, os.open(os.devnull, os.O_RDWR), about)


def _engine() -> str:
    """What started this process, for whoever looks where its output is."""
    job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{job}_{task}" if job and task else os.environ.get("SLURM_JOB_ID")
    return f"Slurm job {job}" if job else ""


def _restart() -> int:
    """How often the job of Slurm that this process is of had been started before."""
    text = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(text) if text.isdecimal() else 0


def _write(marker: int, about: About) -> None:
    content = json.dumps(about._asdict()).encode()[: SIZE - 1].ljust(SIZE - 1) + b"\n"
    os.lseek(marker, 0, os.SEEK_SET)
    os.write(marker, content)


def _read(path: Path) -> bytes | None:
    """What a lease says; None where there is none or it cannot be read."""
    try:
        marker = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    try:
        return os.read(marker, SIZE)
    except OSError:
        return None
    finally:
        os.close(marker)


def _parsed(content: bytes) -> About:
    """A lease; one that is written just now, or damaged, is of nobody in particular, and lives as long as any."""
    unknown = About(cell="", host="an unknown machine", pid=0, started="", term=TERM, machine="")
    try:
        fields: Any = json.loads(content)
        told = {name: fields[name] for name in About._fields if isinstance(fields.get(name), _TYPES[name])}
    except (ValueError, AttributeError, RecursionError):
        return unknown
    about = unknown._replace(**told)
    return about if 0 < about.term <= 86_400 else about._replace(term=TERM)


_TYPES: Final[Mapping[str, Any]] = {
    **dict.fromkeys(About._fields, str),
    **dict.fromkeys(("pid", "pulse", "done", "total", "restart"), int),
    "term": (int, float),
}


def _is_gone(about: About) -> bool:
    """Whether the lease is of a process that has ended: of this machine, or of an earlier start of this very job."""
    if about.engine and about.engine == _engine() and about.restart < _restart():
        return True
    return has_ended(about.machine, about.pid)
