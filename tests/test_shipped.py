"""Reports that are shipped: they stand alone, and on the leaderboard's first page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from making import command, made, write_result

from iml_bench.board import build_board, leaderboard_tasks
from iml_bench.paths import data_root
from iml_bench.records import Store
from iml_bench.registry import SUITES, TASKS
from iml_bench.site.build import build_site
from iml_bench.site.shipped import shipped_reports
from iml_bench.spec import apply_overrides

SUITE = {
    "name": "mine",
    "description": "d",
    "grids": [{"name": "g", "task": "vision", "models": ["mlp-m"], "seeds": 4, "axes": {"alpha": [0.5, 1.0]}}],
    "claims": [
        {"name": "c", "says": "It <b>is</b> there.", "grid": "g", "measure": "iml", "estimand": "mean", "delta": 0.05}
        | {"direction": "up"}
    ],
}


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A leaderboard's folder with a report."""
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SUITE))
    for alpha in (0.5, 1.0):
        task = apply_overrides(TASKS.get("vision"), {"alpha": alpha})
        for seed in range(4):
            write_result(tmp_path / "records", "mlp-m", seed, task=task, table=made(alpha - 0.5 + seed * 0.005))
    out = str(tmp_path / "claims" / "mine")
    done = command("suite", "report", "mine.yaml", "--ship", "--records", "records", "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_a_shipped_report_holds_its_records_and_they_give_the_same_verdicts(board: Path) -> None:
    folder = board / "claims" / "mine"
    data = json.loads((folder / "report.json").read_text())
    assert len(data["records"]["g"]) == 8
    assert all((folder / place).is_file() and place.startswith("records/") for place in data["records"]["g"])
    assert not list(folder.rglob("*.parquet"))
    done = command("suite", "verdict", "mine.yaml", "--records", str(folder), "--json", cwd=board)
    assert json.loads(done.stdout)["claims"] == data["claims"]


def test_the_leaderboard_s_first_page_leads_to_it(board: Path) -> None:
    (report,) = shipped_reports(board)
    assert report.counts.startswith("1 supported, ")
    ((name, says, verdicts),) = report.claims
    assert (name, says, dict(verdicts)["supported"]) == ("c", "It <b>is</b> there.", ["mlp-m"])
    assert [whom for _, whom in verdicts if whom != ["mlp-m"]] == [["mlp-m (alpha=0.5)"]]
    stored = Store(board / "records").scan()[0]
    required = leaderboard_tasks()
    files = build_site(build_board(stored, [], required), stored, [], required, (), [report])
    page = files["index.html"].decode()
    assert 'href="claims/mine/index.html"' in page and "It &lt;b&gt;is&lt;/b&gt; there." in page
    assert files["claims/mine/index.html"] == (board / "claims" / "mine" / "index.html").read_bytes()
    linked = json.loads(files["claims/mine/report.json"])["records"]["g"]
    assert all(f"claims/mine/{place}" in files for place in linked)
    without = build_site(build_board(stored, [], required), stored, [], required)["index.html"].decode()
    assert "What the paper claims" not in without


@pytest.mark.parametrize("name", [report.name for report in shipped_reports()])
def test_what_is_shipped_is_what_its_records_say(name: str) -> None:
    """The suite as it is now, judged from the records in the report."""
    folder = data_root() / "leaderboard" / "claims" / name
    data = json.loads((folder / "report.json").read_text())
    assert data["suite"] == SUITES.get(name).model_dump(mode="json"), "make the report anew"
    _, _, most = data["command"].partition(" --max-seeds ")
    rule = ["--max-seeds", most] if most else []
    done = command("suite", "verdict", name, *rule, "--records", str(folder), "--json")
    assert rounded(json.loads(done.stdout)["claims"]) == rounded(data["claims"])


def rounded(value: Any) -> Any:
    """Numbers to nine digits: least squares differ in the last ones from processor to processor."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 9) if isinstance(value, float) else value
