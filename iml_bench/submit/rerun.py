"""Running some of the submitted cells again and comparing what comes out."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from iml_bench.errors import UsageError, shown
from iml_bench.protocols import Measure, headline_of
from iml_bench.records import Record, Stored, iterate_done, read_items
from iml_bench.run.executors.base import Listener
from iml_bench.run.executors.inline import InlineExecutor
from iml_bench.run.job import Job
from iml_bench.run.session import Session
from iml_bench.runtime import Runtime
from iml_bench.sources import find_model
from iml_bench.spec import Spec
from iml_bench.submit.generated import what_is_missing
from iml_bench.submit.single import sorted_items

ERRORS: Final = 4.0
"""Standard errors over items, of the difference, by which the headline of another machine may differ."""


class Rerun(Spec):
    """A cell that was run again."""

    file: str
    model: str
    task: str
    seed: int
    same_machine: bool
    """Whether commit, versions, platform, processor and device are the same, so that every bit must be."""
    identical: bool
    """Whether every outcome is the same, bit for bit."""
    largest_gap: float | None
    """Largest difference of a log-likelihood, in nats."""
    equal_matches: float | None
    """Share of the items whose exact match is the same."""
    measure: str
    """Label of the headline."""
    score_before: float | None
    score_after: float | None
    passed: bool
    problem: str | None


def rerun(submitted: Sequence[Stored], number: int, seed: int, runtime: Runtime, listen: Listener) -> list[Rerun]:
    """Run some trained cells, chosen at random, again and compare the outcomes.

    On the same commit, versions, platform, processor and device they must be equal bit for bit. Elsewhere rounding
    differs, and training makes much of it; then the two headlines must lie within ``ERRORS`` standard errors of their
    difference.

    Args:
        submitted: the records to choose from.
        number: how many.
        seed: of the choice.
        runtime: where to run them.
        listen: is told how it goes.

    Raises:
        UsageError: when there is no trained cell that can be run here.
    """
    trained = [stored for stored in iterate_done(submitted) if not stored.record.cell.model.is_reference]
    reasons = [why for why in (_why_not(stored, runtime) for stored in trained) if why]
    trained = [stored for stored in trained if _why_not(stored, runtime) is None]
    if not trained:
        why = f": {reasons[0]}" if reasons else ""
        raise UsageError(f"--rerun: there is no trained cell that can be run here{why}")
    trained.sort(key=lambda stored: stored.record.key)
    picked = np.random.default_rng(seed).permutation(len(trained))[:number]
    chosen = [trained[index] for index in picked.tolist()]
    with tempfile.TemporaryDirectory() as folder:
        jobs = [Job(one.record.cell, one.record.changes, smoke=False, out=Path(folder)) for one in chosen]
        session = Session(Path(folder), replace(runtime, curve=0))
        again = {one.record.cell_key: one for one in session.run(jobs, InlineExecutor(), listen)}
        return [_compare(one, again.get(one.record.cell_key)) for one in chosen]


def _why_not(stored: Stored, runtime: Runtime) -> str | None:
    """Why a cell is not run again here, or None."""
    cell = stored.record.cell
    if cell.model.trust_remote_code or cell.model.parsed.scheme == "python":
        return f"{cell.model.name} runs code of its own; run it yourself"
    if cell.model.digest is not None:
        try:
            here = find_model(cell.model.name).digest
        except UsageError as error:
            return str(error)
        if here != cell.model.digest:
            return f"the files of {cell.model.name} are others here"
    return what_is_missing(cell.task, runtime)


def _compare(one: Stored, again: Stored | None) -> Rerun:
    record = one.record
    assert record.scores is not None
    headline = headline_of(record.cell.task)
    same = again is not None and _same_machine(record, again.record)
    common = {
        "file": shown(str(one.path), 300),
        "model": record.cell.model.name,
        "task": record.cell.task.label,
        "seed": record.cell.seed,
        "same_machine": same,
        "measure": headline.label,
        "score_before": record.scores.get(headline.name),
    }
    nothing = {"identical": False, "largest_gap": None, "equal_matches": None, "score_after": None, "passed": False}
    if again is None or again.record.scores is None:
        message = again.record.error.message if again is not None and again.record.error else "it left no record"
        return Rerun(**common, **nothing, problem=f"it failed: {shown(message)}")
    before, after = sorted_items(read_items(one)), sorted_items(read_items(again))
    after = after.select(name for name in before.columns if name in after.columns)  # newer files have more columns
    if len(before) != len(after):
        return Rerun(**common, **nothing, problem=f"{len(after):,} questions were asked, not {len(before):,}")
    identical = before.equals(after)
    first, second = (table["log_likelihood"].to_numpy() for table in (before, after))
    gap = _score_gap(record, again.record, headline)
    problem = None
    if same and not identical:
        problem = "on the same commit, versions and machine its outcomes must be equal bit for bit"
    elif not same and gap > ERRORS:
        problem = f"the two {headline.label} lie {gap:.1f} standard errors apart, and {ERRORS:.0f} are allowed"
    return Rerun(
        **common,
        identical=identical,
        largest_gap=float(np.abs(first - second).max()),
        equal_matches=float((before["exact_match"] == after["exact_match"]).to_numpy().mean()),
        score_after=again.record.scores.get(headline.name),
        passed=problem is None,
        problem=problem,
    )


def _same_machine(one: Record, other: Record) -> bool:
    if one.provenance.commit is None or one.provenance.dirty or other.provenance.dirty:
        return False  # nobody knows which code it was
    ignored = {"cores", "libraries"}
    ours, theirs = (record.provenance.model_dump(exclude=ignored) for record in (one, other))
    shared = set(one.provenance.libraries) & set(other.provenance.libraries)
    libraries = (
        {name: version for name, version in record.provenance.libraries.items() if name in shared}
        for record in (one, other)
    )
    return ours == theirs and next(libraries) == next(libraries)


def _score_gap(one: Record, other: Record, headline: Measure) -> float:
    """Difference of the two headlines in standard errors over items; 0 where there is none."""
    assert one.scores is not None and other.scores is not None
    first, second = one.scores.get(headline.name), other.scores.get(headline.name)
    if first is None or second is None:
        return 0.0
    errors = [scores.get(headline.error or "") or 0.0 for scores in (one.scores, other.scores)]
    error, difference = np.hypot(errors[0], errors[1]), abs(first - second)
    return float(difference / error) if error else (0.0 if difference == 0 else float("inf"))
