"""The difference that records make to the leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iml_bench.board import Row, build_rows, first_labels, leaderboard_tasks, ranked, row_label, view
from iml_bench.records import Stored
from iml_bench.run.plan import RULESETS
from iml_bench.spec import Spec
from iml_bench.stats import RankSet


class Change(Spec):
    """A row that is new, changed or gone."""

    task: str
    task_version: int
    changes: dict[str, Any]
    ruleset: str
    model: str
    what: str
    """``new``, ``changed`` or ``gone``."""
    seeds_before: tuple[int, ...]
    seeds_after: tuple[int, ...]
    measure: str
    """Label of the headline."""
    score_before: float | None
    score_after: float | None
    rank_before: RankSet | None
    rank_after: RankSet | None

    @property
    def label(self) -> str:
        """As ``Row.label`` has it."""
        return row_label(self.task, self.task_version, self.changes, self.ruleset)


def board_difference(before: Sequence[Stored], after: Sequence[Stored]) -> list[Change]:
    """Rows of two boards that differ in seeds, headline or rank, in the order of the second.

    A new seed of a registered model may change the rank sets of others, too: they hold together.
    """
    old, new = (_rows(stored) for stored in (before, after))
    found = []
    for key in [*new, *(key for key in old if key not in new)]:
        was, now = old.get(key), new.get(key)
        if was is None or now is None or _shown(was) != _shown(now):
            found.append(_change(was, now))
    return found


def _rows(stored: Sequence[Stored]) -> dict[tuple[str, str, str, str], Row]:
    """The rows of both rulesets by what they are of, and by name: a row under another name is a new one, and the old
    is gone.
    """
    results = [one for one in stored if not one.record.smoke]
    models, required = first_labels(results), leaderboard_tasks()
    views = [view(results, ruleset) for ruleset in RULESETS]
    rows = [row for seen in views for row in ranked(seen.marked(build_rows(seen.stored)), models, required)]
    return {(row.ruleset, row.task_key, row.model_key, row.model): row for row in rows}


def _shown(row: Row) -> tuple[Any, ...]:
    return row.seeds, row.tuned, row.mean(row.headline.name), row.ranks


def _change(was: Row | None, now: Row | None) -> Change:
    row = now or was
    assert row is not None
    return Change(
        task=row.task,
        task_version=row.task_version,
        changes=row.changes,
        ruleset=row.ruleset,
        model=row.model,
        what="new" if was is None else "gone" if now is None else "changed",
        seeds_before=was.seeds if was else (),
        seeds_after=now.seeds if now else (),
        measure=row.headline.label,
        score_before=was.mean(row.headline.name) if was else None,
        score_after=now.mean(row.headline.name) if now else None,
        rank_before=was.ranks.get(row.headline.name) if was else None,
        rank_after=now.ranks.get(row.headline.name) if now else None,
    )
