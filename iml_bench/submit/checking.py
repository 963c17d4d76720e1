"""All checks of what was handed in: records, entries, or a folder of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from iml_bench.errors import UsageError, shown
from iml_bench.protocols import protocol_of
from iml_bench.protocols.base import trains
from iml_bench.records import Store, Stored, iterate_done, latest_by_key, read_items, read_record
from iml_bench.registry import TASKS
from iml_bench.run.job import first_line
from iml_bench.runtime import Runtime
from iml_bench.submit.beside import size_problems, strangers
from iml_bench.submit.entries import entry_problems, label_problems
from iml_bench.submit.findings import Check, Findings
from iml_bench.submit.generated import Generated, Generator, what_is_missing
from iml_bench.submit.single import (
    data_problems,
    form_notes,
    form_problems,
    item_problems,
    outcome_problems,
    parameter_problems,
    place_problems,
    safely,
    score_notes,
    score_problems,
    stream_problems,
    task_problems,
    training_problems,
)
from iml_bench.submit.together import copied, coverage, likelihoods, uneven
from iml_bench.submit.tuned import diverged, sweep_problems

if TYPE_CHECKING:
    import polars as pl

    from iml_bench.submit.together import Values

READ = "records can be read and have the keys of their cells"
ENTRY = "models are registered, under these labels; files are named after them"
FORM = "no smoke tests; names and texts are plain"
TASK = "tasks are registered, in this version, with these changes"
FILES = "per-item files are the records' own, and nothing else lies beside them"
SCORES = "scores are those of the items"
ITEMS = "items are what the task asks for the seed"
DATA = "data digest, chance and random streams are the seed's"
TRAINING = "stages and parameters are the recipe's and the model's"
OUTCOMES = "exact match and log-likelihood agree"
COPIES = "no outcomes stand twice"
SWEEPS = "learning rates are the task's, or those that complete sweeps choose, as entries say"
SEEDS = "the leaderboard's seeds are there"
CHECKS: Final = (READ, ENTRY, FORM, TASK, FILES, SCORES, ITEMS, DATA, TRAINING, OUTCOMES, COPIES, SWEEPS, SEEDS)


class Submission(NamedTuple):
    """What lies at a path."""

    stored: tuple[Stored, ...]
    entries: tuple[Path, ...]
    unread: tuple[str, ...]
    """A sentence for every JSON file that is no record."""
    strange: tuple[str, ...] = ()
    """A sentence for everything else that lies there."""


def find_submission(path: Path) -> Submission:
    """What lies at a path: a record, an entry, or a folder of records and entries.

    Of a leaderboard's folder, which has entries in ``models/``, its rows are what lies in ``results/``: reports on
    claims hold records without items.

    Raises:
        UsageError: when nothing lies there.
    """
    where = shown(repr(str(path)))
    if path.is_symlink() or not path.is_dir():
        if not path.is_symlink() and not path.exists():
            raise UsageError(f"--check {where}: there is no such file or folder")
        if path.suffix in (".yaml", ".yml"):
            return Submission((), (path,), ())
        try:
            return Submission((Stored(path, read_record(path)),), (), ())
        except UsageError as error:
            return Submission((), (), (str(error),))
    of_leaderboard, rows = sorted(path.glob("models/*.yaml")), path / "results"
    roots = [rows, path / "models"] if of_leaderboard and rows.is_dir() else [path]
    found, problems = Store(roots[0]).scan()
    entries = sorted(path.glob("*.yaml")) + of_leaderboard
    if not found and not problems and not entries:
        raise UsageError(f"--check {where}: there is no record and no entry in it")
    strange = tuple(strangers(roots, found, entries))
    return Submission(tuple(found), tuple(entries), tuple(problems), strange)


def check_submission(
    submission: Submission, board: Sequence[Stored], runtime: Runtime, listen: Callable[[int, int], None] | None = None
) -> list[Check]:
    """Check what was handed in.

    Args:
        submission: see ``find_submission``.
        board: the records that the leaderboard has; those of the same files count as handed in only.
        runtime: where data files are.
        listen: is told how many records of how many have been checked.
    """
    findings = Findings(CHECKS)
    for problem in submission.unread:
        findings.add(READ, None, [problem])
    findings.add(FILES, None, submission.strange)
    for path in submission.entries:
        findings.add(ENTRY, path, safely(entry_problems(path)))
    generator = Generator(runtime)
    new = {stored.path: stored for stored in submission.stored}
    trained: dict[Path, Values] = {}
    for index, (path, stored) in enumerate(new.items()):
        items = _check_one(stored, generator, findings)
        if items is not None:
            trained[path] = likelihoods(items)
        if listen:
            listen(index + 1, len(new))
    done = [stored for stored in new.values() if stored.record.status == "done"]
    mine = {path.resolve() for path in new}
    others = {stored.path: stored for stored in iterate_done(board) if stored.path.resolve() not in mine}
    trained |= _likelihoods(list(others.values()) if done else [])
    for path, problem in copied({stored.path: stored for stored in done}, trained, others):
        findings.add(COPIES, path, [problem])
    for path, problem in uneven(done):
        findings.add(TRAINING, path, [problem])
    evidence = [*done, *(stored for stored in new.values() if diverged(stored.record))]
    for place, problem in sweep_problems(evidence, _board_evidence(board, mine), submission.entries):
        findings.add(SWEEPS, place, [problem])
    for place, problem in coverage(done, list(others.values())):
        if place is None:
            findings.note(SEEDS, problem)
        else:
            findings.add(SEEDS, place, [problem])
    return findings.results()


def _board_evidence(board: Sequence[Stored], mine: set[Path]) -> list[Stored]:
    """What else the leaderboard has: done records, and cells of sweeps in which training diverged."""
    known = latest_by_key([stored for stored in board if stored.path.resolve() not in mine])
    return [stored for stored in known.values() if stored.record.status == "done" or diverged(stored.record)]


def _likelihoods(stored: Sequence[Stored]) -> dict[Path, Values]:
    found = {}
    for entry in stored:
        if entry.record.cell.model.is_reference:
            continue
        try:
            found[entry.path] = likelihoods(read_items(entry))
        except UsageError:
            continue  # it is not what was handed in
    return found


def _check_one(stored: Stored, generator: Generator, findings: Findings) -> pl.DataFrame | None:
    """All checks of one record; its items, if they can be read."""
    path, record = stored
    if record.status != "done" and not diverged(record):
        findings.add(READ, path, ["it is the record of a failed cell and no result"])
        return None
    unknown_model = safely(label_problems(record.cell.model))
    findings.add(ENTRY, path, unknown_model or safely(place_problems(stored)))
    findings.add(FORM, path, safely(form_problems(stored)))
    for note in form_notes(record):
        findings.note(FORM, note)
    wrong_task = safely(task_problems(record))
    findings.add(TASK, path, wrong_task)
    findings.add(DATA, path, safely(stream_problems(record)))
    if record.status != "done":
        findings.note(SWEEPS, "of cells in which training diverged there is nothing that could be checked")
        return None
    known = record.cell.task.name in TASKS.origins
    generated = _generated(stored, generator, findings) if known and not wrong_task else None
    findings.add(TRAINING, path, safely(training_problems(record, generated)))
    can_be_built = generated is not None and not unknown_model
    findings.add(TRAINING, path, safely(parameter_problems(record, generator if can_be_built else None)))
    try:
        items = read_items(stored)
    except UsageError as error:
        findings.add(FILES, None, [str(error)])
        return None
    findings.add(FILES, path, safely(size_problems(stored, items)))
    findings.add(SCORES, path, safely(score_problems(record, items)))
    for note in score_notes(record):
        findings.note(SCORES, note)
    if generated is not None:
        wrong_items = safely(item_problems(record, items, generated))
        findings.add(ITEMS, path, wrong_items)
        findings.add(DATA, path, safely(data_problems(record, generated)))
        generated = None if wrong_items else generated
    findings.add(OUTCOMES, path, safely(outcome_problems(record, items, generated)))
    return items


def _generated(stored: Stored, generator: Generator, findings: Findings) -> Generated | None:
    cell = stored.record.cell
    missing = what_is_missing(cell.task, generator.runtime)
    if missing is not None:
        for name in (ITEMS, DATA):
            findings.note(name, f"not generated: {missing}")
        steps = trains(protocol_of(cell.task).schedule(cell.task))
        if None in [getattr(cell.task.recipe, step.recipe).steps for step in steps]:
            findings.note(TRAINING, f"the steps of stages in epochs are not known: {missing}")
        return None
    try:
        return generator(cell)
    except Exception as error:
        # Whatever a strange but valid specification leads to is that record's problem alone.
        findings.add(ITEMS, stored.path, [f"its data cannot be generated: {shown(first_line(error), 300)}"])
        return None
