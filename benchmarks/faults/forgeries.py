"""Forgeries of what a submission says: outcomes, scores, keys and seeds.

Digests and items are in ``forged_items.py``, sweeps and how cells were run in ``forged_runs.py``, and what is wrapped
around all of it, links and archives, names, sizes and encodings, in ``wrappings.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import polars as pl
from submitted import (
    Json,
    Submitted,
    UnfitError,
    answered,
    edits,
    flipped,
    forgery,
    some,
)

from iml_bench.protocols import measure_of
from iml_bench.spec import CellSpec
from iml_bench.submit.checking import (
    COPIES,
    DATA,
    ENTRY,
    FILES,
    ITEMS,
    OUTCOMES,
    READ,
    SCORES,
    SEEDS,
    TASK,
)

FLIPPED: Final = "outcomes flipped"
SCORED: Final = "scores"
KEYED: Final = "keys"
SEEDED: Final = "seeds"
UNDECIDED: Final = 0.01
"""Nats by which a log-likelihood is clear of the bounds of a right answer and of a wrong one."""


def one_way(made: Submitted) -> tuple[Any, pl.DataFrame, list[int]]:
    """A record, its items, and some of those that are all right or all wrong."""
    path = made.any
    table = made.table(path)
    right = made.rng.random() < 0.5
    return path, table, some(made.rng, np.flatnonzero(table["exact_match"].to_numpy() == right))


@forgery(FLIPPED, "in the file alone", FILES)
def _(made: Submitted) -> None:
    path, table, rows = one_way(made)
    made.put_table(path, flipped(table, rows), scored=False, digested=False)


@forgery(FLIPPED, "the digest made right", SCORES)
def _(made: Submitted) -> None:
    path, table, rows = one_way(made)
    made.put_table(path, flipped(table, rows), scored=False)


@forgery(FLIPPED, "digest and scores made right", OUTCOMES)
def _(made: Submitted) -> None:
    path, table, _ = one_way(made)
    wrong = np.flatnonzero(~table["exact_match"].to_numpy() & (table["predicted"] != table["gold"]).to_numpy())
    made.put_table(path, flipped(table, some(made.rng, wrong)))


@forgery(FLIPPED, "and the answers, though the log-likelihood tells", OUTCOMES)
def _(made: Submitted) -> None:
    path, table, _ = one_way(made)
    likely, right = table["log_likelihood"].to_numpy(), table["exact_match"].to_numpy()
    sure = right & (likely > UNDECIDED - math.log(2))
    if made.cell(path).task.modality == "vision" and made.rng.random() < 0.5:
        sure = ~right & (likely < -UNDECIDED - math.log(10))
    made.put_table(path, answered(flipped(table, some(made.rng, np.flatnonzero(sure)))))


@forgery(FLIPPED, "every answer right", OUTCOMES)
def _(made: Submitted) -> None:
    path = made.rows[0]
    table = made.table(path).with_columns(exact_match=True)
    made.put_table(path, table)


@forgery(FLIPPED, "log-likelihoods above 0", OUTCOMES)
def _(made: Submitted) -> None:
    path, table, rows = one_way(made)
    likely = table["log_likelihood"].to_numpy().copy()
    likely[rows] = 10 ** made.rng.uniform(-2, 3)
    made.put_table(path, table.with_columns(pl.Series("log_likelihood", likely)))


@forgery(FLIPPED, "the right answer is what the model said", ITEMS)
def _(made: Submitted) -> None:
    path, table, _ = one_way(made)
    rows = some(made.rng, np.flatnonzero((table["predicted"] != table["gold"]).to_numpy()))
    gold, said, match = (table[name].to_list() for name in ("gold", "predicted", "exact_match"))
    for row in rows:
        gold[row], match[row] = said[row], True
    made.put_table(path, table.with_columns(pl.Series("gold", gold), pl.Series("exact_match", match)))


def _shifted(made: Submitted, data: Json) -> None:
    task = CellSpec.model_validate(data["cell"]).task
    names = [name for name, value in data["scores"].items() if isinstance(value, float)]
    name = made.rng.choice(names)
    value = data["scores"][name] + made.rng.choice((-1, 1)) * 10 ** made.rng.uniform(-9, -0.5)
    if not measure_of(task, name).allows(value):
        raise UnfitError
    data["scores"][name] = value


def _slice(value: float | None) -> Callable[[Submitted, Json], None]:
    def change(made: Submitted, data: Json) -> None:
        slices = data["scores"]["exact_match"]
        name = made.rng.choice(sorted(slices))
        slices[name] = min(max(slices[name] + made.rng.choice((-0.1, 0.001, 0.1)), 0), 1) if value is None else value
        if slices[name] == (value or 0):
            raise UnfitError

    return change


def _nulled(made: Submitted, data: Json) -> None:
    name = made.rng.choice([name for name, value in data["scores"].items() if isinstance(value, float)])
    data["scores"][name] = None
    data["scores"]["reasons"][name] = "not measured"


def _headless(made: Submitted, data: Json) -> None:
    """Who has no IML is not run again."""
    if data["scores"]["iml"] is None:
        raise UnfitError
    del data["scores"]["iml"]


def _given(made: Submitted, data: Json) -> None:
    data["scores"][_null(made, data)] = 0.5


def _reason(made: Submitted, data: Json) -> None:
    name = made.rng.choice([name for name, value in data["scores"].items() if isinstance(value, float)] or [""])
    if not name:
        raise UnfitError
    data["scores"]["reasons"][name] = "not measured"


def _null(made: Submitted, data: Json) -> str:
    names = [name for name, value in data["scores"].items() if value is None]
    if not names:
        raise UnfitError
    return made.rng.choice(names)


edits(
    *(SCORED, SCORES),
    {
        "one moved": _shifted,
        "a slice moved": _slice(None),
        "one said to be null": _nulled,
        "one where there is none": _given,
        "the headline left out": _headless,
        "a slice that nobody asked": lambda made, data: data["scores"]["exact_match"].update({"reliable/best": 1.0}),
        "a slice less, by which a rate is chosen": lambda made, data: data["scores"]["exact_match"].pop("reliable"),
        "a reason for one that is not null": _reason,
    },
)
edits(
    *(SCORED, READ),
    {
        "beyond its bounds": lambda made, data: data["scores"].update(iml=made.rng.uniform(1.01, 9)),
        "a share of more than all": lambda made, data: data["scores"]["exact_match"].update(reliable=1.5),
        "a name that is no word": lambda made, data: data["scores"].update({"iml<b>": 0.5}),
        "none at all": lambda made, data: data.update(scores=None),
    },
)


@forgery(SCORED, "one moved, the seal left", READ)
def _(made: Submitted) -> None:
    path = made.any
    data = made.read(path)
    _shifted(made, data)
    data["seal"] = data.get("seal", "0" * 64)
    made.write(path, data, sealed=False)


def put_in(text: Callable[[Submitted], str]) -> Callable[[Submitted, Json], None]:
    """A text somewhere in what a record says of where it was made."""

    def change(made: Submitted, data: Json) -> None:
        where = data["provenance"]
        data["provenance"][made.rng.choice([name for name in where if isinstance(where[name], str)])] = text(made)

    return change


def _other_key(made: Submitted, data: Json) -> None:
    data["key"] = next(key for one in made.records if (key := made.read(one)["key"]) != data["key"])


def set_to(*path: str, value: Callable[[Submitted], Any]) -> Callable[[Submitted, Json], None]:
    def change(made: Submitted, data: Json) -> None:
        for name in path[:-1]:
            data = data[name]
        new = value(made)
        if data[path[-1]] == new:
            raise UnfitError
        data[path[-1]] = new

    return change


edits(
    *(KEYED, READ),
    {
        "at random": set_to("key", value=lambda made: f"{made.rng.getrandbits(256):064x}"),
        "another record's": _other_key,
        "capitals": lambda made, data: data.update(key=data["key"].upper()),
        "cut": lambda made, data: data.update(key=data["key"][: made.rng.randrange(64)]),
        "the seed is another": set_to("cell", "seed", value=lambda made: made.rng.randrange(2**31)),
        "the learning rate is another": set_to("cell", "task", "recipe", "lr", value=lambda made: 10**-5),
        "the steps are others": set_to("cell", "task", "recipe", "stage2", "steps", value=lambda made: 9),
        "the model is another": set_to("cell", "model", "source", value=lambda made: "ref:mlp?hidden=9"),
        "no key": lambda made, data: data.pop("key"),
    },
)


def _version(made: Submitted, data: Json) -> None:
    data["cell"]["task"] |= {"version": made.rng.choice((1, 3, 9)), "history": {}}


REKEYED: tuple[tuple[str, str, Callable[[Submitted, Json], None]], ...] = (
    (
        "made anew for a changed task that says nothing of it",
        TASK,
        set_to("cell", "task", "alpha", value=lambda made: 0.5),
    ),
    ("made anew for another protocol", TASK, set_to("cell", "protocol", value=lambda made: made.rng.choice((1, 3)))),
    ("made anew for another version", TASK, _version),
    ("made anew for a task of another name", TASK, set_to("cell", "task", "name", value=lambda made: "visoin")),
    ("made anew for another source", ENTRY, set_to("cell", "model", "source", value=lambda made: "ref:mlp?hidden=9")),
    ("made anew for files that there are none", ENTRY, set_to("cell", "model", "digest", value=lambda made: "a" * 64)),
    (
        "made anew for a commit of nothing",
        ENTRY,
        set_to("cell", "model", "commit", value=lambda made: "a" * 40),
    ),
)


def _rekeyed(change: Callable[[Submitted, Json], None]) -> Callable[[Submitted], None]:
    def apply(made: Submitted) -> None:
        every = made.rng.random() < 0.5
        for path in made.records if every else [made.any]:
            data = made.read(path)
            change(made, data)
            made.rekey(path, data, told=False)

    return apply


for said, expected, change in REKEYED:
    forgery(KEYED, said, expected)(_rekeyed(change))


@forgery(SEEDED, "another, its streams left", DATA)
def _(made: Submitted) -> None:
    made.reseed(made.rows[0], made.free_seed(), streams=False, questions=False)


@forgery(SEEDED, "another, its streams and digest made right", ITEMS)
def _(made: Submitted) -> None:
    made.reseed(made.rows[0], made.free_seed(), questions=False)


@forgery(SEEDED, "another, its digest left", DATA)
def _(made: Submitted) -> None:
    made.reseed(made.rows[0], made.free_seed(), data=False)


@forgery(SEEDED, "one twice, with the questions of both", COPIES)
def _(made: Submitted) -> None:
    made.reseed_beside()


@forgery(SEEDED, "one twice, up to nine in ten of the outcomes moved", COPIES)
def _(made: Submitted) -> None:
    path = made.reseed_beside()
    table = made.table(path)
    likely = table["log_likelihood"].to_numpy().copy()
    rows = made.rng.sample(range(len(likely)), made.rng.randrange(1, int(0.9 * len(likely))))
    likely[rows] -= 10 ** made.rng.uniform(-9, -3)
    made.put_table(path, table.with_columns(pl.Series("log_likelihood", likely)))


@forgery(SEEDED, "none of the leaderboard's", SEEDS)
def _(made: Submitted) -> None:
    first = made.rng.randrange(8, 2**20)
    for seed, path in enumerate(made.rows, start=first):
        made.reseed(path, seed)


edits(
    *(SEEDED, READ),
    {
        "no whole number": set_to("cell", "seed", value=lambda made: made.rng.choice([0.5, "one", True, None, [1]])),
        "below 0": set_to("cell", "seed", value=lambda made: -made.rng.randrange(1, 9)),
    },
)


def _stream(made: Submitted, data: Json) -> None:
    data["streams"][made.rng.choice(sorted(data["streams"]))] += made.rng.choice((-1, 1))


edits(
    *(SEEDED, DATA),
    {
        "a stream is another": _stream,
        "a stream that there is none": lambda made, data: data["streams"].update({"luck": 7}),
        "no stream of the weights": lambda made, data: data["streams"].pop("init"),
    },
)
