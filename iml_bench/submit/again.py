"""How a submitted cell was run, and whether it gives the same when it is run again in that way."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from iml_bench.errors import shown
from iml_bench.protocols import Measure
from iml_bench.records import CHECKPOINTING, Record, Stored, read_items
from iml_bench.runtime import Runtime
from iml_bench.spec import Spec
from iml_bench.submit.single import sorted_items

IRRELEVANT: Final = ("dirty", "cores", "libraries", "arithmetic")
"""Parts of a provenance that are not simply equal or not: each is looked at on its own, or is of no matter."""
UNSTEADY: Final = "rounding in every run"
"""Of a device that adds up in no fixed order."""


class CellRerun(Spec):
    """A cell that was run again."""

    file: str
    seed: int
    elsewhere: tuple[str, ...]
    """What of code, machine or micro-batch is another than in the record; empty: every bit must be the same."""
    identical: bool
    """Whether every outcome is the same, bit for bit."""
    largest_gap: float | None
    """Largest difference of a log-likelihood, in nats."""
    equal_matches: float | None
    """Share of the items whose exact match is the same."""
    score_before: float | None
    """The headline that was submitted."""
    score_after: float | None
    passed: bool
    """False where it must be the same and is not, or could not be run; else a row's cells are judged together."""
    problem: str | None


def way_of(record: Record, runtime: Runtime) -> Runtime:
    """How a record's cell is to be run again: as it was, as far as that can be had here.

    Args:
        record: says its micro-batch, whether it kept its activations, and whether it ran on a CPU.
        runtime: everything else; its device stands where it is not ``auto``.
    """
    sizes = [size for stage in record.stages if (size := stage.first_micro_batch or stage.micro_batch) is not None]
    fixed = record.cell.task.recipe.micro_batch is not None
    on_cpu = runtime.device == "auto" and record.provenance.device == "cpu"
    return replace(
        runtime,
        device="cpu" if on_cpu else runtime.device,
        micro_batch=None if fixed else max(sizes, default=None),
        checkpointing=CHECKPOINTING in (record.provenance.arithmetic or {}),
        curve=0,
        nudge=0,
    )


def differences(one: Record, other: Record) -> tuple[str, ...]:
    """What can make two runs of a cell round otherwise, by name; empty: they must be equal bit for bit."""
    ours, theirs = one.provenance, other.provenance
    names = [name for name in type(ours).model_fields if name not in IRRELEVANT]
    found = [name for name in names if getattr(ours, name) != getattr(theirs, name)]
    if ours.commit is None or ours.dirty or theirs.dirty:
        found.append("commit")  # of changes that were not committed nobody knows what they were
    shared = set(ours.libraries) & set(theirs.libraries)
    found += sorted(name for name in shared if ours.libraries[name] != theirs.libraries[name])
    if ours.arithmetic is not None and theirs.arithmetic is not None:
        settings = sorted({*ours.arithmetic.items()} ^ {*theirs.arithmetic.items()})
        found += dict.fromkeys(name for name, _ in settings)
    if any(_cut_otherwise(one, other)):
        found.append("micro-batch")
    return tuple(dict.fromkeys(found))


def _cut_otherwise(one: Record, other: Record) -> list[bool]:
    """For each stage whether its batches were cut otherwise; older records do not say how they began."""
    pairs = zip(one.stages, other.stages, strict=False)
    return [
        ours.micro_batch != theirs.micro_batch
        or (ours.first_micro_batch or theirs.first_micro_batch) != theirs.first_micro_batch
        for ours, theirs in pairs
    ]


def same_outcomes(one: Stored, other: Stored) -> bool:
    """Whether two records of a cell have the same items, bit for bit; newer files may have more columns."""
    before, after = sorted_items(read_items(one)), sorted_items(read_items(other))
    return bool(before.equals(after.select(name for name in before.columns if name in after.columns)))


def compare(one: Stored, again: Stored | None, headline: Measure, elsewhere: tuple[str, ...]) -> CellRerun:
    """Hold a submitted record against the one made here.

    Args:
        one: what was submitted.
        again: what was made; None where there is nothing.
        headline: the measure that is compared.
        elsewhere: see ``CellRerun``.
    """
    record = one.record
    assert record.scores is not None
    fields = {
        "file": shown(str(one.path), 300),
        "seed": record.cell.seed,
        "elsewhere": elsewhere,
        "score_before": record.scores.get(headline.name),
        "score_after": None,
    }
    unknown = {"identical": False, "largest_gap": None, "equal_matches": None, "passed": False}
    if again is None or again.record.scores is None:
        message = again.record.error.message if again is not None and again.record.error else "it left no record"
        return CellRerun(**fields, **unknown, problem=f"it failed: {shown(message)}")
    fields["score_after"] = again.record.scores.get(headline.name)
    before, after = sorted_items(read_items(one)), sorted_items(read_items(again))
    if len(before) != len(after):
        return CellRerun(**fields, **unknown, problem=f"{len(after):,} questions were asked, not {len(before):,}")
    first, second = (table["log_likelihood"].to_numpy() for table in (before, after))
    problem, identical = None, same_outcomes(one, again)
    if not identical and not elsewhere:
        problem = "on the same commit, versions and machine its outcomes must be equal bit for bit"
    elif fields["score_before"] is not None and fields["score_after"] is None:
        problem = f"it has no {headline.label} here"
    return CellRerun(
        **fields,
        identical=identical,
        largest_gap=float(np.abs(first - second).max()),
        equal_matches=float((before["exact_match"] == after["exact_match"]).to_numpy().mean()),
        passed=problem is None,
        problem=problem,
    )
