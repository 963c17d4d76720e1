"""A cell that several processes share: they are started for it, as torchrun starts them, and end with it."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from iml_bench.errors import CellError
from iml_bench.run.job import Job, record_failure, run_job
from iml_bench.runtime import THREADS, Runtime, StageProgress, is_first

TO_END = 10.0
"""Seconds that the processes have to end once they were asked to."""
TAIL = 2000
LOOK = 1.0
"""Seconds between looks at how far they are, and at whether whoever started them is still there."""


def run_in_processes(job: Job, runtime: Runtime) -> str | None:
    """Run a cell in as many processes as it needs, and write its record; like ``run_job``."""
    started = datetime.now(UTC)
    alone = replace(job, needs=job.needs.model_copy(update={"processes": 1}))
    with tempfile.TemporaryDirectory(prefix="iml-bench-") as folder:
        path, said, far = (Path(folder) / name for name in ("job.pickle", "said", "progress"))
        asked = (alone, replace(runtime, report=_unheard), said, far, _living(os.getpid()))
        path.write_bytes(pickle.dumps(asked))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1"]
        command += [f"--nproc-per-node={job.needs.processes}", "-m", "iml_bench.run.members", str(path)]
        environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "false"}
        with (Path(folder) / "log").open("w+b") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
            try:
                code = _waited_for(process, far, runtime.report)
            finally:
                _end(process)
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
            lines = log.read().decode(errors="replace").split("\n")
        if said.exists():
            return said.read_text(encoding="utf-8") or None
    last = next((line for line in reversed(lines) if line.strip()), "they said nothing")
    died = CellError(f"one of its {job.needs.processes} processes died (exit code {code}): {last.strip()}")
    return record_failure(job, started, died)


def _waited_for(process: subprocess.Popen[bytes], far: Path, report: Callable[[StageProgress], None]) -> int:
    """Wait for the processes, and tell meanwhile how far they are; their exit code."""
    told = ""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(LOOK)
        with suppress(OSError, ValueError):
            text = far.read_text(encoding="utf-8")
            if text != told:
                report(StageProgress(*json.loads(text)))
                told = text


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the processes, whoever of them started which."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(TO_END)


def _unheard(progress: StageProgress) -> None:
    """In place of a listener of another process."""


def _take_part(path: Path) -> None:
    job, runtime, said, far, parent = pickle.loads(path.read_bytes())
    threading.Thread(target=_follow, args=[parent], daemon=True).start()

    def report(progress: StageProgress) -> None:
        far.with_suffix(".new").write_text(json.dumps(progress), encoding="utf-8")
        far.with_suffix(".new").replace(far)

    first = is_first()
    message = run_job(job, replace(runtime, report=report) if first else runtime)
    if first:
        said.write_text(message or "", encoding="utf-8")


def _follow(parent: tuple[int, float]) -> None:
    """End when whoever started the processes has, however it did."""
    while _living(parent[0]) == parent:
        time.sleep(LOOK)
    os._exit(1)


def _living(number: int) -> tuple[int, float] | None:
    """A process, told from later ones of the same number; None where it has ended."""
    with suppress(psutil.Error):
        process = psutil.Process(number)
        if process.status() != psutil.STATUS_ZOMBIE:
            return number, process.create_time()
    return None


if __name__ == "__main__":
    _take_part(Path(sys.argv[1]))
