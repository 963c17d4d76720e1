"""``iml-bench leaderboard build`` and ``serve``: the leaderboard as pages."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated

import typer

from iml_bench.board import leaderboard_tasks
from iml_bench.cli.options import Records, Ruleset
from iml_bench.errors import UsageError
from iml_bench.library import reading as library
from iml_bench.registry import MODELS

Out = Annotated[Path, typer.Option("--out", help="Folder of the page: new, empty, or an earlier page to replace.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")]


def build(out: Out, records: Records = None, ruleset: Ruleset = None) -> None:
    """Build the leaderboard as a folder of pages that works offline: open its index.html.

    \b
    Examples:
      iml-bench leaderboard build --out board
      iml-bench leaderboard build --out board --records iml-results --records leaderboard/results
    """
    from iml_bench.site.assets import check_installed

    check_installed()
    from iml_bench.site.write import check_out, write_site

    check_out(out)
    files = _files(records, ruleset)
    write_site(files, out)
    size = sum(map(len, files.values()))
    sys.stdout.write(f"{len(files)} files, {size / 1e6:.1f} MB: open {out / 'index.html'}\n")


def serve(records: Records = None, ruleset: Ruleset = None, port: Port = 8000) -> None:
    """Build the leaderboard's pages into a temporary folder and serve them to this machine until interrupted.

    \b
    Examples:
      iml-bench leaderboard serve
      iml-bench leaderboard serve --port 0 --records iml-results
    """
    from iml_bench.site.assets import check_installed

    check_installed()
    from iml_bench.site.write import write_site

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "board"
        write_site(_files(records, ruleset), out)
        try:
            server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(out)))
        except OSError as error:
            raise UsageError(f"--port {port} cannot be used: {error.strerror}; 0 takes any that is free") from error
        with server:
            sys.stdout.write(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)\n")
            sys.stdout.flush()
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                sys.stdout.write("\n")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """A line for every request helps nobody here."""


def _files(records: Sequence[Path] | None, ruleset: str | None) -> dict[str, bytes]:
    from iml_bench.site.build import build_site
    from iml_bench.site.shipped import shipped_reports

    stored, folders, problems = library.scan_folders(records)
    for problem in problems:
        sys.stderr.write(f"left out: {problem}\n")
    # On the page a file is named as it lies in its folder; where that lies on this machine is nobody's business.
    left_out = [_within(problem, folders) for problem in problems]
    entries = [listed.spec for listed in MODELS.list() if listed.spec is not None]
    shown = library.board(stored, ruleset)
    return build_site(shown, stored, entries, leaderboard_tasks(), left_out, shipped_reports())


def _within(problem: str, folders: Sequence[Path]) -> str:
    return next((problem.removeprefix(f"{folder}/") for folder in folders if problem.startswith(f"{folder}/")), problem)
