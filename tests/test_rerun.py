"""Running submitted cells again: what must be the same, and what may differ."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from making import CPU, draft_of, short_records, write_result

from iml_bench.errors import UsageError
from iml_bench.records import Store, Stored, read_items, read_record
from iml_bench.spec import ModelEntry
from iml_bench.submit import rerun


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of two seeds of a real, short run."""
    return short_records(tmp_path_factory.mktemp("short"))


def test_a_cell_that_is_run_again_gives_the_same(short_run: Path) -> None:
    stored = Store(short_run).scan()[0]
    first, second = (rerun(stored, 1, seed, CPU, lambda event: None) for seed in (0, 0))
    assert first == second and first[0].passed and first[0].identical and first[0].largest_gap == 0
    assert len(rerun(stored, 5, 1, CPU, lambda event: None)) == 2


def test_a_cell_that_gives_another_score_is_refused(tmp_path: Path, short_run: Path) -> None:
    """From elsewhere within four standard errors, from the very same machine and commit not by a bit."""
    one = sorted(Store(short_run).scan()[0])[0]
    elsewhere = one.record.provenance.model_copy(update={"platform": "elsewhere"})
    items = read_items(one)
    bit = items.with_columns(log_likelihood=pl.col("log_likelihood") - 1e-9)
    other = items.with_columns(
        exact_match=pl.when(pl.col("tag") == "reliable").then(pl.lit(value=True)).otherwise(pl.lit(value=False))
    )
    found = {}
    for name, table in {"bit": bit, "other": other}.items():
        path = Store(tmp_path / name).write(draft_of(one.record, provenance=elsewhere), table)
        (found[name],) = rerun([Stored(path, read_record(path))], 1, 0, CPU, lambda event: None)
    assert found["bit"].passed and not found["bit"].identical and not found["bit"].same_machine
    assert not found["other"].passed and "standard errors apart" in (found["other"].problem or "")


def test_every_bit_counts_on_the_same_code_and_machine(
    tmp_path: Path, short_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iml_bench.records import provenance

    monkeypatch.setattr(provenance, "_revision", lambda: ("a" * 40, False))
    one = sorted(Store(short_run).scan()[0])[0]
    made = one.record.provenance.model_copy(update={"commit": "a" * 40, "dirty": False})
    table = read_items(one).with_columns(log_likelihood=pl.col("log_likelihood") - 1e-9)
    path = Store(tmp_path).write(draft_of(one.record, provenance=made), table)
    (found,) = rerun([Stored(path, read_record(path))], 1, 0, CPU, lambda event: None)
    assert found.same_machine and not found.passed and "bit for bit" in (found.problem or "")


def test_a_model_with_code_of_its_own_is_not_run_again(tmp_path: Path) -> None:
    entry = ModelEntry(
        name="own", source="python:models_for_tests:build", modality="vision", family="x", architecture="x"
    )
    path = write_result(tmp_path, entry=entry)
    with pytest.raises(UsageError, match="own runs code of its own; run it yourself"):
        rerun([Stored(path, read_record(path))], 1, 0, CPU, lambda event: None)
