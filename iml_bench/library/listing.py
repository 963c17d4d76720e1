"""``iml_bench.tasks`` and ``models``: what can be named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iml_bench.registry import MODELS, TASKS, Listed

if TYPE_CHECKING:
    import polars as pl


def tasks() -> pl.DataFrame:
    """Every task that can be named: ``name``, ``version``, ``modality``, ``model`` (the default), ``description``.

    And ``origin`` (a file, or the package that adds it) and ``problem`` (why a broken one cannot be used, else null).
    """
    return _frame(task_rows(), ("name", "version", "modality", "model", "description"))


def models() -> pl.DataFrame:
    """Every model entry: ``name``, ``modality``, ``family``, ``source``, ``notes``, ``origin`` and ``problem``.

    ``run`` also takes a source or a file; ``iml-bench models --help`` lists the sources.
    """
    return _frame(model_rows(), ("name", "modality", "family", "source", "notes"))


def task_rows() -> list[dict[str, Any]]:
    """The tasks, as ``iml-bench tasks --json`` has them."""
    rows = []
    for listed in TASKS.list():
        spec = listed.spec
        row = _row(listed, spec.modality if spec else None)
        row |= {"version": spec.version, "model": spec.model, "description": spec.description} if spec else {}
        rows.append(row)
    return rows


def model_rows() -> list[dict[str, Any]]:
    """The model entries, as ``iml-bench models --json`` has them."""
    rows = []
    for listed in MODELS.list():
        spec = listed.spec
        row = _row(listed, spec.modality if spec else None)
        row |= {"family": spec.family, "source": spec.source, "notes": spec.notes} if spec else {}
        rows.append(row)
    return rows


def _row(listed: Listed[Any], modality: str | None) -> dict[str, Any]:
    return {"name": listed.name, "modality": modality, "origin": listed.origin, "problem": listed.problem}


def _frame(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> pl.DataFrame:
    import polars as pl

    names = (*columns, "origin", "problem")
    types = {name: pl.Int64 if name == "version" else pl.String for name in names}
    return pl.DataFrame([{name: row.get(name) for name in names} for row in rows], schema=types)
