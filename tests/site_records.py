"""Records that a page is built from in tests: everything that a page has to show, and hostile names."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from making import item_rows, write_failure, write_result

from iml_bench.board import Board, LeaderboardTask, build_board
from iml_bench.records import Store, Stored, in_order
from iml_bench.registry import MODELS, TASKS
from iml_bench.spec import CurvePoint, ModelEntry, TaskSpec

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7}}",
    "javascript:alert(1)",
    "</title><b>" + "x" * 150,
)


VERSION = TASKS.get("vision").version
REQUIRED = (
    LeaderboardTask(
        "vision", VERSION, "vision", {}, None, (0, 1, 2), models=(MODELS.get("mlp-s"), MODELS.get("mlp-l"))
    ),
    LeaderboardTask("vision", VERSION, "vision", {"alpha": 0.5}, None, (0, 1)),
)


def write_records(root: Path) -> None:
    """Ranked models, one of them not registered, a family of three sizes, a null control, a failure, hostile names."""
    for model, scores, size in (
        ("mlp-s", (0.1, 0.2, 0.1, 0.2, 0.1, 0.1, 0.2, 0.1), 1000),
        ("mlp-m", (0.3, 0.4, 0.3, 0.3, 0.4, 0.4, 0.3, 0.4), 10_000),
        ("mlp-l", (0.4, 0.5, 0.5, 0.4, 0.4, 0.5, 0.5, 0.5), 100_000),
        ("convnet-s", (0.3, 0.5), 76_000),
        ("oracle", (0.5, 0.5, 0.5), None),
        ("random", (0.0, 0.1, 0.0), None),
    ):
        for seed, iml in enumerate(scores):
            write_result(root, model, seed, table=_with_fresh(item_rows(iml), seed), parameters=size)
    write_failure(root, "convnet-s", 2)
    write_failure(root, "convnet-m", 0)
    for seed in (0, 1, 2):
        write_result(root, "vit-plain", seed, table=item_rows(0.0, base=0.0))
    null = TaskSpec.model_validate(TASKS.get("vision").model_dump() | {"alpha": 0.5})
    points = [CurvePoint(phase="stage1", fold=0, step=step, exact_match={"reliable": step / 4}) for step in (1, 2)]
    for seed, iml in enumerate((0.0, 0.1)):
        write_result(root, "mlp-m", seed, iml, task=null, curve=tuple(points))
        write_result(root, "mlp-s", seed, 0.1, task=null)
    for index, name in enumerate(HOSTILE):
        source = f"ref:mlp?hidden={index + 2}"
        hostile = ModelEntry(
            name=name, source=source, modality="vision", family=name, architecture=name, notes=name, licence=name
        )
        for seed in (0, 1, 2):
            write_result(root, seed=seed, iml=0.2, entry=hostile, parameters=500 + index)
    (root / "<img src=x onerror=alert(1)>.json").write_text("{", encoding="utf-8")


def _with_fresh(table: pl.DataFrame, right: int) -> pl.DataFrame:
    """The table with four questions about what was defined under the fresh tag, some answered right."""
    some = table.filter(pl.col("group") == "new_undefined").head(4)
    answered = pl.Series("exact_match", [index < right for index in range(4)])
    return pl.concat([table, some.with_columns(answered, group=pl.lit("new_fresh"), tag=pl.lit("fresh"))])


def read(root: Path) -> tuple[list[Stored], Board, list[str]]:
    """The records, the board, and what was left out."""
    stored, problems = Store(root).scan()
    stored = in_order(stored)
    return stored, build_board(stored, entries(), REQUIRED), [problem.replace(f"{root}/", "") for problem in problems]


def entries() -> list[ModelEntry]:
    """The registered models."""
    return [listed.spec for listed in MODELS.list() if listed.spec is not None]
