"""Models set against each other, paired on the seeds that they share, from rows alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from iml_bench.board.rows import Row, row_label
from iml_bench.errors import UsageError, unknown
from iml_bench.protocols import measure_of, measures_of
from iml_bench.spec import Spec
from iml_bench.stats import Interval, compare_paired, holm


class Versus(Spec):
    """Two models on one task by one measure, paired on the seeds that both have."""

    task: str
    task_version: int
    changes: dict[str, Any]
    ruleset: str = "shared"
    measure: str
    """Its name."""
    measure_label: str
    first: str
    second: str
    n_seeds: int
    seeds: tuple[int, ...]
    mean_first: float
    """Over the shared seeds."""
    mean_second: float
    difference: Interval
    """First minus second."""
    p: float | None
    """Two-sided paired t-test; null for one shared seed."""
    p_holm: float | None = None
    """The same with Holm's correction over everything that was compared together."""
    separated: bool | None = None
    """What the board says of the two, without a question that was chosen beforehand: whether their ranks differ, after
    correction for all pairs of its models; null where one of them is not ranked by this measure, or neither of them is
    registered, so that the two are not tested."""

    @property
    def label(self) -> str:
        """The task as it was run, see ``row_label``."""
        return row_label(self.task, self.task_version, self.changes, self.ruleset)


def versus(first: Row, second: Row, measure: str | None = None) -> Versus | None:
    """Two rows of one task as it was run; None where they share no seed.

    Args:
        first: one model's row.
        second: another's.
        measure: the name of what is compared; the headline without.
    """
    if first.task_key != second.task_key:
        return None
    return paired(first, second, measure)


def paired(first: Row, second: Row, measure: str | None = None) -> Versus | None:
    """Two rows, whatever the task of each; what both were changed in is said of the pair. See ``versus``."""
    name = measure or first.headline.name
    sides = first.by_seed(name), second.by_seed(name)
    found = compare_paired(*sides)
    if found is None:
        return None
    means = [math.fsum(side[seed] for seed in found.seeds) / len(found.seeds) for side in sides]
    return Versus(
        task=first.task,
        task_version=first.task_version,
        changes={path: value for path, value in first.changes.items() if second.changes.get(path) == value},
        ruleset=first.ruleset,
        measure=name,
        measure_label=measure_of(first.protocol, name).label,
        first=first.model,
        second=second.model,
        n_seeds=found.difference.n,
        seeds=found.seeds,
        mean_first=means[0],
        mean_second=means[1],
        difference=found.difference,
        p=found.p,
        separated=_separated(first, second, name),
    )


def _separated(first: Row, second: Row, name: str) -> bool | None:
    tested = first.registered or second.registered
    if not tested or name not in first.apart or name not in second.apart:
        return None
    return second.model_key in first.apart[name]


def with_holm(rows: Sequence[Versus]) -> list[Versus]:
    """The comparisons with Holm's correction over all of them."""
    tested = [row for row in rows if row.p is not None]
    adjusted = dict(zip(map(id, tested), holm([row.p for row in tested if row.p is not None]), strict=True))
    return [row.model_copy(update={"p_holm": adjusted.get(id(row))}) for row in rows]


def compare_models(rows: Sequence[Row], names: Sequence[str], measure: str | None = None) -> list[Versus]:
    """Compare every two of some models on every task that both have been put through.

    Args:
        rows: the board's rows.
        names: two or more models, as the rows have them. Pairs with nothing in common are left out.
        measure: the name of what is compared; each task's headline without.

    Raises:
        UsageError: when a model has no row, is named twice or is ambiguous, no task among the rows has such a measure,
            or no two of the models can be compared.
    """
    if measure is not None:
        rows = _measuring(rows, measure)
    known = {row.model for row in rows}
    for position, name in enumerate(names):
        if name not in known:
            raise unknown("model among the records", name, known, "iml-bench leaderboard")
        if name in names[:position]:
            raise UsageError(f"{name!r} cannot be compared with itself; name two models")
        sources = {row.model_key: row.source for row in rows if row.model == name}
        if len(sources) > 1:
            # One source may stand for several models: with another tokenizer, or of other files.
            told = sorted(f"{source} ({key[:6]})" for key, source in sources.items())
            raise UsageError(f"several models among the records are named {name!r}: {', '.join(told)}")
    if len(names) < 2:
        raise UsageError("name two models to compare (iml-bench leaderboard lists them)")
    sides = {name: {row.task_key: row for row in rows if row.model == name} for name in names}
    found = [
        versus(row, sides[second][key], measure)
        for first, second in combinations(names, 2)
        for key, row in sides[first].items()
        if key in sides[second]
    ]
    compared = [row for row in found if row is not None]
    if not compared:
        first, second = names[:2]
        raise UsageError(_why_not_comparable(list(sides[first].values()), list(sides[second].values()), measure))
    return with_holm(sorted(compared, key=lambda row: (row.task, row.task_version, str(row.changes))))


def _measuring(rows: Sequence[Row], measure: str) -> list[Row]:
    """The rows of tasks that have a measure of this name."""
    found = [row for row in rows if any(known.name == measure for known in row.measures)]
    if rows and not found:
        names = {known.name for protocol in {row.protocol for row in rows} for known in measures_of(protocol)}
        raise unknown("measure", measure, names, "iml-bench leaderboard --json")
    return found


def _why_not_comparable(ours: Sequence[Row], theirs: Sequence[Row], measure: str | None) -> str:
    first, second = ours[0].model, theirs[0].model
    versions = [{row.task: row.task_version for row in side} for side in (ours, theirs)]
    shared = sorted(set(versions[0]) & set(versions[1]))
    for name in shared:
        if versions[0][name] != versions[1][name]:
            return (
                f"{first!r} was run on {name}@{versions[0][name]} and {second!r} on {name}@{versions[1][name]}; "
                "scores of different task versions are not compared; run both on the same one"
            )
    if measure is not None and any({row.task_key for row in ours} & {row.task_key} for row in theirs):
        return f"{first!r} and {second!r} share no seed in which {measure} was measured"
    if shared:
        return (
            f"{first!r} and {second!r} were both run on {', '.join(shared)}, but share no seed with the same "
            "settings; run both with the same --seeds and --set"
        )
    return f"{first!r} and {second!r} have been run on no task in common; run both on one"
