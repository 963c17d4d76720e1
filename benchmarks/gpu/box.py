"""A GPU day in a box: all that wants measuring on an NVIDIA GPU, in one command and within a budget of minutes.

::

    benchmarks/gpu/run.sh [--minutes 25] [--out gpu-box] [--only PART,...] [--mnist DIR] [--cvdb FILE] [--trex FILE]
    benchmarks/gpu/run.sh --device cpu --tiny      # the same code at tiny size, to try it out without a GPU

The parts, the most important first: five seeds of a pretrained model (``pretrained``), the tests that need CUDA
(``tests``), tokens per second, utilisation and memory of models of 160M to 2.8B parameters (``training-SIZE``), 1 to
16 cells on one GPU without and with MPS (``sharing``, ``sharing-mps``), one cell of each task (``cell-TASK``) and the
vision step as a CUDA graph (``graph``). Each is a process of its own. What it gave lies in DIR/parts/PART.json; a part
that is done is not run again, so that the same command continues. DIR/report.md and DIR/report.json say all of it, with
the reason where a part could not be run, failed, or did not fit into the minutes. DIR/records are records as any.

The exit status is 1 where a part failed or none was run.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from day import PYTHON, ROOT, Box, Part, parts
from report import write_report

LARGEST = 16 * 2**20
"""Bytes of everything in the folder."""
MACHINE = """
import json, torch
gpus = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": [gpu.name for gpu in gpus],
                  "gib": [round(gpu.total_memory / 2**30, 1) for gpu in gpus]}))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not done and fits; the exit status."""
    given = _arguments(arguments)
    end = time.monotonic() + 60 * given.minutes
    machine = machine_of()
    data = {"vision-mnist": given.mnist, "text-cvdb": given.cvdb, "text-trex": given.trex}
    found = tuple((task, path.resolve()) for task, path in data.items() if path is not None)
    box = Box(given.out.resolve(), given.device, given.tiny, found, tuple(machine.items()))
    (box.out / "parts").mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    chosen = [part for part in parts() if given.only is None or part.name in given.only]
    for part in chosen:
        results[part.name] = carry_out(part, box, end)
        write_report(box, machine, [{"part": name, **result} for name, result in results.items()])
    size = sum(path.stat().st_size for path in box.out.rglob("*") if path.is_file())
    _say(f"{box.out}: report.md, report.json, records; {size / 2**20:.1f} MB" + (" TOO LARGE" * (size > LARGEST)))
    outcomes = [result["outcome"] for result in results.values()]
    return int("failed" in outcomes or "done" not in outcomes or size > LARGEST)


def carry_out(part: Part, box: Box, end: float) -> dict[str, Any]:
    """Run a part, unless that was done, it cannot be, or it does not fit; what became of it, which is kept."""
    path = box.out / "parts" / f"{part.name}.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["outcome"] == "done" and kept["tiny"] == box.tiny:
            _say(f"{part.name}: done before")
            return kept
    result = _tried(part, box, end) | {"tiny": box.tiny}
    new = path.with_suffix(".new")
    new.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    new.replace(path)
    return result


def _tried(part: Part, box: Box, end: float) -> dict[str, Any]:
    machine = dict(box.machine)
    no_gpu = "torch sees no NVIDIA GPU here" if box.device == "cuda" and not machine.get("gpus") else None
    lacking = no_gpu or part.lacking(box)
    if lacking:
        return _told(part, "skipped", lacking)
    left = end - time.monotonic()
    if not box.tiny and left < 60 * part.minutes:
        return _told(part, "did not fit", f"it takes about {part.minutes:g} minutes, and {left / 60:.1f} were left")
    _say(f"{part.name}: running, {left / 60:.1f} minutes left")
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        status = run_within(part.command(box), left, output)
        output.seek(0)
        text = output.read()
    seconds = round(time.monotonic() - started, 1)
    if status is None:
        return _told(part, "did not fit", f"it was ended after {seconds:.0f} s, with the budget", seconds)
    try:
        given = json.loads(text)
    except json.JSONDecodeError:
        last = (text.strip().splitlines() or ["nothing"])[-1]
        return _told(part, "failed", f"exit status {status}; it printed {last[:300]!r}", seconds)
    if status:
        return _told(part, "failed", str(given.get("reason") or f"exit status {status}"), seconds, given)
    return _told(part, "done", None, seconds, given)


def run_within(command: Sequence[str], seconds: float, output: Any) -> int | None:
    """Run a command in a session of its own, with its stdout into a file; its exit status, None where it was ended."""
    running = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, env=os.environ, start_new_session=True
    )
    try:
        return running.wait(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        return None
    finally:
        end_all(running)


def end_all(running: subprocess.Popen[Any]) -> None:
    """End a process that leads a session, and what it started: gently first, so that MPS is shut down."""
    if running.poll() is None:
        running.terminate()
        with suppress(subprocess.TimeoutExpired):
            running.wait(timeout=20)
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def machine_of() -> dict[str, Any]:
    """What torch says of the GPUs, asked in a process of its own: this one must not take memory of a GPU."""
    done = subprocess.run([*PYTHON, "-c", MACHINE], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: torch cannot be asked for GPUs: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _told(
    part: Part, outcome: str, reason: str | None, seconds: float | None = None, found: Any = None
) -> dict[str, Any]:
    _say(f"{part.name}: {outcome}" + (f": {reason}" if reason else f" in {seconds} s"))
    return {"outcome": outcome, "reason": reason, "seconds": seconds, "found": found}


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="All that wants measuring on an NVIDIA GPU.")
    parser.add_argument("--minutes", type=float, default=25.0, help="of everything (default 25)")
    parser.add_argument("--out", type=Path, default=Path("gpu-box"), help="folder of the results (default gpu-box)")
    parser.add_argument("--only", type=_names, help="parts, with commas between")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="everything as small as it gets")
    for name, metavar in (("mnist", "DIR"), ("cvdb", "FILE"), ("trex", "FILE")):
        parser.add_argument(f"--{name}", type=Path, metavar=metavar, help="data of a task")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    known = [part.name for part in parts()]
    for name in text.split(","):
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
