"""Models under several names: rows that gave the same answers to every question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from iml_bench.errors import UsageError
from iml_bench.records import Stored, read_items
from iml_bench.spec import Spec


class Twins(Spec):
    """Models that cannot be told apart: two entries of one model, one of which spells a default out."""

    task: str
    models: tuple[str, ...]

    def __str__(self) -> str:
        names = f"{', '.join(self.models[:-1])} and {self.models[-1]}"
        return f"{self.task}: {names} gave the same answers to every question, to the last digit: they are one model"


def find_twins(task: str, models: Sequence[tuple[str, dict[int, Stored]]]) -> list[Twins]:
    """Which models of a task are one, by what they answered: chance does not make every likelihood equal.

    Args:
        task: its label.
        models: the name of each trained model, and its done records by seed.

    Returns:
        Models that agree on every question of the seeds that they share. Items are read only where the scores agree.
    """
    by_scores: dict[str, list[tuple[str, dict[int, Stored]]]] = defaultdict(list)
    for name, records in models:
        if records:
            first = records[min(records)].record
            assert first.scores is not None
            by_scores[f"{min(records)} {first.scores.model_dump_json()}"].append((name, records))
    found = []
    for alike in by_scores.values():
        (name, records), *others = alike
        same = [other for other, theirs in others if _agree(records, theirs)]
        if same:
            found.append(Twins(task=task, models=(name, *same)))
    return found


def _agree(ours: dict[int, Stored], theirs: dict[int, Stored]) -> bool:
    return all(_same_items(ours[seed], theirs[seed]) for seed in {*ours} & {*theirs})


def _same_items(one: Stored, other: Stored) -> bool:
    first, second = one.record.items, other.record.items
    if first is not None and second is not None and first.sha256 == second.sha256:
        return True
    try:
        return read_items(one).equals(read_items(other))
    except UsageError:
        return False
