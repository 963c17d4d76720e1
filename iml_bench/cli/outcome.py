"""What ``run`` and ``suite run`` show: how it goes, the scores, what failed, and a command that goes on from there."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from iml_bench.board import Row, build_rows, view
from iml_bench.cli.options import print_json
from iml_bench.cli.tables import out_console, print_rows
from iml_bench.errors import UsageError
from iml_bench.library.options import DEFAULT_OUT
from iml_bench.library.reading import compare
from iml_bench.library.results import Results
from iml_bench.library.running import Work, carry_out, display_of
from iml_bench.protocols import protocol_of
from iml_bench.records import Store, Stored
from iml_bench.run.command import command_of
from iml_bench.run.plan import plan
from iml_bench.runtime import is_first, launched

if TYPE_CHECKING:
    from iml_bench.run.display import RunDisplay

Show = Callable[[Sequence[Row], Results, Console], None]
"""Prints rows and the records that they are of."""
ALL_DONE, SOME_FAILED = 0, 1
CONTROL_SEEDS = 8


def carry_out_and_show(work: Work, asked: Mapping[str, Any] | None, *, as_json: bool, show: Show | None = None) -> int:
    """Run what is not done and print the rows of all of it; returns the exit status.

    Args:
        work: what is run.
        asked: the options that change no answer, as ``command_of`` takes them; None: they cannot be given to ``run``.
        as_json: print rows as JSON and nothing else.
        show: prints the outcomes in place of one table for each task as it was run.
    """
    display = display_of(work)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # a model's code may print
        results = carry_out(work, display)
    if display.detached is not None:
        waits = shlex.join(word for word in sys.argv[1:] if word != "--detach")
        sys.stderr.write(
            f"handed over: {display.detached} go on without this command. To see how they are, or to wait for them:\n"
            f"  {_command('suite', 'status', '--out', str(work.out))}\n  {_program()} {waits}\n"
        )
        return ALL_DONE
    if is_first():
        _say_not_attached(work, results)
        _print(work, results, asked, as_json=as_json, show=show)
    say_failures(work, display)
    return SOME_FAILED if display.failures else ALL_DONE


def say_failures(work: Work, display: RunDisplay) -> None:
    """Say which cells have failed, each with the reason, and how to try them again."""
    if is_first():
        for index, message in display.failures.items():
            sys.stderr.write(f"failed: {Store(work.out).path_of(work.jobs[index].cell)}: {message}\n")
        if display.failures:
            sys.stderr.write(f"to try the failed cells again:\n  {this_command()}\n")
    else:  # the first has a record of what it met itself, which may follow from what happened here
        for message in display.failures.values():
            sys.stderr.write(f"process {launched().rank}: failed: {message}\n")


def _say_not_attached(work: Work, results: Sequence[Stored]) -> None:
    """Say of how many cells there are no weights though ``--keep`` asks for them: they were done before."""
    records = [one.record for one in results if one.record.status == "done" and not one.record.cell.model.is_reference]
    lacking = sum(all(one.kind != "weights" for one in record.attachments) for record in records)
    if work.runtime.keep and lacking:
        sys.stderr.write(f"{lacking} of the cells were done before, without --keep: give another --out\n")


def _print(
    work: Work,
    results: Results,
    asked: Mapping[str, Any] | None,
    *,
    as_json: bool,
    show: Show | None,
) -> None:
    rows = _rows(work, results)
    if as_json:
        print_json(rows)
        return
    console = out_console()
    if show is None:
        print_rows(rows, console)
    else:
        show(rows, results, console)
    console.print(f"records: {work.out}", markup=False)
    step = next_step(work, results, asked)
    if step is not None:
        what, command = step
        console.print(f"next:    {what}\n  {command}", markup=False, soft_wrap=True)


def _rows(work: Work, results: Results) -> list[Row]:
    """The rows of some results; tuned ones stand together where the sweeps that chose them lie in the same folder."""
    if work.ruleset == "shared":
        return build_rows(results)
    seen, made = view(Store(work.out.absolute()).scan()[0], "tuned"), {one.path for one in results}
    tuned = [one for one in seen.stored if one.path in made]
    others = made - {one.path for one in tuned}
    return seen.marked(build_rows(tuned)) + build_rows([one for one in results if one.path in others])


def next_step(work: Work, results: Sequence[Stored], asked: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """What to do next, in words, and the command for it, to paste; None where no trained model is done.

    Of several models two are compared. Of one the null control is run: the same models with the same options and in
    the same folder, and with tags that say nothing.
    """
    done = [one for one in results if one.record.status == "done" and not one.record.cell.model.is_reference]
    if not done:
        return None
    smoke, task = done[0].record.smoke, done[0].record.cell.task
    folder = [] if work.out == DEFAULT_OUT else ["--records", str(work.out)]
    names = list(dict.fromkeys(one.record.cell.model.name for one in done))[:2]
    if len(names) > 1 and not smoke and _can_compare(names, work.out):
        return "compare two of the models, seed by seed", _command("compare", *names, *folder)
    if work.request is not None and asked is not None and (control := protocol_of(task).control(task)):
        overrides = {**work.request.overrides, **control}
        request = replace(work.request, overrides=overrides, seeds=tuple(range(CONTROL_SEEDS)))
        try:
            plan([request], work.out)
        except UsageError:
            pass  # of some tasks the number of groups does not allow it
        else:
            return "the null control, which must read zero", command_of(request, asked, _program())
    if smoke:
        return "look into a record", _command("show", str(done[0].path))
    return "see it among the others", _command("leaderboard", *folder)


def _can_compare(names: Sequence[str], out: Path) -> bool:
    try:
        compare(*names, records=Store(out).scan()[0])
    except UsageError:
        return False
    return True


def _program() -> str:
    as_module = Path(sys.argv[0]).parts[-2:] == ("iml_bench", "__main__.py")
    return "python -m iml_bench" if as_module else "iml-bench"


def _command(*words: str) -> str:
    return f"{_program()} {shlex.join(words)}"


def this_command() -> str:
    """The command as the user gave it, to paste."""
    return _command(*sys.argv[1:])
