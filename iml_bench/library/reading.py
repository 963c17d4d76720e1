"""``iml_bench.read``, ``board``, ``compare`` and ``score``: what records come to; nothing here imports torch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from iml_bench.board import (
    Board,
    Versus,
    build_board,
    build_rows,
    compare_models,
    first_labels,
    leaderboard_tasks,
    ranked,
    view,
)
from iml_bench.board.planning import Plan, plan_row, row_named
from iml_bench.board.rows import Row
from iml_bench.errors import UsageError, shown
from iml_bench.library.options import DEFAULT_OUT, AnyPath
from iml_bench.library.results import Results
from iml_bench.paths import data_root
from iml_bench.protocols import ITEM_TYPES, Scores, measure_of, score_items
from iml_bench.records import Store, Stored, columns_of, read_items, read_record
from iml_bench.registry import MODELS, TASKS
from iml_bench.spec import model_key

if TYPE_CHECKING:
    import polars as pl

Records = Results | Sequence[Stored] | AnyPath | Sequence[AnyPath] | None
"""Records that were read, or the folder or folders that they are in; None: ``iml-results`` here where there is one, and
the shipped results otherwise."""


def read(folders: AnyPath | Sequence[AnyPath] | None = None) -> Results:
    """The records below a folder, or several, as ``.cells`` and ``.items``.

    Args:
        folders: None: ``iml-results`` here where there is one, and the shipped results otherwise.

    Returns:
        A sequence of records; files that are none are warned about and named in ``.problems``.

    Raises:
        UsageError: when a folder does not exist.
    """
    stored, _, problems = scan_folders(folders)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        warnings.warn(f"left out: {problems[0]}{more}", stacklevel=2)
    return Results(stored, problems)


def scan_folders(
    folders: AnyPath | Sequence[AnyPath] | None,
) -> tuple[list[Stored], list[Path], list[str]]:
    """All records of some folders, the folders, and a sentence for every file that is no record.

    Raises:
        UsageError: when a folder that was asked for does not exist.
    """
    if not folders:
        shipped = data_root() / "leaderboard" / "results"
        folders = DEFAULT_OUT if DEFAULT_OUT.is_dir() else shipped
    asked = [Path(folders)] if isinstance(folders, str | PathLike) else [Path(folder) for folder in folders]
    stored: list[Stored] = []
    problems: list[str] = []
    for folder in asked:
        if not folder.is_dir():
            raise UsageError(f"--records {str(folder)!r} is not a folder")
        found, left_out = Store(folder).scan()
        stored += found
        problems += left_out
    return stored, asked, problems


def board(records: Records = None, ruleset: str | None = None) -> Board:
    """The leaderboard of some records, as ``iml-bench leaderboard --json`` prints it; smoke runs are left out.

    Args:
        records: see ``read``; or what it, or ``run``, returned.
        ruleset: ``shared``, ``tuned``, or None: tuned rows of what the board asks for so, where there are any.

    Raises:
        UsageError: when a folder or the ruleset does not exist.
    """
    entries = [listed.spec for listed in MODELS.list() if listed.spec is not None]
    return build_board(stored_of(records), entries, leaderboard_tasks(), ruleset)


def plan(
    task: str,
    model: str,
    *,
    effect: float,
    power: float = 0.8,
    measure: str = "iml",
    records: Records = None,
) -> Plan:
    """How many seeds it takes to find an effect, told from the records of one model on one task; see ``Plan``.

    Args:
        task: a registered task.
        model: as the leaderboard names it.
        effect: the smallest one that is to be found, in the measure's unit.
        power: the chance of finding it.
        measure: one of the task's protocol.
        records: see ``board``.

    Raises:
        UsageError: when there are no such records, or a number cannot be one.
    """
    if not (math.isfinite(effect) and effect != 0):
        raise UsageError(f"--effect {effect:g} is no effect; give a number that is not 0")
    if not 0.05 < power < 1:
        raise UsageError(f"--power {power:g} is not between 0.05 and 1")
    registered = TASKS.get(task)
    measure_of(registered, measure)
    stored = stored_of(records)
    row = row_named(board(stored).rows, registered.name, model)
    seconds = [sum(one.record.timing.seconds.values()) for one in stored if _is_of(one, row)]
    return plan_row(row, measure, effect, power, median(seconds) if seconds else None)


def _is_of(one: Stored, row: Row) -> bool:
    """Whether a cell is one of the row's, but for the learning rate, and its times are known."""
    record = one.record
    changes = {path: value for path, value in record.changes.items() if path not in row.tuned}
    same = (record.cell.task.name, model_key(record.cell), changes) == (row.task, row.model_key, row.changes)
    return same and bool(record.timing.seconds)


def compare(
    *names: str,
    task: str | None = None,
    measure: str | None = None,
    records: Records = None,
    ruleset: str | None = None,
) -> list[Versus]:
    """Compare models two by two, paired on shared seeds, on every task that both have run.

    Args:
        names: two or more models, as the leaderboard names them.
        task: only this task.
        measure: which measure of the tasks' protocol; None: its headline.
        records: see ``board``.
        ruleset: see ``board``; None takes rows as they were run where a model has no tuned one.

    Raises:
        UsageError: when a model or the task has no records, or no two of the models can be compared.
    """
    stored = [one for one in stored_of(records) if not one.record.smoke]
    if task is not None:
        stored = [one for one in stored if one.record.cell.task.name == task]
        if not stored:
            raise UsageError(
                f"there are no records of task {shown(repr(task))} here (iml-bench leaderboard lists what there is)"
            )
    required = leaderboard_tasks()
    seen = view(stored, ruleset, required)
    rows = seen.marked(build_rows(seen.stored))
    if ruleset is None and not {*names} <= {row.model for row in rows}:
        rows = build_rows(view(stored).stored)
    return compare_models(ranked(rows, first_labels(stored), required), names, measure)


def score(items: pl.DataFrame | AnyPath, protocol: str = "two-stage") -> Scores:
    """The scores that per-item outcomes of one cell come to, by the one function that computes them.

    Args:
        items: rows of one cell out of ``Results.items``, or the path of a per-item Parquet file or of a record.
        protocol: whose measures are computed; a record names its own.

    Raises:
        UsageError: when these are no per-item outcomes, or those of several cells.
    """
    import polars as pl

    if not isinstance(items, pl.DataFrame):
        path = Path(items)
        if path.suffix == ".json":
            record = read_record(path)
            items, protocol = read_items(Stored(path, record)), record.cell.task.protocol
        else:
            try:
                items = pl.read_parquet(path)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
                raise UsageError(f"{shown(repr(str(path)), 300)} cannot be read as a per-item file") from error
    cells = items["key"].n_unique() if "key" in items.columns else 1
    if cells > 1:
        raise UsageError(f"these are items of {cells} cells; score one at a time, as items.filter(key=...) gives it")
    # What an older file lacks is null in a frame of several files, and only there.
    known = [name for name in items.columns if name in ITEM_TYPES]
    held = [name for name in known if name == "tag" or items[name].null_count() < len(items)]
    missing = [f"column {name!r}" for name in _NEEDED if name not in held]
    if missing or not len(items):
        raise UsageError(f"these are no per-item outcomes: there is no {missing[0] if len(items) else 'row'}")
    return score_items(protocol, columns_of(items.select(held)))


_NEEDED = ("stage", "fold", "entity", "group", "tag", "attribute", "exact_match", "log_likelihood")


def stored_of(records: Records) -> Sequence[Stored]:
    """Records, read where folders are given."""
    if records is None or isinstance(records, str | PathLike):
        return read(records)
    stored = [one for one in records if isinstance(one, Stored)]
    folders = [one for one in records if not isinstance(one, Stored)]
    return read(folders) if folders else stored
