"""What an operating system does to a program: output nobody reads, signals, a parent that is killed."""

from __future__ import annotations

import _thread
import codecs
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from types import FrameType
from typing import Any, Final, Self, TextIO

READ_NO_MORE: Final = 141
"""Exit status when whoever read stdout has gone, as of programs that SIGPIPE ends."""
ONE_PRESS: Final = 0.5
"""Seconds within which signals are one: ``timeout`` and several launchers send each twice."""
PATIENCE: Final = 30.0
"""Seconds that a command has to end after a signal; a library may have caught the exception, or never return."""
SIGHUP: Final = getattr(signal, "SIGHUP", None)
"""The terminal has gone; Windows has no such signal."""
STREAMS: Final = ("stdin", "stdout", "stderr")
PLAIN: Final = "iml-bench-plain"
GLYPHS: Final = str.maketrans({"─": "-", "├": "|", "┤": "|", "●": "o", "→": ">", "…": "~", "━": "-"})
"""What is drawn where an encoding does not have it; one column wide as well."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: other glyphs, undecodable bytes as ``\\xe9``, the rest as Python escapes it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(GLYPHS)
    return "".join(map(_escaped, text)), error.end


def _escaped(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("ascii", "backslashreplace").decode()


codecs.register_error(PLAIN, _plain)


class Lasting:
    """A stream that can always be written: what cannot be delivered is dropped, and ``lost`` says why."""

    def __init__(self, stream: TextIO) -> None:
        """Args: stream: where texts go."""
        self.stream = stream
        self.lost: OSError | None = None
        """Why a text did not arrive; None while all have."""

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        try:
            return self.stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Deliver what was written, or drop it."""
        try:
            self.stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.lost = self.lost or error
        # What is still in the stream's buffer must go somewhere, or the interpreter complains of it in the end.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def make_streams_last() -> dict[str, Any]:
    """Let stdout and stderr take whatever is written, in any encoding, whether somebody reads it or not.

    A run is worth more than its display: it must not end because a terminal or the program behind a pipe has.

    Returns:
        What they were before, by name.
    """
    _open_closed()
    before: dict[str, Any] = {name: getattr(sys, name) for name in STREAMS[1:]}
    for name, stream in before.items():
        if isinstance(stream, Lasting):
            continue
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (as long as the process)
        # An error handler that was asked for, as in PYTHONIOENCODING=ascii:replace, stays.
        if getattr(stream, "errors", None) in ("strict", "surrogateescape", "backslashreplace"):
            with suppress(AttributeError):
                stream.reconfigure(errors=PLAIN)
        setattr(sys, name, Lasting(stream))
    return before


@contextmanager
def lasting_streams() -> Iterator[None]:
    """``make_streams_last`` while the block runs."""
    before = make_streams_last()
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)


def _open_closed() -> None:
    """Open standard streams that were closed at the start: the next file would take their numbers, and their output."""
    for number in range(len(STREAMS)):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)


def lost_output() -> OSError | None:
    """Why not all of stdout has arrived; None where it has."""
    sys.stdout.flush()
    return getattr(sys.stdout, "lost", None)


class Ended(KeyboardInterrupt):
    """What a signal raises, with its number; Python answers a plain ``KeyboardInterrupt`` with a status of its own."""


class Signals:
    """Lets whatever asks this process to end do it as Ctrl-C does, while the block runs.

    Ctrl-C, SIGTERM and SIGHUP raise ``KeyboardInterrupt`` once, after the import that is going on; a second one ends
    the process and its children at once, and so does ``PATIENCE`` where the exception is lost or cannot be heard.
    What was ignored before, as by ``nohup``, stays ignored. Only the main thread can hear signals; elsewhere, and in
    a child whose parent ends it, nothing changes.
    """

    NAMES: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")

    def __init__(self, say: Callable[[], None], *more: str) -> None:
        """Args:
        say: says that the command was interrupted, where it must end without leaving the block.
        more: names of other signals that are heard as well.
        """
        self.say, self.names = say, (*self.NAMES, *more)
        self.heard: int | None = None
        """The first signal."""
        self._at = 0.0
        self._raised = self._own = False
        self._before: dict[int, Any] = {}
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread() and multiprocessing.parent_process() is None:
            for name in self.names:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.heard is None:
            self.heard, self._at = number, now
            self._after(PATIENCE, self._lose_patience)
        elif not self._own and now - self._at > ONE_PRESS:
            self._end()
        self._own = False
        if self._raised:
            return
        if _imports(frame):
            self._after(ONE_PRESS / 5, self._again)
        else:
            self._raised = True
            raise Ended(self.heard)

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, what)
        timer.daemon = True
        self._timers = [*self._timers[:1], timer]
        timer.start()

    def _again(self) -> None:
        """Have the main thread hear the signal once more, awake or asleep."""
        assert self.heard is not None
        self._own = True
        wake = getattr(signal, "pthread_kill", None)
        if wake is not None:
            wake(threading.main_thread().ident, self.heard)
        else:
            _thread.interrupt_main(signal.Signals(self.heard))

    def _lose_patience(self) -> None:
        self.say()
        self._end()

    def _end(self) -> None:
        assert self.heard is not None
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(128 + self.heard)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: torch's libraries abort the process where an exception comes in between."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def ignore_interrupts() -> None:
    """In a child: leave Ctrl-C and the end of the terminal to the parent, which ends its children itself."""
    for name in ("SIGINT", "SIGHUP", "SIGBREAK"):
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, signal.SIG_IGN)


def follow_parent() -> None:
    """In a child: end when the parent has, however it did; a child that is left would hold its pipes open."""
    ignore_interrupts()
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


@contextmanager
def script_left_out() -> Iterator[None]:
    """Workers do not import the script that the user runs: without a ``__main__`` guard they would run it again.

    Nothing that a worker is given comes from it; ``multiprocessing`` takes these two attributes for the reason to.
    """
    main = sys.modules["__main__"]
    kept: dict[str, Any] = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(kept)
