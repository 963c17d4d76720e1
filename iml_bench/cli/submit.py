"""``iml-bench submit``: collect a model's records for the leaderboard, and check what others hand in."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from iml_bench.board.words import signed
from iml_bench.cli.dryrun import duration
from iml_bench.cli.options import Data, DataDir, Device, Json, print_json
from iml_bench.cli.tables import out_console
from iml_bench.errors import UsageError
from iml_bench.library.options import DEFAULT_OUT, make_runtime
from iml_bench.paths import data_root
from iml_bench.records import Store, Stored

if TYPE_CHECKING:
    from iml_bench.runtime import Runtime
    from iml_bench.submit import CellRerun, Change, Check, Collected, Inflation, RowPlan, RowRerun

SHOWN = 20
"""Failures of a check that are printed; --json has all."""


def submit(
    name: Annotated[str | None, typer.Argument(metavar="MODEL", help="A registered model.")] = None,
    check: Annotated[
        Path | None, typer.Option("--check", help="Check a record, an entry, or a folder of them; writes nothing.")
    ] = None,
    records: Annotated[
        list[Path] | None, typer.Option("--records", help="Where the model's records are; repeatable.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="The leaderboard's results. Default: those of this checkout.")
    ] = None,
    rerun: Annotated[
        int,
        typer.Option("--rerun", min=0, help="With --check: run N cells of each row again, and fresh seeds."),
    ] = 0,
    rerun_seed: Annotated[
        int | None, typer.Option("--rerun-seed", min=0, help="Which cells are chosen; drawn where it is not given.")
    ] = None,
    data: Data = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Collect a model's records for the leaderboard and check them, or check what somebody hands in.

    \b
    Examples:
      iml-bench submit my-model
      iml-bench submit --check leaderboard/results/my-model
      iml-bench submit --check leaderboard/results/my-model --rerun 5
    """
    if (name is None) == (check is None):
        raise UsageError("name a model to submit, or give --check PATH")
    runtime = make_runtime(device, data_dir=data_dir, data=data.resolve() if data else None)
    if check is not None:
        if records:
            raise UsageError("--check PATH says what is checked; leave --records out")
        raise typer.Exit(_check(check, to, runtime, (rerun, rerun_seed), as_json=as_json))
    if rerun or rerun_seed is not None:
        raise UsageError("--rerun goes with --check PATH; a model's own records need not be run again")
    assert name is not None
    raise typer.Exit(_collect(name, records, to, runtime, as_json=as_json))


def _collect(name: str, records: list[Path] | None, to: Path | None, runtime: Runtime, *, as_json: bool) -> int:
    from iml_bench.submit import board_difference, collect, own_folder, registered

    entry = registered(name)
    target = to or own_folder("results")
    stored = _read(records or [DEFAULT_OUT], name)
    found = collect(entry, stored, target, runtime, _progress)
    changes = board_difference(found.before, found.after)
    if as_json:
        print_json([{**_plain(found), "difference": [change.model_dump(mode="json") for change in changes]}])
        return 0 if found.passed else 1
    _print_checks(found.checks)
    for text in (*found.remarks, *(f"left out: {text}" for text in found.left_out)):
        out_console().print(f"note  {escape(text)}", soft_wrap=True)
    there = f", {found.there} there already" if found.there else ""
    if found.passed:
        _print_difference(changes)
        out_console().print(f"{len(found.written)} records written into {target}{there}", markup=False, soft_wrap=True)
    else:
        out_console().print(f"nothing was written; {len(found.written)} records wait{there}", markup=False)
    return 0 if found.passed else 1


def _plain(found: Collected) -> dict[str, Any]:
    return {
        "passed": found.passed,
        "written": [str(path) for path in found.written] if found.passed else [],
        "there_already": found.there,
        "left_out": list(found.left_out),
        "remarks": list(found.remarks),
        "checks": [_plain_check(check) for check in found.checks],
    }


def _plain_check(check: Check) -> dict[str, Any]:
    return {**check._asdict(), "failures": [failure._asdict() for failure in check.failures]}


def _check(path: Path, to: Path | None, runtime: Runtime, again: tuple[int, int | None], *, as_json: bool) -> int:
    from iml_bench.submit import board_difference, check_submission, find_submission

    submission = find_submission(path)
    board = _board(to)
    checks = check_submission(submission, board, runtime, _progress)
    passed = all(check.passed for check in checks)
    mine = {stored.path.resolve() for stored in submission.stored}
    before = [stored for stored in board if stored.path.resolve() not in mine]
    changes = board_difference(before, [*before, *submission.stored]) if passed and before else []
    rows: list[RowRerun] = []
    if not as_json:
        _print_checks(checks)
        _print_difference(changes)
    if again[0] and passed:
        rows = _again(submission.stored, again, runtime)
        passed = all(row.passed for row in rows)
    elif again[0]:
        sys.stderr.write("nothing was run again, since a check failed\n")
    if as_json:
        plain = {
            "passed": passed,
            "records": len(submission.stored),
            "entries": len(submission.entries),
            "checks": [_plain_check(check) for check in checks],
            "difference": [change.model_dump(mode="json") for change in changes],
            "rerun": [row.model_dump(mode="json") for row in rows],
        }
        print_json([plain])
        return 0 if passed else 1
    for row in rows:
        _print_row(row)
    read = len(submission.stored) + len(submission.unread)
    out_console().print(f"{read} records and {len(submission.entries)} entries checked", markup=False)
    return 0 if passed else 1


def _again(stored: Sequence[Stored], again: tuple[int, int | None], runtime: Runtime) -> list[RowRerun]:
    from iml_bench.run.executors.base import default_workers
    from iml_bench.submit import plan_rerun, rerun

    number, seed = again
    seed = secrets.randbelow(2**32) if seed is None else seed
    plans = plan_rerun(stored, number, seed, runtime)
    for plan in plans:
        sys.stderr.write(f"{_planned(plan, default_workers(runtime))}\n")
    sys.stderr.write(f"the cells are chosen by --rerun-seed {seed}, and the fresh seeds by what was submitted\n")
    return rerun(plans, runtime)


def _planned(plan: RowPlan, workers: int) -> str:
    """What is about to be run, and how long it will take."""

    def lasting(runs: int) -> str:
        return duration(runs * plan.seconds / workers) if plan.seconds is not None else "an unknown time"

    surely, perhaps = plan.runs
    fresh = ", ".join(map(str, plan.fresh))
    return (
        f"running {len(plan.chosen)} of {len(plan.row)} cells of {plan.label} again, and the fresh seeds {fresh}: "
        f"about {lasting(surely)}, as long as the records say; where they were made elsewhere, {perhaps} runs more, "
        f"{lasting(perhaps)}, to measure what rounding does"
    )


def _read(folders: Iterable[Path], name: str) -> list[Stored]:
    stored: list[Stored] = []
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"--records {str(folder)!r} is not a folder; iml-bench suite run leaderboard --model {name} makes "
                f"{DEFAULT_OUT}"
            )
        found, problems = Store(folder).scan()
        stored += found
        for problem in problems:
            sys.stderr.write(f"left out: {problem}\n")
    return stored


def _board(to: Path | None) -> list[Stored]:
    if to is not None and not to.is_dir():
        raise UsageError(f"--to {str(to)!r} is not a folder")
    return Store(to or data_root() / "leaderboard" / "results").scan()[0]


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {of} records checked" + ("\r\033[K" if done == of else ""))


def _print_checks(checks: Sequence[Check]) -> None:
    console = out_console()
    for check in checks:
        mark = "[green]pass[/green]" if check.passed else "[red]FAIL[/red]"
        console.print(f"{mark}  {escape(check.name)}", soft_wrap=True)
        for failure in check.failures[:SHOWN]:
            where = f"{failure.file}: " if failure.file else ""
            console.print(f"        {escape(where + failure.problem)}", soft_wrap=True)
        if len(check.failures) > SHOWN:
            console.print(f"        and {len(check.failures) - SHOWN} more (--json has all)")
        for note in check.notes:
            console.print(f"        note: {escape(note)}", soft_wrap=True)


def _print_difference(changes: Sequence[Change]) -> None:
    if not changes:
        return
    measure = " / ".join(dict.fromkeys(change.measure for change in changes))
    table = Table(title="the difference to the leaderboard", title_justify="left", title_style="bold", box=None)
    for column in ("", "task", "model", "seeds", measure, "rank"):
        table.add_column(column, overflow="fold")
    for change in changes:
        seeds = [str(len(change.seeds_before)), str(len(change.seeds_after))]
        scores = [signed(change.score_before), signed(change.score_after)]
        ranks = ["-" if one is None else f"{one.low}-{one.high}" for one in (change.rank_before, change.rank_after)]
        table.add_row(
            change.what,
            escape(change.label),
            escape(change.model),
            *(_arrow(*pair) for pair in (seeds, scores, ranks)),
        )
    out_console().print(table)


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"


def _print_row(row: RowRerun) -> None:
    console = out_console()
    mark = "[green]pass[/green]" if row.passed else "[red]FAIL[/red]"
    head = f"{len(row.cells)} of {len(row.seeds)} cells of {row.model} on {row.task} run again"
    console.print(f"{mark}  {escape(head)}", soft_wrap=True)
    for cell in row.cells:
        console.print(f"        seed {cell.seed} ({escape(_said(cell, row.measure))}", soft_wrap=True)
    if row.rounding is not None:
        moved = f"rounding alone moves {row.measure} by {row.rounding:.3f} (standard deviation, measured here"
        console.print(f"        {escape(moved)} with {row.rounding_df} degrees of freedom)", soft_wrap=True)
    fresh = f"fresh seeds {', '.join(map(str, row.fresh_seeds))}"
    for name, what, test in (
        ("same_cells", "the same cells", row.same_cells),
        ("other_seeds", fresh, row.other_seeds),
    ):
        said = _tested(test, row.measure) if test is not None else f"not tested, since {row.reasons[name]}"
        console.print(f"        against {escape(f'{what}: {said}')}", soft_wrap=True)


def _said(cell: CellRerun, measure: str) -> str:
    where = f"other {', '.join(cell.elsewhere)}" if cell.elsewhere else "same code and machine"
    said = "every outcome the same, bit for bit"
    if cell.largest_gap is None or (cell.problem is not None and cell.elsewhere):
        return f"{where}): {cell.problem}"
    if not cell.identical:
        said = (
            f"exact match the same for {cell.equal_matches:.1%}, log-likelihoods within {cell.largest_gap:.2g} nats, "
            f"{measure} {signed(cell.score_before, 3)} before and {signed(cell.score_after, 3)} now"
        )
    return f"{where}): {said}" + (f"; {cell.problem}" if cell.problem else "")


def _tested(test: Inflation, measure: str) -> str:
    verdict = "too high" if test.found else "not too high"
    return (
        f"submitted minus run here {signed(test.mean, 3)}, standard error {test.error:.3f}, p {test.p:.2g}: {verdict}; "
        f"{measure} raised by {test.least:.3f} in every cell would be found in {test.power:.0%} of such checks, and "
        f"an honest one is taken for raised in {test.level:.0%}"
    )
