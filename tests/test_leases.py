"""Who is at which cell: taken once, given back, taken over from the dead and never from the living."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import CPU, command, heed_signals, small_task

from iml_bench.errors import UsageError
from iml_bench.records import Store, guard, leases
from iml_bench.records.leases import FOLDER, SIZE, VARIABLE, Leases
from iml_bench.run.executors.base import Event
from iml_bench.run.executors.inline import InlineExecutor
from iml_bench.run.job import Job, record_failure
from iml_bench.run.session import Session
from iml_bench.run.sharing import run_shared
from iml_bench.run.status import status
from iml_bench.runtime import StageProgress
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec, cell_key

KEY = "5" * 64
TAKES = """
import pathlib, sys, time
from iml_bench.records.leases import Leases
with Leases(pathlib.Path(sys.argv[1])).take(sys.argv[2], "a cell"):
    print("taken", flush=True)
    time.sleep(600)
"""
COUNTS = """
import importlib, sys
sharing = importlib.import_module("iml_bench.run.sharing")
run, path = sharing.run_job, sys.argv[1]
def counted(job, runtime):
    with open(path, "a") as file:
        file.write(f"{job.cell.model.name} {job.cell.seed}\\n")
    return run(job, runtime)
sharing.run_job = counted
sys.argv = ["iml-bench", *sys.argv[2:]]
from iml_bench.cli.app import main
main()
"""
"""The command line, which also notes every cell that it runs."""


def holder(root: Path, key: str = KEY, **environment: str) -> subprocess.Popen[str]:
    """Another process that has a cell, until it is ended."""
    words = [sys.executable, "-c", TAKES, str(root), key]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    assert process.stdout is not None and process.stdout.readline() == "taken\n"
    return process


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = holder(tmp_path)
    yield process
    process.kill()
    process.wait()


def another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look from elsewhere, where a process number means nothing."""
    monkeypatch.setattr(leases, "this_machine", lambda: "another")


def dead_lease(root: Path, key: str = KEY, term: float = 0.3) -> Path:
    """The lease of a process of some machine that says nothing any more."""
    path = root / FOLDER / f"{key}.lease"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"cell": "a cell", "host": "n1", "pid": 7, "term": term, "machine": "of another"}))
    return path


def take_when_dead(looker: Leases, key: str = KEY) -> leases.Lease:
    """Look until the cell can be taken."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lease = looker.take(key, "a cell")
        if lease is not None:
            return lease
        time.sleep(0.02)
    raise AssertionError("it was never free")


def test_a_cell_is_taken_once_and_given_back(tmp_path: Path) -> None:
    first, second = Leases(tmp_path), Leases(tmp_path)
    lease = first.take(KEY, "vision seed 0")
    assert lease is not None
    with lease:
        about = second.living(KEY)
        assert about is not None and (about.cell, about.pid) == ("vision seed 0", os.getpid())
        assert second.take(KEY, "vision seed 0") is None
        other = second.take("6" * 64, "vision seed 1")
        assert other is not None
        with other:
            assert {*second.all()} == {KEY, "6" * 64}
    assert second.living(KEY) is None and list(tmp_path.iterdir()) == []


def test_a_lease_says_how_far_its_cell_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0.2")
    lease = Leases(tmp_path).take(KEY, "a cell")
    assert lease is not None
    with lease:
        lease.tell(StageProgress("stage2", 3, 5, 0.1, 13, 25))
        deadline = time.monotonic() + 60
        while (about := Leases(tmp_path).all()[KEY]).total == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (about.stage, about.done, about.total) == ("stage2", 13, 25) and about.pulse > 0
        assert lease.path.stat().st_size == SIZE
        (one,) = status(tmp_path).running
        assert (one.stage, one.done, one.total, one.pid) == ("stage2", 13, 25, os.getpid())


def test_of_a_killed_process_of_this_machine_the_cell_is_free_at_once(
    tmp_path: Path, held: subprocess.Popen[str]
) -> None:
    assert Leases(tmp_path).take(KEY, "a cell") is None
    held.kill()
    lease = take_when_dead(Leases(tmp_path))  # nobody has waited for the process: it is a zombie
    with lease:
        assert Leases(tmp_path).all()[KEY].pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("written", [0.0, 4e9], ids=["long ago", "in a hundred years"])
def test_only_the_own_clock_of_whoever_looks_counts(tmp_path: Path, written: float) -> None:
    path = dead_lease(tmp_path, term=0.3)
    os.utime(path, (written, written))
    looker = Leases(tmp_path)
    assert looker.living(KEY) is not None, "nobody knows yet whether it changes"
    began = time.monotonic()
    with take_when_dead(looker):
        assert time.monotonic() - began >= 0.25
        assert Leases(tmp_path).all()[KEY].pid == os.getpid()


def test_one_that_shows_signs_of_life_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = holder(tmp_path, **{VARIABLE: "1"})
    another_machine(monkeypatch)
    looker = Leases(tmp_path)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert looker.living(KEY) is not None
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)
    lease = take_when_dead(looker)
    with lease:
        process.send_signal(signal.SIGCONT)
        time.sleep(1)  # it writes again, into what was its file
        assert Leases(tmp_path).all()[KEY].pid == os.getpid()
    process.kill()
    process.wait()
    assert list(tmp_path.iterdir()) == []


def test_of_many_lookers_one_takes_a_dead_lease(tmp_path: Path) -> None:
    for attempt in range(20):
        key = f"{attempt:064x}"
        dead_lease(tmp_path, key, term=0.05)
        lookers = [Leases(tmp_path) for _ in range(8)]
        assert all(looker.living(key) for looker in lookers)
        time.sleep(0.06)
        taken: list[leases.Lease] = []

        def look(looker: Leases, key: str = key, taken: list[leases.Lease] = taken) -> None:
            lease = looker.take(key, "a cell")
            if lease is not None:
                taken.append(lease)

        threads = [threading.Thread(target=look, args=[looker]) for looker in lookers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
        with taken[0]:
            assert Leases(tmp_path).living(key) is not None
    assert list(tmp_path.iterdir()) == []


def test_what_another_has_put_there_meanwhile_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dead_lease(tmp_path, term=0.05)
    looker = Leases(tmp_path)
    assert looker.living(KEY) is not None
    time.sleep(0.06)
    new = b'{"cell": "taken by another", "term": 300}'
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        path.write_bytes(new)  # another looker was faster
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    monkeypatch.setattr(guard, "HAS_LOCKS", False)
    looker.living(KEY)
    assert path.read_bytes() == new and [*path.parent.iterdir()] == [path]


@given(st.one_of(st.binary(max_size=1500), st.from_regex(r'\{("term"|"pid"|"done"): [^}]*\}').map(str.encode)))
def test_whatever_a_lease_holds_it_is_of_somebody(content: bytes) -> None:
    about = leases._parsed(content)
    assert 0 < about.term <= 86_400 and isinstance(about.where, str)


def test_a_folder_that_takes_no_lease_does_not_stop_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(leases.os, "open", lambda path, *more: full() if FOLDER in str(path) else os_open(path, *more))
    lease = Leases(tmp_path).take(KEY, "a cell")
    assert lease is not None
    with lease:
        pass
    assert Leases(tmp_path / "no such folder").take(KEY, "a cell") is not None


os_open = os.open


@pytest.mark.parametrize("text", ["no", "0", "-3", "inf", "nan", "1e9"])
def test_a_term_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    done = command("run", "--task", "vision", "--smoke", "--out", "out", cwd=tmp_path, **{VARIABLE: text})
    assert done.returncode == 2 and f"{VARIABLE}={text} is no number of seconds" in done.stderr
    assert list(tmp_path.iterdir()) == []


def jobs(out: Path, *seeds: int, model: str = "oracle") -> list[Job]:
    return [Job(CellSpec(task=small_task(), model=find_model(model), seed=seed), {}, True, out) for seed in seeds]


def test_a_session_leaves_a_cell_to_whoever_has_it_and_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[Session.__module__], "LOOK", 0.02)
    one, two = jobs(tmp_path, 0, 1)
    process = holder(tmp_path, cell_key(one.cell))
    told: list[Event] = []

    def listen(event: Event) -> None:
        told.append(event)
        if event.kind == "elsewhere" and event.message:
            process.kill()  # now that the session waits for it

    stored = Session(tmp_path, CPU).run([one, two], InlineExecutor(), listen)
    process.wait()
    assert [entry.record.status for entry in stored] == ["done", "done"]
    kinds = [(event.kind, event.job) for event in told if event.kind != "progress"]
    assert kinds[:4] == [("start", 0), ("elsewhere", 0), ("start", 1), ("done", 1)]
    assert kinds[-2:] == [("start", 0), ("done", 0)]
    assert any(event.message and f"process {process.pid}" in event.message for event in told)
    assert not (tmp_path / FOLDER).exists()


def test_what_another_has_settled_meanwhile_is_not_run_again(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    one, two = jobs(tmp_path, 0, 1)
    Session(tmp_path, CPU).run([one])
    record_failure(two, datetime.now(UTC), ValueError("no luck"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    assert run_shared(one, CPU).kind == "done"
    failed = run_shared(two, CPU)
    assert (failed.kind, failed.message) == ("failed", "ValueError: no luck")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before
    assert [stored.record.status for stored in Session(tmp_path, CPU).run([one, two])] == ["done", "done"]


def counted(
    folder: Path, name: str, *words: str, before: tuple[str, ...] = (), **environment: str
) -> Callable[[], str]:
    """Start the command line; what waits for its end, and gives its output."""
    command = [*before, sys.executable, "-c", COUNTS, str(folder / f"{name}.ran"), *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment,
        preexec_fn=heed_signals,
    )  # fmt: skip

    def wait() -> str:
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
        return output

    return wait


def ran(folder: Path) -> list[str]:
    """Cells that were run, by whomever."""
    return sorted(line for path in folder.glob("*.ran") for line in path.read_text().splitlines())


WORDS = ("run", "--task", "vision", "--smoke", "--model", "mlp-xs", "--seeds", "6", "--workers", "1", "--device", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("namespaces", [False, True], ids=["one machine", "two pid and network namespaces"])
def test_the_same_command_twice_runs_every_cell_once(tmp_path: Path, namespaces: bool) -> None:
    before: tuple[str, ...] = ()
    if namespaces:
        before = ("unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
        if shutil.which("unshare") is None or subprocess.run([*before, "true"], capture_output=True).returncode:
            pytest.skip("processes cannot be put into namespaces of their own here")
    out = tmp_path / "out"
    both = [counted(tmp_path, name, *WORDS, "--out", str(out), before=before) for name in ("a", "b")]
    tables = [wait()[-2000:].partition("vision@2 smoke")[2].partition("next:")[0] for wait in both]
    assert tables[0] == tables[1] != ""
    assert len(ran(tmp_path)) == len(set(ran(tmp_path))) == 30
    assert len(Store(out).scan()[0]) == 30 and {path.name for path in out.iterdir() if path.name[0] == "."} == set()


@pytest.mark.slow
def test_a_frozen_worker_and_whoever_took_its_cell_leave_one_record(tmp_path: Path) -> None:
    """Frozen past its term and woken up again, it publishes what another has published."""
    out = tmp_path / "out"
    words = ("run", "--task", "vision", "--model", "mlp-xs", "--seeds", "1", "--workers", "1", "--device", "cpu")
    words = (*words, "--set", "recipe.stage1.steps=300", "--set", "recipe.stage2.steps=100", "--out", str(out))
    first = subprocess.Popen(
        [sys.executable, "-c", COUNTS, str(tmp_path / "a.ran"), *words], env=os.environ | {VARIABLE: "1"}
    )
    while not ran(tmp_path) and first.poll() is None:  # it has its lease, and has begun
        time.sleep(0.01)
    assert len(list(out.glob(f"{FOLDER}/*.lease"))) == 1
    first.send_signal(signal.SIGSTOP)
    counted(tmp_path, "b", *words, **{VARIABLE: "1"})()
    record = {path: path.read_bytes() for path in out.rglob("*.json")}
    first.send_signal(signal.SIGCONT)
    assert first.wait(300) == 0
    assert {path: path.read_bytes() for path in out.rglob("*.json")} == record
    assert ran(tmp_path).count("mlp-xs 0") == 2
    assert [path for path in out.iterdir() if path.name[0] == "."] == []


def test_leases_that_come_and_go_are_no_problem_of_whoever_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Leases(tmp_path).take(KEY, "a cell")
    assert lease is not None
    scan = os.scandir

    def late(folder: Path) -> object:
        """Of folders that another run has removed meanwhile."""
        if str(folder) != str(tmp_path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return scan(folder)

    with lease:
        (tmp_path / FOLDER / "note.json").write_text("no record")
        assert Store(tmp_path).scan() == ([], [])
        (tmp_path / "model").mkdir()
        monkeypatch.setattr(os, "scandir", late)
        assert Store(tmp_path).scan() == ([], [])


def test_a_shard_is_a_part_of_the_cells(tmp_path: Path) -> None:
    from iml_bench.library.options import sharded

    planned = jobs(tmp_path, *range(7))
    parts = [sharded(planned, f"{part}/3") for part in (1, 2, 3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert sorted(job.cell.seed for part in parts for job in part) == list(range(7))
    for text in ("0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/3"):
        with pytest.raises(UsageError, match="is no part; give 1/3, 2/3 and 3/3"):
            sharded(planned, text)
