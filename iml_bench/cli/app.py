"""``iml-bench``: the verbs, and what every error looks like."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import typer
from rich.console import Console
from rich.text import Text

from iml_bench import __version__
from iml_bench.cli import (
    check,
    compare,
    export,
    leaderboard,
    listing,
    pages,
    plan,
    probe,
    run,
    show,
    submit,
    suite,
    tune,
)
from iml_bench.cli.launch import may_speak
from iml_bench.cli.outcome import this_command
from iml_bench.errors import UsageError, shown
from iml_bench.runtime import is_first
from iml_bench.system import READ_NO_MORE, Signals, lasting_streams, lost_output

HELP = """Measure implicit meta-learning: which sources a model learns to believe by ordinary training.

\b
Examples:
  iml-bench run --task vision
  iml-bench run --task vision --model convnet-s --model timm:test_convnext2 --seeds 3
  iml-bench compare mlp-m convnet-s
"""

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.command("run")(run.run)
app.command("tune")(tune.tune)
app.command("tasks")(listing.tasks)
app.command("show")(show.show)
app.command("compare")(compare.compare)
app.command("plan")(plan.plan)
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
    """The console script: usage errors are one sentence on stderr, and exit 2; see ``_status`` for the other ways."""
    with lasting_streams():
        status = _status()
        lost = lost_output()
        if isinstance(lost, BrokenPipeError):
            status = status or READ_NO_MORE
        elif lost is not None:
            status = status or 1
            sys.stderr.write(f"error: the output could not be written: {lost.strerror}\n")
    sys.exit(status)


def _status() -> int:
    """Carry the command out; its exit status, which is 128 + N where signal N ended it."""
    with Signals(_say_interrupted) as signals:
        try:
            _check_words(sys.argv[1:])
            app()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except KeyboardInterrupt:
            status = 1
        except UsageError as error:
            status = 2
            if may_speak():
                message = Text.assemble(("error: ", "bold red"), str(error))
                Console(stderr=True, soft_wrap=True, highlight=False).print(message)
        else:
            status = 0
        if signals.heard is None or status == 0:
            return status
        _say_interrupted()
        return 128 + signals.heard


def _check_words(words: Sequence[str]) -> None:
    """No library but Python's own can open a file whose name is bytes that are no text.

    Raises:
        UsageError: when one of the words is of that kind.
    """
    for word in words:
        if not word.isascii() and any("\ud800" <= sign <= "\udfff" for sign in word):
            raise UsageError(
                f"{shown(repr(os.fsencode(word))[1:])} holds bytes that are no text in {sys.getfilesystemencoding()}; "
                "give the file or folder another name, or set PYTHONUTF8=1 where it is UTF-8"
            )


def _say_interrupted() -> None:
    """Say that a signal ended the command; runs go on where they were."""
    runs = sys.argv[1:2] in (["run"], ["tune"]) or sys.argv[1:3] == ["suite", "run"]
    with suppress(UsageError):  # variables that contradict one another
        if is_first():
            more = f"; what is done is kept. To continue:\n  {this_command()}" if runs else ""
            sys.stderr.write(f"interrupted{more}\n")


if __name__ == "__main__":
    main()
