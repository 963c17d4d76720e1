"""Records as frames: one row for every cell, one row for every question."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, overload

from iml_bench.errors import UsageError
from iml_bench.protocols import ITEM_TYPES
from iml_bench.records import Record, Stored, latest_by_key, read_items, scores_of
from iml_bench.registry import TASKS
from iml_bench.spec import MODEL, OUTSIDE_KEY, TaskSpec

if TYPE_CHECKING:
    import polars as pl

FIRST: Final = ("task", "version", "model", "family", "architecture", "parameters", "reference", "seed", "smoke")
LAST: Final = ("chance", "status", "error", "key", "file")
OF_ITEMS: Final = ("task", "version", "model", "seed")
"""Columns of cells that stand before every question, with what varies and ``key`` after them."""
UNVARIED: Final = ("name", "version")
SOURCE: Final = "world.source"


class Results(Sequence[Stored]):
    """Records with where they lie, one for every cell; of several of one cell a done one.

    It is a sequence of ``Stored`` (``path``, ``record``), and two frames of polars (``to_pandas()`` makes them
    pandas' own; ``pip install 'iml-bench[pandas]'``).
    """

    def __init__(self, stored: Sequence[Stored], problems: Sequence[str] = ()) -> None:
        """Args: stored: records, of which each cell's first place is kept; problems: sentences on what was left out."""
        latest = latest_by_key(stored)
        self._stored = tuple(latest[key] for key in dict.fromkeys(one.record.cell_key for one in stored))
        self.problems = tuple(problems)
        """A sentence for every file that lay among the records and is none."""

    @overload
    def __getitem__(self, index: int) -> Stored: ...
    @overload
    def __getitem__(self, index: slice) -> Results: ...
    def __getitem__(self, index: int | slice) -> Stored | Results:
        """One record, or some of them as results of their own."""
        return Results(self._stored[index]) if isinstance(index, slice) else self._stored[index]

    def __len__(self) -> int:
        """Cells."""
        return len(self._stored)

    def __iter__(self) -> Iterator[Stored]:
        return iter(self._stored)

    def __repr__(self) -> str:
        failed = sum(one.record.status == "failed" for one in self)
        return f"<{len(self)} records{f', {failed} of failed cells' if failed else ''}: .cells, .items>"

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The records alone."""
        return tuple(one.record for one in self)

    @cached_property
    def cells(self) -> pl.DataFrame:
        """One row for every cell.

        ``task``, ``version``, ``model``, ``family``, ``architecture``, ``parameters`` (trainable, measured; null
        where it failed), ``reference`` (a reference row and no trained model), ``seed``, ``smoke``; every field of
        the task and of its recipe that differs among the records of a task or from the task that is registered
        (``alpha``, ``recipe.batch_size``; ``task.exact_match`` where a column has that name already), and every
        varied option of a model (``model.hidden``), null where a task or model has no such field; every score by its
        name, null where it is not measured; ``chance``, ``status`` (``done`` or ``failed``), ``error``, ``key``
        (of the cell's identity) and ``file`` (of the record).
        """
        import polars as pl

        scores = [dict(scores_of(one).values) if one.record.scores else {} for one in self]
        names = list(dict.fromkeys(name for found in scores for name in found))
        told = [_told(one) for one in self]
        columns = [pl.Series(name, [row[name] for row in told], dtype=_TYPES[name]) for name in FIRST]
        columns += [_column(name, values) for name, values in self._varied.items()]
        columns += [pl.Series(name, [found.get(name) for found in scores], dtype=pl.Float64) for name in names]
        columns += [pl.Series(name, [row[name] for row in told], dtype=_TYPES[name]) for name in LAST]
        return pl.DataFrame(columns)

    @cached_property
    def items(self) -> pl.DataFrame:
        """One row for every question that was asked in a done cell; read when it is first looked at.

        ``task``, ``version``, ``model``, ``seed``, what varies (as in ``cells``) and ``key``; then the columns of
        the per-item files: ``stage``, ``fold``, ``set``, ``entity``, ``group``, ``tag``, ``attribute``, ``place``,
        ``truthful``, ``claimed``, ``gold``, ``predicted``, ``exact_match``, ``log_likelihood`` (of the gold answer, in
        nats). A column that an older file lacks is null. ``fold`` is the branch of stage 2.

        Raises:
            UsageError: when a per-item file is missing or is not the one that its record was made with.
        """
        import polars as pl

        before = self.cells.select(*OF_ITEMS, *self._varied, "key")
        tables = [pl.DataFrame(schema={name: getattr(pl, kind) for name, kind in ITEM_TYPES.items()})]
        for one in self:
            if one.record.status == "done":
                tables.append(read_items(one).with_columns(pl.lit(one.record.key).alias("key")))
        items = pl.concat(tables, how="diagonal")
        if "key" not in items.columns:
            items = items.with_columns(pl.lit(None, pl.String).alias("key"))
        names = [name for name in items.columns if name != "key"]
        return items.join(before, on="key", how="left", maintain_order="left").select(*before.columns, *names)

    @cached_property
    def _varied(self) -> dict[str, list[Any]]:
        """Values of every field that varies, by the name of its column."""
        tasks = [record.cell.task for record in self.records]
        distinct = {id(task): task for task in tasks}  # records that were read together share theirs
        of_task = {number: _fields(task) for number, task in distinct.items()}
        fields = [of_task[id(task)] for task in tasks]
        by_task: dict[str, list[TaskSpec]] = defaultdict(list)
        for task in distinct.values():
            by_task[task.name].append(task)
        varied: dict[str, None] = {}
        for own in by_task.values():
            known = [of_task[id(task)] for task in own]
            registered = _registered(own[0])
            if registered is not None:  # its data's source is only filled in when a run is planned
                known.append(_fields(registered) | {SOURCE: known[0].get(SOURCE)})
            for path in dict.fromkeys(path for one in known for path in one):
                if len({json.dumps(one.get(path), sort_keys=True) for one in known}) > 1:
                    varied[path] = None
        found = {_named(path): [one.get(path) for one in fields] for path in varied}
        options = [record.cell.model.parsed.options for record in self.records]
        names = (
            record.cell.model.name for record in self.records if record.cell.model.name != record.cell.model.source
        )
        # A model that a suite varied is named after what was varied, mlp-m?hidden=32; see ``vary_model``.
        said = [part.partition("=")[0] for name in names for part in name.partition("?")[2].split("&") if part]
        return found | {f"{MODEL}{name}": [one.get(name) for one in options] for name in dict.fromkeys(said)}


def _told(one: Stored) -> dict[str, Any]:
    record, cell = one.record, one.record.cell
    return {
        "task": cell.task.name,
        "version": cell.task.version,
        "model": cell.model.name,
        "family": cell.model.family,
        "architecture": cell.model.architecture,
        "parameters": record.parameters,
        "reference": cell.model.is_reference,
        "seed": cell.seed,
        "smoke": record.smoke,
        "chance": record.chance,
        "status": record.status,
        "error": f"{record.error.kind}: {record.error.message}" if record.error else None,
        "key": record.key,
        "file": str(one.path),
    }


class _Types(dict[str, Any]):
    """The types of the columns that are always there; polars is imported when it is first asked."""

    def __missing__(self, name: str) -> Any:
        import polars as pl

        types: dict[str, Any] = {"parameters": pl.Int64, "version": pl.Int64, "seed": pl.Int64, "chance": pl.Float64}
        types |= {"reference": pl.Boolean, "smoke": pl.Boolean}
        return types.get(name, pl.String)


_TYPES = _Types()


def _fields(task: TaskSpec) -> dict[str, Any]:
    """Every field that is part of the task's identity, by its path as ``--set`` takes it."""
    outside = {path.removeprefix("task.") for path in OUTSIDE_KEY if path.startswith("task.")}
    found: dict[str, Any] = {}

    def walk(data: Mapping[str, Any], prefix: str) -> None:
        for name, value in data.items():
            if isinstance(value, dict) and value:
                walk(value, f"{prefix}{name}.")
            else:
                found[prefix + name] = value

    walk({name: value for name, value in task.model_dump(mode="json").items() if name not in outside}, "")
    return {path: value for path, value in found.items() if path not in UNVARIED}


def _registered(task: TaskSpec) -> TaskSpec | None:
    """The registered task of the same name and version, where there is one."""
    try:
        known = TASKS.get(task.name) if task.name in TASKS.origins else None
    except UsageError:
        return None  # broken, or found twice: the records are as good as before
    return known if known is not None and known.version == task.version else None


def _named(path: str) -> str:
    taken = {*FIRST, *LAST, *ITEM_TYPES}
    return f"task.{path}" if path in taken else path


def _column(name: str, values: Sequence[Any]) -> pl.Series:
    """Values of one plain type as they are, anything else as JSON."""
    import polars as pl

    kinds = {type(value) for value in values if value is not None}
    if len(kinds) == 1 and kinds <= {bool, int, float, str}:
        return pl.Series(name, values)
    if kinds == {int, float}:
        return pl.Series(name, [None if value is None else float(value) for value in values])
    return pl.Series(name, [None if value is None else json.dumps(value) for value in values], dtype=pl.String)
