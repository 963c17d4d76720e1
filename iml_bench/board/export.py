"""The board in other forms: a table (CSV, Parquet), and metadata for a model's card on a hub."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from iml_bench.board.rows import Row
from iml_bench.board.summary import Board
from iml_bench.protocols import measures_of
from iml_bench.stats import CONFIDENCE, Interval

if TYPE_CHECKING:
    import polars as pl

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def to_table(rows: Sequence[Row]) -> pl.DataFrame:
    """One line for every row and one column for every number in it; single seeds are in the JSON only.

    Ranks are in ``MEASURE_rank_low`` and ``_high``, measures in columns of their names, exact match by what was
    shown in ``exact_match/GROUP``, these each with ``_low`` and ``_high``.
    """
    import polars as pl

    plain = ("changes", "tuned", "reasons")
    measures = [m.name for protocol in dict.fromkeys(row.protocol for row in rows) for m in measures_of(protocol)]
    groups = sorted({group for row in rows for group in row.exact_match})
    lines: list[dict[str, Any]] = []
    numbers: dict[str, float | None] = {}
    places: dict[str, int | None] = {}
    for row in rows:
        line = row.model_dump(mode="json", exclude={"per_seed", "scores", "exact_match", "ranks", "apart", "heaps"})
        line |= {name: json.dumps(line[name], sort_keys=True) for name in plain}
        line |= {name: list(getattr(row, name)) for name in ("seeds", "failed_seeds")}
        places = _places(row)
        numbers = {}
        for name in dict.fromkeys(measures):
            numbers |= _ends(name, row.scores.get(name))
        for group in groups:
            numbers |= _ends(f"exact_match/{group}", row.exact_match.get(group))
        lines.append(line | places | numbers)
    types: dict[str, Any] = dict.fromkeys((*numbers, "chance"), pl.Float64) if lines else {}
    types |= {"seeds": pl.List(pl.Int64), "failed_seeds": pl.List(pl.Int64), "parameters": pl.Int64}
    types |= dict.fromkeys(places, pl.Int64)
    return pl.DataFrame(lines, schema_overrides=types, infer_schema_length=None)


def _places(row: Row) -> dict[str, int | None]:
    """The rank set by each measure that ranks: ``iml_rank_low``, ``iml_rank_high``."""
    found: dict[str, int | None] = {}
    for measure in (one for one in row.measures if one.ranked):
        ranks = row.ranks.get(measure.name)
        ends = (ranks.low, ranks.high) if ranks else (None, None)
        found |= dict(zip((f"{measure.name}_rank_low", f"{measure.name}_rank_high"), ends, strict=True))
    return found


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    ends = (interval.mean, interval.low, interval.high) if interval else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


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

    results = [
        EvalResult(
            task_type="image-classification" if row.modality == "vision" else "question-answering",
            dataset_type=f"iml-bench/{row.task}",
            dataset_name=row.label,
            dataset_config=row.label,  # results are told apart by it: the null control is another data set
            dataset_revision=str(row.task_version),
            dataset_args={"seeds": list(row.seeds), "task_key": row.task_key, "ruleset": row.ruleset, **row.tuned},
            metric_type=measure.name,
            metric_name=measure.label,
            metric_value=score.mean,
            metric_args={"low": score.low, "high": score.high, "interval": CONFIDENCE},
        )
        for row in rows
        for measure in row.measures
        if measure.shown != "record" and (score := row.scores.get(measure.name)) is not None
    ]
    return str(ModelCardData(model_name=rows[0].model, eval_results=results).to_yaml()) + "\n"
