"""A cell that several processes share: they are started for it, as torchrun starts them, and end with it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from iml_bench.errors import CellError
from iml_bench.run.job import Job, record_failure, run_job
from iml_bench.runtime import THREADS, Runtime, StageProgress

TO_END = 10.0
"""Seconds that the processes have to end once they were asked to."""
TAIL = 2000


def run_in_processes(job: Job, runtime: Runtime) -> str | None:
    """Run a cell in as many processes as it needs, and write its record; like ``run_job``."""
    started = datetime.now(UTC)
    alone = replace(job, needs=job.needs.model_copy(update={"processes": 1}))
    with tempfile.TemporaryDirectory(prefix="iml-bench-") as folder:
        path, said = Path(folder) / "job.pickle", Path(folder) / "said"
        path.write_bytes(pickle.dumps((alone, replace(runtime, report=_unheard), str(said))))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1"]
        command += [f"--nproc-per-node={job.needs.processes}", "-m", "iml_bench.run.members", str(path)]
        environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "false"}
        with (Path(folder) / "log").open("w+b") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
            try:
                code = process.wait()
            finally:
                _end(process)
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
            lines = log.read().decode(errors="replace").split("\n")
        if said.exists():
            return said.read_text(encoding="utf-8") or None
    last = next((line for line in reversed(lines) if line.strip()), "they said nothing")
    died = CellError(f"one of its {job.needs.processes} processes died (exit code {code}): {last.strip()}")
    return record_failure(job, started, died)


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
    job, runtime, said = pickle.loads(path.read_bytes())
    message = run_job(job, runtime)
    if os.environ.get("RANK") == "0":
        Path(said).write_text(message or "", encoding="utf-8")


if __name__ == "__main__":
    _take_part(Path(sys.argv[1]))
