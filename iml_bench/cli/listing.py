"""``iml-bench tasks`` and ``iml-bench models``: what can be named."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from iml_bench.cli.options import Json, print_json
from iml_bench.cli.tables import out_console
from iml_bench.errors import UsageError
from iml_bench.library.listing import model_rows, task_rows
from iml_bench.spec import SCHEMES

Modality = Annotated[str | None, typer.Option("--modality", help="Only vision or only text.")]


def tasks(modality: Modality = None, as_json: Json = False) -> None:
    """List the tasks: shipped, from installed packages, and the broken ones with the reason."""
    _print(_of(modality, task_rows()), ("name", "version", "modality", "model", "description"), as_json)


MODELS_HELP = "List the model entries; --model also takes a file or a source.\n\n\b\nSources:\n" + "\n".join(
    f"  {scheme + ':':<12}{meaning}" for scheme, meaning in SCHEMES.items()
)


models_app = typer.Typer(help=MODELS_HELP, invoke_without_command=True, no_args_is_help=False, rich_markup_mode=None)


@models_app.callback()
def models(context: typer.Context, modality: Modality = None, as_json: Json = False) -> None:
    if context.invoked_subcommand is not None:
        if modality is not None or as_json:
            raise UsageError(f"--modality and --json list models; leave them out before {context.invoked_subcommand}")
        return
    _print(_of(modality, model_rows()), ("name", "modality", "family", "source", "notes"), as_json)


@models_app.command("add")
def add_model(
    name: Annotated[str, typer.Argument(help="Of the entry and its file; small letters, digits, . _ -")],
    source: Annotated[str, typer.Option("--source", help="What is loaded; iml-bench models --help has the schemes.")],
    family: Annotated[str, typer.Option("--family", help="Models of one family differ in size only.")],
    architecture: Annotated[str | None, typer.Option("--architecture", help="Default: as the source has it.")] = None,
    modality: Annotated[str | None, typer.Option("--modality", help="vision, text or any.")] = None,
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="task, or the model's own.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="What its makers call its size, e.g. 160M.")] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Of the weights.")] = None,
    notes: Annotated[str | None, typer.Option("--notes", help="What the model is, in a line.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder. Default: leaderboard/models here.")] = None,
) -> None:
    """Write and validate the entry of a model.

    \b
    Examples:
      iml-bench models add convnet-xl --source 'ref:convnet?channels=64' --family convnet
      iml-bench models add pythia-14m --source hf:EleutherAI/pythia-14m --family pythia --size 14M
    """
    from iml_bench.submit import add_entry

    more = {"architecture": architecture, "modality": modality, "tokenizer": tokenizer}
    path, remarks = add_entry(name, source, family, to, **more, size=size, licence=licence, notes=notes)
    console = out_console()
    for remark in remarks:
        console.print(f"note: {remark}", markup=False, soft_wrap=True)
    console.print(f"written: {path}", markup=False, soft_wrap=True)
    asked = name if to is None else shlex.quote(str(path))
    for command in (f"iml-bench check {asked}", f"iml-bench suite run leaderboard --model {asked}"):
        console.print(f"next:    {command}", markup=False, soft_wrap=True)


def _of(modality: str | None, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if modality not in (None, "vision", "text"):
        raise UsageError(f"--modality {modality!r} is neither vision nor text")
    return [row for row in rows if modality is None or row["modality"] in (modality, "any", None)]


def _print(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = [escape(str(row.get(column, ""))) for column in columns]
        if row["problem"]:
            cells[-1] = f"[red]broken: {escape(row['problem'])}[/red]"
        table.add_row(*cells)
    out_console().print(table)
