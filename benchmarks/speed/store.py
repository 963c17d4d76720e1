"""What a large folder of records costs: to plan and skip done cells, to read them, to build the board from them.

::

    python benchmarks/speed/store.py [--records 200,2000] [--steps skip,read] [--repeats 3] [--against CHECKOUT]

Records of this repository's results are written again for as many cells as are asked for: models of other widths,
values of ``alpha``, seeds. Keys, seals and digests are right, so that they are done records with items like any other.
Every step runs in a process of its own, which has imported the package and made what the step is given before the clock
starts; its peak of memory is that process's. Of several repeats the least counts: others may share the machine. With
``--against`` the same steps also run with the package of another checkout, in turn with this one's, and the ratio of
the two is shown; what a step found is compared first, and must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 10
SHAPES = {200: (5, 4), 2000: (20, 10), 20_000: (40, 50)}
"""By number of cells: models, and values of ``alpha``; each with all seeds."""
SUITE = "many.yaml"
MADE = "made.json"
"""Says how many records a folder has, once all are there."""
Step = Callable[[Path], Callable[[], Any]]
"""Given a folder made by ``make_folder``, readies what is timed; that returns what is compared."""


def make_folder(folder: Path, models: int, settings: int) -> int:
    """Write ``records`` and the suite of their cells; where they are already, nothing is done.

    Returns:
        How many records there are: those of the reference learners come on top.
    """
    import yaml

    if not (folder / MADE).exists():
        (folder / "records").mkdir(parents=True)
        grid = {
            "task": "vision",
            "models": [f"ref:mlp?hidden={8 + number}" for number in range(models)],
            "seeds": SEEDS,
            "axes": {"alpha": [round(0.5 + number / 1000, 3) for number in range(settings)]},
        }
        suite = {"name": Path(SUITE).stem, "description": "Cells of made-up models.", "grids": [grid]}
        (folder / SUITE).write_text(yaml.safe_dump(suite), encoding="utf-8")
        (folder / MADE).write_text(json.dumps(_write_records(folder)), encoding="utf-8")
    return int(json.loads((folder / MADE).read_text(encoding="utf-8")))


def _write_records(folder: Path) -> int:
    """A done record for every cell of the suite, each with the outcome of a shipped one drawn at random; how many."""
    import numpy as np

    from iml_bench.records import SCHEMA_VERSION, Stored, damage_of, read_record, record_path, scores_of, written
    from iml_bench.run.plan import plan
    from iml_bench.spec import cell_key

    rng, out = np.random.default_rng(0), folder / "records"
    paths = sorted((ROOT / "leaderboard" / "results").glob("*/vision@2-*.json"))
    every = [Stored(path, read_record(path)) for path in paths]
    shipped = [one for one in every if not one.record.cell.model.is_reference and damage_of(one) is None]
    jobs = plan(_requests(folder), out)
    scores = [scores_of(one) for one in shipped]  # with those that came later, as records of today have them
    for job in jobs:
        number = rng.integers(len(shipped))
        drawn = shipped[number]
        path = out / record_path(job.cell)
        path.parent.mkdir(exist_ok=True)
        assert drawn.record.items is not None
        path.with_suffix(".parquet").write_bytes(drawn.path.with_name(drawn.record.items.file).read_bytes())
        fields = {
            "cell": job.cell,
            "key": cell_key(job.cell),
            "changes": job.changes,
            "schema_version": SCHEMA_VERSION,
            "scores": scores[number],
            "items": drawn.record.items.model_copy(update={"file": path.with_suffix(".parquet").name}),
        }
        path.write_bytes(written(drawn.record.model_copy(update=fields)))
    return len(jobs)


def _requests(folder: Path) -> Any:
    from iml_bench.registry import SUITES
    from iml_bench.run.suites import suite_requests

    return suite_requests(SUITES.get(str(folder / SUITE)))


def _scanned(folder: Path) -> Any:
    from iml_bench.records import Store

    stored, problems = Store(folder / "records").scan()
    assert not problems, problems[0]
    return stored


def _import(folder: Path) -> Callable[[], Any]:
    def load() -> None:
        import iml_bench.cli.suite

        assert iml_bench.cli.suite

    return load


def _plan(folder: Path) -> Callable[[], Any]:
    from iml_bench.run.plan import plan

    requests = _requests(folder)
    return lambda: len(plan(requests, folder / "records"))


def _skip(folder: Path) -> Callable[[], Any]:
    from iml_bench.run.plan import plan
    from iml_bench.run.session import Session
    from iml_bench.runtime import Runtime

    out = folder / "records"
    jobs = plan(_requests(folder), out)
    session = Session(out, Runtime(device="cpu"))

    def run() -> list[str]:
        to_do: list[int] = []
        found = session.run(jobs, begin=lambda standing: to_do.extend(standing.to_do))
        assert not to_do
        return [one.record.key for one in found]

    return run


def _scan(folder: Path) -> Callable[[], Any]:
    import iml_bench.records  # noqa: F401  that it is there before the clock starts

    return lambda: [one.record.key for one in _scanned(folder)]


def _read(folder: Path) -> Callable[[], Any]:
    import polars  # noqa: F401

    import iml_bench

    return lambda: iml_bench.read(folder / "records").cells.write_json()


def _board(folder: Path) -> Callable[[], Any]:
    from iml_bench.library.reading import board

    stored = _scanned(folder)
    return lambda: board(stored).model_dump_json()


def _pages(folder: Path) -> Callable[[], Any]:
    from iml_bench.board import leaderboard_tasks
    from iml_bench.library.reading import board
    from iml_bench.site.build import build_site
    from iml_bench.site.write import write_site

    stored = _scanned(folder)
    made, required, out = board(stored), leaderboard_tasks(), folder / "page"
    shutil.rmtree(out, ignore_errors=True)

    def build() -> list[tuple[str, int]]:
        files = build_site(made, stored, (), required)
        write_site(files, out)
        return sorted((name, len(content)) for name, content in files.items())

    return build


def _table(folder: Path) -> Callable[[], Any]:
    from iml_bench.board import points_of
    from iml_bench.registry import SUITES

    stored, suite = _scanned(folder), SUITES.get(str(folder / SUITE))
    requests = _requests(folder)
    return lambda: [point.model_dump_json() for point in points_of(suite, requests, stored)]


STEPS: dict[str, tuple[str, Step]] = {
    "import": ("import the package, as the command does", _import),
    "plan": ("plan the cells of a suite", _plan),
    "skip": ("run them: all are done", _skip),
    "scan": ("read the folder", _scan),
    "read": ("iml_bench.read, with its frame of cells", _read),
    "board": ("rows, ranks, slopes from records read", _board),
    "table": ("the table of a suite from records read", _table),
    "pages": ("the leaderboard's pages from a board", _pages),
}


def take(step: str, folder: Path) -> dict[str, Any]:
    """One step, timed in this process."""
    import hashlib

    work = STEPS[step][1](folder)
    start, begun = time.perf_counter(), time.process_time()
    found = work()
    took, computed = time.perf_counter() - start, time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()
    return {"seconds": took, "computing": computed, "megabytes": peak, "found": digest}


def _in_child(step: str, folder: Path, package: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--take", step, "--folder", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=folder, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(step: str, folder: Path, records: int, repeats: int, against: Path | None) -> dict[str, Any]:
    """A row of the table."""
    sides: list[list[dict[str, Any]]] = [[], []]
    for _ in range(repeats):
        for side, package in zip(sides, [ROOT, *([against] if against else [])], strict=False):
            side.append(_in_child(step, folder, package))
    if len({one["found"] for side in sides for one in side}) > 1:
        raise SystemExit(f"error: {STEPS[step][0]}: what was found is not the same in all runs")
    least = min(sides[0], key=lambda one: one["seconds"])
    row = {"step": step, "records": records, **least}
    row["microseconds_per_record"] = 1e6 * least["seconds"] / records
    row["computing"] = min(one["computing"] for one in sides[0])
    if against:
        other = {name: min(one[name] for one in sides[1]) for name in ("seconds", "computing", "megabytes")}
        row["other"] = other
        row["ratios"] = {name: other[name] / row[name] for name in ("seconds", "computing")}
    return row


def _say(row: dict[str, Any]) -> None:
    other = ""
    if "other" in row:
        there, ratios = row["other"], row["ratios"]
        other = f"; there {there['seconds']:.2f} s ({there['computing']:.2f} computing){there['megabytes']:8.0f} MB, "
        other += f"ratio {ratios['seconds']:.1f} ({ratios['computing']:.1f})"
    sys.stdout.write(
        f"{row['records']:>7} {STEPS[row['step']][0]:<42}{row['seconds']:9.2f} s ({row['computing']:.2f} computing)"
        f"{row['microseconds_per_record']:10.0f} us a record{row['megabytes']:8.0f} MB{other}\n"
    )
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the folders and measure."""
    parser = argparse.ArgumentParser(description="What a large folder of records costs.")
    parser.add_argument("--records", default="200,2000", help="some of: " + ", ".join(map(str, SHAPES)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", default=",".join(STEPS), help="some of: " + ", ".join(STEPS))
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--folder", type=Path, help="keep the records below this folder, and use those that are there")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout and nothing else")
    parser.add_argument("--take", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.take:
        sys.stdout.write(json.dumps(take(given.take, given.folder)) + "\n")
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for asked in map(int, given.records.split(",")):
            folder = (given.folder or Path(temporary)).resolve() / str(asked)
            records = make_folder(folder, *SHAPES[asked])
            for step in given.steps.split(","):
                rows.append(measure(step, folder, records, given.repeats, given.against and given.against.resolve()))
                if not given.json:
                    _say(rows[-1])
    if given.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
