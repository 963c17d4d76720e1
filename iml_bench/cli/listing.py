"""``iml-bench tasks`` and ``iml-bench models``: what can be named."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from iml_bench.cli.options import Json, print_json
from iml_bench.cli.tables import out_console
from iml_bench.errors import UsageError
from iml_bench.registry import MODELS, TASKS, Listed
from iml_bench.spec import SCHEMES

Modality = Annotated[str | None, typer.Option("--modality", help="Only vision or only text.")]


def tasks(modality: Modality = None, as_json: Json = False) -> None:
    """List the tasks: shipped, from installed packages, and the broken ones with the reason."""
    rows = []
    for listed in TASKS.list():
        spec = listed.spec
        row = _row(listed, spec.modality if spec else None)
        row |= {"version": spec.version, "model": spec.model, "description": spec.description} if spec else {}
        rows.append(row)
    _print(_of(modality, rows), ("name", "version", "modality", "model", "description"), as_json)


MODELS_HELP = "List the model entries; --model also takes a file or a source.\n\n\b\nSources:\n" + "\n".join(
    f"  {scheme + ':':<12}{meaning}" for scheme, meaning in SCHEMES.items()
)


def models(modality: Modality = None, as_json: Json = False) -> None:
    rows = []
    for listed in MODELS.list():
        spec = listed.spec
        row = _row(listed, spec.modality if spec else None)
        row |= {"family": spec.family, "source": spec.source, "notes": spec.notes} if spec else {}
        rows.append(row)
    _print(_of(modality, rows), ("name", "modality", "family", "source", "notes"), as_json)


models.__doc__ = MODELS_HELP


def _row(listed: Listed[Any], modality: str | None) -> dict[str, Any]:
    return {"name": listed.name, "modality": modality, "origin": listed.origin, "problem": listed.problem}


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
