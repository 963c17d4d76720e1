"""The hint after a run: a command that repeats the run's own options, and works when it is pasted."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from making import command, write_failure, write_result

from iml_bench.cli import outcome
from iml_bench.library.running import Work, planned
from iml_bench.records import Store
from iml_bench.run.command import command_of
from iml_bench.run.plan import plan
from iml_bench.spec import cell_key


def pasted(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a printed command in a shell, with this interpreter."""
    script = line.replace("python -m", f"{shlex.quote(sys.executable)} -m", 1)
    return subprocess.run(["bash", "-c", script], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_null_control_of_this_very_run_can_be_pasted(tmp_path: Path) -> None:
    arguments = ["run", "--task", "vision", "--model", "ref:mlp?hidden=9&depth=2", "--seeds", "1", "--smoke"]
    arguments += ["--set", "groups.reliable=6", "--lr", "1e-4", "--out", "my results", "--device", "cpu"]
    done = command(*arguments, "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "next:    the null control, which must read zero" in done.stdout
    line = done.stdout.splitlines()[-1].strip()
    control = pasted(line, tmp_path)
    assert control.returncode == 0, (line, control.stderr)
    assert "40 cells: 0 done already, 40 to run; 1 worker; records in my results" in control.stderr
    trained = [one.record for one in Store(tmp_path / "my results").scan()[0] if not one.record.cell.model.is_reference]
    first = next(record for record in trained if record.cell.task.alpha == 1.0)
    others = [record for record in trained if record.cell.task.alpha == 0.5]
    assert sorted(record.cell.seed for record in others) == list(range(8)) and len(trained) == 9
    for record in others:
        task = record.cell.task.model_copy(update={"alpha": 1.0})
        assert cell_key(record.cell.model_copy(update={"task": task, "seed": 0})) == first.key
    again = control.stdout.splitlines()[-1].strip()
    assert again.startswith("python -m iml_bench show ") and pasted(again, tmp_path).returncode == 0


def work_of(out: Path, models: tuple[str, ...] = ("mlp-m",), **options: Any) -> Work:
    return planned("vision", models, 2, {"out": out, **options})


def step(work: Work, asked: dict[str, Any] | None) -> tuple[str, str] | None:
    return outcome.next_step(work, Store(work.out).scan()[0], asked)


def test_two_models_are_compared_if_they_can_be(tmp_path: Path) -> None:
    work = work_of(tmp_path, ("mlp-m", "mlp-s"))
    for model, seed in (("mlp-m", 0), ("mlp-s", 1)):
        write_result(tmp_path, model, seed)
    found = step(work, {})
    assert found is not None and "null control" in found[0], "they share no seed"
    write_result(tmp_path, "mlp-s", 0)
    found = step(work, {})
    assert found is not None and found[1].endswith(f"compare mlp-m mlp-s --records {tmp_path}")
    compared = command(*shlex.split(found[1])[1:])
    assert compared.returncode == 0, compared.stderr


def test_what_has_no_control_is_shown_among_the_others(tmp_path: Path) -> None:
    write_failure(tmp_path)
    assert step(work_of(tmp_path), {}) is None, "nothing is done"
    write_result(tmp_path)
    suite = work_of(tmp_path)._replace(request=None)
    found = step(suite, None)
    assert found is not None and found[1].endswith(f"leaderboard --records {tmp_path}")
    assert command(*shlex.split(found[1])[1:]).returncode == 0


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("text-sets", {"small": True, "set": {"render.question": 'a "b" $(c) {question}', "recipe.lr": 1e-5}}),
        ("text-sets", {"smoke": True, "alpha": 0.5, "batch_size": 8}),
        ("text-sets", {"set": {"recipe.stage1.epochs": 2, "exact_match": "normalised"}}),
        ("vision-mnist", {"small": True, "variant": "joint", "lr": 0.5}),
    ],
)
def test_a_command_plans_the_same_cells(task: str, options: dict[str, Any], tmp_path: Path) -> None:
    from iml_bench.cli.options import parse_overrides
    from iml_bench.library.options import make_request

    models = ("mlp-xs",) if task == "vision-mnist" else ("neox-xs", "hf-config:gpt_neox?hidden_size=8")
    work = planned(task, models, "3,5", {"out": tmp_path, **options})
    assert work.request is not None
    words = shlex.split(command_of(work.request, {"out": tmp_path, "curve": 3, "gradient_checkpointing": True}))
    assert words[-5:] == ["--out", str(tmp_path), "--curve", "3", "--gradient-checkpointing"]
    given = {name: [words[i + 1] for i, word in enumerate(words[:-1]) if word == name] for name in words}
    request = make_request(
        given["--task"][0],
        given["--model"],
        given["--seeds"][0],
        {
            "set": parse_overrides(given.get("--set", []), {}),
            "small": "--small" in words,
            "smoke": "--smoke" in words,
            "variant": given.get("--variant", [None])[0],
        },
    )
    assert plan([request], tmp_path) == list(work.jobs)
