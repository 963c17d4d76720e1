"""The wheel carries everything: built, installed elsewhere, it runs a cell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_declarations_and_its_commit(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = json.loads(archive.read("iml_bench/_build_info.json"))
    assert "iml_bench/py.typed" in names
    for path in ("tasks/vision.yaml", "leaderboard/models/mlp-m.yaml", "benchmarks/smoke.yaml"):
        assert f"iml_bench/_data/{path}" in names
    for folder in ("site/templates", "site/static"):
        shipped = {f"iml_bench/{folder}/{file.name}" for file in (ROOT / "iml_bench" / folder).iterdir()}
        assert shipped <= names and len(shipped) > 4
    assert "iml_bench/_data/tasks/pictures/vision.png" in names
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    assert info["commit"] == (head.stdout.strip() or None)


def test_installed_elsewhere_it_runs_a_cell(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # -S -E and an explicit path keep this checkout's editable install out of sight.
    path = os.pathsep.join([str(target), sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]])
    code = (
        "import sys; sys.path[:0] = sys.argv.pop(1).split(':')\n"
        "import iml_bench; assert 'site' in iml_bench.__file__, iml_bench.__file__\n"
        "from iml_bench.cli.app import main; main()"
    )
    arguments = ["run", "--task", "text", "--model", "neox-xs", "--smoke", "--seeds", "1", "--workers", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, path, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {row["model"] for row in json.loads(done.stdout)} == {"neox-xs", "oracle", "gullible", "random", "sceptic"}
    records = list((tmp_path / "iml-results").rglob("*.json"))
    assert len(records) == 5
