"""Which code a record says that it was made by."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from iml_bench.records import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with a package and results, all committed."""
    for path in ("iml_bench/cell.py", "leaderboard/results/m/first.json"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("1")
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "iml_bench")
    provenance._revision.cache_clear()
    yield tmp_path
    provenance._revision.cache_clear()


def test_results_and_entries_are_no_change_of_the_code(checkout: Path) -> None:
    (checkout / "leaderboard/results/m/second.json").write_text("2")
    (checkout / "leaderboard/results/m/first.json").unlink()
    (checkout / "mine.yaml").write_text("an entry, which a record holds whole")
    commit, dirty = provenance._revision()
    assert commit is not None and len(commit) == 40
    assert dirty is False


@pytest.mark.parametrize("path", ["iml_bench/cell.py", "iml_bench/other.py"])
def test_a_change_of_the_package_is_told(checkout: Path, path: str) -> None:
    (checkout / path).parent.mkdir(parents=True, exist_ok=True)
    (checkout / path).write_text("2")
    assert provenance._revision()[1] is True


def test_a_package_outside_a_checkout_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGE", checkout / "iml_bench" / "deeper")
    assert provenance._revision() == (None, None)
