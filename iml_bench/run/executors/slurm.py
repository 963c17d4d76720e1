"""Cells as jobs of Slurm, which submitit writes, submits and requeues; who lives, squeue says."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from iml_bench.errors import UsageError, shown
from iml_bench.run.executors.engine import Chunk, Delivered, State
from iml_bench.run.executors.slurm_options import parse_options, settings_of
from iml_bench.spec import Needs

JOB_NAME: Final = "iml-bench"
PATIENCE: Final = 120.0
"""Seconds that one of Slurm's commands may take."""
SLOW: Final = 20.0
"""Seconds for which a network file system may hide what a job has just written."""
TAIL: Final = 2000
WAITING: Final = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "CONFIGURING", "SUSPENDED", "SPECIAL_EXIT")
ENDED: Final = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")


@dataclass
class Work:
    """What a job of Slurm carries out; a pre-empted one is queued again as it was."""

    chunk: Chunk

    def __call__(self) -> tuple[Delivered, ...]:
        from iml_bench.run.executors.worker import work

        return work(self.chunk)

    def checkpoint(self, *_: Any, **__: Any) -> Any:
        """Called where Slurm announces the end of a job: its cell begins anew, and what is done is skipped."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    __submitit_checkpoint__ = checkpoint


class SlurmEngine:
    """Submits chunks with sbatch, each as one job of one task on one node."""

    name = "slurm"
    shared = True
    detaches = True

    def __init__(self, options: str = "") -> None:
        """Args: options: as ``--slurm`` takes them.

        Raises:
            UsageError: when submitit or Slurm's commands are not here, or an option is none.
        """
        try:
            import submitit
        except ImportError:
            raise UsageError("--executor slurm needs submitit: pip install 'iml-bench[slurm]'") from None
        for command in ("sbatch", "squeue", "scancel", "sinfo"):
            if shutil.which(command) is None:
                raise UsageError(
                    f"--executor slurm: there is no command {command} here; run it where jobs are submitted"
                )
        self.options = parse_options(options)
        self._submitit = submitit
        self._folder = Path()
        self._gone: dict[str, float] = {}

    def open(self, folder: Path, needs: Sequence[Needs]) -> None:
        """See ``Engine.open``; sinfo says what the nodes of the partition have."""
        self._folder = folder
        chosen = ["--partition", self.options["partition"]] if "partition" in self.options else []
        nodes = [line.split() for line in _asked("sinfo", "-h", "-N", "-o", "%c %m %G", *chosen).splitlines()]
        have = [(int(cpus), float(memory) / 1000, _gpus(gres)) for cpus, memory, gres in nodes]
        if not have:
            raise UsageError(f"--slurm partition={shown(self.options['partition'])}: it has no node (sinfo lists them)")
        for need in needs:
            if not any(
                need.cpus <= cpus and (need.memory or 0) <= memory and need.gpus <= gpus for cpus, memory, gpus in have
            ):
                raise UsageError(
                    f"no node of Slurm's can ever hold a cell that takes {need}; the largest has "
                    f"{max(one[0] for one in have)} cores, {max(one[1] for one in have):g} GB, "
                    f"{max(one[2] for one in have)} GPUs"
                )

    def submit(self, chunk: Chunk) -> str | None:
        """See ``Engine.submit``."""
        executor = self._submitit.SlurmExecutor(folder=self._folder)
        executor.update_parameters(**settings_of(self.options, chunk.needs), job_name=JOB_NAME)
        try:
            job = executor.submit(Work(chunk))
        except self._submitit.core.utils.FailedJobError as error:
            text = str(error)
            # Whoever has as many jobs as they may have waits for one of them to end.
            if "Limit" in text or "limit" in text or "temporarily" in text:
                return None
            raise UsageError(f"Slurm takes no job: {shown(_last_line(text), 300)}") from error
        return str(job.job_id)

    def poll(self, handles: Sequence[str]) -> Mapping[str, State]:
        """See ``Engine.poll``."""
        if not handles:
            return {}
        try:
            queue = dict(line.split() for line in _asked("squeue", "-h", "--me", "-o", "%i %T").splitlines())
        except UsageError:
            return {handle: State("waiting") for handle in handles}  # the controller may be back in a while
        return {handle: self._state(handle, queue.get(handle, "")) for handle in handles}

    def _state(self, handle: str, state: str) -> State:
        if state in WAITING:
            return State("waiting")
        if state and state not in ENDED:
            return State("running")
        found = self._folder / f"{handle}_0_result.pkl"
        with suppress(OSError, EOFError, pickle.UnpicklingError):
            kind, result = pickle.loads(found.read_bytes())
            self._clear(handle)
            return State("ended", "", result) if kind == "success" else State("lost", _last_line(str(result)))
        if time.monotonic() - self._gone.setdefault(handle, time.monotonic()) < SLOW and not state:
            return State("running")
        reason = self._reason(handle, state)
        self._clear(handle)
        return State("lost", reason)

    def _reason(self, handle: str, state: str) -> str:
        """Why a job has left nothing: what Slurm still knows, and the end of its log."""
        said = state
        with suppress(UsageError):
            fields = dict(
                word.split("=", 1) for word in _asked("scontrol", "show", "job", handle).split() if "=" in word
            )
            said = f"{fields.get('JobState', state)} on {fields.get('NodeList', 'no node')}"
        text = ""
        with suppress(OSError):
            text = _last_line((self._folder / f"{handle}_0_log.err").read_text(errors="replace")[-TAIL:])
        return f"job {handle}: {said.strip() or 'gone from the queue'}" + (f": {text}" if text else "")

    def _clear(self, handle: str) -> None:
        for path in self._folder.glob(f"{handle}_*"):
            with suppress(OSError):
                path.unlink()

    def cancel(self, handles: Sequence[str]) -> None:
        """See ``Engine.cancel``."""
        with suppress(UsageError):
            _asked("scancel", *handles)
        for handle in handles:
            self._clear(handle)

    def close(self, detach: bool) -> None:
        """See ``Engine.close``."""
        if not detach:
            for path in self._folder.glob("*"):
                if path.suffix in (".sh", ".pkl", ".out", ".err"):
                    with suppress(OSError):
                        path.unlink()


def _asked(*command: str) -> str:
    """What one of Slurm's commands answers.

    Raises:
        UsageError: when it fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{command[0]} does not answer: {shown(str(error), 200)}") from error
    if done.returncode:
        raise UsageError(f"{command[0]} failed: {shown(_last_line(done.stderr), 300)}")
    return done.stdout


def _gpus(gres: str) -> int:
    """The GPUs of a node in Slurm's notation: ``gpu:a100:4(S:0-1)`` has 4."""
    found = 0
    for part in gres.split(","):
        words = part.split("(")[0].split(":")
        if words[0] == "gpu":
            found += int(words[-1]) if words[-1].isdigit() else 1
    return found


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
