"""``iml-bench probe``: look into cells, those that are done or those of a task and a model."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from iml_bench.board.words import signed
from iml_bench.cli.options import Data, DataDir, Device, Json, Out, Workers, print_json
from iml_bench.cli.outcome import say_failures
from iml_bench.cli.tables import out_console
from iml_bench.errors import UsageError
from iml_bench.extensions import PROBES
from iml_bench.library.options import DEFAULT_OUT, make_runtime
from iml_bench.library.running import carry_out, display_of, planned
from iml_bench.records import Attachment, Store, Stored, WriteError, latest_by_key, read_record
from iml_bench.runtime import Runtime
from iml_bench.spec.look import parse_look

HELP = f"""Look into cells with a probe: its table lies beside each record, and its scores stand in it.

Of records, the weights are those that --keep wrote beside them; with --train a cell is trained again where there are
none. With --task in their place, its cells are run first, or trained again where they are done.

\b
Probes: {", ".join(PROBES.origins)}
(docs/mechanisms.md says what each can and cannot show)

Moments: initial, the training steps of the task (stage1, stage2/fold0, ...), and
curve: every point of the learning curve, with run --curve N.

\b
Examples:
  iml-bench probe alignment --task vision --model mlp-m --seeds 8
  iml-bench run --task vision --keep --out kept
  iml-bench probe losses kept
  iml-bench probe losses@stage2/fold0 kept/mlp-m --json
"""
WANTED = "give records, or folders of them, or --task with --model"


def probe(
    name: Annotated[
        str, typer.Argument(metavar="NAME[?OPTION=VALUE][@MOMENT]", help="Default: after what all branches share.")
    ],
    records: Annotated[
        list[Path] | None, typer.Argument(metavar="[RECORDS...]", help="Records, or folders of them.")
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="Train a cell again where its weights were not kept.")] = False,
    task: Annotated[str | None, typer.Option("--task", help="Instead of records: the cells of this task.")] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="With --task: a name, source or file; repeatable.")
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="With --task: how many, a range 3-7, or a list 1,4.")] = "5",
    out: Out = DEFAULT_OUT,
    workers: Workers = None,
    data: Data = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Look into cells; replaced by ``HELP``."""
    PROBES.get(parse_look(name).name)
    if bool(records) == (task is not None):
        raise UsageError(f"iml-bench probe: {WANTED}")
    if task is not None:
        more: Any = {"out": out, "workers": workers, "data": data, "data_dir": data_dir, "device": device}
        rows, failed = _run(task, model, seeds, more | {"probe": [name]}, as_json=as_json)
    else:
        runtime = make_runtime(device, data_dir=data_dir, data=data.resolve() if data else None)
        rows, failed = _look(name, records or [], runtime, train=train, as_json=as_json), False
    if as_json:
        print_json(rows)
    raise typer.Exit(1 if failed or not all(row["table"] for row in rows) else 0)


def _run(
    task: str, model: list[str] | None, seeds: str, options: Any, *, as_json: bool
) -> tuple[list[dict[str, Any]], bool]:
    """Run the cells of a task with a probe; what it found in each, and whether any has failed."""
    from iml_bench.run.probing import probes_of

    work = planned(task, model, seeds, options)
    display = display_of(work)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # a model's code may print
        results = carry_out(work, display)
    ((what, moment),) = probes_of(work.jobs[0].cell.task, options["probe"])
    rows = []
    for one in results:
        made = [found for found in one.record.attachments if found.name == parse_look(what).name]
        rows += [_row(one, found, as_json=as_json) for found in made if found.moment == moment]
    say_failures(work, display)
    return rows, bool(display.failures)


def _look(name: str, places: list[Path], runtime: Runtime, *, train: bool, as_json: bool) -> list[dict[str, Any]]:
    """Look into records; what was found in each."""
    stored = [one for path in places for one in _records(path) if not one.record.cell.model.is_reference]
    if not stored:
        raise UsageError("there is no record of a trained cell to probe; iml-bench run --keep makes some")
    from iml_bench.run.probing import probe_record

    rows = []
    for one in stored:
        try:
            rows.append(_row(one, probe_record(one, name, runtime, train=train), as_json=as_json))
        except WriteError as error:  # the other records are looked into all the same
            rows.append(_row(one, str(error), as_json=as_json))
    return rows


def _row(one: Stored, made: Attachment | str, *, as_json: bool) -> dict[str, Any]:
    """What was found in a record, or why nothing was; said in a line unless it is to be JSON."""
    table, reason, scores = None, str(made), {}
    if isinstance(made, Attachment):
        table, reason = str(one.path.with_name(made.file)) if made.file else None, made.reason or ""
        scores = made.scores
    if not as_json:
        numbers = [f"{score} {signed(value, 3) if value is not None else '-'}" for score, value in scores.items()]
        said = ", ".join([*numbers, table]) if table else f"no table: {reason}"
        cell = one.record.cell
        out_console().print(f"{escape(cell.model.name)} seed {cell.seed}: {escape(said)}", soft_wrap=True)
    return {"record": str(one.path), "table": table, "reason": reason or None, "scores": scores}


def _records(path: Path) -> list[Stored]:
    if path.is_file():
        return [Stored(path, read_record(path))]
    if not path.is_dir():
        raise UsageError(f"{str(path)!r} is no record and no folder")
    done = latest_by_key([one for one in Store(path).scan()[0] if one.record.status == "done"])
    return list(done.values())
