"""Scores of probes in records, in suites and in claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from making import command, made, write_result

from iml_bench.board import ClaimVerdict, judge
from iml_bench.errors import UsageError
from iml_bench.extensions import PROBES
from iml_bench.records import Attachment, Attachments, Store, Stored, read_record, written
from iml_bench.registry import SUITES
from iml_bench.run.suites import suite_requests
from iml_bench.spec import SuiteSpec

SEEDS = (300, 301, 302, 303)
CLAIM = {"name": "c", "says": "It is.", "grid": "g", "estimand": "mean", "direction": "up", "delta": 0.05}
MODELS = ("mlp-s", "mlp-m", "convnet-s")


def suite_of(*claims: dict[str, Any], **grid: Any) -> SuiteSpec:
    own = {"name": "g", "task": "vision", "models": [*MODELS], "seeds": "300-303", "probes": ["alignment?entities=8"]}
    data = {"name": "mine", "description": "d", "grids": [own | grid], "claims": [CLAIM | claim for claim in claims]}
    return SuiteSpec.model_validate(data)


def judged(root: Path, *claims: dict[str, Any], **grid: Any) -> list[ClaimVerdict]:
    suite = suite_of(*claims, **grid)
    return judge(suite, suite_requests(suite), Store(root).scan()[0]).verdicts


def attach(path: Path, scores: dict[str, tuple[float | None, str]], moment: str = "stage1") -> None:
    stored = Stored(path, read_record(path))
    attachments = Attachments(path)
    attachments.table("alignment", moment, pl.DataFrame({"x": [1.0]}), scores, {"entities": 8})
    Store(path.parent).attach(stored, attachments)


@pytest.fixture
def probed(tmp_path: Path) -> Path:
    """Records of three models whose IML is their gap, .1, .2 and .3, but for noise between seeds."""
    for index, model in enumerate(MODELS):
        for place, seed in enumerate(SEEDS):
            path = write_result(tmp_path, model, seed, table=made(0.1 * (index + 1) + 0.005 * place))
            attach(path, {"gap": (0.1 * (index + 1) + 0.01 * (place - 1.5), "")})
    return tmp_path


def test_a_claim_may_be_about_a_score_of_a_probe(probed: Path) -> None:
    found = judged(probed, {"measure": "alignment.gap"})
    assert [one.model for one in found] == [*MODELS]
    assert found[1].per_seed == {seed: pytest.approx(0.2 + 0.01 * (place - 1.5)) for place, seed in enumerate(SEEDS)}
    assert found[1].decision == "supported"
    same = judged(probed, {"measure": "alignment.gap@stage1"})
    assert [one.per_seed for one in same] == [one.per_seed for one in found]


def test_a_slope_along_a_score_places_every_model_by_its_mean(probed: Path) -> None:
    (one,) = judged(probed, {"measure": "iml", "estimand": "slope", "along": "alignment.gap"})
    assert (one.model, one.task, one.decision) == ("all models", "vision@2", "supported")
    assert [point.value for point in one.points] == [*MODELS]
    assert [point.x for point in one.points] == pytest.approx([0.1, 0.2, 0.3])
    assert one.per_seed == {seed: pytest.approx(1) for seed in SEEDS}


def test_what_a_probe_did_not_find_has_a_reason(probed: Path) -> None:
    def reason(measure: str) -> str:
        return judged(probed, {"measure": measure})[0].reason

    assert reason("alignment.gapp") == "0 of 4 seeds: seed 300 has no score gapp of alignment; it has gap"
    assert reason("alignment.gap@initial") == "0 of 4 seeds: seed 300 was not probed by alignment at initial"
    for path in probed.glob("mlp-s/*.json"):
        attach(path, {"gap": (None, "no two entities are alike")})
    assert reason("alignment.gap") == "0 of 4 seeds: seed 300 no two entities are alike"
    (one,) = judged(probed, {"measure": "iml", "estimand": "slope", "along": "alignment.gap"})
    assert (one.decision, one.reason) == ("undecided", "alignment.gap is not known everywhere yet")


def test_a_table_with_other_options_does_not_count_and_is_made_again(probed: Path) -> None:
    claim, other = {"measure": "alignment.gap"}, ["alignment?entities=9"]
    (first, *_) = judged(probed, claim, probes=other)
    assert first.reason == "0 of 4 seeds: seed 300 was not probed by alignment at stage1 with the suite's options"
    suite = suite_of(claim, probes=other)
    wanted = judge(suite, suite_requests(suite), Store(probed).scan()[0], looks=(4,)).wanted
    assert [request.models for request in wanted] == [MODELS]
    suite = suite_of(claim)
    assert judge(suite, suite_requests(suite), Store(probed).scan()[0], looks=(4,)).wanted == []


@pytest.mark.parametrize(
    "claim,grid,said",
    [
        ({"measure": "alinment.gap"}, {}, "unknown probe of this grid 'alinment': did you mean 'alignment'?"),
        ({"measure": "alignment.gap"}, {"probes": []}, "unknown probe of this grid 'alignment'"),
        (
            {"measure": "iml", "estimand": "slope", "along": "alignment.gap"},
            {"probes": []},
            "unknown field 'alignment.gap'",
        ),
        (
            {"measure": "iml", "estimand": "trend", "along": "alignment.gap"},
            {},
            "along alignment.gap, which is measured, there can be a linear slope only",
        ),
    ],
)
def test_what_no_probe_of_the_grid_can_say_is_one_sentence(claim: dict[str, Any], grid: Any, said: str) -> None:
    with pytest.raises((UsageError, ValueError)) as caught:
        suite_requests(suite_of(claim, **grid))
    assert said in str(caught.value)


def test_a_score_needs_a_table_and_is_finite() -> None:
    with pytest.raises(ValueError, match="scores follow from a table"):
        Attachment(
            kind="probe", name="alignment", moment="stage1", file=None, sha256=None, reason="r", scores={"gap": 1.0}
        )
    with pytest.raises(ValueError, match="finite"):
        Attachment(kind="probe", name="a", moment="m", file="a.parquet", sha256="0" * 64, scores={"gap": float("nan")})


def test_a_suite_looks_into_its_cells_and_into_those_that_are_done(tmp_path: Path) -> None:
    suite = {
        "name": "little",
        "description": "d",
        "grids": [{"name": "g", "task": "vision", "models": ["mlp-xs"], "seeds": 1, "probes": ["losses@initial"]}],
    }
    (tmp_path / "little.yaml").write_text(yaml.safe_dump(suite))
    run = ["suite", "run", "little.yaml", "--smoke", "--out", "out"]
    done = command(*run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out" / "mlp-xs").glob("*.json")
    first = read_record(path)
    assert [(one.name, one.moment, one.reason) for one in first.attachments] == [("losses", "initial", None)]
    assert all(not read_record(other).attachments for other in (tmp_path / "out" / "oracle").glob("*.json"))

    suite["grids"][0]["probes"] = ["losses@initial", "alignment?entities=2"]  # type: ignore[index]
    (tmp_path / "little.yaml").write_text(yaml.safe_dump(suite))
    again = command(*run, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "1 to run" in again.stderr
    second = read_record(path)
    assert [one.name for one in second.attachments] == ["losses", "alignment"]
    assert second.model_copy(update={"attachments": ()}) == first.model_copy(update={"attachments": ()})
    third = command(*run, cwd=tmp_path)
    assert "0 to run" in third.stderr


def test_a_done_cell_that_cannot_be_probed_is_told_of_and_stays_done(tmp_path: Path) -> None:
    run = ["run", "--task", "vision", "--smoke", "--model", "mlp-xs", "--seeds", "1", "--out", "out"]
    assert command(*run, cwd=tmp_path).returncode == 0
    (path,) = (tmp_path / "out" / "mlp-xs").glob("*.json")
    data = json.loads(path.read_text())
    record = read_record(path).model_copy(update={"data_digest": "1" * 64})
    path.write_bytes(written(record))
    assert json.loads(path.read_text())["data_digest"] != data["data_digest"]
    bad = command(*run, "--probe", "losses", cwd=tmp_path)
    assert bad.returncode == 1
    assert "it cannot be probed" in bad.stderr and "its data are not those that are generated here" in bad.stderr
    assert read_record(path) == record


def test_the_shipped_suites_of_mechanisms_name_scores_that_their_probes_have() -> None:
    for name in ("mechanisms-cpu", "mechanisms-paper"):
        suite = SUITES.get(name)
        for claim in suite.claims:
            for measure in (claim.measure, claim.along or ""):
                probe, dot, score = measure.partition(".")
                if dot and probe in PROBES.origins:
                    known = {one.name for one in PROBES.get(probe).scores}
                    assert score.partition("@")[0] in known, (claim.name, measure)
