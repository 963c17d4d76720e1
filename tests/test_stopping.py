"""Seeds are added until claims are decided: the looks, the error over all of them, and the run that follows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from making import command, made, write_failure, write_result
from scipy import stats as scipy_stats

from iml_bench.board import judge
from iml_bench.board.claims import Judgement
from iml_bench.records import Store
from iml_bench.registry import TASKS
from iml_bench.run.suites import suite_requests, widened
from iml_bench.spec import SuiteSpec
from iml_bench.stats import Contrast, Decided, decide, looks_until

CLAIM = {"name": "c", "says": "It is there.", "grid": "g", "measure": "iml", "estimand": "mean"}
CLAIM |= {"direction": "up", "delta": 0.05}
GRID: dict[str, Any] = {"name": "g", "task": "vision", "models": ["mlp-m", "convnet-s"], "seeds": 2}
CLEAR = (0.3, 0.31, 0.3, 0.29)
OPEN = (0.5, -0.5, 0.1, -0.05)


@pytest.mark.parametrize("most", [4, 5, 8, 20, 32])
def test_looks_double_and_end_with_all(most: int) -> None:
    known = {4: (4,), 5: (4, 5), 8: (4, 8), 20: (4, 8, 16, 20), 32: (4, 8, 16, 32)}
    assert looks_until(most) == known[most]


def up(values: Sequence[float]) -> Contrast:
    """A contrast of which an effect above zero is claimed."""
    return Contrast(list(values), "up", 0.05)


def test_a_look_has_its_share_and_what_it_rejects_leaves_the_correction() -> None:
    first = decide([up(CLEAR), up(OPEN)], looks=2)
    p = scipy_stats.ttest_1samp(CLEAR, 0).pvalue
    assert first[0].p_effect == pytest.approx(2 * 2 * p), "two claims, two looks"
    assert [one.decision for one in first] == ["supported", "undecided"]
    later = [0.3, -0.3, 0.3, 0.28, 0.31, 0.29, 0.3, 0.32]
    second = decide([up([-1.0] * 7 + [-1.1]), up(later)], looks=2, before=first)
    assert second[0] == first[0], "what was decided stays, whatever comes"
    assert second[1].p_effect == pytest.approx(2 * scipy_stats.ttest_1samp(later, 0).pvalue), "it is alone by now"


def test_the_error_over_all_looks_is_no_larger_than_it_says() -> None:
    """Three claims without an effect, looked at three times: the share of suites with a false one."""
    rng, suites, wrong = np.random.default_rng(5), 1500, 0
    for _ in range(suites):
        values = rng.normal(size=(3, 16)) * 0.1
        found: list[Decided] | None = None
        for n in (4, 8, 16):
            found = decide([up(row[:n]) for row in values], 3, found)
        assert found is not None
        wrong += any(one.decision in ("supported", "contradicted") for one in found)
    assert 0.005 < wrong / suites <= 0.05 + 2 * 0.0056


def judged(root: Path, most: int = 8) -> Judgement:
    """What the rule makes of the records in a folder."""
    suite = SuiteSpec.model_validate({"name": "s", "description": "d", "grids": [GRID], "claims": [CLAIM]})
    requests = widened(suite, suite_requests(suite), most)
    return judge(suite, requests, Store(root).scan()[0], looks_until(most))


def write(root: Path, model: str, values: Sequence[float], start: int = 0) -> None:
    """Records of these IML."""
    for seed, value in enumerate(values, start):
        write_result(root, model, seed, table=made(value))


def test_only_what_is_undecided_gets_more_seeds(tmp_path: Path) -> None:
    (request,) = judged(tmp_path).wanted
    assert (request.models, request.seeds) == (("mlp-m", "convnet-s"), (0, 1, 2, 3))
    write(tmp_path, "mlp-m", CLEAR)
    write(tmp_path, "convnet-s", OPEN)
    (request,) = judged(tmp_path).wanted
    assert (request.models, request.seeds) == (("convnet-s",), tuple(range(8)))
    write(tmp_path, "convnet-s", [0.3, 0.3, 0.3, 0.3], start=4)
    write(tmp_path, "mlp-m", [-0.9] * 4, start=4)
    done = judged(tmp_path)
    assert not done.wanted, "the last look was taken"
    assert [(one.decision, one.n_seeds) for one in done.verdicts] == [("supported", 4), ("undecided", 8)]


def test_the_looks_share_the_error_of_a_suite(tmp_path: Path) -> None:
    """Each of two has half, so that a p counts twice as much as where there is one."""
    write(tmp_path, "convnet-s", OPEN)
    write(tmp_path, "mlp-m", CLEAR)
    at_once, by_looks = (judged(tmp_path, most).verdicts[0] for most in (4, 8))
    p = scipy_stats.ttest_1samp(CLEAR, 0).pvalue
    assert (at_once.p_effect, by_looks.p_effect) == (pytest.approx(2 * p), pytest.approx(4 * p))


def test_a_cell_that_failed_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path, "mlp-m", CLEAR)
    write(tmp_path, "convnet-s", OPEN[:3])
    write_failure(tmp_path, "convnet-s", 3)
    found = judged(tmp_path, most=4)
    assert not found.wanted
    assert "seed 3 failed" in found.verdicts[1].reason


SHORT = {"recipe.stage1.steps": 3, "recipe.stage2.steps": 2, "recipe.batch_size": 8} | {
    f"groups.{name}": 4
    for name in (*TASKS.get("vision").group_sizes,)
    if name not in ("named", "random_tag", "undefined")
}


def suite_file(folder: Path, **grid: Any) -> None:
    """A suite of a tiny grid with one claim."""
    own = GRID | {"models": ["mlp-xs"], "set": SHORT} | grid
    beside = {"task": "vision", "models": ["mlp-xs"], "seeds": 1, "set": {**SHORT, "recipe.stage1.steps": 1}}
    whole = {"name": "s", "description": "d", "grids": [own, beside]}
    (folder / "s.yaml").write_text(yaml.safe_dump(whole | {"claims": [CLAIM]}))


def test_a_run_ends_when_all_is_decided_or_has_all_seeds_and_goes_on_where_it_was(tmp_path: Path) -> None:
    suite_file(tmp_path)
    asked = ("suite", "run", "s.yaml", "--until", "decided", "--workers", "1")
    dry = command(*asked, "--max-seeds", "5", "--dry-run", cwd=tmp_path)
    assert "21 cells: 0 done already" in dry.stdout, dry.stderr
    first = command(*asked, "--max-seeds", "5", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "1 of 1 verdicts are open; next look after 4 of 5 seeds" in first.stderr
    assert "next look after 5 of 5 seeds" in first.stderr
    assert len(list((tmp_path / "iml-results" / "mlp-xs").glob("*.json"))) == 6
    again = command(*asked, "--max-seeds", "5", cwd=tmp_path)
    assert "next look" not in again.stderr and " to run; " not in again.stderr.replace("0 to run; ", "")
    verdict = command("suite", "verdict", "s.yaml", "--max-seeds", "5", "--records", "iml-results", cwd=tmp_path)
    assert verdict.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]


WRONG = {
    "alone": (["--until", "decided"], "--until decided and --max-seeds N go together"),
    "smoke": (["--until", "decided", "--max-seeds", "8", "--smoke"], "not with --smoke"),
    "few": (["--until", "decided", "--max-seeds", "3"], "--max-seeds 3: claims are first judged after 4 seeds"),
    "both": (["--until", "decided", "--max-seeds", "8", "--seeds", "4"], "--seeds and --max-seeds both say"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_rule_is_one_sentence(case: str, tmp_path: Path) -> None:
    options, sentence = WRONG[case]
    suite_file(tmp_path)
    done = command("suite", "run", "s.yaml", *options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


def test_a_suite_without_claims_has_nothing_to_decide() -> None:
    done = command("suite", "run", "smoke", "--until", "decided", "--max-seeds", "8")
    assert (done.returncode, done.stdout) == (2, "")
    assert "suite 'smoke' has no claim that could be decided" in done.stderr


def test_a_plan_says_what_undecided_claims_take(tmp_path: Path) -> None:
    suite_file(tmp_path, set={}, models=["mlp-m", "convnet-s"])
    write(tmp_path / "records", "mlp-m", CLEAR[:2])
    write(tmp_path / "records", "convnet-s", (0.3, 0.1))
    asked = ("plan", "--suite", "s.yaml", "--records", "records")
    found = json.loads(command(*asked, "--json", cwd=tmp_path).stdout)
    suite = SuiteSpec.model_validate(yaml.safe_load((tmp_path / "s.yaml").read_text()))
    verdicts = judge(suite, suite_requests(suite), Store(tmp_path / "records").scan()[0]).verdicts
    left = {one.model: one for one in verdicts if one.decision == "undecided"}
    assert {row["model"] for row in found} == {*left} and "convnet-s" in left
    own = next(row for row in found if row["model"] == "convnet-s")
    needed, seconds = left["convnet-s"].seeds_needed, left["convnet-s"].seconds
    assert needed is not None and own["seeds_needed"] == needed > 2
    assert own["more_hours"] == (None if seconds is None else pytest.approx((needed - 2) * seconds / 3600))
    shown = command(*asked, cwd=tmp_path).stdout
    assert f"{len(left)} of 2 verdicts of s are undecided" in shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--suite", "s.yaml", "--task", "vision"], "--suite has its own tasks, models and deltas"),
        (["--task", "vision"], "give --task, --model and --effect, or --suite NAME"),
        (["--suite", "smoke"], "suite 'smoke' has no claim that could be decided"),
        (
            ["--task", "vision", "--model", "mlp-m", "--effect", "1", "--max-seeds", "8"],
            "--max-seeds and --data are for a suite",
        ),
    ],
)
def test_what_is_wrong_with_a_plan_of_a_suite_is_one_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    suite_file(tmp_path)
    done = command("plan", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr and done.stderr.count("\n") == 1
