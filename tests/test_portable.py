"""What only some systems have is not needed, and a clock may be wrong."""

from __future__ import annotations

import ast
import os
import platform
from datetime import UTC, datetime, timedelta
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import CPU, RESULTS, entry, small_cell

import iml_bench
from iml_bench.errors import UsageError
from iml_bench.paths import DEVICES, is_device_name
from iml_bench.records import Store
from iml_bench.records.names import record_path
from iml_bench.run import job
from iml_bench.run.executors.base import default_workers
from iml_bench.runtime import Runtime
from iml_bench.site.names import slug
from iml_bench.submit import add_entry, check_submission, find_submission

PACKAGE = Path(iml_bench.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
POSIX = {
    "os": {
        "uname",
        "fork",
        "getuid",
        "geteuid",
        "getgid",
        "killpg",
        "getpgid",
        "setsid",
        "mkfifo",
        "nice",
        "getloadavg",
    },
    "signal": {"SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGALRM", "alarm", "setitimer", "pause"},
    "time": {"tzset"},
}
MODULES = {"fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "posix"}
GUARDED = {"sched_getaffinity"}
PROCESSES = {"run", "Popen", "check_output"}


def complaints(tree: ast.AST) -> list[str]:
    """What of a module's code would fail or differ on a system that is not POSIX or not UTF-8."""
    found = []
    guards = {
        node.args[1].value
        for node in ast.walk(tree)
        if _calls(node, "hasattr") and isinstance(node.args[1], ast.Constant)
    }  # type: ignore[attr-defined]
    tried = {part for node in ast.walk(tree) if _may_lack(node) for part in node.body}  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in POSIX.get(node.value.id, ()) or (node.attr in GUARDED and node.attr not in guards):
                found.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Import | ast.ImportFrom) and node not in tried:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            found += [name for name in names if name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.Call):
            found += _of_call(node)
    return found


def _may_lack(node: ast.AST) -> bool:
    """Whether a block goes on where what it imports is absent."""
    handlers = node.handlers if isinstance(node, ast.Try) else []
    return any(isinstance(one.type, ast.Name) and one.type.id == "ImportError" for one in handlers)


def _calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _of_call(node: ast.Call) -> list[str]:
    named = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    given = {word.arg for word in node.keywords}
    modes = [
        part.value for part in (*node.args, *(word.value for word in node.keywords)) if isinstance(part, ast.Constant)
    ]
    value = getattr(node.func, "value", None)
    whose = getattr(value, "id", None) or getattr(value, "attr", "")
    if named == "open" and whose not in ("os", "gzip", "Image", "engine"):
        text = not any(isinstance(mode, str) and "b" in mode and len(mode) <= 3 for mode in modes)
        return [f"line {node.lineno}: text without encoding"] if text and "encoding" not in given else []
    if named in ("read_text", "write_text") and "encoding" not in given:
        return [f"line {node.lineno}: text without encoding"]
    if named == "write_text" and "newline" not in given:
        return [f"line {node.lineno}: line ends would be the system's"]
    if named in PROCESSES and given & {"text", "universal_newlines"} and "encoding" not in given:
        return [f"line {node.lineno}: output of a process without encoding"]
    if named == "get_context" and any(mode in ("fork", "forkserver") for mode in modes):
        return [f"line {node.lineno}: fork"]
    return []


def test_nothing_that_only_posix_has_is_called_and_every_text_file_has_an_encoding() -> None:
    found = {path.name: complaints(ast.parse(path.read_text(encoding="utf-8"))) for path in FILES}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    "code",
    [
        "os.uname().sysname",
        "import fcntl",
        "signal.SIGHUP",
        "open(path)",
        "path.open()",
        "path.open('w')",
        "path.read_text()",
        "path.write_text(a, encoding='utf-8')",
        "subprocess.run(a, text=True)",
        "multiprocessing.get_context('fork')",
        "os.sched_getaffinity(0)",
    ],
)
def test_the_search_finds_what_it_is_for(code: str) -> None:
    assert complaints(ast.parse(code))


@pytest.mark.parametrize("system", ["Windows", "Darwin", "Linux", "Java"])
def test_workers_and_provenance_need_no_uname(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    for name in ("uname", "sched_getaffinity", "getuid", "fork"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(platform, "system", lambda: system)
    assert default_workers(CPU) == (os.cpu_count() or 1)
    assert default_workers(Runtime()) >= 1 and (system != "Darwin" or default_workers(Runtime()) == 1)


def test_a_cell_needs_nothing_of_posix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("uname", "sched_getaffinity", "fork", "killpg", "getloadavg"):
        monkeypatch.delattr(os, name, raising=False)
    assert job.run_job(job.Job(small_cell(), {}, True, tmp_path), CPU) is None
    assert len(Store(tmp_path).scan()[0]) == 1


names = st.text(max_size=80) | st.sampled_from(
    [*DEVICES, "CON", "aux.txt", "NUL ", "a.", "a ", 'a<>:"|?*b', "..", "COM1.x"]
)


@given(name=names.filter(lambda text: text.strip()))
def test_every_file_that_is_named_after_something_can_be_made_on_windows(name: str) -> None:
    try:
        model = entry("m", "ref:mlp").model_copy(update={"name": name})
        parts = [*record_path(small_cell().model_copy(update={"model": model})).parts, f"{slug(name)}.html"]
    except UsageError:
        return
    for part in parts:
        assert part.isascii() and not set(part) & set('<>:"|?*\\/') and part == part.rstrip(". ")
        assert not is_device_name(part) and not PureWindowsPath(part).is_reserved()


@pytest.mark.parametrize("name", ["con", "nul", "aux.txt", "com1", "lpt9.model"])
def test_an_entry_is_not_called_like_a_device(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is a device's on Windows, where no file can be called so"):
        add_entry(name, "ref:mlp?hidden=7", "mlp", tmp_path)
    assert list(tmp_path.iterdir()) == []


class SetBack(datetime):
    """A clock that is an hour behind whenever it is asked again."""

    asked = 0

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        cls.asked += 1
        return datetime(2026, 1, 1, 12, tzinfo=UTC) - timedelta(hours=cls.asked)


def test_a_clock_that_is_set_back_makes_a_note_and_no_refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(job, "datetime", SetBack)
    assert job.run_job(job.Job(small_cell(), {}, True, tmp_path), CPU) is None
    (stored,) = Store(tmp_path).scan()[0]
    timing = stored.record.timing
    assert timing.ended < timing.started and all(seconds >= 0 for seconds in timing.seconds.values())
    checks = check_submission(find_submission(tmp_path), [], CPU)
    (form,) = [check for check in checks if "no smoke tests" in check.name]
    assert [failure.problem for failure in form.failures] == [
        "it is a smoke test and no result; run it without --smoke"
    ]
    assert form.notes == (
        "some ended before they started: the clock was set back meanwhile; durations are measured without it",
    )


def test_shipped_records_are_named_as_before() -> None:
    found = {path for path in RESULTS.rglob("*.json") if is_device_name(path.parent.name) or is_device_name(path.name)}
    assert found == set()
