"""Cells as jobs of Slurm, which submitit writes and submits; who lives, squeue says."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Final, NamedTuple

from iml_bench.errors import CellError, UsageError, shown
from iml_bench.run.executors.engine import Chunk, Delivered, State
from iml_bench.run.executors.slurm_options import NOTICE, cores_of, minutes_of, parse_options, settings_of
from iml_bench.spec import Needs
from iml_bench.system import Signals

JOB_NAME: Final = "iml-bench"
COMMANDS: Final = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
PATIENCE: Final = 120.0
"""Seconds that one of Slurm's commands may take."""
SLOW: Final = 20.0
"""Seconds for which a network file system may hide what a job has just written."""
ENDING: Final = 8.0
"""Seconds to wait for jobs that were cancelled to be gone; then their files can be taken away."""
TAIL: Final = 2000
WAITING: Final = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "CONFIGURING", "SUSPENDED", "SPECIAL_EXIT")
ENDED: Final = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED"),
    *("PREEMPTED", "TIMEOUT"),
)
HELD: Final = ("JobHoldMaxRequeue", "launch failed requeued held", "launch_failed_requeued_held")
"""Reasons for which Slurm would let a job wait until an administrator does something."""


@dataclass
class Work:
    """What a job of Slurm carries out."""

    chunk: Chunk
    minutes: int
    """Its time limit."""

    def __call__(self) -> tuple[Delivered, ...]:
        """Run the cells. Whoever asks the job to end is obeyed at once, and Slurm to queue it again if it may.

        Slurm announces the end of the time with SIGUSR2, and with SIGTERM that a job makes room for another, or is to
        be cancelled. submitit would go on until it is killed, and leave its cell taken.

        Raises:
            CellError: when the time was over before any cell was done.
        """
        from iml_bench.run.executors.worker import work
        from iml_bench.run.sharing import settled

        began = time.monotonic()
        left = sum(settled(job) is None for job in self.chunk.jobs)
        with Signals(_nothing, "SIGUSR2"):
            try:
                return work(self.chunk)
            except KeyboardInterrupt:
                pass
        late = time.monotonic() - began > self.minutes * 60 - NOTICE - 30
        if late and left == sum(settled(job) is None for job in self.chunk.jobs):
            raise CellError(
                f"the {self.minutes} minutes of its job were over before it was done; give more with --slurm time="
            )
        handle = os.environ["SLURM_JOB_ID"]
        # One that is cancelled or queued again already is in another state.
        if _asked("squeue", "-h", "-j", handle, "-o", "%T").strip() == "RUNNING":
            _asked("scontrol", "requeue", handle)
        sys.exit(1)


def _nothing() -> None:
    pass


class _Known(NamedTuple):
    """What squeue says of a job."""

    state: str
    node: str
    reason: str


class SlurmEngine:
    """Submits chunks with sbatch, each as one job of one task on one node.

    A handle is the job's number and the name of its chunk, which is part of the job's name and that of the folder of
    its files: the number alone may come again.
    """

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
        for command in COMMANDS:
            if shutil.which(command) is None:
                raise UsageError(
                    f"--executor slurm: there is no command {command} here; run it where jobs are submitted"
                )
        self.options = parse_options(options)
        self._submitit = submitit
        self._folder = Path()
        self._taken: set[str] = set()
        """Jobs that are under way."""
        self._told: set[str] = set()
        """Jobs that were said to be over, and whose files are still there."""
        self._since: dict[str, float] = {}
        """When a job had first left the queue without a result."""

    def open(self, folder: Path, needs: Sequence[Needs]) -> None:
        """See ``Engine.open``; sinfo says what the nodes of the partition have."""
        self._folder = folder
        if needs:
            check_nodes(self.options, needs, _asked("sinfo", "-h", "-N", "-o", "%P %c %m %G %l"))

    def submit(self, chunk: Chunk) -> str | None:
        """See ``Engine.submit``."""
        files = self._folder / chunk.name
        executor = self._submitit.SlurmExecutor(folder=files)
        settings = settings_of(self.options, chunk.needs)
        executor.update_parameters(**settings, job_name=f"{JOB_NAME}-{chunk.name}")
        try:
            with redirect_stderr(StringIO()):  # submitit repeats there what is told here
                job = executor.submit(Work(chunk, settings["time"]))
        except BaseException as error:
            shutil.rmtree(files, ignore_errors=True)
            if not isinstance(error, self._submitit.core.utils.FailedJobError):
                raise
            # Whoever has as many jobs as they may have waits for one of them to end.
            if self._taken:
                return None
            raise UsageError(f"Slurm takes no job: {shown(_telling(str(error)), 300)}") from error
        handle = f"{job.job_id}-{chunk.name}"
        self._taken.add(handle)
        return handle

    def poll(self, handles: Sequence[str]) -> Mapping[str, State]:
        """See ``Engine.poll``."""
        for handle in self._told - {*handles}:
            self._clear(handle)
        if not handles:
            return {}
        try:
            queue = _queue()
        except UsageError:
            return {}  # the controller may be back in a while
        return {handle: self._state(handle, queue.get(handle)) for handle in handles}

    def _state(self, handle: str, known: _Known | None) -> State:
        self._taken.add(handle)
        if known is not None and known.state in WAITING:
            if known.reason not in HELD:
                return State("waiting")
            with suppress(UsageError):
                _asked("scancel", _number(handle))
        elif known is not None and known.state not in ENDED:
            return State("running")
        self._taken.discard(handle)
        found = self._folder / _chunk(handle) / f"{_number(handle)}_0_result.pkl"
        kind, result = "", ()
        with suppress(OSError, EOFError, pickle.UnpicklingError):
            kind, result = pickle.loads(found.read_bytes())
        now = time.monotonic()
        silent = not kind and (known is None or known.state == "COMPLETED")
        if silent and now - self._since.setdefault(handle, now) < SLOW:
            return State("running")
        self._told.add(handle)
        if kind == "success":
            return State("ended", "", result)
        return State("lost", self._reason(handle, known, str(result) if kind else ""))

    def _reason(self, handle: str, known: _Known | None, error: str) -> str:
        """Why a job has left nothing: what Slurm still knows, and what it said itself or the end of its log."""
        said = "gone from the queue"
        if known is not None:
            said = f"{known.state}{f' on {known.node}' if known.node else ''}"
            said += f" ({known.reason})" if known.reason in HELD else ""
        text = _telling(error)
        if not text:
            with suppress(OSError):
                log = self._folder / _chunk(handle) / f"{_number(handle)}_0_log.err"
                text = _telling(log.read_text(encoding="utf-8", errors="replace")[-TAIL:])
        return f"job {_number(handle)}: {said}" + (f": {text}" if text else "")

    def _clear(self, handle: str) -> None:
        shutil.rmtree(self._folder / _chunk(handle), ignore_errors=True)
        self._told.discard(handle)
        self._since.pop(handle, None)

    def cancel(self, handles: Sequence[str]) -> None:
        """See ``Engine.cancel``; it waits a while until they are gone."""
        deadline = time.monotonic() + ENDING
        with suppress(UsageError):
            if left := [handle for handle in handles if _lives(_queue().get(handle))]:
                _asked("scancel", *map(_number, left))
            while time.monotonic() < deadline and any(_lives(known) for known in map(_queue().get, left)):
                time.sleep(0.3)
        for handle in handles:
            self._taken.discard(handle)
            self._clear(handle)

    def close(self, detach: bool) -> None:
        """See ``Engine.close``."""
        for handle in [*self._told]:
            self._clear(handle)


def check_nodes(options: Mapping[str, str], needs: Sequence[Needs], listed: str) -> None:
    """See that jobs of some needs can be held: Slurm lets some wait for ever for what it does not have.

    Args:
        options: as ``parse_options`` has them.
        needs: of cells.
        listed: a line for every node: its partition, cores, megabytes, other resources and the longest time.

    Raises:
        UsageError: when the partition does not exist, or no node of it can hold a need.
    """
    lines = [line.split() for line in listed.splitlines()]
    if "partition" in options:
        # Several can be given to sbatch, but not within one option of ours.
        lines = [line for line in lines if line[0].rstrip("*") == options["partition"]]
        if not lines:
            raise UsageError(f"--slurm partition={shown(options['partition'])}: it has no node (sinfo lists them)")
    elif any(line[0].endswith("*") for line in lines):
        lines = [line for line in lines if line[0].endswith("*")]
    have = [(int(cpus), float(memory) / 1000, _gpus(gres)) for _, cpus, memory, gres, _ in lines]
    for need in needs:
        asked = need.model_copy(update={"cpus": cores_of(options, need)})
        if not any(
            asked.cpus <= cpus and (need.memory or 0) <= memory and need.gpus <= gpus for cpus, memory, gpus in have
        ):
            most = [max((one[place] for one in have), default=0) for place in range(3)]
            raise UsageError(
                f"no node of Slurm's can ever hold a cell that takes {asked}; the largest has "
                f"{most[0]} cores, {most[1]:g} GB, {most[2]} GPUs"
            )
    limits = [minutes_of(line[4]) for line in lines if line[4][0].isdigit()]
    if len(limits) == len(lines) and minutes_of(options["time"]) > max(limits):
        raise UsageError(f"--slurm time={shown(options['time'])}: no job of the partition may take over {max(limits)}m")


def _queue() -> dict[str, _Known]:
    """The jobs of this user that Slurm knows of, those among them that have ended, by handle.

    Raises:
        UsageError: when it does not answer.
    """
    found = {}
    for line in _asked("squeue", "-h", "--me", "-t", "all", "-o", "%i|%T|%N|%r|%j").splitlines():
        number, state, node, reason, name = line.split("|", 4)
        if name.startswith(f"{JOB_NAME}-"):
            found[f"{number}-{name.removeprefix(f'{JOB_NAME}-')}"] = _Known(state, node, reason)
    return found


def _lives(known: _Known | None) -> bool:
    return known is not None and known.state not in ENDED


def _number(handle: str) -> str:
    return handle.partition("-")[0]


def _chunk(handle: str) -> str:
    return handle.partition("-")[2]


def _asked(*command: str) -> str:
    """What one of Slurm's commands answers.

    Raises:
        UsageError: when it fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{command[0]} does not answer: {shown(str(error), 200)}") from error
    if done.returncode:
        raise UsageError(f"{command[0]} failed: {shown(_telling(done.stderr), 300)}")
    return done.stdout


def _gpus(gres: str) -> int:
    """The GPUs of a node in Slurm's notation: ``gpu:a100:4(S:0-1)`` has 4."""
    found = 0
    for part in gres.split(","):
        words = part.split("(")[0].split(":")
        if words[0] == "gpu":
            found += int(words[-1]) if words[-1].isdigit() else 1
    return found


def _telling(text: str) -> str:
    """The line of what a program said that tells most: the last error, else what comes before a hint at its help."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Try ")]
    errors = [line for line in lines if "error:" in line.lower()]
    return [*lines, *errors][-1] if lines else ""
