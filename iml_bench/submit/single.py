"""What must hold of one record on its own: each check yields a sentence for what does not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iml_bench.errors import UsageError, shown, unknown
from iml_bench.extensions import MODALITIES
from iml_bench.protocols import Scores, headline_of, measures_of, protocol_of, score_items, streams_of
from iml_bench.protocols.base import trains
from iml_bench.protocols.items import OPTIONAL
from iml_bench.records import Record, Store, Stored, columns_of
from iml_bench.registry import TASKS, changes_of
from iml_bench.run.job import first_line
from iml_bench.spec import StageOutcome, canonical_json
from iml_bench.submit.entries import is_plain_text
from iml_bench.submit.generated import KEYS, Generated, Generator, letters, unspaced
from iml_bench.submit.twins import BUILT

if TYPE_CHECKING:
    import polars as pl

RELATIVE: Final = 1e-12
"""By how much a score may differ from the one computed here: the rounding of a sum."""
ROUNDING: Final = 1e-3
"""Nats by which a log-likelihood may miss its bound: logits have 32 bits, or 16 in mixed precision."""


def form_problems(stored: Stored) -> Iterator[str]:
    """Smoke, and texts that would mean something to a browser or a spreadsheet."""
    record = stored.record
    if record.smoke:
        yield "it is a smoke test and no result; run it without --smoke"
    for field, text in _texts(record):
        if not is_plain_text(text):
            yield f"{shown(field)}: {shown(repr(text))} holds < or >, or begins like a formula"
    yield from _time_problems(record)


def _texts(record: Record) -> Iterator[tuple[str, str]]:
    """Texts of a record that may be shown, beside its model's labels; with the field that each stands in."""
    made = record.provenance
    for field in ("iml_bench", "commit", "python", "platform", "processor", "device"):
        yield f"provenance.{field}", getattr(made, field) or ""
    for library, version in made.libraries.items():
        yield "provenance.libraries", library
        yield f"provenance.libraries.{library}", version
    for setting, value in (made.arithmetic or {}).items():
        yield "provenance.arithmetic", setting
        yield f"provenance.arithmetic.{setting}", value
    yield "cell.task.description", " ".join(record.cell.task.description.split())
    for name, why in record.scores.reasons.items() if record.scores else ():
        yield f"scores.reasons.{name}", why
    if record.audit is not None:
        yield from (("audit", text) for text in (record.audit.reader, *record.audit.tokens, *record.audit.notes))
    for field, value in record.changes.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                yield f"changes.{field}", " ".join(text.split())


def place_problems(stored: Stored) -> Iterator[str]:
    """The file must be named after its cell, and lie in its model's folder."""
    path = stored.path
    wanted = Store(path.parent.parent).path_of(stored.record.cell)
    if path.name != wanted.name:
        yield f"a record of this cell is named {wanted.name!r}"
    elif path.absolute().parent.name != wanted.parent.name:
        yield f"a record of this model lies in a folder {wanted.parent.name!r}"


def _time_problems(record: Record) -> Iterator[str]:
    try:
        started, ended = (datetime.fromisoformat(text) for text in (record.timing.started, record.timing.ended))
    except ValueError:
        yield "timing.started and timing.ended are no times (ISO 8601)"
        return
    if started.tzinfo is None or ended.tzinfo is None:
        yield "timing.started and timing.ended have no time zone"


def form_notes(record: Record) -> Iterator[str]:
    """What is odd and proves nothing: a clock that is set back while a cell runs dates its end before its start."""
    with suppress(ValueError, TypeError):
        if datetime.fromisoformat(record.timing.ended) < datetime.fromisoformat(record.timing.started):
            yield "some ended before they started: the clock was set back meanwhile; durations are measured without it"


def task_problems(record: Record) -> Iterator[str]:
    """The task must be a registered one in its present version, and what was changed must be said."""
    task = record.cell.task
    if record.cell.protocol != (version := protocol_of(task).version):
        yield f"it is of protocol {record.cell.protocol}, and this iml-bench follows protocol {version}"
        return
    if task.name not in TASKS.origins:
        yield str(unknown("task", task.name, TASKS.origins, "iml-bench tasks"))
        return
    now = TASKS.get(task.name)
    if task.version != now.version:
        age = "an older version" if task.version < now.version else "a newer version"
        yield f"it is of {task.label}, {age}; this iml-bench has {now.label}, and scores of two versions never mix"
        return
    said = changes_of(task, now)
    if canonical_json(record.changes) != canonical_json(said):
        yield (
            f"changes: it says {shown(canonical_json(record.changes), 200)}, and the task differs from {now.label} "
            f"in {shown(canonical_json(said), 200)}"
        )


def score_problems(record: Record, items: pl.DataFrame) -> Iterator[str]:
    """Every score that the record stores, and its protocol knows, must be that of the per-item outcomes."""
    assert record.scores is not None
    theirs, task = record.scores, record.cell.task
    ours = score_items(task, columns_of(items))
    strange, later = {*theirs.values} - {*ours.values}, {*ours.values} - {*theirs.values}
    # Whether a cell is run again, and which learning rate is chosen, is read from these: they never came later.
    later -= {headline_of(task).name}
    chosen_by = f"exact_match.{protocol_of(task).chosen_by}"
    said, found = _flat(theirs, strange), _flat(ours, later)
    for name in sorted({*said, *found}):
        if name not in said and name.startswith("exact_match.") and name != chosen_by:
            continue  # a slice that came later is no fault of an older record
        one, other = said.get(name), found.get(name)
        if name.startswith("reasons.") and ours.get(name.removeprefix("reasons.")) is None:
            continue  # how it is put that a score is null may change
        if not _same(one, other):
            yield f"scores.{shown(name)}: it says {_number(one)}, and its items give {_number(other)}"


def score_notes(record: Record) -> Iterator[str]:
    """Scores that nothing here can recompute: of a package that is not installed, or of a newer version."""
    assert record.scores is not None
    ours = {measure.name for measure in measures_of(record.cell.task)}
    for name in record.scores.values:
        if name not in ours:
            yield f"not recomputed: {record.cell.task.label} has no measure {shown(name)} here"


def _flat(scores: Scores, without: set[str]) -> dict[str, Any]:
    """All scores, slices and reasons in one table, but those of some measures."""
    flat = {name: value for name, value in scores.values.items() if name not in without}
    flat |= {f"exact_match.{name}": value for name, value in scores.exact_match.items()}
    return flat | {f"reasons.{name}": why for name, why in scores.reasons.items() if name not in without}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=RELATIVE)
    return bool(one == other)


def _number(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{value:.6g}" if isinstance(value, float | int) else shown(repr(value))


def item_problems(record: Record, items: pl.DataFrame, generated: Generated) -> Iterator[str]:
    """The items must be those that the task asks for this seed, in its order, with the right answers."""
    import polars as pl

    what = f"{record.cell.task.label} with seed {record.cell.seed}"
    for name, version in OPTIONAL.items():
        if name not in items.columns and record.schema_version >= version:
            yield f"its per-item file lacks {name!r}, which records of schema {record.schema_version} have"
            return
    wanted, found = generated.items, sorted_items(items)
    if len(found) != len(wanted):
        yield f"it has {len(found):,} items, and {what} asks {len(wanted):,}"
        return
    equal = pl.select(pl.lit(value=True)).to_series().new_from_index(0, len(found))
    shared = (name for name in ("place", "truthful", "claimed") if name in found.columns and name in wanted.columns)
    for name in (*KEYS, *shared):
        equal &= found[name].eq_missing(wanted[name])
    if not equal.all():
        row = int((~equal).arg_max() or 0)
        yield (
            f"{int((~equal).sum()):,} of its {len(found):,} items are not those of {what}; the first is "
            f"{_item(found, row)} and would be {_item(wanted, row)}"
        )
        return
    fold = unspaced if record.cell.model.tokenizer == "task" else letters
    for row, (gold, answers) in enumerate(zip(found["gold"].to_list(), generated.answers, strict=True)):
        if fold(gold) != fold(answers[0]):
            yield f"the right answer of item {_item(found, row)} is {shown(repr(answers[0]))}, not {shown(repr(gold))}"
            return


def sorted_items(items: pl.DataFrame) -> pl.DataFrame:
    """Per-item rows by stage, fold and set, as in ``Generated.items``; older files have no sets."""
    import polars as pl

    if "set" not in items.columns:
        items = items.with_columns(pl.lit("fact").alias("set"))
    return items.sort("stage", "fold", "set", maintain_order=True)


def _item(table: pl.DataFrame, row: int) -> str:
    values = (f"{name} {table[name][row]}" for name in KEYS if table[name][row] is not None)
    return f"({shown(', '.join(values), 160)})"


def data_problems(record: Record, generated: Generated) -> Iterator[str]:
    """The data must be those of the seed: digest and chance."""
    if record.data_digest != generated.digest:
        yield (
            f"data_digest: it says {(record.data_digest or 'nothing')[:16]}, and {record.cell.task.label} with seed "
            f"{record.cell.seed} gives {generated.digest[:16]}"
        )
    if not _same(record.chance, generated.chance):
        yield f"chance: it says {_number(record.chance)}, and the task's is {_number(generated.chance)}"


def stream_problems(record: Record) -> Iterator[str]:
    """The random streams must be those of the seed."""
    streams = streams_of(record.cell.task, record.cell.seed)
    ours = streams.as_dict()
    for name, value in record.streams.items():
        if name not in ours:
            yield str(unknown("random stream", name, streams.meanings, "iml_bench/streams.py"))
        elif value != ours[name]:
            yield f"streams.{name}: it says {value}, and seed {record.cell.seed} gives {ours[name]}"
    if "init" not in record.streams:
        yield "streams: that of the initial weights is missing"


def training_problems(record: Record, generated: Generated | None) -> Iterator[str]:
    """Stages, steps and parameters must be what the recipe and the model make of them.

    Args:
        record: a done record.
        generated: the data of its cell; without them the steps of a stage in epochs are not known.
    """
    task, reference = record.cell.task, record.cell.model.is_reference
    steps = trains(protocol_of(task).schedule(task))
    wanted = [(step.phase, step.fold) for step in steps]
    names = [phase for phase, _ in wanted]
    found = [stage.name for stage in record.stages]
    if found != names:
        yield f"stages: it says {shown(', '.join(found)) or 'none'}, and {task.label} has {', '.join(names)}"
    for step, stage in zip(steps, record.stages, strict=True) if found == names else ():
        known = generated.steps[step.label] if generated is not None else getattr(task.recipe, step.recipe).steps
        n_steps = 0 if reference else known
        if n_steps is not None and stage.steps != n_steps:
            yield f"stages: {stage.name} has {stage.steps} steps, and the recipe {n_steps}"
        yield from _pieces_problems(record, stage)
    lasted = dict(zip(wanted, (stage.steps for stage in record.stages), strict=False))
    for point in record.curve:
        if (point.phase, point.fold) not in wanted:
            yield f"curve: the task has no phase {shown(repr(point.phase))} in fold {point.fold}"
            return
        last = lasted[point.phase, point.fold] if found == names else point.step
        if not 0 < point.step <= last:
            yield f"curve: it has a point at step {point.step} of {point.phase}, which has {last} steps"
            return


def parameter_problems(record: Record, generator: Generator | None) -> Iterator[str]:
    """The number of parameters must be that of the model, where it is built from its options alone.

    Args:
        record: a done record.
        generator: None where its data or its model are not to be had: only none at all is told from some then.
    """
    model, said = record.cell.model, _number(record.parameters)
    if generator is not None and model.parsed.scheme in BUILT:
        if record.parameters != (number := generator.parameters(record.cell)):
            yield f"parameters: it says {said}, and {shown(model.source)} has {number:,}"
    elif (record.parameters == 0 or record.parameters is None) != model.is_reference:
        yield f"parameters: {said} cannot be those of {shown(repr(model.name))}"


def _pieces_problems(record: Record, stage: StageOutcome) -> Iterator[str]:
    """A stage of a network has a loss, and its micro-batches make up a global batch; a reference learner's has none."""
    told = (stage.final_loss, stage.micro_batch, stage.accumulation)
    if record.cell.model.is_reference or None in told:
        if any((value is None) != record.cell.model.is_reference for value in told):
            yield f"stages: {stage.name} has a loss and a micro-batch where a network is trained, and only there"
        return
    local = math.ceil(record.cell.task.recipe.batch_size / record.provenance.processes)
    assert stage.micro_batch is not None
    fixed, first = record.cell.task.recipe.micro_batch, stage.first_micro_batch or stage.micro_batch
    if fixed is not None and stage.micro_batch != min(fixed, local):
        yield f"stages: {stage.name} took {stage.micro_batch} examples together, and recipe.micro_batch is {fixed}"
    elif stage.micro_batch > local or stage.accumulation != math.ceil(local / stage.micro_batch):
        yield (
            f"stages: {stage.name} took {stage.accumulation} times {stage.micro_batch} examples a step, and the "
            f"recipe's batch gives each process {local}"
        )
    elif not stage.micro_batch <= first <= local:
        yield (
            f"stages: {stage.name} took {first} examples together in the beginning and {stage.micro_batch} in the end, "
            f"and the recipe's batch gives each process {local}"
        )


def outcome_problems(record: Record, items: pl.DataFrame, generated: Generated | None) -> Iterator[str]:
    """Exact match, predicted answer and log-likelihood must be able to belong together.

    Strictly, an answer is an exact match when each of its ``k`` words (of ``C``) is the most likely one, whose
    probability is then at least ``1/C``; and where one is not, another is at least as likely, so that its
    probability is at most a half. So the log-likelihood is at least ``-k ln C``, or at most ``-ln 2``.
    """
    items = sorted_items(items)
    exact = items["exact_match"].to_numpy()
    log_likelihood = items["log_likelihood"].to_numpy()
    equal = (items["predicted"] == items["gold"]).to_numpy()

    def first(rows: np.ndarray[Any, Any], problem: str) -> Iterator[str]:
        if rows.any():
            row = int(rows.argmax())
            yield f"{int(rows.sum()):,} of {len(items):,} {problem}; the first is item {_item(items, row)}"

    yield from first(log_likelihood > ROUNDING, "log-likelihoods are above 0")
    task = record.cell.task
    modality = MODALITIES.get(task.modality)
    if task.exact_match == "strict":
        yield from first(exact & ~equal, "exact matches have a wrong predicted answer")
        if modality.spells_uniquely():
            yield from first(~exact & equal, "right answers are no exact match")
        yield from first(
            ~exact & (log_likelihood > -math.log(2) + ROUNDING),
            "answers are no exact match, though more likely than all others together",
        )
        least = modality.least_log_likelihood(task, items["gold"].to_list())
        yield from first(exact & (log_likelihood < least - ROUNDING), "exact matches are too unlikely to be one")
    elif generated is not None:
        yield from first(exact & ~_among_right(record, items, generated), "exact matches have a wrong predicted answer")


def _among_right(record: Record, items: pl.DataFrame, generated: Generated) -> np.ndarray[Any, Any]:
    """Which predicted answers are a right one as they are compared after generation."""
    from iml_bench.modalities.text.generated import compared

    own = record.cell.model.tokenizer == "own"

    def plain(text: str) -> str:
        return (letters if own else unspaced)(compared(text))

    texts = zip(items["predicted"].to_list(), items["gold"].to_list(), generated.answers, strict=True)
    return np.array([plain(said) in {plain(text) for text in (gold, *right)} for said, gold, right in texts])


def safely(check: Iterator[str]) -> list[str]:
    """The problems that a check yields; what it stumbles over is one, too."""
    found = []
    try:
        for problem in check:
            found.append(problem)
    except UsageError as error:
        found.append(str(error))
    except Exception as error:
        # Whatever else a strange but valid record leads to is that record's problem alone.
        found.append(f"it cannot be checked: {shown(first_line(error), 300)}")
    return found
