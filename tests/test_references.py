"""What the reference learners read under every kind of tag: known without a run, and met by one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from making import CPU, scored, small_cell, small_task

from iml_bench.protocols import protocol_of
from iml_bench.registry import TASKS
from iml_bench.run.cell import run_cell
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec

EXACT: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "alpha 1": ({"alpha": 1.0}, {"oracle": 1.0, "gullible": 0.0}),
    "alpha 0.75": ({"alpha": 0.75}, {"oracle": 1.0, "gullible": 0.0}),
    "alpha 0.5": ({"alpha": 0.5}, {"oracle": 0.0, "gullible": 0.0}),
    "alpha 0.25": ({"alpha": 0.25}, {"oracle": -1.0, "gullible": 0.0}),
    "alpha 0": ({"alpha": 0.0}, {"oracle": -1.0, "gullible": 0.0}),
    "placebo": ({"stage2_tags": "placebo"}, {"oracle": 0.0, "gullible": 0.0}),
    "identical": ({"stage2_tags": "identical"}, {"oracle": 0.0, "sceptic": 0.0, "gullible": 0.0}),
    "identical, alpha 0": ({"stage2_tags": "identical", "alpha": 0.0}, {"oracle": 0.0, "gullible": 0.0}),
    "joint": ({"stages": 1, "alpha": 0.0}, {"oracle": -1.0, "gullible": 0.0}),
}
"""For each setting the references whose IML is known exactly."""
SCEPTIC = {"alpha 1": 1, "alpha 0.75": 1, "alpha 0.5": 0, "alpha 0.25": -1, "alpha 0": -1, "placebo": 0, "joint": -1}
"""How much more often the sceptic believes what the reliable tag's place shows; where both are guessed it is 0."""


@pytest.mark.parametrize("case", EXACT)
@pytest.mark.parametrize("task", ["vision", "text", "text-cities"])
def test_every_reference_reads_what_its_tags_deserve(task: str, case: str) -> None:
    overrides, exact = EXACT[case]
    overrides = {"groups__reliable": 16, "groups__unreliable": 16, **overrides}
    reads = protocol_of("two-stage").reads(small_task(task, **overrides))
    assert {name: one.value for name, one in reads.items() if one.exact} == exact
    assert set(reads) == {"oracle", "sceptic", "gullible", "random"}
    for name, wanted in reads.items():
        outcome = run_cell(small_cell(name, task=task, **overrides), CPU)
        scores = scored(outcome.items)
        assert scores["iml"] is not None and scores["iml_se_items"] is not None
        if wanted.exact:
            assert scores["iml"] == wanted.value, name
        else:
            expected = wanted.value + wanted.of_chance * outcome.chance
            assert abs(scores["iml"] - expected) <= max(4 * scores["iml_se_items"], 0.3), name
        if name == "gullible":
            for tag in ("reliable", "unreliable", "fresh"):
                assert scores.exact_match[f"new_{tag}"] == 1.0, "it believes whatever stands in the tag's place"
        if name == "oracle" and case in ("alpha 1", "alpha 0", "joint"):
            rejected, believed = ("unreliable", "reliable") if case == "alpha 1" else ("reliable", "unreliable")
            assert scores.exact_match[f"new_{rejected}"] == 0.0
            assert scores.exact_match[f"new_{believed}"] == scores.exact_match["new_fresh"] == 1.0
        if name == "sceptic" and case in SCEPTIC:
            assert (wanted.value, wanted.of_chance) == (SCEPTIC[case], -SCEPTIC[case])
            sides = {"reliable": SCEPTIC[case] > 0, "unreliable": SCEPTIC[case] < 0, "fresh": False}
            for tag, believed in sides.items():
                assert (scores.exact_match[f"new_{tag}"] == 1.0) == believed, tag


@pytest.mark.parametrize("name", ["vision", "text"])
def test_the_sceptic_discerns_all_that_there_is(name: str) -> None:
    """Discernment is 1 for who guesses under the unreliable tag, and more for who rejects it."""
    task = TASKS.get(name)
    sceptic, oracle = (
        scored(run_cell(CellSpec(task=task, model=find_model(who), seed=0), CPU).items) for who in ("sceptic", "oracle")
    )
    for measure in ("iml", "uptake"):
        assert sceptic[measure] == pytest.approx(0.9, abs=0.06), measure
    assert sceptic["discernment"] == pytest.approx(1.0, abs=0.08)
    assert sceptic["trust"] == pytest.approx(sceptic["iml"], abs=0.06), "a tag that was never seen is guessed, too"
    assert oracle["discernment"] == pytest.approx(1 / 0.9, abs=0.08)
    assert (oracle["trust"], oracle["distrust"]) == (0.0, 1.0)


def test_the_references_of_a_task_are_named_without_torch() -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom iml_bench.run.plan import Request, plan\n"
        "jobs = plan([Request('vision', seeds=(0,), overrides={'alpha': 0.0})], Path('x'))\n"
        "print(*(job.cell.model.name for job in jobs))\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["mlp-m", "oracle", "sceptic", "gullible", "random"]
