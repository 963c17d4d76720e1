"""What holds of whatever carries cells to other machines, and of the one loop that drives all of it.

The contract is held against the engines of ``engines_for_tests.engines``: those of this machine, or clusters that were
started by whoever runs these tests again with ``IML_BENCH_TEST_ENGINES=ray`` or ``slurm``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from engines_for_tests import Ran, ScriptedEngine, engines, handed_over, job, outcomes, the_record
from hypothesis import given
from hypothesis import strategies as st
from making import CPU, command, small_task, write_failure, write_result

from iml_bench.errors import UsageError
from iml_bench.records import Store, guard
from iml_bench.records.leases import VARIABLE
from iml_bench.run.executors import worker
from iml_bench.run.executors.base import Event
from iml_bench.run.executors.driver import Driver
from iml_bench.run.executors.engine import LEAST, UNKNOWN, WORTH, chunked
from iml_bench.run.executors.inline import InlineExecutor
from iml_bench.run.job import Job
from iml_bench.run.session import Session
from iml_bench.run.walltime import Estimate, WallTimes
from iml_bench.runtime import Runtime
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, Needs

OUTSIDE = Path(__file__).parent / "outside"
ENGINES = engines()
every_engine = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "scripted" else pytest.mark.slow) for name in ENGINES]
)
in_processes = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) for name in ENGINES if name != "scripted"]
)


def grid(out: Path) -> list[Job]:
    """Two trained cells, one of a reference learner and one that fails."""
    return [job(out, "mlp-xs"), job(out, "mlp-xs", 1), job(out), job(out, "python:models_for_tests:diverging")]


@pytest.fixture(autouse=True)
def _references_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """They stand for cells that are trained, and take none."""
    monkeypatch.setattr(sys.modules[chunked.__module__], "UNTRAINED", UNKNOWN)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, bytes]]:
    """What those give that run here, one after another."""
    out = tmp_path_factory.mktemp("local") / "out"
    Session(out, CPU).run(grid(out), InlineExecutor())
    return outcomes(out)


@every_engine
def test_records_are_those_of_a_local_run_and_nothing_else_is_left(
    name: str, local: dict[str, tuple[Any, bytes]], tmp_path: Path
) -> None:
    ran = Ran(ENGINES[name](), grid(tmp_path), 2)
    assert (ran.statuses, ran.ends, ran.driver.lost) == (*[["done", "done", "done", "failed"]] * 2, {})
    assert (outcomes(tmp_path), ran.left) == (local, [])
    for place, end in enumerate(ran.ends):
        kinds = ran.kinds(place)
        assert (kinds[0], kinds[-1], kinds.count("start"), kinds.count(end)) == ("start", end, 1, 1)
        assert set(kinds[1:-1]) <= {"progress"}
    error = ran.stored[3].record.error
    assert error is not None and ran.messages == [f"{error.kind}: {error.message}"]
    assert "the loss was nan at step 8 of stage1" in error.message and "Traceback" in error.traceback
    again = Ran(ENGINES[name](), grid(tmp_path)[:3])
    assert (again.told, outcomes(tmp_path)) == ([], local)


@in_processes
def test_a_cell_that_kills_its_process_fails_after_retries_and_stops_no_other(name: str, tmp_path: Path) -> None:
    jobs = [job(tmp_path, "python:models_for_tests:dying"), job(tmp_path)]
    ran = Ran(ENGINES[name](), jobs)
    assert (ran.statuses, ran.ends, ran.left) == (["failed", "done"], ["failed", "done"], [])
    assert f"{ran.driver.engine.name} lost it 3 times; at last: " in ran.messages[0]
    assert not ran.messages[0].endswith(("last: ", "without a record"))


@every_engine
def test_what_no_machine_can_hold_is_refused_before_anything(name: str, tmp_path: Path) -> None:
    told: list[Event] = []
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="ever hold a cell that takes 1000 cores"):
        Session(out, CPU).run([job(out), job(out, seed=1, cpus=1000)], Driver(ENGINES[name]()), told.append)
    assert (told, list(tmp_path.iterdir())) == ([], [])


@every_engine
def test_a_driver_that_is_interrupted_leaves_nothing(name: str, tmp_path: Path) -> None:
    endless = CellSpec(task=small_task(recipe__stage1__steps=1_000_000), model=find_model("mlp-xs"), seed=0)
    out = tmp_path / "out"
    jobs = [job(out), replace(job(out), cell=endless)]
    engine = ENGINES[name]() if name != "scripted" else ScriptedEngine("work", "wait")

    def listen(event: Event) -> None:
        if (event.job, event.kind) == ((1, "start") if name != "scripted" else (0, "done")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Session(out, CPU).run(jobs, Driver(engine, 2), listen)
    assert {path.name for path in out.iterdir()} <= {"oracle", "mlp-xs"}, "no lease, sign, proof or temporary file"
    assert len([*out.rglob("*.*")]) in (0, 2), "a record and its items, or none"
    if isinstance(engine, ScriptedEngine):
        assert engine.said == ["open", "work 1", "wait 1", "cancel 2", "close"]


def test_how_far_a_cell_is_is_read_from_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0.25")
    longer = CellSpec(task=small_task(recipe__stage1__steps=1000), model=find_model("mlp-xs"), seed=0)
    ran = Ran(ScriptedEngine(), [replace(job(tmp_path), cell=longer)])
    kinds = ran.kinds(0)
    assert (kinds[0], kinds[-1], {*kinds[1:-1]}) == ("start", "done", {"progress"})
    steps = [event.progress.cell_step for event in ran.told if event.progress]
    assert steps == sorted(steps) and 0 < steps[-1] <= 1100


def test_the_page_shows_the_engine_that_is_tested_here() -> None:
    page = (OUTSIDE.parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")
    shown = [block for block in page.split("```python\n")[1:] if "class PoolEngine" in block]
    assert (OUTSIDE / "pool.py").read_text(encoding="utf-8").endswith(shown[0].split("```")[0])


@pytest.mark.slow
def test_an_engine_of_another_package_is_named_on_the_command_line(tmp_path: Path) -> None:
    path = os.pathsep.join([str(OUTSIDE), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = ["run", "--task", "vision", "--smoke", "--model", "mlp-xs", "--seeds", "1", "--workers", "1"]
    for more in (["--out", "here"], ["--executor", "pool", "--out", "there"]):
        done = command(*words, *more, cwd=tmp_path, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
    assert outcomes(tmp_path / "here") == outcomes(tmp_path / "there")
    refused = command(*words, "--executor", "pool", "--detach", "--out", "new", cwd=tmp_path, PYTHONPATH=path)
    assert (refused.returncode, (tmp_path / "new").exists()) == (2, False)
    assert "--detach: executor 'pool' cannot go on without this process" in refused.stderr


@pytest.mark.parametrize("shared", [True, False])
def test_what_was_lost_before_anybody_saw_it_begin_runs_again(tmp_path: Path, shared: bool) -> None:
    """Cell by cell where no lease could say at which of them the machine was lost."""
    engine = ScriptedEngine("lose")
    engine.shared = shared
    ran = Ran(engine, [job(tmp_path, seed=seed) for seed in range(3)])
    assert engine.said == ["open", "lose 3", *(["work 3"] if shared else ["work 1"] * 3), "close"]
    assert (ran.ends, [*ran.driver.lost.values()], ran.left) == (["done"] * 3, [1] * 3, [])


def test_only_the_cell_that_had_begun_counts_as_lost(tmp_path: Path) -> None:
    engine = ScriptedEngine("die", "die", "work", "die")
    ran = Ran(engine, [job(tmp_path), job(tmp_path, seed=1)], 1)
    assert engine.said == ["open", "die 2", "die 1", "work 1", "die 1", "close"], "no other waits for it"
    assert (ran.ends, ran.statuses, [*ran.driver.lost.values()]) == (["failed", "done"], ["failed", "done"], [3])
    assert ran.messages == ["CellError: scripted lost it 3 times; at last: the power failed on node n7"]
    assert (ran.kinds(0).count("start"), ran.left) == (3, [])
    again = Ran(ScriptedEngine(), [job(tmp_path), job(tmp_path, seed=1)])
    assert (again.statuses, again.kinds(0)[-1]) == (["done", "done"], "done"), "a failed one is tried again"


def test_a_cell_that_its_dead_machine_still_has_is_not_lost_for_ever(tmp_path: Path) -> None:
    engine = ScriptedEngine("haunt", "work", "haunt", "work", "haunt")
    ran = Ran(engine, [job(tmp_path)])
    assert [one for one in engine.said if one.endswith(" 1")] == ["haunt 1", "work 1", "haunt 1", "work 1", "haunt 1"]
    assert "scripted lost it 3 times" in ran.messages[-1] and (ran.ends, ran.statuses) == (["failed"], ["failed"])


def test_an_engine_that_takes_no_more_is_asked_again_later(tmp_path: Path) -> None:
    engine = ScriptedEngine(None, None, "work", None, "work")
    ran = Ran(engine, [job(tmp_path, seed=seed) for seed in (0, 1)], 2)
    assert engine.said == ["open", "None 1", "None 1", "work 1", "None 1", "work 1", "close"]
    assert (ran.ends, ran.left) == (["done"] * 2, [])


def test_an_engine_that_is_gone_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    engine = ScriptedEngine("work", "break")
    ran = Ran(engine, [job(tmp_path, seed=seed) for seed in range(3)], 3)
    assert engine.said[-2:] == ["cancel 3", "close"]
    assert set(ran.ends) == {"done", "failed"} and {*ran.statuses} <= {"done"}, "none is marked failed"
    assert {*ran.messages} == {"it was not run to its end: the cluster is gone"}
    assert ran.left == []


def test_detached_chunks_go_on_and_the_same_command_takes_them_over(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--detach: executor 'scripted' cannot go on without this process"):
        Driver(ScriptedEngine(), detach=True)
    jobs = [job(tmp_path, seed=seed) for seed in range(3)]
    engine = ScriptedEngine("wait", None, "wait", detaches=True)
    first = Ran(engine, jobs[:2], 2, detach=True)
    assert engine.said == ["open", "wait 1", "None 1", "wait 1", "close and go on"]
    assert (first.detached, first.told, first.left) == ("2 jobs of scripted", [], [".iml-bench-scripted"])
    engine.said.clear()
    for _, chunk in [*engine.chunks.values()]:
        engine.work(chunk)
    second = Ran(engine, jobs)
    assert engine.said == ["open", "work 1", "close"], "only the cell that was not handed out before"
    assert (second.ends, second.driver.lost, second.left) == (["done"] * 3, {}, [])


def test_what_an_earlier_driver_handed_out_and_is_lost_runs_again_and_counts_as_nothing(tmp_path: Path) -> None:
    jobs = [job(tmp_path, seed=seed) for seed in (0, 1)]
    Ran(ScriptedEngine("wait", "wait", detaches=True), jobs, 2, detach=True)
    engine = ScriptedEngine(detaches=True)
    ran = Ran(engine, jobs)
    assert sorted(engine.said) == ["close", "open", "work 2"]
    assert (ran.ends, ran.driver.lost, ran.left) == (["done"] * 2, {}, [])


def test_proofs_of_the_dead_are_taken_away_and_those_of_a_living_driver_stay(tmp_path: Path) -> None:
    folder = tmp_path / ".iml-bench-scripted"
    folder.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    said = {"handle": "h", "keys": [], "machine": guard.this_machine(), "process": ended.pid}
    for name, more in {"dead": {}, "living": {"process": os.getpid()}, "far": {"machine": "another"}}.items():
        (folder / f"{name}.chunk").write_text(json.dumps(said | more))
    (folder / "torn.chunk").write_text('{"handle": "h", "ke')
    Ran(ScriptedEngine(), [job(tmp_path)])
    assert sorted(path.stem for path in folder.iterdir()) == ["far", "living", "torn"]


def test_another_environment_is_a_sentence_and_no_record(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.change = lambda chunk: replace(chunk, versions={**chunk.versions, "torch": "1.0", "MKL_CBWR": "AVX"})
    ran = Ran(engine, [job(tmp_path), job(tmp_path, seed=1)])
    (message,) = {*ran.messages}
    assert "not 1.0; MKL_CBWR unset, not AVX; give every machine the same environment" in message
    assert (ran.ends, ran.stored, ran.left) == (["failed"] * 2, [], [])


def test_a_folder_that_is_elsewhere_gets_the_records_all_the_same(
    local: dict[str, tuple[Any, bytes]], tmp_path: Path
) -> None:
    engine = ScriptedEngine(shared=False)
    engine.change = lambda chunk: replace(chunk, proof=Path("/nowhere/proof"))
    ran = Ran(engine, grid(tmp_path), runtime=replace(CPU, keep=True))
    assert ran.statuses == ran.ends == ["done", "done", "done", "failed"]
    found = outcomes(tmp_path)
    assert {place: items for place, (_, items) in found.items()} == {
        place: items for place, (_, items) in local.items()
    }
    for one in ran.stored[:2]:
        assert one.record.attachments and all(one.path.with_name(str(a.file)).exists() for a in one.record.attachments)
    assert (engine.said, ran.left) == (["open", "work 4", "close"], [])
    probed = Ran(engine, [replace(grid(tmp_path)[0], probes=("losses",))])
    assert "does not see its record, which is done" in probed.messages[0] and probed.ends == ["failed"]


def test_a_folder_that_must_be_shared_and_is_not_marks_no_cell_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PATIENCE", 0.0)
    engine = ScriptedEngine()
    engine.change = lambda chunk: replace(chunk, proof=tmp_path / "another" / "proof")
    ran = Ran(engine, [job(tmp_path), job(tmp_path, seed=1)])
    (message,) = {*ran.messages}
    assert "it must be the same folder on every machine" in message and str(tmp_path) in message
    assert (ran.ends, ran.stored, engine.said) == (["failed"] * 2, [], ["open", "work 2", "close"])


def test_a_record_that_a_probe_is_to_look_into_is_handed_out_once(tmp_path: Path) -> None:
    Ran(ScriptedEngine(), [job(tmp_path, "mlp-xs")])
    engine = ScriptedEngine()
    ran = Ran(engine, [replace(job(tmp_path, "mlp-xs"), probes=("losses",))])
    assert (ran.ends, engine.said, ran.driver.lost) == (["done"], ["open", "work 1", "close"], {})
    assert [one.name for one in the_record(tmp_path).record.attachments] == ["losses"]


def test_two_drivers_share_the_cells_of_one_folder(tmp_path: Path) -> None:
    jobs = [job(tmp_path, seed=seed) for seed in range(6)]
    found: list[Ran] = []
    both = [threading.Thread(target=lambda: found.append(Ran(ScriptedEngine(), jobs, 2))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [ran.statuses for ran in found] == [["done"] * 6] * 2
    assert [ran.ends for ran in found] == [["done"] * 6] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["oracle"] and len([*tmp_path.rglob("*.json")]) == 6


@pytest.mark.parametrize(("device", "gpus", "meant"), [("auto", 0, "cpu"), ("auto", 1, "auto"), ("cuda", 1, "cuda")])
def test_a_cell_takes_a_gpu_only_where_one_is_asked_for(device: Any, gpus: int, meant: str, tmp_path: Path) -> None:
    engine = ScriptedEngine("wait", detaches=True)
    asked = job(tmp_path, gpus=gpus if device == "auto" else 0, processes=2)
    Ran(engine, [asked], detach=True, runtime=Runtime(device=device))
    ((_, chunk),) = engine.chunks.values()
    assert (chunk.runtime.device, chunk.needs.gpus) == (meant, gpus if device == "auto" else 2)


class Known(WallTimes):
    """Cells whose seed is the number of seconds that they take; 0: unknown."""

    def __init__(self) -> None:
        super().__init__()

    def estimate(self, cell: CellSpec) -> Estimate:
        return Estimate(cell.seed or None, "measured")


@given(
    st.lists(st.tuples(st.sampled_from((0, 1, 20, 90, 700, 5000)), st.sampled_from((1, 2)), st.sampled_from((1, 2)))),
    st.integers(1, 70),
)
def test_every_cell_is_in_one_chunk_of_equal_needs_that_is_worth_its_start(
    cells: list[tuple[int, int, int]], width: int
) -> None:
    jobs = [job(Path("/out"), seed=seconds, cpus=cpus, processes=n) for seconds, cpus, n in cells]
    chunks = chunked([(3 * place, one) for place, one in enumerate(jobs)], Known(), width)
    assert sorted(place for chunk in chunks for place in chunk) == [3 * place for place in range(len(jobs))]
    assert all(chunk == sorted(chunk) for chunk in chunks)
    seconds = [[cells[place // 3][0] or UNKNOWN for place in chunk] for chunk in chunks]
    kinds = [{jobs[place // 3].needs for place in chunk} for chunk in chunks]
    assert all(len(kind) == 1 for kind in kinds)
    whole = sum(map(sum, seconds))
    for kind in (Needs(cpus=cpus, processes=n) for cpus in (1, 2) for n in (1, 2)):
        worth = [sum(some) for some, own in zip(seconds, kinds, strict=True) if own == {kind}]
        # All but the last of each kind: no chunk is much smaller than its share, nor smaller than its start.
        for one, following in pairwise(worth):
            assert one + following > min(LEAST, whole / width) and one + following > min(WORTH, whole / width) / 2
    assert max(map(len, chunks), default=0) * LEAST < 60 * max(LEAST, WORTH, whole / width)


def test_a_record_is_adopted_only_whole_and_as_what_it_is(tmp_path: Path) -> None:
    made = the_record(write_result(tmp_path / "made").parents[1])
    cell, files = made.record.cell, handed_over(made)
    wrong = {
        "an item file that is another": (files[0], (files[1][0], files[1][1] + b"x")),
        "no item file": files[:1],
        "a file more": (*files, ("more.parquet", b"x")),
        "a file twice": (*files, files[1]),
        "a file elsewhere": (files[0], ("../" + files[1][0], files[1][1])),
        "a record that was changed": ((files[0][0], files[0][1].replace(b'"seed": 0', b'"seed": 3')), files[1]),
        "no record": ((files[0][0], b"{}"), files[1]),
        "nothing": (),
    }
    store = Store(tmp_path / "adopted")
    for what, given_files in wrong.items():
        with pytest.raises(UsageError) as refused:
            store.adopt(cell, given_files)
        assert "/" not in str(refused.value).replace("../", ""), what
    failed = the_record(write_failure(tmp_path / "failed").parents[1])
    assert failed.record.cell == cell
    other_cell, failure = cell.model_copy(update={"seed": 1}), [(failed.path.name, failed.path.read_bytes())]
    with pytest.raises(UsageError, match="the file beside it is named like it"):
        store.adopt(other_cell, files)
    with pytest.raises(UsageError, match="is not the whole record of this cell"):
        store.adopt(other_cell, failure)
    assert [path for path in store.root.rglob("*") if path.is_file()] == [], "nothing is left of any"
    path = store.adopt(cell, files)
    assert outcomes(store.root) == outcomes(made.path.parents[1])
    assert store.adopt(cell, failure) == path
    assert the_record(store.root).record.status == "done", "what is done stands"
    other = Store(tmp_path / "other")
    other.adopt(cell, failure)
    assert the_record(other.root).record.status == "failed"
    other.adopt(cell, files)
    assert the_record(other.root).record.status == "done" and len([*other.root.rglob("*.*")]) == 2
