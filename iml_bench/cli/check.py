"""``iml-bench check``: a short version of everything, pass or fail for each step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from iml_bench.cli.options import Data, DataDir, Device, Json, print_json
from iml_bench.cli.tables import out_console
from iml_bench.errors import UsageError, shown, unknown
from iml_bench.library.options import make_runtime
from iml_bench.registry import MODELS, TASKS, kind_of
from iml_bench.sources.find import is_source


def check(
    name: Annotated[str, typer.Argument(metavar="MODEL|TASK", help="A name, a source, or a file.")],
    task: Annotated[str | None, typer.Option("--task", help="For a model: the task to check it on.")] = None,
    data: Data = None,
    data_dir: DataDir = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Put a model or a task through a 30-second version of everything and say what passed.

    \b
    Examples:
      iml-bench check vision
      iml-bench check timm:resnet18
      iml-bench check my-model.yaml --task text
    """
    runtime = make_runtime(device, data_dir=data_dir, data=data)
    kind = _kind(name)
    from iml_bench.run import checks

    steps = checks.check_task(name, runtime) if kind == "task" else checks.check_model(name, task, runtime)
    results = []
    for step in steps:
        results.append(step)
        if not as_json:
            mark = "[green]pass[/green]" if step.passed else "[red]FAIL[/red]"
            out_console().print(f"{mark}  {escape(step.name):<44} {escape(step.detail)}")
    if as_json:
        print_json([step._asdict() for step in results])
    raise typer.Exit(0 if all(step.passed for step in results) else 1)


def _kind(name: str) -> str:
    if name in TASKS.origins:
        return "task"
    if name in MODELS.origins or is_source(name):
        return "model"
    path = Path(name)
    if path.is_file():
        return kind_of(path, TASKS, MODELS).kind
    if path.is_dir():
        raise UsageError(f"{shown(repr(name), 300)} is a folder, and a task or a model is a file")
    if path.suffix in (".yaml", ".yml"):
        raise UsageError(f"there is no file {shown(repr(name), 300)} (iml-bench tasks and iml-bench models list names)")
    known = [*TASKS.origins, *MODELS.origins]
    raise unknown("task or model", name, known, "iml-bench tasks and iml-bench models")
