"""Small cells, records and item tables that several tests need."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from iml_bench.paths import data_root
from iml_bench.protocols import Scores, score_items
from iml_bench.protocols.items import OPTIONAL
from iml_bench.records import Draft, Failure, Record, Store, Stored, Timing, columns_of, read_record, this_provenance
from iml_bench.registry import TASKS, changes_of
from iml_bench.run.cell import ITEM_SCHEMA
from iml_bench.run.job import Job, run_job
from iml_bench.runtime import Runtime
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, ModelEntry, TaskSpec, apply_overrides, cell_key, changes
from iml_bench.streams import Streams

CPU = Runtime(device="cpu")
RESULTS = data_root() / "leaderboard" / "results"
SEATS: dict[str, dict[str, tuple[str | None, ...]]] = {
    "pair": {
        "new_reliable": ("reliable", "unreliable"),
        "new_unreliable": ("unreliable", "reliable"),
        "new_fresh": ("fresh", "fresh"),
        "new_undefined": (None, None),
    },
    "square": {
        "new_reliable": ("reliable", "unreliable", "fresh", None),
        "new_unreliable": ("unreliable", "fresh", None, "reliable"),
        "new_fresh": ("fresh", None, "reliable", "unreliable"),
        "new_undefined": (None, "reliable", "unreliable", "fresh"),
    },
}
"""The tag of each group of new entities in each branch, None where it is not defined, written out by hand."""
SHORT = {"recipe.stage1.steps": 12, "recipe.stage2.steps": 6}
"""Real cells of the whole task in a second: what they read means nothing, and they say how they were changed."""


def small_task(name: str = "vision", **overrides: Any) -> TaskSpec:
    """A shipped task at smoke size; overrides have ``__`` for a dot."""
    task = TASKS.get(name)
    return apply_overrides(task, {**task.smoke, **{path.replace("__", "."): v for path, v in overrides.items()}})


def small_cell(model: str = "mlp-xs", seed: int = 0, task: str = "vision", **overrides: Any) -> CellSpec:
    """A cell at smoke size."""
    return CellSpec(task=small_task(task, **overrides), model=find_model(model), seed=seed)


def item_rows(iml: float, entities: int = 10, base: float = 0.5) -> pl.DataFrame:
    """Items whose IML is ``iml`` exactly (a multiple of 1/entities), all questions of one attribute."""
    rows = []
    for fold in (0, 1):
        for entity in range(2 * entities):
            home = "new_reliable" if entity < entities else "new_unreliable"
            tag = ("reliable" if entity < entities else "unreliable") if fold == 0 else None
            tag = tag or ("unreliable" if entity < entities else "reliable")
            # The first `base` of the entities are right under both tags, the next `iml` only under one.
            rank = (entity % entities) / entities
            right = rank < base - 1e-9 or (tag == "reliable" and rank < base + iml - 1e-9)
            rows.append(
                (2, fold, "fact", entity, home, tag, "a", "x", "x" if right else "y", right, -0.1 if right else -2.0)
            )
        for entity in range(2 * entities, 3 * entities):
            rows.append((2, fold, "fact", entity, "new_undefined", None, "a", "x", "y", False, -2.0))
    for entity, group in ((100, "reliable"), (101, "unreliable"), (102, "undefined")):
        right = group == "reliable"
        tag = group if group != "undefined" else None
        rows.append((1, 0, "fact", entity, group, tag, "a", "x", "x", right, -0.5))
    schema = {name: kind for name, kind in ITEM_SCHEMA.items() if name == "set" or name not in OPTIONAL}
    return pl.DataFrame(rows, schema=schema, orient="row")


def scored(table: pl.DataFrame, task: TaskSpec | None = None) -> Scores:
    """The scores of some items."""
    return score_items(task or TASKS.get("vision"), columns_of(table))


def write_result(
    root: Path, model: str = "mlp-m", seed: int = 0, iml: float = 0.3, task: TaskSpec | None = None, **more: Any
) -> Path:
    """Write a done record with chosen items, without training."""
    task = task or TASKS.get("vision")
    entry = more.pop("entry", None) or find_model(model)
    table = more.pop("table", None)
    cell = CellSpec(task=task, model=entry, seed=seed)
    draft = _draft(cell, **{"parameters": 1000, "chance": 0.1, "data_digest": "0" * 64, **more})
    return Store(root).write(draft, item_rows(iml) if table is None else table)


def write_failure(root: Path, model: str = "mlp-m", seed: int = 0) -> Path:
    """Write the record of a failed cell."""
    cell = CellSpec(task=TASKS.get("vision"), model=find_model(model), seed=seed)
    error = Failure(kind="CellError", message="the loss was nan at step 7 of stage1", traceback="Traceback ...")
    return Store(root).write(_draft(cell, error=error), None)


def _draft(cell: CellSpec, **more: Any) -> Draft:
    registered = TASKS.get(cell.task.name) if cell.task.name in TASKS.origins else cell.task
    fields = {
        "key": cell_key(cell),
        "cell": cell,
        "changes": changes(cell.task, registered),
        "smoke": False,
        "streams": Streams(cell.seed).as_dict(),
        "provenance": this_provenance("cpu", 1, 1),
        "timing": Timing(started="2026-01-01T00:00:00+00:00", ended="2026-01-01T00:01:00+00:00", seconds={}),
    }
    return Draft(**{**fields, **more})


def entry(name: str, source: str, modality: str = "vision") -> ModelEntry:
    """A model entry of a family of its own."""
    return ModelEntry(name=name, source=source, modality=modality, family=name, architecture=name)  # type: ignore[arg-type]


def command(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "iml_bench", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def heed_signals() -> None:
    """In a child: whoever started the tests may have had some signals ignored, which a run respects."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def log_likelihoods(table: pl.DataFrame) -> np.ndarray[Any, Any]:
    """The column as an array."""
    return table["log_likelihood"].to_numpy()


def shipped(model: str, task: str = "vision", seeds: str = "*") -> list[Stored]:
    """A model's records among the shipped results, of the newest version of a task that there is."""
    paths = sorted((RESULTS / model).glob(f"{task}@*-seed{seeds}.json"))
    assert paths, f"no records of {model} on {task} are shipped"
    newest = max(int(path.name.partition("@")[2].partition("-")[0]) for path in paths)
    found = [path for path in paths if path.name.startswith(f"{task}@{newest}-")]
    return [Stored(path, read_record(path)) for path in found]


def copy_records(stored: list[Stored], root: Path, model: ModelEntry | None = None) -> list[Path]:
    """Records in another folder, run under another label where ``model`` is given."""
    paths = []
    for path, record in stored:
        cell = record.cell.model_copy(update={"model": model}) if model else record.cell
        place = Store(root).path_of(cell)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.with_suffix(".parquet"), place.with_suffix(".parquet"))
        assert record.items is not None
        items = record.items.model_copy(update={"file": place.with_suffix(".parquet").name})
        changed = record.model_copy(update={"cell": cell, "items": items})
        place.write_text(changed.model_dump_json(indent=1) + "\n")
        paths.append(place)
    return paths


def short_records(out: Path) -> Path:
    """Records of two seeds of a real, short run of ``mlp-xs``, in ``out``."""
    task = apply_overrides(TASKS.get("vision"), SHORT)
    for seed in (0, 1):
        cell = CellSpec(task=task, model=find_model("mlp-xs"), seed=seed)
        assert run_job(Job(cell, changes_of(task), smoke=False, out=out), CPU) is None
    return out


def draft_of(record: Record, **more: Any) -> Draft:
    """What ``Store.write`` needs to write a record once more."""
    return Draft(**{**{name: getattr(record, name) for name in Draft.model_fields}, **more})


def made(iml: float) -> pl.DataFrame:
    """Items whose IML is a multiple of .005."""
    items = item_rows(abs(iml), 200)
    swapped = pl.col("tag").replace({"reliable": "unreliable", "unreliable": "reliable"})
    return (
        items.with_columns(pl.when(pl.col("stage") == 2).then(swapped).otherwise(pl.col("tag")).alias("tag"))
        if (iml < 0)
        else items
    )
