"""docs/cluster.md: each of its commands is run as it stands there, on real Slurm and real Ray where there are any."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from making import heed_signals
from slurm_for_tests import Cluster, is_installed

from iml_bench.records import Store
from iml_bench.spec import Needs

pytest_plugins = ["slurm_grids"]
PAGE = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.M | re.S)
LINES = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
SLURM = [line for line in LINES if "--slurm" in line or line.startswith("sbatch")]
RAY = [line for line in LINES if "--executor ray" in line]
HERE = [line for line in LINES if line not in (*SLURM, *RAY)]


def shell(line: str, folder: Path, before: tuple[str, ...] = ()) -> str:
    """Run a line as a user would; what it printed."""
    program = folder / "bin" / "iml-bench"
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m iml_bench "$@"\n')
        program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    done = subprocess.run(
        [*before, "bash", "-c", line],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=560,
        preexec_fn=heed_signals,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def done(folder: Path) -> int:
    return sum(one.record.status == "done" for one in Store(folder).scan()[0])


def test_every_line_of_the_page_is_run_by_one_of_these() -> None:
    assert (len(HERE), len(SLURM), len(RAY)) == (6, 5, 1)


def test_the_needs_of_the_page_are_needs() -> None:
    (text,) = (block for kind, block in BLOCKS if kind == "yaml")
    assert Needs.model_validate(yaml.safe_load(text)["needs"]).processes == 4


@pytest.mark.slow
def test_on_this_machine(tmp_path: Path) -> None:
    printed = [shell(line, tmp_path) for line in HERE]
    assert "0 left; nothing to wait for" in printed[1]
    total = done(tmp_path / "results")
    parts = [done(tmp_path / name) for name in ("part1", "part2")]
    assert total > 0 and sum(parts) == total and abs(parts[0] - parts[1]) <= 1


@pytest.mark.slow
@pytest.mark.engines
@pytest.mark.skipif(not is_installed(), reason="needs slurmctld, slurmd, slurm-client and munge")
def test_on_slurm(cluster: Cluster, tmp_path: Path) -> None:
    for line in SLURM[:2]:
        shell(line, tmp_path)
    printed = shell(SLURM[2], tmp_path)  # beside the array
    assert "records: results" in printed
    shutil.rmtree(tmp_path / "results")
    assert "handed over" in shell(SLURM[3], tmp_path)
    assert "records: results" in shell(SLURM[4], tmp_path)
    assert done(tmp_path / "results") > 0


@pytest.mark.slow
@pytest.mark.engines
def test_on_ray(tmp_path: Path) -> None:
    before = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*before, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no network namespace can be made here")
    for line in RAY:
        assert "records: results" in shell(line, tmp_path, before)
