"""``iml-bench check``: a short version of everything, pass or fail for each step."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from iml_bench.cli.options import Data, DataDir, Device, Json, print_json, task_or_model
from iml_bench.cli.tables import out_console
from iml_bench.library.options import make_runtime


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
    kind = task_or_model(name)
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
