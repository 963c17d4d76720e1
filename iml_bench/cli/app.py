"""``iml-bench``: the verbs, and what every error looks like."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.text import Text

from iml_bench import __version__
from iml_bench.cli import check, compare, export, leaderboard, listing, pages, probe, run, show, submit, suite
from iml_bench.errors import UsageError

HELP = """Measure implicit meta-learning: which sources a model learns to believe by ordinary training.

\b
Examples:
  iml-bench run --task vision
  iml-bench run --task vision --model convnet-s --model timm:test_convnext2 --seeds 3
  iml-bench compare mlp-m convnet-s
"""

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.command("run")(run.run)
app.command("tasks")(listing.tasks)
app.command("show")(show.show)
app.command("compare")(compare.compare)
app.command("check")(check.check)
app.command("probe", help=probe.HELP)(probe.probe)
app.command("submit")(submit.submit)
leaderboard.app.command("build")(pages.build)
leaderboard.app.command("serve")(pages.serve)
leaderboard.app.command("export")(export.export)
app.add_typer(leaderboard.app, name="leaderboard")
app.add_typer(listing.models_app, name="models")
app.add_typer(suite.app, name="suite")


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"iml-bench {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def main() -> None:
    """The console script: usage errors are one sentence on stderr, and exit 2."""
    try:
        app()
    except UsageError as error:
        message = Text.assemble(("error: ", "bold red"), str(error))
        Console(stderr=True, soft_wrap=True, highlight=False).print(message)
        sys.exit(2)


if __name__ == "__main__":
    main()
