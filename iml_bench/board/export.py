"""The board in other forms: a table (CSV, Parquet), and metadata for a model's card on a hub."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from iml_bench.board.rows import Row
from iml_bench.board.summary import Board
from iml_bench.stats import SCORES

if TYPE_CHECKING:
    import polars as pl

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def to_table(rows: Sequence[Row]) -> pl.DataFrame:
    """One line for every row and one column for every number in it; single seeds are in the JSON only.

    Exact match by what was shown is in columns named ``exact_match/GROUP``, with ``_low`` and ``_high``.
    """
    import polars as pl

    plain = ("changes", "reasons")
    groups = sorted({group for row in rows for group in row.exact_match})
    lines: list[dict[str, Any]] = []
    for row in rows:
        line = row.model_dump(mode="json", exclude={"per_seed", "exact_match"})
        line |= {name: json.dumps(line[name], sort_keys=True) for name in plain}
        line |= {name: list(getattr(row, name)) for name in ("seeds", "failed_seeds")}
        for group in groups:
            interval = row.exact_match.get(group)
            for end, field in (("", "mean"), ("_low", "low"), ("_high", "high")):
                line[f"exact_match/{group}{end}"] = getattr(interval, field) if interval else None
        lines.append(line)
    types: dict[str, Any] = {name: pl.Float64 for line in lines[:1] for name in line if _is_score(name)}
    types |= {"seeds": pl.List(pl.Int64), "failed_seeds": pl.List(pl.Int64), "parameters": pl.Int64, "tier": pl.Int64}
    return pl.DataFrame(lines, schema_overrides=types, infer_schema_length=None)


def _is_score(name: str) -> bool:
    known = (*SCORES, "chance", "normalised", "iml_se_items")
    return name.startswith("exact_match/") or name.removesuffix("_low").removesuffix("_high") in known


def to_csv(rows: Sequence[Row]) -> str:
    """The table as CSV; a name that a spreadsheet would take for a formula gets an apostrophe before it."""
    import polars as pl

    table = to_table(rows)
    lists = [name for name, kind in table.schema.items() if kind == pl.List(pl.Int64)]
    table = table.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join(" ") for name in lists)
    texts = [name for name, kind in table.schema.items() if kind == pl.String]
    guarded = table.with_columns(
        pl.when(pl.any_horizontal(pl.col(name).str.starts_with(start) for start in FORMULA))
        .then("'" + pl.col(name))
        .otherwise(pl.col(name))
        .alias(name)
        for name in texts
    )
    return guarded.write_csv()


def data_files(board: Board) -> dict[str, bytes]:
    """The board as ``board.json`` (all of it), ``board.csv`` and ``board.parquet`` (its rows)."""
    parquet = io.BytesIO()
    to_table(board.rows).write_parquet(parquet, compression="zstd", statistics=False)
    return {
        "board.json": (json.dumps(board.model_dump(mode="json"), indent=1, allow_nan=False) + "\n").encode(),
        "board.csv": to_csv(board.rows).encode(),
        "board.parquet": parquet.getvalue(),
    }


def model_index(rows: Sequence[Row]) -> str:
    """The ``model-index`` metadata of a model's card on the Hugging Face hub, as YAML.

    Args:
        rows: all rows of one model.
    """
    from huggingface_hub import ModelCardData
    from huggingface_hub.repocard_data import EvalResult

    names = {"iml": "IML", "iml_nats": "IML in nats", "stage1_gap": "stage-1 gap"}
    results = [
        EvalResult(
            task_type="image-classification" if row.modality == "vision" else "question-answering",
            dataset_type=f"iml-bench/{row.task}",
            dataset_name=row.label,
            dataset_config=row.label,  # results are told apart by it: the null control is another data set
            dataset_revision=str(row.task_version),
            dataset_args={"seeds": list(row.seeds), "task_key": row.task_key},
            metric_type=score,
            metric_name=name,
            metric_value=getattr(row, score),
            metric_args={"low": getattr(row, f"{score}_low"), "high": getattr(row, f"{score}_high"), "interval": 0.95},
        )
        for row in rows
        for score, name in names.items()
        if getattr(row, score) is not None
    ]
    return str(ModelCardData(model_name=rows[0].model, eval_results=results).to_yaml()) + "\n"
