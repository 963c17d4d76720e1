"""Claims: what a suite says about its cells, the estimands, and the decisions on all of them together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from making import command, item_rows, made, write_result
from pydantic import ValidationError
from scipy import stats as scipy_stats

from iml_bench.board import ClaimVerdict, build_rows, judge
from iml_bench.errors import UsageError
from iml_bench.records import Store
from iml_bench.registry import TASKS
from iml_bench.run.suites import suite_requests
from iml_bench.spec import SuiteSpec, apply_overrides
from iml_bench.stats import Contrast, decide, holm, lack_of_fit, local_slopes, seeds_needed, within_seeds

SEEDS = (300, 301, 302, 303)
ALPHAS = (0.25, 0.5, 0.75, 1.0)
CLAIM = {"name": "c", "says": "It grows.", "grid": "g", "measure": "iml", "direction": "up", "delta": 0.05}


def suite_data(claims: Sequence[Mapping[str, Any]], **grid: Any) -> dict[str, Any]:
    """What a suite of one grid along alpha holds, but for what is given."""
    own = {"name": "g", "task": "vision", "models": ["mlp-m"], "seeds": "300-303", "axes": {"alpha": list(ALPHAS)}}
    return {"name": "mine", "description": "d", "grids": [own | grid], "claims": [CLAIM | claim for claim in claims]}


def write(root: Path, values: Sequence[float], model: str = "mlp-m", size: int = 1000, **overrides: Any) -> None:
    """Records on vision with these IML (multiples of .005), seeds from 300."""
    task = apply_overrides(TASKS.get("vision"), overrides)
    for seed, value in zip(SEEDS, values, strict=False):
        write_result(root, model, seed, task=task, table=made(value), parameters=size)


DOSE = {
    0.25: (-0.1, -0.11, -0.1, -0.09),
    0.5: (0.0, 0.01, 0, 0),
    0.75: (0.1, 0.09, 0.11, 0.1),
    1: (0.3, 0.2, 0.25, 0.3),
}


@pytest.fixture
def dose(tmp_path: Path) -> Path:
    """Records whose IML grows with alpha."""
    for alpha, values in DOSE.items():
        write(tmp_path, values, alpha=float(alpha))
    return tmp_path


def judged(root: Path, *claims: Mapping[str, Any], **grid: Any) -> list[ClaimVerdict]:
    """The verdicts on claims about the records in a folder."""
    suite = SuiteSpec.model_validate(suite_data(claims, **grid))
    return judge(suite, suite_requests(suite), Store(root).scan()[0]).verdicts


def of_each_seed(of: Any) -> dict[int, Any]:
    """A number from the four values of each seed, in the order of alpha."""
    return {
        seed: pytest.approx(of(column)) for seed, column in zip(SEEDS, np.array(list(DOSE.values())).T, strict=True)
    }


SLOPE = {"estimand": "slope", "along": "alpha"}
ESTIMANDS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "mean": ({"estimand": "mean", "at": {"alpha": 1.0}}, lambda y: y[3], "iml: above 0"),
    "difference": (
        {"estimand": "difference", "along": "alpha", "between": [0.5, 1.0]},
        lambda y: y[3] - y[1],
        "iml, alpha 1.0 minus 0.5: above 0",
    ),
    "slope": (SLOPE, lambda y: np.polyfit(ALPHAS, y, 1)[0], "iml per unit of alpha: above 0"),
    "doublings": (
        SLOPE | {"scale": "log2"},
        lambda y: np.polyfit(np.log2(ALPHAS), y, 1)[0],
        "iml per doubling of alpha: above 0",
    ),
    "trend": (
        {"estimand": "trend", "along": "alpha"},
        lambda y: 3 * np.polyfit(range(4), y, 1)[0],
        "iml over alpha: above 0",
    ),
}


@pytest.mark.parametrize("case", ESTIMANDS)
def test_an_estimand_is_a_number_of_every_seed(case: str, dose: Path) -> None:
    claim, of, about = ESTIMANDS[case]
    (found,) = judged(dose, claim)
    assert found.per_seed == of_each_seed(of)
    assert (found.decision, found.n_seeds, found.wanted, found.reason) == ("supported", 4, 4, "")
    assert (found.about, found.model) == (about, "mlp-m")
    t, p = scipy_stats.ttest_1samp(list(found.per_seed.values()), 0)
    assert found.p_effect == pytest.approx(p) and found.estimate is not None
    low, high = scipy_stats.t.interval(0.95, 3, found.estimate.mean, found.estimate.mean / t)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((low, high))
    (down,) = judged(dose, claim | {"direction": "down"})
    assert down.decision == "contradicted"


def test_a_mean_is_judged_at_each_point_and_all_are_corrected_together(dose: Path) -> None:
    found = judged(dose, {"estimand": "mean"})
    assert [one.decision for one in found] == ["contradicted", "no effect", "supported", "supported"]
    raw = [scipy_stats.ttest_1samp(DOSE[alpha], 0).pvalue for alpha in DOSE]
    assert [one.p_effect for one in found] == pytest.approx(holm(raw))
    assert [one.task for one in found][:2] == ["vision@2 alpha=0.25", "vision@2 alpha=0.5"]


def test_a_symmetry_adds_what_lies_opposite(tmp_path: Path) -> None:
    symmetric = {0.0: (-0.3, -0.2, -0.25, -0.3), 0.25: (-0.1,) * 4, 0.75: (0.1,) * 4, 1.0: (0.3, 0.21, 0.25, 0.29)}
    for alpha, values in symmetric.items():
        write(tmp_path, values, alpha=alpha)
    claim = {"estimand": "symmetry", "along": "alpha", "direction": "none", "delta": 0.02}
    (found,) = judged(tmp_path, claim, axes={"alpha": [0.0, 0.25, 0.75, 1.0]})
    assert found.per_seed == pytest.approx({300: 0.0, 301: 0.005, 302: 0.0, 303: -0.005})
    assert (found.decision, found.about) == ("supported", "iml at alpha and 1 - alpha, added: 0")
    (tight,) = judged(tmp_path, claim | {"delta": 0.001}, axes={"alpha": [0.0, 0.25, 0.75, 1.0]})
    SuiteSpec.model_validate(suite_data([claim], axes={"alpha": [0.1, 0.25, 0.75, 0.9]}))  # 1 - 0.9 is not 0.1
    assert (tight.decision, "seeds would decide" in tight.reason) == ("undecided", True)


def test_along_the_parameters_a_family_is_judged(tmp_path: Path) -> None:
    """In the order of size, whatever the order in the suite."""
    for model, size, base in (("mlp-l", 10_000, 0.3), ("mlp-s", 100, 0.1), ("mlp-m", 1000, 0.2), ("convnet-s", 9, 0.1)):
        write(tmp_path, [base, base + 0.01, base - 0.01, base], model, size)
    claim = {"estimand": "slope", "along": "parameters", "scale": "log10"}
    models = ["mlp-l", "mlp-s", "mlp-m", "convnet-s"]
    family, alone = judged(tmp_path, claim, models=models, axes={})
    assert (family.model, [point.value for point in family.points]) == ("mlp", ["mlp-s", "mlp-m", "mlp-l"])
    assert family.per_seed == pytest.approx(dict.fromkeys(SEEDS, 0.1))
    assert (family.decision, family.lack_of_fit) == ("supported", None)
    assert [one.mean for one in family.local_slopes if one] == pytest.approx([0.1, 0.1])
    assert (alone.decision, alone.reason) == ("undecided", "1 of 3 points that it needs")


def test_nothing_is_decided_before_all_seeds_are_there(dose: Path) -> None:
    (found,) = judged(dose, SLOPE, seeds="300-304")
    assert (found.decision, found.n_seeds, found.wanted) == ("undecided", 4, 5)
    assert found.reason == "alpha 0.25: 4 of 5 seeds: seed 304 not run yet"
    assert found.p_effect is None and found.estimate is not None


CASES: dict[str, tuple[Contrast, str]] = {
    "up": (Contrast([0.2, 0.21, 0.19], "up", 0.05), "supported"),
    "up, and it is down": (Contrast([-0.2, -0.21, -0.19], "up", 0.05), "contradicted"),
    "down": (Contrast([-0.2, -0.21, -0.19], "down", 0.05), "supported"),
    "too small to care": (Contrast([0.01, 0.011, 0.009], "up", 0.05), "no effect"),
    "wide": (Contrast([0.5, -0.4, 0.1], "up", 0.05), "undecided"),
    "none": (Contrast([0.01, -0.01, 0.0], "none", 0.05), "supported"),
    "none, and there is one": (Contrast([0.2, 0.21, 0.19], "none", 0.05), "contradicted"),
    "none, and it lies on delta": (Contrast([0.05, 0.06, 0.04], "none", 0.05), "undecided"),
    "all the same": (Contrast([0.2, 0.2, 0.2], "up", 0.05), "supported"),
    "exactly nothing": (Contrast([0.0, 0.0, 0.0], "up", 0.05), "no effect"),
    "one seed": (Contrast([0.2], "up", 0.05), "undecided"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_decision(case: str) -> None:
    contrast, decision = CASES[case]
    assert decide([contrast])[0].decision == decision


@given(st.lists(st.floats(-0.3, 0.3), min_size=2, max_size=10), st.floats(0.01, 0.2), st.integers(1, 20))
def test_the_seeds_that_are_needed_decide_and_one_fewer_does_not(values: list[float], delta: float, n: int) -> None:
    contrast = Contrast(values, "up", delta)
    needed = seeds_needed(contrast, n)
    mean, spread = np.mean(values), np.std(values, ddof=1)
    if needed is None or spread == 0:
        return

    def p(seeds: int) -> float:
        error, t = spread / np.sqrt(seeds), scipy_stats.t(seeds - 1)
        return float(min(2 * t.sf(abs(mean) / error), t.sf((delta - abs(mean)) / error)))

    assert p(needed) * n < 0.05 * (1 + 1e-6)
    assert needed == 2 or p(needed - 1) * n >= 0.05 * (1 - 1e-6)


def test_slopes_within_seeds_are_those_of_polyfit() -> None:
    rng = np.random.default_rng(0)
    x, y = [1.0, 2.0, 4.0, 7.0], rng.normal(size=(4, 5))
    points = [dict(enumerate(row)) for row in y.tolist()]
    assert list(within_seeds(x, points).values()) == pytest.approx(list(np.polyfit(x, y, 1)[0]))
    steps = [np.mean((high - low) / dx) for low, high, dx in zip(y[:-1], y[1:], np.diff(x), strict=True)]
    assert [one.mean for one in local_slopes(x, points) if one] == pytest.approx(steps)


def test_lack_of_fit_finds_a_bend_and_errs_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    x = np.arange(5.0)

    def p(bend: float) -> float:
        scores = x + bend * (x - 2) ** 2 + rng.normal(size=(8, 1)) + rng.normal(size=(8, 5))
        found = lack_of_fit(list(x), [dict(enumerate(column)) for column in scores.T.tolist()])
        assert found is not None
        return found

    assert 0.02 < np.mean([p(0.0) < 0.05 for _ in range(600)]) < 0.08
    assert np.mean([p(2.0) < 0.05 for _ in range(50)]) > 0.9
    assert lack_of_fit([1, 2], [{0: 1.0}, {0: 2.0}]) is None


WRONG = {
    "measure": (
        ({**SLOPE, "measure": "ilm"},),
        "suite 'mine', claim 'c': measure: unknown measure 'ilm': did you mean",
    ),
    "axis": (({**SLOPE, "along": "alhpa"},), "claim 'c': unknown field 'alhpa': did you mean 'alpha'?"),
    "grid": (({**SLOPE, "grid": "h"},), "claim 'c': unknown grid 'h'"),
    "delta": (({**SLOPE, "delta": None},), "claim 'c': delta: "),
    "no delta": (({"estimand": "mean", "delta": 0},), "claim 'c': delta: input should be greater than 0"),
    "values": (
        ({"estimand": "difference", "along": "alpha", "between": [0.5, 2]},),
        "difference: alpha is never 2 in grid 'g'",
    ),
    "at": (({"estimand": "mean", "at": {"alpha": 7}},), "at: alpha is never 7 in grid 'g'"),
    "symmetry": (
        ({"estimand": "symmetry", "along": "alpha", "direction": "none"},),
        "symmetry: alpha is never 0.0 in grid 'g'",
    ),
    "a direction": (
        ({"estimand": "symmetry", "along": "alpha"},),
        "a symmetry is claimed to be zero: direction is none",
    ),
    "no along": (({"estimand": "slope"},), "a slope is along a field; say which (along)"),
    "along": (({"estimand": "mean", "along": "alpha"},), "a mean is about no field; leave along out"),
    "scale": (({"estimand": "trend", "along": "alpha", "scale": "log2"},), "scale is of a slope; a trend has none"),
    "twice": ((SLOPE, SLOPE), "there is another claim of this name"),
    "few": (
        ({"estimand": "trend", "along": "parameters"},),
        "a trend needs 3 values of parameters, and grid 'g' has 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_claim_is_one_sentence(case: str) -> None:
    claims, sentence = WRONG[case]
    with pytest.raises((UsageError, ValidationError)) as caught:
        suite_requests(SuiteSpec.model_validate(suite_data(claims)))
    assert sentence in str(caught.value)


def test_words_have_no_slope() -> None:
    grid = {"axes": {"crossover": ["pair", "square", "pair"]}}
    with pytest.raises(ValidationError, match="a slope along crossover needs numbers, and 'pair' is not a number"):
        SuiteSpec.model_validate(suite_data(({**SLOPE, "along": "crossover"},), **grid))
    with pytest.raises(ValidationError, match="and 0 is not a number above 0"):
        SuiteSpec.model_validate(suite_data(({**SLOPE, "scale": "log2"},), axes={"alpha": [0, 0.5, 1]}))


def test_the_verdict_on_claims_is_a_verb(dose: Path) -> None:
    path = dose / "mine.yaml"
    path.write_text(yaml.safe_dump(suite_data([SLOPE])))
    done = command("suite", "verdict", "mine.yaml", "--records", ".", cwd=dose)
    assert done.returncode == 0, done.stderr
    assert "supported" in done.stdout and "iml per unit of alpha: above 0" in done.stdout
    found = json.loads(command("suite", "verdict", "mine.yaml", "--records", ".", "--json", cwd=dose).stdout)
    assert [one["decision"] for one in found["claims"]] == ["supported"] and found["controls"] == []
    shown = command("suite", "show", "mine.yaml", cwd=dose).stdout
    assert "claim c: It grows." in shown and "slope of iml along alpha in grid g, delta 0.05" in shown


def test_a_report_holds_its_figures_and_every_number(dose: Path) -> None:
    """Twice the same, with nothing loaded from elsewhere, and no text that a browser would act on."""
    says = "It grows <script>alert(1)</script> | more."
    (dose / "mine.yaml").write_text(
        yaml.safe_dump(suite_data([SLOPE | {"says": says}, {"name": "m", "estimand": "mean"}]))
    )
    done = [
        command("suite", "report", "mine.yaml", "--records", ".", "--out", name, cwd=dose) for name in ("one", "two/a")
    ]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr
    page, data = (dose / "one" / "index.html").read_text(), json.loads((dose / "one" / "report.json").read_text())
    assert page.count("<svg") == 2 and "<script" not in page and "&lt;script&gt;" in page
    assert "http:" not in page.replace("http://www.w3.org", "") and "https:" not in page
    (found, *_) = data["claims"]
    assert (found["claim"], found["decision"], len(found["points"])) == ("c", "supported", 4)
    shown = f"{found['estimate']['mean']:+.3f}"
    assert shown in page and shown in (dose / "one" / "report.md").read_text() and shown in done[0].stdout
    assert "![c](c.svg)" in (dose / "one" / "report.md").read_text()
    assert (dose / "one" / "c.png").read_bytes()[:4] == b"\x89PNG"
    links = [dose / "one" / file for file in data["records"]["g"]]
    assert len(links) == 16 and all(link.is_file() for link in links)
    for name in ("c.svg", "m.svg", "report.md"):
        assert (dose / "one" / name).read_bytes() == (dose / "two" / "a" / name).read_bytes()


def test_a_report_needs_a_claim_and_a_folder_of_its_own(tmp_path: Path) -> None:
    none = command("suite", "report", "smoke", "--out", "out", cwd=tmp_path)
    assert (none.returncode, none.stderr) == (
        2,
        "error: suite 'smoke' has no claim to report on (iml-bench suite show smoke)\n",
    )
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(suite_data([SLOPE])))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    taken = command("suite", "report", "mine.yaml", "--out", "taken", cwd=tmp_path)
    assert taken.returncode == 2 and "give one that is new or empty" in taken.stderr


def test_a_ratio_is_that_of_the_means_and_has_a_reason_where_it_cannot_be_measured(dose: Path) -> None:
    """As on the board: what each seed adds to the quotient of the means."""
    claim = {"estimand": "mean", "at": {"alpha": 1.0}, "measure": "discernment"}
    (found,) = judged(dose, claim)
    row = next(row for row in build_rows(Store(dose).scan()[0]) if not row.changes)
    assert found.per_seed == pytest.approx(row.by_seed("discernment"))
    assert found.estimate is not None and found.estimate.mean == pytest.approx(row.scores["discernment"].mean)
    write_result(dose / "low", "mlp-m", 300, table=item_rows(0.0, base=0.0))
    (low,) = judged(dose / "low", claim, seeds=[300])
    assert low.decision == "undecided"
    assert low.reason == "0 of 1 seeds: seed 300 is of a row whose uptake is on average not above 0.1"


def test_what_varies_together_is_one_axis(tmp_path: Path) -> None:
    """A claim along a zipped field: the points differ in the fields that go with it, too."""
    zipped = {"recipe.batch_size": [16, 64, 256], "recipe.stage1.steps": [400, 100, 25]}
    for index, (batch, steps) in enumerate(zip(*zipped.values(), strict=True)):
        write(tmp_path, [0.1 * index] * 4, **{"recipe.batch_size": batch, "recipe.stage1.steps": steps})
    slope = {"estimand": "slope", "along": "recipe.batch_size", "scale": "log2"}
    (found,) = judged(tmp_path, slope, zip=zipped, axes={})
    assert found.per_seed == pytest.approx(dict.fromkeys(SEEDS, 0.05))
    assert (found.task, [point.x for point in found.points]) == ("vision@2", [16, 64, 256])
