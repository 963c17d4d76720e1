"""Forgeries of how something was run: sweeps, learning rates, stages, models; and what no look at records can see."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from forgeries import put_in
from submitted import (
    Json,
    Submitted,
    UnfitError,
    answered,
    edits,
    either_way,
    flipped,
    forgery,
    some,
)

from iml_bench.registry import TASKS
from iml_bench.spec.written import dump_yaml
from iml_bench.submit.checking import FORM, READ, SWEEPS, TRAINING

SWEPT: Final = "sweeps and learning rates"
TOLD: Final = "what is said of the run"
MADE_UP: Final = "made up, and agrees with itself"
PICKED: Final = "run otherwise than it says"


def relabelled(made: Submitted, path: Path, rate: float) -> Any:
    """A record as that of another learning rate."""
    data = made.read(path)
    if data["cell"]["task"]["recipe"]["lr"] == rate:
        raise UnfitError
    data["cell"]["task"]["recipe"]["lr"] = rate
    return made.rekey(path, data)


def own_rate(made: Submitted, path: Path) -> float:
    """The learning rate of the task itself, at which every model may have a row."""
    return float(TASKS.get(made.cell(path).task.name).recipe.lr)


@forgery(SWEPT, "a cell less", SWEEPS)
def _(made: Submitted) -> None:
    swept = made.swept
    for row in some(made.rng, range(len(swept) - 1)):
        swept[row].unlink()
    for items in made.folder.glob("*.parquet"):
        if not items.with_suffix(".json").exists():
            items.unlink()


@forgery(SWEPT, "a row at a rate that was not chosen", SWEEPS)
def _(made: Submitted) -> None:
    path = made.rows[0]
    rate = made.cell(path).task.recipe.lr * made.rng.choice((0.125, 0.25, 0.5, 0.9, 2, 4))
    if rate == own_rate(made, path):
        raise UnfitError
    relabelled(made, path, rate)


@forgery(SWEPT, "a cell at a rate of no sweep", SWEEPS)
def _(made: Submitted) -> None:
    relabelled(made, made.swept[0], 10 ** made.rng.uniform(-6, -1))


def _tuned(made: Submitted, tuned: Json) -> None:
    data = made.plain_entry()
    data["tuned"] = tuned
    made.entry.write_bytes(dump_yaml(data).encode())


@forgery(SWEPT, "the entry says another rate", SWEEPS)
def _(made: Submitted) -> None:
    ((setting, rate),) = made.plain_entry()["tuned"].items()
    _tuned(made, {setting: {"recipe.lr": rate["recipe.lr"] * made.rng.choice((0.5, 2, 1.0001))}})


@forgery(SWEPT, "the entry says none", SWEEPS)
def _(made: Submitted) -> None:
    _tuned(made, {})


@forgery(SWEPT, "the best cells left out of their scores", SWEEPS)
def _(made: Submitted) -> None:
    """Records without what a rate is chosen by are no evidence, and another rate would win."""
    best = made.cell(made.rows[0]).task.recipe.lr
    for path in made.swept:
        if made.cell(path).task.recipe.lr == best:
            data = made.read(path)
            del data["scores"]["exact_match"]["reliable"]
            made.write(path, data)


def _stage(name: str, by: int) -> Any:
    def change(made: Submitted, data: Json) -> None:
        made.rng.choice(data["stages"])[name] += by * made.rng.randrange(1, 9)

    return change


def _stages_less(made: Submitted, data: Json) -> None:
    data["stages"].pop(made.rng.randrange(len(data["stages"])))


def _stages_swapped(made: Submitted, data: Json) -> None:
    if len(data["stages"]) < 2:
        raise UnfitError
    data["stages"].reverse()


def _curve(made: Submitted, data: Json) -> None:
    phase = made.rng.choice(["stage1", "stage9"])
    step = data["stages"][0]["steps"] + 1
    data["curve"] = [{"phase": phase, "fold": 0, "step": step, "exact_match": {"reliable": 1.0}}]


edits(
    *(TOLD, TRAINING),
    {
        "more steps": _stage("steps", 1),
        "other micro-batches": _stage("accumulation", 1),
        "larger micro-batches": _stage("micro_batch", 10_000),
        "a loss of a stage less": lambda made, data: made.rng.choice(data["stages"]).update(final_loss=None),
        "a stage less": _stages_less,
        "the stages in another order": _stages_swapped,
        "a curve of more than was trained": _curve,
        "processes": lambda made, data: data["provenance"].update(processes=made.rng.randrange(2, 99)),
        "parameters of one record": lambda made, data: data.update(parameters=made.rng.randrange(10**6)),
        "no parameters": lambda made, data: data.update(parameters=None),
    },
)


@forgery(TOLD, "parameters of every record", TRAINING)
def _(made: Submitted) -> None:
    number = made.rng.randrange(1, 10**7)
    for path in made.records:
        made.write(path, made.read(path) | {"parameters": number})


edits(
    *(TOLD, FORM),
    {
        "a smoke test": lambda made, data: data.update(smoke=True),
        "HTML": put_in(lambda made: "<script>alert(1)</script>"),
        "a formula": put_in(lambda made: made.rng.choice(["=1+1", "+A1", "-2", "@SUM(A1)"])),
        "no time": lambda made, data: data["timing"].update(ended="yesterday"),
        "a time of no zone": lambda made, data: data["timing"].update(started="2026-01-01T00:00:00"),
    },
)
FAILURE: Final = {"kind": "CellError", "message": "the loss was nan", "traceback": "Traceback ..."}
edits(
    *(TOLD, READ),
    {
        "failed, with scores": lambda made, data: data.update(status="failed"),
        "failed": lambda made, data: data.update(status="failed", scores=None, items=None, error=FAILURE),
        "a status that there is none": lambda made, data: data.update(status="running"),
        "a schema of the future": lambda made, data: data.update(schema_version=made.rng.randrange(7, 2**40)),
        "a field more": lambda made, data: data.update(verified=True),
        "a field of the cell more": lambda made, data: data["cell"]["task"].update(best=1),
        "a field less": lambda made, data: data.pop(made.rng.choice(["cell", "smoke", "provenance", "status"])),
        "an attachment that is a path": lambda made, data: data.update(
            attachments=[ATTACHED | {"file": "../x.parquet"}]
        ),
    },
)
ATTACHED: Final = {"kind": "probe", "name": "x", "moment": "stage1", "sha256": "a" * 64}


@forgery(TOLD, "a row that diverged", READ)
def _(made: Submitted) -> None:
    path = made.rows[0]
    _failed(made, path)


def _failed(made: Submitted, path: Path) -> None:
    error = FAILURE | {"kind": "DivergedError"}
    made.write(path, made.read(path) | {"status": "failed", "scores": None, "items": None, "error": error})
    path.with_suffix(".parquet").unlink()


@forgery(MADE_UP, "outcomes flipped where the log-likelihood allows both", "")
def _(made: Submitted) -> None:
    path = made.rows[0]
    table = made.table(path)
    wrong = either_way(made.cell(path), table) & ~table["exact_match"].to_numpy()
    made.put_table(path, answered(flipped(table, some(made.rng, np.flatnonzero(wrong)))))


@forgery(MADE_UP, "outcomes flipped, log-likelihoods with them", "")
def _(made: Submitted) -> None:
    path = made.rows[0]
    table = made.table(path)
    right, rows = table["exact_match"].to_numpy(), some(made.rng, range(len(table)))
    likely = table["log_likelihood"].to_numpy().copy()
    likely[rows] = [-made.rng.uniform(0.7, 2) if right[row] else -made.rng.uniform(0.01, 0.6) for row in rows]
    made.put_table(path, answered(flipped(table.with_columns(pl.Series("log_likelihood", likely)), rows)))


@forgery(MADE_UP, "a seed twice, every log-likelihood moved", "")
def _(made: Submitted) -> None:
    path = made.reseed_beside()
    table = made.table(path)
    moved = np.array([1 + 10 ** made.rng.uniform(-5, -3) for _ in range(len(table))])
    made.put_table(path, table.with_columns(pl.Series("log_likelihood", table["log_likelihood"].to_numpy() * moved)))


@forgery(PICKED, "two seeds exchanged, with their questions", "")
def _(made: Submitted) -> None:
    (one, other), free = made.rows[:2], made.free_seed()
    seeds = made.cell(one).seed, made.cell(other).seed
    one = made.reseed(one, free)
    made.reseed(other, seeds[0])
    made.reseed(one, seeds[1])


@forgery(PICKED, "a row said to be at the task's own rate", "")
def _(made: Submitted) -> None:
    path = made.rows[0]
    relabelled(made, path, own_rate(made, path))


@forgery(PICKED, "two losing rates of a sweep exchanged", "")
def _(made: Submitted) -> None:
    cells = {(made.cell(path).task.recipe.lr, made.cell(path).seed): path for path in made.swept}
    best = made.cell(made.rows[0]).task.recipe.lr
    one, other = made.rng.sample(sorted({rate for rate, _ in cells} - {best}), 2)
    for seed in (100, 101):
        aside = relabelled(made, cells[one, seed], 0.5)
        relabelled(made, cells[other, seed], one)
        relabelled(made, aside, other)


@forgery(PICKED, "a losing rate of a sweep said to have diverged", "")
def _(made: Submitted) -> None:
    best = made.cell(made.rows[0]).task.recipe.lr
    path = next(path for path in made.swept if made.cell(path).task.recipe.lr != best)
    _failed(made, path)


edits(
    *(PICKED, ""),
    {
        "another loss, machine or commit": lambda made, data: made.rng.choice(
            (
                lambda: data["stages"][0].update(final_loss=made.rng.random()),
                lambda: data["provenance"].update(processor="another", platform="elsewhere"),
                lambda: data["provenance"].update(commit="a" * 40),
            )
        )(),
    },
)
