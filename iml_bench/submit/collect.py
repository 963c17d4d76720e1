"""Collecting a model's records into the leaderboard's folder; nothing lands there before it is checked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from iml_bench.errors import UsageError, shown
from iml_bench.paths import probe_writable
from iml_bench.records import Store, Stored, as_named, latest_by_key, read_items, written
from iml_bench.records.files import writing
from iml_bench.registry import TASKS
from iml_bench.runtime import Runtime
from iml_bench.spec import ModelEntry, asked_for, same_model
from iml_bench.submit.checking import Submission, check_submission
from iml_bench.submit.entries import with_labels
from iml_bench.submit.findings import Check
from iml_bench.submit.single import sorted_items
from iml_bench.submit.tuned import diverged


class Collected(NamedTuple):
    """What became of a model's records."""

    written: tuple[Path, ...]
    """Where they lie now; where a check failed, where they would."""
    there: int
    """Records that were there already."""
    left_out: tuple[str, ...]
    """A sentence for each record of this model that was not taken."""
    remarks: tuple[str, ...]
    checks: tuple[Check, ...]
    before: tuple[Stored, ...]
    """All records of the leaderboard before."""
    after: tuple[Stored, ...]
    """And after; the same where a check failed."""

    @property
    def passed(self) -> bool:
        """Whether every check passed, so that the records lie where they belong."""
        return all(check.passed for check in self.checks)


def collect(
    entry: ModelEntry,
    stored: Sequence[Stored],
    target: Path,
    runtime: Runtime,
    listen: Callable[[int, int], None] | None = None,
) -> Collected:
    """Take over the records of a model, whatever label they were run under, after all checks.

    Args:
        entry: the registered entry.
        stored: records to choose from.
        target: the leaderboard's folder of results.
        runtime: where data files are.
        listen: see ``check_submission``.

    Raises:
        UsageError: when there is none, or the folder cannot be written into.
    """
    chosen, left_out = _choose(entry, stored)
    if not chosen:
        why = f": {left_out[0]}" if left_out else ""
        raise UsageError(
            f"there are no results of {entry.name!r} to submit{why} "
            f"(iml-bench suite run leaderboard --model {entry.name} makes them)"
        )
    probe_writable(target)
    before = tuple(Store(target).scan()[0])
    known = {one.record.cell_key: one for one in before}
    new = [one for one in chosen if _is_news(known.get(one.record.cell_key), entry)]
    clashing = [
        f"{shown(str(one.path), 300)} and {shown(str(known[one.record.cell_key].path), 300)} are of one cell and have "
        "other outcomes; remove the one that is not to stand"
        for one in chosen
        if one.record.cell_key in known and not _alike(one, known[one.record.cell_key])
    ]
    if clashing:
        raise UsageError(clashing[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        staged = Store(Path(folder))
        for one in new:
            _stage(one, entry, staged)
        found, unread = staged.scan()
        checks = check_submission(Submission(tuple(found), (), tuple(unread)), before, runtime, listen)
        places = [target / one.path.relative_to(staged.root) for one in found]
        if all(check.passed for check in checks):
            for one, place in zip(found, places, strict=True):
                with writing(place):
                    _land(one.path, place)
                    _clear(known.get(one.record.cell_key), place)
            after = tuple(Store(target).scan()[0])
        else:
            after = before
            checks = [_renamed(check, staged.root, target) for check in checks]
    return Collected(
        tuple(places), len(chosen) - len(new), tuple(left_out), tuple(_remarks(new)), tuple(checks), before, after
    )


def _choose(entry: ModelEntry, stored: Sequence[Stored]) -> tuple[list[Stored], list[str]]:
    """One done record for each cell of a model, and a sentence for each that is left out."""
    wanted = asked_for(entry)
    own = [one for one in stored if asked_for(one.record.cell.model) == wanted]
    chosen, left_out = [], []
    for one in latest_by_key(own).values():
        record, where = one.record, shown(str(one.path), 300)
        if record.status == "failed" and not diverged(record):
            left_out.append(f"{where} failed: {shown(record.error.message if record.error else '')}")
        elif record.smoke:
            left_out.append(f"{where} is a smoke test")
        elif not same_model(entry, record.cell.model):
            left_out.append(f"{where} is of other files: its model has another digest than the entry")
        elif record.cell.task.name not in TASKS.origins:
            left_out.append(f"{where} is of {record.cell.task.label}, which is not registered")
        else:
            chosen.append(one)
    return chosen, left_out


def _alike(one: Stored, other: Stored) -> bool:
    """Whether two records have the same outcomes; another version of polars writes other bytes."""
    if one.record.status == other.record.status == "failed":
        return True
    ours, theirs = one.record.items, other.record.items
    if ours is not None and theirs is not None and ours.sha256 == theirs.sha256:
        return True
    try:
        return sorted_items(read_items(one)).equals(sorted_items(read_items(other)))
    except UsageError:
        return False


def _stage(stored: Stored, entry: ModelEntry, staged: Store) -> None:
    """Copy a record and its items, under the entry's labels, which are no part of its key."""
    record = stored.record
    model = with_labels(record.cell.model, entry)
    cell = record.cell.model_copy(update={"model": model})
    path = staged.path_of(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    items = stored.path.with_name(record.items.file) if record.items else None
    if items is not None and items.is_file() and not items.is_symlink():
        shutil.copyfile(items, path.with_suffix(".parquet"))
    if model == record.cell.model and not record.attachments:
        path.write_bytes(as_named(stored, path.name))
        return
    beside = {"file": path.with_suffix(".parquet").name}
    renamed = record.items.model_copy(update=beside) if record.items else None
    changed = record.model_copy(update={"cell": cell, "items": renamed, "attachments": ()})
    path.write_bytes(written(changed))


def _is_news(known: Stored | None, entry: ModelEntry) -> bool:
    """Whether a record is not there yet, or not under the entry's labels."""
    return known is None or (model := known.record.cell.model) != with_labels(model, entry)


def _clear(known: Stored | None, place: Path) -> None:
    """Remove a record that now lies elsewhere under its entry's name."""
    if known is None or known.path == place:
        return
    known.path.unlink()
    if known.record.items is not None:
        known.path.with_name(known.record.items.file).unlink(missing_ok=True)
    if not any(known.path.parent.iterdir()):
        known.path.parent.rmdir()


def _land(staged: Path, place: Path) -> None:
    """Move a record to its place, its items first: what is cut in between leaves no record without them."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if staged.with_suffix(".parquet").exists():
        staged.with_suffix(".parquet").replace(place.with_suffix(".parquet"))
    staged.replace(place)


def _renamed(check: Check, staged: Path, target: Path) -> Check:
    """A check with the files' names as they would have been."""
    old, new = str(staged), str(target)
    failures = tuple(
        found._replace(file=found.file.replace(old, new), problem=found.problem.replace(old, new))
        for found in check.failures
    )
    return check._replace(failures=failures)


def _remarks(new: Sequence[Stored]) -> list[str]:
    """What a reviewer will ask about."""
    unclean = [one for one in new if one.record.provenance.dirty]
    unknown = [one for one in new if one.record.provenance.commit is None]
    found = []
    if unclean:
        found.append(f"{len(unclean)} of {len(new)} were made with uncommitted changes to iml-bench")
    if unknown:
        found.append(f"{len(unknown)} of {len(new)} do not say which commit of iml-bench made them")
    return found
