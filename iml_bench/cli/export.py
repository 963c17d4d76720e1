"""``iml-bench leaderboard export``: the board as data, figures and metadata for model cards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from iml_bench.board import Board, data_files, model_index
from iml_bench.cli.options import Records, Ruleset, load_records
from iml_bench.library import reading as library

Out = Annotated[Path, typer.Option("--out", help="Folder of the files: new, empty, or an earlier export to replace.")]


def export(out: Out, records: Records = None, ruleset: Ruleset = None) -> None:
    """Write the board as CSV, Parquet and JSON, its figures as SVG and PNG, and a model-index for every model.

    \b
    Examples:
      iml-bench leaderboard export --out export
      iml-bench leaderboard export --out export --records iml-results
    """
    from iml_bench.site.assets import check_installed

    check_installed()
    from iml_bench.site.figures import draw
    from iml_bench.site.write import check_out, write_site

    check_out(out)
    stored, _ = load_records(records)
    board = library.board(stored, ruleset)
    figures = {f"figures/{name}": content for name, content in draw(board.rows).items()}
    files = {**data_files(board), **figures, **_cards(board)}
    write_site(files, out)
    sys.stdout.write(f"{len(files)} files in {out}\n")


def _cards(board: Board) -> dict[str, bytes]:
    from iml_bench.site.names import unique_slugs

    models = {row.model_key: row.model for row in board.rows if not row.reference}
    slugs = unique_slugs(models)
    return {
        f"model-index/{slugs[key]}.yaml": model_index([row for row in board.rows if row.model_key == key]).encode()
        for key in models
    }
