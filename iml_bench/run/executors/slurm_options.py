"""What ``--slurm`` takes, for jobs that are submitted and for a script that asks for nothing of this package."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from iml_bench.errors import UsageError, shown
from iml_bench.spec import Needs

NOTICE: Final = 90
"""Seconds before its end at which a job is told of it."""
SHORTEST: Final = 5
"""Minutes: in less a job would have begun little when it is told of its end."""
DEFAULT_TIME: Final = "4h"
UNITS: Final = {"d": 1440.0, "h": 60.0, "m": 1.0, "s": 1 / 60}
OURS: Final = ("job_name", "array", "output", "error", "requeue", "open_mode", "signal", "ntasks", "nodes", "wrap")
"""Options of sbatch that are set for every job."""


def parse_options(text: str) -> dict[str, str]:
    """``partition=gpu,account=lab,time=4h`` by name; names are sbatch's own, with ``_`` or ``-``.

    Raises:
        UsageError: when a part is no option, stands twice, or the time is none or too short.
    """
    found: dict[str, str] = {}
    for part in text.split(",") if text else []:
        name, equals, value = (word.strip() for word in part.partition("="))
        name = name.lstrip("-").replace("-", "_")
        if not equals or not re.fullmatch(r"[a-z][a-z_]*", name) or not value or not value.isprintable():
            raise UsageError(f"--slurm {shown(repr(part))} is not of the form option=value, such as partition=gpu")
        if name in OURS:
            raise UsageError(f"--slurm {name}: that is set for every job; leave it out")
        if name in found:
            raise UsageError(f"--slurm {name} stands twice")
        found[name] = value
    found.setdefault("time", DEFAULT_TIME)
    if minutes_of(found["time"]) < SHORTEST:
        raise UsageError(
            f"--slurm time={shown(found['time'])}: give {SHORTEST} minutes or more; a job is told of its end {NOTICE} "
            "seconds before, and has to start first"
        )
    return found


def minutes_of(text: str) -> int:
    """Minutes of a time limit: ``4h``, ``90m``, ``1d12h``, or as Slurm writes it (``90``, ``1:30:00``, ``1-12``).

    Raises:
        UsageError: when it is none.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        minutes = sum(float(number) * UNITS[unit] for number, unit in parts)
    elif (slurm := re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)) is not None:
        days, *rest = (int(group) if group else 0 for group in slurm.groups())
        colons = text.count(":")
        # Without days: minutes, minutes:seconds, hours:minutes:seconds; with days: hours first.
        hours_first = slurm.group(1) is not None or colons == 2
        first, second = rest[0], rest[1]
        minutes = days * 1440 + (first * 60 + second if hours_first else first)
    else:
        raise UsageError(f"--slurm time={shown(text)} is no time; give it as 4h, 90m or 1:30:00")
    return int(minutes)


def cores_of(options: Mapping[str, str], needs: Needs) -> int:
    """The cores of a job of some needs.

    Raises:
        UsageError: when an option says another number that is none.
    """
    given = options.get("cpus_per_task", str(max(needs.cpus, needs.processes)))
    if not given.isdecimal():
        raise UsageError(f"--slurm cpus-per-task={shown(given)} is no number of cores")
    return int(given)


def settings_of(options: Mapping[str, str], needs: Needs) -> dict[str, Any]:
    """The parameters of submitit for a job of some needs; what is given goes before what follows from the needs."""
    mine = {name: value for name, value in options.items() if name != "time"}
    found: dict[str, Any] = {"time": minutes_of(options["time"]), "ntasks_per_node": 1, "nodes": 1}
    found["signal_delay_s"] = NOTICE
    found["cpus_per_task"] = cores_of(options, needs)
    mine.pop("cpus_per_task", None)
    if needs.gpus and not any(name.startswith("gpus") or name == "gres" for name in mine):
        found["gpus_per_node"] = needs.gpus
    if needs.memory and not any(name.startswith("mem") for name in mine):
        found["mem"] = f"{needs.memory * 1000:.0f}M"
    for name in ("partition", "account", "qos", "constraint", "gres", "mem", "exclude", "nodelist", "gpus_per_node"):
        if name in mine:
            found[name] = mine.pop(name)
    found["additional_parameters"] = {name.replace("_", "-"): value for name, value in mine.items()}
    found["additional_parameters"] |= {"requeue": True, "open-mode": "append"}
    return found


def _given(value: str | bool) -> str:
    """The value of an option in a script; Slurm's own %A is no word to quote."""
    if isinstance(value, bool):
        return ""
    return "=" + (shlex.quote(value) if set(value) & {" ", "\t"} else value)


def script(options: Mapping[str, str], command: str, tasks: int, needs: Needs) -> str:
    """An sbatch script of an array whose tasks all run one command and share its cells by leases."""
    settings = settings_of(options, needs)
    del settings["signal_delay_s"]
    more = settings.pop("additional_parameters")
    minutes = settings.pop("time")
    lines = {"job-name": "iml-bench", "array": f"0-{tasks - 1}", "time": str(minutes), **more}
    lines |= {name.replace("_", "-"): str(value) for name, value in settings.items()}
    # The driver ends as Ctrl-C ends it, lets go of its cells, and is queued again.
    lines |= {"signal": "B:TERM@60", "output": "iml-bench-%A_%a.log"}
    told = "\n".join(f"#SBATCH --{name}" + _given(value) for name, value in lines.items())
    return (
        f"#!/bin/bash\n{told}\n\n"
        "# Every task runs the same command on the same folder and takes the cells that nobody has.\n"
        f"exec {command}\n"
    )
