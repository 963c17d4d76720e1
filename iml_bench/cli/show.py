"""``iml-bench show``: a task (in words or as a picture), a model's entry or a record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from iml_bench.board import build_rows
from iml_bench.board.words import amount
from iml_bench.cli.options import Data, DataDir, Json, print_json, task_or_model
from iml_bench.cli.tables import out_console, print_rows
from iml_bench.errors import UsageError
from iml_bench.library.options import make_runtime
from iml_bench.protocols import measures_of
from iml_bench.records import Stored, read_record, scores_of
from iml_bench.registry import TASKS
from iml_bench.sources import find_model
from iml_bench.spec import CurvePoint
from iml_bench.spec.written import dump_yaml


def show(
    what: Annotated[str, typer.Argument(metavar="TASK|MODEL|RECORD", help="A name, a file, or a record's .json.")],
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw the task's examples into this .png; texts into a .txt, too.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Whose examples are drawn.")] = 0,
    data_dir: DataDir = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show a task's definition, some of its examples as a picture, a model's entry, or what a record says.

    \b
    Examples:
      iml-bench show vision
      iml-bench show vision --picture vision.png
      iml-bench show mlp-m
      iml-bench show iml-results/mlp-m/vision@1-....json
    """
    is_record = what.endswith(".json") or (Path(what).is_file() and not what.endswith((".yaml", ".yml")))
    kind = "record" if is_record else task_or_model(what)
    if picture is not None and kind != "task":
        raise UsageError(f"--picture draws a task's examples, not a {kind}")
    if is_record:
        _show_record(Path(what), as_json)
        return
    if kind == "model":
        _show_spec(find_model(what).model_dump(mode="json", exclude_defaults=True), as_json)
        return
    task = TASKS.get(what)
    if picture is not None:
        from iml_bench.run.picture import draw_task

        draw_task(task, seed, picture, make_runtime("cpu", data_dir=data_dir, data=data))
        if not as_json:
            out_console().print(f"drawn: {picture}", markup=False)
    if as_json or picture is None:
        _show_spec(task.model_dump(mode="json"), as_json)


def _show_spec(plain: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json([plain])
    else:
        out_console().print(dump_yaml(plain, sort_keys=False, width=100), markup=False, end="")


def _show_record(path: Path, as_json: bool) -> None:
    stored = Stored(path, read_record(path))
    rows = build_rows([stored])
    if as_json:
        print_json(rows)
        return
    console = out_console()
    print_rows(rows, console)
    _details(stored, console)


def _point(point: CurvePoint) -> str:
    shown = ", ".join(f"{name} {value:.3f}" for name, value in point.exact_match.items())
    return f"{point.phase} fold {point.fold} step {point.step}: {shown}"


def _details(stored: Stored, console: Console) -> None:
    record = stored.record
    made, timing = record.provenance, record.timing
    commit = f"{made.commit[:12]}{' (with uncommitted changes)' if made.dirty else ''}" if made.commit else "unknown"
    lines = [
        f"status      {record.status}{', smoke' if record.smoke else ''}",
        f"key         {record.key}",
        f"data        {record.data_digest}",
        f"made by     iml-bench {made.iml_bench}, commit {commit}, torch {made.libraries.get('torch')}",
        f"started     {timing.started}",
        f"machine     {made.device}, {made.processor}, {made.processes} process of {made.threads} thread",
        "seconds     " + ", ".join(f"{part} {seconds:.1f}" for part, seconds in timing.seconds.items()),
    ]
    for stage in record.stages:
        loss = "-" if stage.final_loss is None else f"{stage.final_loss:.4f}"
        lines.append(
            f"{stage.name:<12}{stage.steps} steps, last loss {loss}, "
            f"micro-batch {stage.micro_batch} x {stage.accumulation}"
        )
    if record.scores:
        scores = scores_of(stored)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.exact_match.items())
        lines.append(f"exact match {shown}")
        lines += [f"curve       {_point(point)}" for point in record.curve]
        for measure in measures_of(record.cell.task):
            why = scores.reasons.get(measure.name)
            value = amount(scores.get(measure.name), measure, 3)
            lines.append(f"{measure.name:<22}{value}, {measure.label}{f': {why}' if why else ''}")
    for line in lines:
        console.print(escape(line), soft_wrap=True)
    if record.error:
        console.print(escape(f"error       {record.error.kind}: {record.error.message}"), style="red", soft_wrap=True)
        console.print(escape(record.error.traceback), style="dim", soft_wrap=True)
