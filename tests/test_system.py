"""Output that cannot be written, encodings that lack signs, signals: what a command makes of each."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iml_bench import system
from iml_bench.cli import app as command_line
from iml_bench.cli.tables import interval_plot
from iml_bench.system import READ_NO_MORE, Lasting, Signals, follow_parent, lasting_streams

VERBS = {"tasks": ["tasks"], "show": ["show", "vision"], "compare": ["compare", "mlp-m", "convnet-s"]}
ENCODINGS = ("utf-8", "ascii", "cp1252", "latin-1", "cp437", "utf-16", "koi8-r", "shift_jis")


class Broken(io.RawIOBase):
    """A file that takes ``room`` bytes, and then fails in one of the ways of files."""

    def __init__(self, room: int, number: int) -> None:
        self.room, self.number = room, number

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")  # nothing of this process is exchanged

    def write(self, data: Any) -> int:
        if self.room < len(data):
            raise OSError(self.number, os.strerror(self.number))
        self.room -= len(data)
        return len(data)


def text_stream(raw: io.RawIOBase | None, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(raw) if raw else io.BytesIO(), encoding=encoding)


def carried_out(monkeypatch: pytest.MonkeyPatch, words: list[str], out: Any, err: Any) -> tuple[int, str]:
    """Exit status of the command line in this process, and what stderr has in the end."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", ["iml-bench", *words])
        patched.setattr(sys, "stdout", out)
        patched.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as end:
            command_line.main()
        assert (sys.stdout, sys.stderr) == (out, err), "the streams are afterwards what they were"
    if not isinstance(err, io.TextIOWrapper) or isinstance(err.buffer, io.BufferedWriter):
        return int(end.value.code or 0), ""
    err.flush()
    return int(end.value.code or 0), err.buffer.getvalue().decode(err.encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_verb_ends_well_in_every_encoding(monkeypatch: pytest.MonkeyPatch, words: list[str], encoding: str) -> None:
    out, err = text_stream(None, encoding), text_stream(None, encoding)
    assert carried_out(monkeypatch, words, out, err) == (0, "")
    out.flush()
    assert out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


FAULTS = {"a full disk": (errno.ENOSPC, 1), "a closed pipe": (errno.EPIPE, READ_NO_MORE), "a gone tty": (errno.EIO, 1)}


@pytest.mark.parametrize(("number", "status"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("room", [0, 100])
@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_output_that_cannot_be_written_is_a_sentence_and_a_failing_status(
    monkeypatch: pytest.MonkeyPatch, words: list[str], room: int, number: int, status: int
) -> None:
    out, err = text_stream(Broken(room, number), "utf-8"), text_stream(None, "utf-8")
    said = f"error: the output could not be written: {os.strerror(number)}\n" if number != errno.EPIPE else ""
    assert carried_out(monkeypatch, words, out, err) == (status, said)
    with contextlib.suppress(OSError):
        out.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_a_display_that_cannot_be_written_changes_no_status(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    for words, status in ((["tasks"], 0), (["show", "visoin"], 2)):
        err = text_stream(Broken(0, number), "ascii")
        assert carried_out(monkeypatch, words, text_stream(None, "ascii"), err)[0] == status
        with contextlib.suppress(OSError):
            err.close()


def test_streams_that_are_closed_are_written_to_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert carried_out(monkeypatch, ["tasks"], None, None)[0] == 0
    assert carried_out(monkeypatch, ["show", "visoin"], None, None)[0] == 2


@given(text=st.text(st.characters(exclude_categories=())), encoding=st.sampled_from(ENCODINGS))
def test_any_text_can_be_printed_in_any_encoding(text: str, encoding: str) -> None:
    """Halves of characters too, as names of files have them whose bytes are no text."""
    out = text_stream(None, encoding)
    before = sys.stdout
    sys.stdout = out
    try:
        with lasting_streams():
            sys.stdout.write(text)
            sys.stdout.flush()
    finally:
        sys.stdout = before
    assert isinstance(out.buffer, io.BytesIO)
    out.buffer.getvalue().decode(encoding)


def test_what_is_drawn_keeps_its_width_in_ascii() -> None:
    plot = interval_plot(0.2, -0.1, 0.4, 0.5)
    plain = plot.encode("ascii", "iml-bench-plain").decode()
    assert (len(plain), plain.strip()) == (len(plot), plain.strip()) and plain.count("o") == 1
    assert "\udce9é→".encode("ascii", "iml-bench-plain") == rb"\xe9\xe9>"


def test_an_error_handler_that_was_asked_for_stays() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="ignore")
    before, sys.stdout = sys.stdout, out
    try:
        with lasting_streams():
            sys.stdout.write("a→b")
    finally:
        sys.stdout = before
    out.flush()
    assert out.buffer.getvalue() == b"ab"  # type: ignore[attr-defined]


def test_a_lost_stream_stays_lost_and_says_why_once() -> None:
    stream = Lasting(text_stream(Broken(3, errno.ENOSPC), "utf-8"))
    for _ in range(3):
        assert stream.write("four") == 4
        stream.flush()
    assert stream.lost is not None and stream.lost.errno == errno.ENOSPC
    with contextlib.suppress(OSError):
        stream.stream.close()


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--task", "vision", "--out"],
        ["run", "--out", "o", "--task"],
        ["run", "--task", "text-cvdb", "--data"],
        ["run", "--task", "vision", "--data-dir"],
        ["compare", "mlp-m", "convnet-s", "--records"],
        ["leaderboard", "build", "--out"],
        ["leaderboard", "export", "--out"],
        ["show", "vision", "--picture"],
        ["submit", "--check"],
        ["submit", "mlp-m", "--to"],
        ["models", "add", "x", "--source", "ref:mlp", "--family", "mlp", "--to"],
        ["probe", "losses"],
        ["check"],
        ["suite", "run"],
    ],
)
def test_a_name_that_is_no_text_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    err = text_stream(None, "utf-8")
    status, said = carried_out(monkeypatch, [*words, os.fsdecode(b"caf\xe9")], text_stream(None, "utf-8"), err)
    assert (status, said.count("\n"), list(tmp_path.iterdir())) == (2, 1, [])
    assert r"'caf\xe9' holds bytes that are no text in utf-8; give the file or folder another name" in said


def nothing() -> None:
    """What is said of an interrupt here."""


@pytest.fixture
def heard() -> Iterator[Callable[..., list[Any]]]:
    """Handlers of signals, by name; they are put back in the end."""
    names = [name for name in Signals.NAMES if hasattr(signal, name)]
    before = {name: signal.getsignal(getattr(signal, name)) for name in names}
    for name in names:  # whoever started the tests may have had some ignored
        signal.signal(getattr(signal, name), signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    yield lambda: [signal.getsignal(getattr(signal, name)) for name in names]
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.mark.parametrize("name", Signals.NAMES)
def test_a_signal_ends_a_command_like_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, heard: Callable[[], list[Any]], name: str
) -> None:
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"there is no {name} here")
    before = heard()
    monkeypatch.setattr(command_line, "app", lambda: signal.raise_signal(number))
    for words in (["run", "--task", "vision"], ["suite", "run", "smoke"]):
        status, said = carried_out(monkeypatch, words, text_stream(None, "utf-8"), text_stream(None, "utf-8"))
        assert status == 128 + number
        assert said == f"interrupted; what is done is kept. To continue:\n  iml-bench {' '.join(words)}\n"
    assert carried_out(monkeypatch, ["tasks"], text_stream(None, "utf-8"), text_stream(None, "utf-8"))[1] == (
        "interrupted\n"
    )
    assert heard() == before


def test_what_is_ignored_stays_ignored(heard: Callable[[], list[Any]]) -> None:
    if not hasattr(signal, "SIGHUP"):
        pytest.skip("there is no SIGHUP here")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Signals(nothing) as signals:
        signal.raise_signal(signal.SIGHUP)
        assert signals.heard is None


def test_only_the_main_thread_hears(heard: Callable[[], list[Any]]) -> None:
    before, inside = heard(), []

    def look() -> None:
        with Signals(nothing):
            inside.append(heard())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert inside == [before]


def test_two_signals_at_once_are_one_and_a_second_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, heard: Callable[[], list[Any]]
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with Signals(nothing) as signals:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert (ended, signals.heard) == ([], signal.SIGTERM)
        monkeypatch.setattr("time.monotonic", lambda now=time.monotonic: now() + 10)
        signal.raise_signal(signal.SIGINT)
    assert ended == [128 + signal.SIGTERM]


def test_an_exception_that_a_library_swallows_ends_the_command_all_the_same(
    monkeypatch: pytest.MonkeyPatch, heard: Callable[[], list[Any]]
) -> None:
    ended: list[Any] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(system, "PATIENCE", 0.2)
    with Signals(lambda: ended.append("said")):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        time.sleep(1)
    assert ended == ["said", 128 + signal.SIGTERM]


def test_an_import_is_not_cut(monkeypatch: pytest.MonkeyPatch, heard: Callable[[], list[Any]], tmp_path: Path) -> None:
    """An exception in the middle of the import of torch aborts the process: no sentence, and another status."""
    (tmp_path / "slow_module.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGTERM)\ntime.sleep(0.3)\nWHOLE = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with Signals(nothing) as signals, pytest.raises(KeyboardInterrupt):
        importlib.import_module("slow_module")
        assert sys.modules["slow_module"].WHOLE
        time.sleep(10)
    assert signals.heard == signal.SIGTERM and sys.modules.pop("slow_module").WHOLE


def test_the_parent_itself_has_nobody_to_follow(heard: Callable[[], list[Any]]) -> None:
    threads = threading.active_count()
    follow_parent()
    assert threading.active_count() == threads


KINDS = {
    "no home": {"HOME": None, "USERPROFILE": None},
    "no terminal": {"TERM": None},
    "narrow": {"COLUMNS": "1", "LINES": "1"},
    "no colour": {"NO_COLOR": "1", "TERM": "dumb"},
    "C": {"LC_ALL": "C"},
    "C and ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
}


@pytest.mark.parametrize("changed", KINDS.values(), ids=KINDS)
def test_the_real_command_in_odd_environments(changed: dict[str, str | None]) -> None:
    environment = {**os.environ, **{name: value for name, value in changed.items() if value is not None}}
    for name, value in changed.items():
        if value is None:
            environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "iml_bench", "compare", "mlp-m", "convnet-s"],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"") and b"convnet-s" in done.stdout.replace(b"\n", b"")


ENDS = {">/dev/full": 1, "| true": READ_NO_MORE, "<&- >&- 2>&-": 0}
CHEAP = {"2>/dev/full": 0, "2>&-": 0, ">&-": 0, "<&-": 0, ">/dev/full 2>&-": 1}
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")


def in_shell(words: str, end: str, folder: Path) -> tuple[int, str]:
    """Exit status and stderr of the command line with an end of a shell's line after it."""
    command = f"{shlex.quote(sys.executable)} -m iml_bench {words}"
    both = "2>&1 " if end.startswith("|") else ""
    script = (
        f"{{ {command} {both}{end}; }} 2>err; exit ${{PIPESTATUS[0]}}"
        if not both
        else (f"{command} {both}{end}; exit ${{PIPESTATUS[0]}}")
    )
    done = subprocess.run(["bash", "-c", script], cwd=folder, stdout=subprocess.DEVNULL, check=False)
    return done.returncode, (folder / "err").read_text() if not both else ""


@needs_full
@pytest.mark.parametrize(("end", "status"), ENDS.items())
def test_a_run_keeps_its_records_whatever_becomes_of_its_output(tmp_path: Path, end: str, status: int) -> None:
    words = "run --task vision --model mlp-xs --smoke --seeds 1 --workers 1 --out out"
    found, said = in_shell(words, end, tmp_path)
    assert (found, len(list((tmp_path / "out").rglob("*.json")))) == (status, 5)
    assert "Traceback" not in said and ("No space left on device" in said) == ("full" in end)


@needs_full
@pytest.mark.parametrize(("end", "status"), CHEAP.items())
def test_a_listing_ends_well_whatever_becomes_of_its_output(tmp_path: Path, end: str, status: int) -> None:
    found, said = in_shell("tasks", end, tmp_path)
    assert (found, said) == (status, "")
