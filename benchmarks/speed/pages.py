"""How long the leaderboard's pages take to build from many records, what they weigh, and how fast they answer.

    python benchmarks/speed/pages.py [--models 200] [--seeds 10]

The records are made up: one task, families of five sizes, scores that grow with size. With Chromium and chromedriver
installed the page is opened too: time until the table can be used, and that of one sort, one filter, one comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from iml_bench.board import build_board
from iml_bench.board.words import NOT_MEASURED
from iml_bench.protocols import Scores
from iml_bench.protocols.two_stage.design import STAGE1_GROUPS
from iml_bench.records import ItemFile, Record, Store, Timing, in_order
from iml_bench.records import this_provenance as provenance
from iml_bench.registry import TASKS
from iml_bench.site.assets import vega
from iml_bench.site.build import build_site
from iml_bench.site.contents import arrange, pairs
from iml_bench.site.write import write_site
from iml_bench.spec import CellSpec, ModelEntry, cell_key

T = TypeVar("T")
SIZES = 5
TIMING = Timing(started="2026-01-01T00:00:00+00:00", ended="2026-01-01T00:01:00+00:00", seconds={"all": 60.0})
ITEMS = 20_000
"""Bytes of a made-up per-item file, about what those of the task ``vision`` have."""


def write_records(root: Path, n_models: int, n_seeds: int) -> None:
    """Done records of made-up models on the task ``vision``."""
    rng, task, made = np.random.default_rng(0), TASKS.get("vision"), provenance("cpu", 1, 1)
    for number in range(n_models):
        family, size = divmod(number, SIZES)
        name = f"family{family:02d}-{'abcde'[size]}"
        entry = ModelEntry(
            name=name,
            source=f"ref:mlp?hidden={number + 8}",
            modality="vision",
            family=f"family{family:02d}",
            architecture="mlp",
        )
        mean = rng.uniform(0.0, 0.15) + 0.1 * size
        for seed in range(n_seeds):
            cell = CellSpec(task=task, model=entry, seed=seed)
            iml, base = mean + rng.normal(0, 0.05), rng.uniform(0.1, 0.3)
            match = {name: float(rng.uniform(0, 1)) for name in STAGE1_GROUPS[:3]}
            match |= {
                "new_reliable": base + iml,
                "new_unreliable": base,
                "new_fresh": base + iml / 2,
                "new_undefined": 0.1,
            }
            scores = Scores(
                iml=iml,
                iml_nats=4 * iml,
                lift_reliable=base + iml - 0.1,
                lift_unreliable=base - 0.1,
                lift_fresh=base + iml / 2 - 0.1,
                stage1_gap=match["reliable"] - match["unreliable"],
                iml_attribution=None,
                iml_se_items=0.02,
                iml_se_items_one_fold=0.04,
                exact_match=match,
            )
            items, key = rng.bytes(ITEMS), cell_key(cell)
            path = root / name / f"vision@1-{key[:12]}-seed{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".parquet").write_bytes(items)
            record = Record(
                status="done",
                key=key,
                cell=cell,
                changes={},
                smoke=False,
                parameters=int(1000 * 10**size * rng.uniform(1, 3)),
                scores=scores,
                chance=0.1,
                items=ItemFile(
                    file=path.with_suffix(".parquet").name, rows=2050, sha256=hashlib.sha256(items).hexdigest()
                ),
                streams={"split": seed},
                provenance=made,
                timing=Timing(
                    started="2026-01-01T00:00:00+00:00", ended="2026-01-01T00:01:00+00:00", seconds={"all": 60.0}
                ),
            )
            path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def timed(what: str, work: Callable[[], T]) -> T:
    """Do it and print how long it took; where other work shares the cores, the computing says more than the clock."""
    start, begun = time.perf_counter(), time.process_time()
    result = work()
    spent = time.perf_counter() - start, time.process_time() - begun
    print(f"{what:<42}{spent[0]:8.2f} s, {spent[1]:.2f} of them computing here")
    return result


def main() -> None:
    """Make records, build, and open the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="keep the page here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "records", given.out or Path(folder) / "page"
        write_records(root, given.models, given.seeds)
        start, begun = time.perf_counter(), time.process_time()
        stored = in_order(timed("read the records", lambda: Store(root).scan()[0]))
        board = timed("rows, tiers, overall, slopes", lambda: build_board(stored, (), ()))
        timed("bundle Vega", vega)
        files = timed("pages, charts, pairs (all files)", lambda: build_site(board, stored, (), ()))
        timed("write", lambda: write_site(files, out))
        took = time.perf_counter() - start, time.process_time() - begun
        print(f"{'together':<42}{took[0]:8.2f} s, {took[1]:.2f} of them computing here")
        print(f"{len(stored)} records of {len(board.rows)} models")
        (variant,) = arrange(board, stored, (), ()).variants
        found = timed("of the pages: all paired differences", lambda: pairs(variant))
        assert len(found) == given.models * (given.models - 1) // 2
        for name in sorted(files):
            if "/" not in name or name.startswith("assets/"):
                print(f"{name:<42}{len(files[name]) / 1e6:8.2f} MB")
        print(f"{'all files':<42}{sum(map(len, files.values())) / 1e6:8.2f} MB, {len(files)} of them")
        browse(out)


IN_PAGE = """
const done = arguments[0];
const after = (what) => new Promise((end) => requestAnimationFrame(() => setTimeout(() => end(what), 0)));
const settle = async (change, event) => {
  const drawn = event ? new Promise((end) => iml.table.one(event, end)) : null;
  const start = performance.now();
  change();
  await drawn;
  await after();
  return performance.now() - start;
};
(async () => {
  const form = document.getElementById("filters");
  const found = { "until the table can be used": performance.getEntriesByName("iml-table")[0].startTime };
  const heading = [...document.querySelectorAll("#board thead th")].find((th) => th.textContent.trim() === "param.");
  found["one sort"] = await settle(() => heading.click(), "draw");
  found["one filter"] = await settle(() => {
    form.elements.family.selectedIndex = 3;
    form.elements.family.dispatchEvent(new Event("change", { bubbles: true }));
  });
  form.elements.family.selectedIndex = 0;
  const start = performance.now();
  for (const box of [...document.querySelectorAll("#board [name=compare]")].slice(0, 3)) box.click();
  while (document.querySelectorAll("#comparison td[data-column=difference]").length < 3) await after();
  found["three models compared, pairs loaded"] = performance.now() - start;
  while (document.documentElement.dataset.charts !== "drawn") await after();
  done(found);
})();
"""


def browse(out: Path) -> None:
    """Open the page in headless Chromium and print how long it takes to answer; nothing where there is none."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        print(f"{'in a browser':<42}{NOT_MEASURED:>8}   (no chromium with chromedriver here)")
        return
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(flag)
    with tempfile.TemporaryDirectory() as profile:
        options.add_argument(f"--user-data-dir={profile}")
        browser = Chrome(options=options, service=ChromeService(driver))
        try:
            browser.set_script_timeout(300)
            for _ in range(2):  # the first time everything is read from the disk and compiled
                browser.get((out / "index.html").as_uri())
                measured = browser.execute_async_script(IN_PAGE)
                for what, milliseconds in measured.items():
                    print(f"{what:<42}{milliseconds / 1000:8.2f} s")
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
