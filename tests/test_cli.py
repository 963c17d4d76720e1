"""The real command line, in processes of its own: an end-to-end run, resuming, JSON and every error."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from making import command, heed_signals, write_failure, write_result

from iml_bench.records import SCHEMA_VERSION

ROW_FIELDS = {
    *("task", "task_version", "model", "parameters", "n_seeds", "scores"),
    *("chance", "per_seed"),
}
TESTS = str(Path(__file__).parent)


def _smoke(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return command(
        "run", "--task", "vision", "--model", "mlp-xs", "--smoke", "--out", str(out), *more, PYTHONPATH=TESTS
    )


def _contents(root: Path) -> dict[str, Any]:
    """Every file below a folder, records without their timing."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix == ".json":
            record = json.loads(path.read_text())
            del record["timing"]
            found[str(path.relative_to(root))] = record
        elif path.is_file():
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], str]:
    """A finished smoke run of two seeds in two workers: its folder, its rows and its stderr."""
    out = tmp_path_factory.mktemp("run") / "out"
    done = _smoke(out, "--seeds", "2", "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout), done.stderr


def test_a_run_prints_rows_with_the_reference_rows(finished: tuple[Path, list[dict[str, Any]], str]) -> None:
    _, rows, stderr = finished
    assert rows[0]["model"] == "mlp-xs"
    assert {row["model"] for row in rows} == {"mlp-xs", "oracle", "sceptic", "gullible", "random"}
    assert all(set(row) >= ROW_FIELDS for row in rows)
    assert {row["model"]: row["scores"]["iml"]["mean"] for row in rows}["oracle"] == 1.0
    assert "10 cells: 0 done already, 10 to run" in stderr
    assert stderr.count(" done (") == 10


def test_the_same_command_again_skips_what_is_done(finished: tuple[Path, list[dict[str, Any]], str]) -> None:
    out, rows, _ = finished
    before = _contents(out)
    again = _smoke(out, "--seeds", "2", "--json")
    assert "10 done already, 0 to run" in again.stderr
    assert json.loads(again.stdout) == rows
    assert _contents(out) == before


def test_workers_change_no_record(finished: tuple[Path, list[dict[str, Any]], str], tmp_path: Path) -> None:
    out, _, _ = finished
    assert _smoke(tmp_path, "--seeds", "2", "--workers", "1").returncode == 0
    assert _contents(tmp_path) == _contents(out)


def test_more_seeds_extend(finished: tuple[Path, list[dict[str, Any]], str], tmp_path: Path) -> None:
    out, _, _ = finished
    subprocess.run(["cp", "-r", f"{out}/.", str(tmp_path)], check=True)
    more = _smoke(tmp_path, "--seeds", "3", "--workers", "1", "--json")
    assert "15 cells: 10 done already, 5 to run" in more.stderr
    assert {row["n_seeds"] for row in json.loads(more.stdout)} == {3}


def test_the_table_says_what_a_newcomer_needs(finished: tuple[Path, list[dict[str, Any]], str]) -> None:
    out, _, _ = finished
    shown = _smoke(out, "--seeds", "2").stdout
    for words in (
        "IML [95 %]",
        "nats",
        "uptake",
        "stage-1 gap",
        "chance",
        "reference rows",
        f"records: {out}",
        "next:",
    ):
        assert words in shown
    assert "nothing internalised" in shown


def test_a_killed_run_continues_to_the_same_records(
    finished: tuple[Path, list[dict[str, Any]], str], tmp_path: Path
) -> None:
    out, _, _ = finished
    arguments = ["run", "--task", "vision", "--model", "mlp-xs", "--smoke", "--seeds", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "iml_bench", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_signals,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/10]"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert 0 < len(list(tmp_path.rglob("*.json"))) < 10
    assert _smoke(tmp_path, "--seeds", "2").returncode == 0
    assert _contents(tmp_path) == _contents(out)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupt_exits_130_with_the_command_to_continue(tmp_path: Path, workers: str) -> None:
    arguments = ["run", "--task", "vision", "--model", "mlp-xs", "--seeds", "2", "--workers", workers]
    arguments += ["--set", "recipe.stage1.steps=1000000"]  # hours: it cannot have ended before the interrupt
    arguments += ["--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "iml_bench", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_signals,
    )
    try:
        time.sleep(12)  # somewhere in the imports or in stage 1; the answer is the same
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert f"--out {tmp_path}" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_failing_model_stops_no_other(tmp_path: Path, workers: str) -> None:
    broken = "python:models_for_tests:diverging"
    done = _smoke(tmp_path, "--seeds", "1", "--model", broken, "--workers", workers, "--json")
    rows = {row["model"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 1
    assert rows["mlp-xs"]["n_seeds"] == 1
    assert "iml" not in rows[broken]["scores"]
    assert "the loss was nan" in rows[broken]["reasons"]["iml"]
    assert "the loss was nan at step 8 of stage1" in done.stderr
    again = _smoke(tmp_path, "--seeds", "1", "--model", broken)
    assert "1 failed before and tried again" in again.stderr


def test_a_worker_that_dies_fails_only_its_own_cell(tmp_path: Path) -> None:
    dying = "python:models_for_tests:dying"
    done = _smoke(tmp_path, "--seeds", "1", "--model", dying, "--workers", "2", "--json")
    rows = {row["model"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 1
    assert rows["mlp-xs"]["n_seeds"] == 1 and rows["random"]["n_seeds"] == 1
    assert "the worker process died" in rows[dying]["reasons"]["iml"]


BAD_INPUT = {
    "wrong task": (["--task", "visoin"], "unknown task 'visoin': did you mean 'vision'? (iml-bench tasks"),
    "wrong model": (["--model", "mlpm"], "unknown model 'mlpm': did you mean 'mlp-m'? (iml-bench models"),
    "wrong source": (["--model", "tim:resnet18"], "unknown model source 'tim': did you mean 'timm'?"),
    "wrong timm name": (["--model", "timm:resnet81"], "unknown timm architecture 'resnet81': did you mean 'resnet"),
    "wrong python name": (["--model", "python:nowhere:f"], "there is no module 'nowhere'"),
    "not a module": (["--model", "python:models_for_tests:not_a_module"], "returned int, not a torch.nn.Module"),
    "wrong option": (["--model", "ref:mlp?hiden=3"], "hiden"),
    "other modality": (["--model", "neox-s"], "reads text and task 'vision' is vision"),
    "image size": (["--model", "timm:inception_v3"], "cannot take images of 32x32"),
    "wrong field": (["--set", "groups.new_relable=80"], "did you mean 'groups.new_reliable'?"),
    "wrong value": (["--set", "groups.new_reliable=many"], "groups.new_reliable: input should be a valid integer"),
    "no equals": (["--set", "alpha"], "not of the form field.path=value"),
    "set twice": (["--alpha", "0.5", "--set", "alpha=0.7"], "alpha is set twice"),
    "alpha": (["--alpha", "1.5"], "alpha: input should be less than or equal to 1"),
    "no seeds": (["--seeds", "0"], "--seeds '0' names no seed"),
    "bad seeds": (["--seeds", "few"], "--seeds 'few' names no seed"),
    "device": (["--device", "gpu"], "--device 'gpu' is none of auto, cpu, cuda, mps"),
    "data folder": (["--data-dir", "/nowhere"], "--data-dir '/nowhere' is not a folder"),
    "tracker": (["--track", "notebook"], "--track 'notebook': Accelerate knows"),
    "no processes": (["--processes", "0"], "--processes 0: give 1"),
    "no small setting": (["--small"], "task 'vision' has no small setting"),
    "no variants": (["--variant", "joint"], "task 'vision' has no variants; leave out the variant 'joint'"),
    "a file for nothing": (["--data", __file__], "task 'vision' reads no file; leave --data out"),
    "no file": (["--task", "text-cvdb"], "reads its entities from a file; give --data FILE"),
    "missing file": (["--task", "text-cvdb", "--data", "/nowhere.csv"], "--data '/nowhere.csv' is not a file"),
    "not the csv": (["--task", "text-cvdb", "--data", __file__, "--model", "neox-xs"], "column"),
    "not the json": (["--task", "text-trex", "--data", __file__, "--model", "neox-xs"], "JSON"),
    "exact match": (
        ["--task", "text", "--exact-match", "fuzzy"],
        "exact_match: input should be 'strict' or 'normalised'",
    ),
    "not a gguf": (["--task", "text", "--model", f"gguf:{__file__}"], "is not a GGUF file"),
    "no gguf": (["--task", "text", "--model", "gguf:nowhere/x.gguf"], "gguf"),
    "short context": (
        [
            "--task",
            "text",
            "--model",
            "hf-config:gpt_neox?hidden_size=16&num_attention_heads=2&max_position_embeddings=6",
        ],
        "reads at most 6 tokens and the longest text of this task has 14",
    ),
    "too large": (
        ["--task", "text", "--model", "hf-config:gpt_neox?hidden_size=16384&num_hidden_layers=90"],
        "GiB",
    ),
    "not on this machine": (
        ["--task", "text-cities", "--small", "--model", "pythia-160m"],
        "is not on this machine and the hub cannot be reached; download it first",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_sentence_exit_2_and_nothing_written(case: str, tmp_path: Path) -> None:
    arguments, sentence = BAD_INPUT[case]
    task = [] if "--task" in arguments else ["--task", "vision"]
    out = tmp_path / "out"
    done = command(
        "run",
        *task,
        *arguments,
        "--out",
        str(out),
        "--workers",
        "1",
        cwd=tmp_path,
        PYTHONPATH=TESTS,
        HF_HUB_OFFLINE="1",
    )
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert [line.startswith("error: ") for line in done.stderr.splitlines()].count(True) == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_found_by_the_workers_too(tmp_path: Path) -> None:
    done = command("run", "--task", "vision", "--model", "timm:inception_v3", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "cannot take images of 32x32" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_found_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = _smoke(tmp_path / "file" / "out")
    assert done.returncode == 2
    assert "cannot write records into" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_show_tells_a_record_from_what_is_none(tmp_path: Path) -> None:
    path = write_result(tmp_path)
    assert "exact match" in command("show", str(path)).stdout
    assert json.loads(command("show", str(path), "--json").stdout)[0]["model"] == "mlp-m"
    assert "nan at step 7" in command("show", str(write_failure(tmp_path, seed=1))).stdout
    none = tmp_path / "none.json"
    none.write_text("{}")
    refused = command("show", str(none))
    assert (refused.returncode, "is not a record" in refused.stderr) == (2, True)
    record = json.loads(path.read_text()) | {"schema_version": SCHEMA_VERSION + 1}
    path.write_text(json.dumps({name: value for name, value in record.items() if name != "seal"}))
    newer = command("show", str(path))
    assert (newer.returncode, "install a newer iml-bench" in newer.stderr) == (2, True)


@pytest.mark.parametrize("task", ["vision", "text"])
def test_show_draws_a_task(task: str, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "task.png"
    assert command("show", task, "--picture", str(path)).returncode == 0
    with Image.open(path) as picture:
        extrema = picture.convert("L").getextrema()
    assert extrema == (0, 255)


@pytest.mark.parametrize("name", ["vision", "neox-xs"])
def test_check_passes_what_is_shipped(name: str) -> None:
    done = command("check", name, "--json")
    steps = json.loads(done.stdout)
    assert done.returncode == 0, [step for step in steps if not step["passed"]]
    assert len(steps) >= 6


def test_check_fails_what_cannot_run() -> None:
    done = command("check", "timm:inception_v3")
    assert done.returncode == 1
    assert "FAIL" in done.stdout and "cannot take images of 32x32" in done.stdout


def test_tracking_writes_beside_the_records(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    assert _smoke(tmp_path, "--seeds", "1", "--track", "tensorboard").returncode == 0
    assert list((tmp_path / "tracking").rglob("events*"))


def test_listings_import_no_torch() -> None:
    for arguments in (["tasks"], ["models"], ["suite", "list"], ["leaderboard"], ["run", "--task", "visoin"]):
        code = (
            f"import sys; sys.argv = ['iml-bench', *{arguments!r}]\n"
            "from iml_bench.cli.app import main\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
