"""However a run is ended from outside, none of its processes is left, and it says how to go on where it still can."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from making import heed_signals

SIDE_BY_SIDE = {"--workers 2": 4, "--processes 2": 3, "--workers 1": 0}
"""Children that a run of each kind has: its workers, and those of Python that keep queues and locks."""
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def begun(arguments: list[str], children: int, out: int) -> subprocess.Popen[bytes]:
    """A run of hours that has all its children; whatever it says goes into one pipe."""
    words = ["run", "--task", "vision", "--model", "mlp-xs", "--seeds", "2", "--set", "recipe.stage1.steps=100000"]
    command = [sys.executable, "-m", "iml_bench", *words, *arguments]
    run = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, preexec_fn=heed_signals)
    deadline = time.monotonic() + 120
    while len(psutil.Process(run.pid).children(recursive=True)) < children and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(3)  # somewhere in the imports of all of them, or in stage 1
    return run


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("SIGTERM", "--workers 2"),
        ("SIGHUP", "--workers 2"),
        ("SIGKILL", "--workers 2"),
        ("SIGHUP", "--processes 2"),
        ("SIGKILL", "--processes 2"),
        ("SIGTERM", "--workers 1"),
    ],
)
def test_nothing_is_left_that_holds_the_pipe(tmp_path: Path, name: str, how: str) -> None:
    number = getattr(signal, name)
    reader, writer = os.pipe()
    run = begun([*how.split(), "--out", str(tmp_path / "out")], SIDE_BY_SIDE[how], writer)
    os.close(writer)
    children = psutil.Process(run.pid).children(recursive=True)
    try:
        run.send_signal(number)
        os.set_blocking(reader, False)
        said, deadline = b"", time.monotonic() + 40
        while time.monotonic() < deadline:
            try:
                part = os.read(reader, 65536)
            except BlockingIOError:
                time.sleep(0.05)
                continue
            if not part:
                break
            said += part
        else:
            pytest.fail(f"the pipe is still held; said so far: {said.decode()}")
        status = run.wait(timeout=10)
        left = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert left == []
        if name == "SIGKILL":
            assert status == -number
        else:
            assert status == 128 + number
            assert "To continue:\n  python -m iml_bench run" in said.decode() and "Traceback" not in said.decode()
    finally:
        os.close(reader)
        for process in (*children, psutil.Process()):
            if process.pid != os.getpid() and process.is_running():
                process.kill()
        run.kill()
        run.wait()
