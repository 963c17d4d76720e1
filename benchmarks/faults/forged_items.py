"""Forgeries of the items beside a record, and of the digests of items and data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from forgeries import set_to
from submitted import LEADERBOARD, Json, Submitted, UnfitError, answered, edits, forgery, some

from iml_bench.submit.checking import COPIES, DATA, FILES, ITEMS, READ

DIGESTED: Final = "digests"
SWAPPED: Final = "items swapped between seeds"
OUTCOME: Final = ("exact_match", "log_likelihood", "predicted")
OTHERS: Final = {"vision": "mlp-s", "text": "neox-m"}
"""Entries whose records the leaderboard has already, by what they read."""


def _others_items(name: str) -> Callable[[Submitted, Json], None]:
    def change(made: Submitted, data: Json) -> None:
        others = [made.read(one)["items"][name] for one in made.records]
        data["items"][name] = made.rng.choice([one for one in others if one != data["items"][name]])

    return change


edits(
    *(DIGESTED, FILES),
    {
        "of the items, at random": set_to("items", "sha256", value=lambda made: f"{made.rng.getrandbits(256):064x}"),
        "of other items": _others_items("sha256"),
    },
)
edits(
    *(DIGESTED, DATA),
    {
        "of the data, at random": set_to("data_digest", value=lambda made: f"{made.rng.getrandbits(256):064x}"),
        "of the data, none": lambda made, data: data.update(data_digest=None),
        "of the data of another seed": lambda made, data: data.update(
            data_digest=next(
                one for path in made.records if (one := made.read(path)["data_digest"]) != data["data_digest"]
            )
        ),
        "chance": set_to("chance", value=lambda made: made.rng.uniform(0, 0.99)),
        "no chance": lambda made, data: data.update(chance=None),
    },
)
edits(
    *(DIGESTED, READ),
    {
        "of the items, capitals": lambda made, data: data["items"].update(sha256=data["items"]["sha256"].upper()),
        "of the data, cut": lambda made, data: data.update(data_digest=data["data_digest"][:-1]),
    },
)


def _two(made: Submitted) -> tuple[Path, Path]:
    """Two records with as many items."""
    group = made.rng.choice((made.rows, made.swept))
    return group[0], group[1]


@forgery(SWAPPED, "the files", FILES)
def _(made: Submitted) -> None:
    one, other = (path.with_suffix(".parquet") for path in _two(made))
    raw = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(raw)


@forgery(SWAPPED, "the tables, digest and scores made right", ITEMS)
def _(made: Submitted) -> None:
    one, other = made.rows[:2]
    tables = made.table(one), made.table(other)
    made.put_table(one, tables[1])
    made.put_table(other, tables[0])


@forgery(SWAPPED, "some rows", ITEMS)
def _(made: Submitted) -> None:
    one, other = made.rows[:2]
    ours, theirs = made.table(one), made.table(other)
    rows = some(made.rng, range(len(ours)))
    mask = pl.Series(np.isin(np.arange(len(ours)), rows))
    mixed = pl.concat([ours.filter(~mask), theirs.filter(mask)])
    if mixed.equals(ours):
        raise UnfitError
    made.put_table(one, mixed)


@forgery(SWAPPED, "the outcomes of a tenth or more, the questions kept", COPIES)
def _(made: Submitted) -> None:
    one, other = made.rows[:2]
    ours, theirs = made.table(one), made.table(other)
    rows = made.rng.sample(range(len(ours)), int(len(ours) * made.rng.uniform(0.1, 0.9)))
    mask = pl.Series(np.isin(np.arange(len(ours)), rows))
    mixed = [pl.select(pl.when(mask).then(theirs[name]).otherwise(ours[name]).alias(name)) for name in OUTCOME]
    made.put_table(one, answered(ours.with_columns(*(table.to_series() for table in mixed))))


@forgery(SWAPPED, "another model's outcomes", COPIES)
def _(made: Submitted) -> None:
    path = made.rows[0]
    cell = made.cell(path)
    same = f"{cell.task.label}-*-seed{cell.seed}.json"
    (theirs,) = (LEADERBOARD / "results" / OTHERS[cell.task.modality]).glob(same)
    made.put_table(path, made.table(theirs))


def _changed(change: Callable[[Submitted, pl.DataFrame], pl.DataFrame]) -> Callable[[Submitted], None]:
    def apply(made: Submitted) -> None:
        path = made.any
        before = made.table(path)
        after = change(made, before)
        if after.equals(before):
            raise UnfitError
        made.put_table(path, after)

    return apply


def _exchanged(column: str, *pairs: tuple[str, str]) -> Callable[[Submitted, pl.DataFrame], pl.DataFrame]:
    both = {**dict(pairs), **{other: one for one, other in pairs}}
    return lambda made, table: table.with_columns(pl.col(column).replace(both))


CHANGED: dict[str, Callable[[Submitted, pl.DataFrame], pl.DataFrame]] = {
    "the tags": _exchanged("tag", ("reliable", "unreliable")),
    "the groups": _exchanged("group", ("new_reliable", "new_unreliable"), ("reliable", "unreliable")),
    "the order within a seed": lambda made, table: table.sample(fraction=1, shuffle=True, seed=made.rng.randrange(99)),
    "the truth of what was said": lambda made, table: table.with_columns(~pl.col("truthful")),
    "a column of its time left out": lambda made, table: table.drop(made.rng.choice(("truthful", "claimed", "place"))),
    "entities": lambda made, table: table.with_columns(pl.col("entity") + made.rng.randrange(1, 9)),
}
for said, reorder in CHANGED.items():
    forgery(SWAPPED, said, ITEMS)(_changed(reorder))
