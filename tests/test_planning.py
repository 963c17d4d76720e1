"""Planning: how many seeds a question needs, against simulation and against what is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import command, item_rows, write_result
from scipy import stats

import iml_bench
from iml_bench.errors import UsageError
from iml_bench.stats.power import half_width, power_of, seeds_for, upper_sd


@pytest.mark.parametrize(("effect", "sd", "n"), [(0.05, 0.04, 5), (0.02, 0.04, 16), (0.1, 0.04, 3), (0.0, 1.0, 8)])
def test_power_is_how_often_the_test_finds_the_effect(effect: float, sd: float, n: int) -> None:
    drawn = np.random.default_rng(0).normal(effect, sd, (20_000, n))
    found = np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05)
    assert power_of(effect, sd, n) == pytest.approx(found, abs=0.012)
    half = stats.t.ppf(0.975, n - 1) * drawn.std(axis=1, ddof=1) / np.sqrt(n)
    assert half_width(sd, n) == pytest.approx(half.mean(), rel=0.02)


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.1, 0.99))
def test_the_seeds_have_the_power_and_one_fewer_does_not(effect: float, sd: float, power: float) -> None:
    n = seeds_for(effect, sd, power)
    assert n is not None
    assert power_of(effect, sd, n) >= power
    assert n == 2 or power_of(effect, sd, n - 1) < power


@pytest.mark.parametrize(("effect", "n"), [(0.5, 4), (1.0, 10), (0.6, 30)])
def test_power_is_that_of_the_non_central_t(effect: float, n: int) -> None:
    bound, shift = stats.t.ppf(0.975, n - 1), effect * np.sqrt(n)
    exact = stats.nct.sf(bound, n - 1, shift) + stats.nct.cdf(-bound, n - 1, shift)
    assert power_of(effect, 1.0, n) == pytest.approx(exact, abs=2e-4)


def test_what_nobody_will_run_is_said() -> None:
    assert seeds_for(1e-6, 1.0, 0.8) is None
    assert seeds_for(0.1, 0.0, 0.8) == 2
    assert power_of(0.0, 0.0, 5) == 0.0


def test_the_upper_bound_holds_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(1).normal(size=(4000, 8)).std(axis=1, ddof=1)
    assert np.mean([upper_sd(sd, 8) >= 1 for sd in drawn]) == pytest.approx(0.8, abs=0.02)


VALUES = (0.4, 0.5, 0.45, 0.5, 0.4, 0.45)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Six seeds of one row."""
    for seed, value in enumerate(VALUES):
        write_result(tmp_path / "records", "mlp-m", seed, table=item_rows(value, 20))
    return tmp_path


def test_a_plan_follows_from_the_recorded_spread(recorded: Path) -> None:
    records = recorded / "records"
    found = iml_bench.plan("vision", "mlp-m", effect=0.05, records=records)
    sd = float(np.std(VALUES, ddof=1))
    assert (found.n_recorded, found.mean) == (6, pytest.approx(np.mean(VALUES)))
    assert found.power_recorded == pytest.approx(power_of(0.05, sd, 6))
    same, twice, four = found.planned
    assert found.sd_items is not None
    assert same.seeds is not None and same.seeds_careful is not None
    assert same.sd == pytest.approx(max(sd, found.sd_items))
    assert twice.sd**2 == pytest.approx(found.sd_seeds**2 + found.sd_items**2 / 2)
    assert same.seeds <= same.seeds_careful and four.sd <= twice.sd <= same.sd
    assert len(iml_bench.plan("vision", "mlp-m", effect=0.05, measure="uptake", records=records).planned) == 1


def test_plan_is_a_verb(recorded: Path) -> None:
    words = ["plan", "--task", "vision", "--model", "mlp-m", "--effect", "0.05", "--records", "records"]
    done = command(*words, cwd=recorded)
    assert done.returncode == 0 and "power 0.8 takes:" in done.stdout, done.stderr
    found = json.loads(command(*words, "--json", cwd=recorded).stdout)
    assert (
        found["planned"][0]["seeds"]
        == iml_bench.plan("vision", "mlp-m", effect=0.05, records=recorded).planned[0].seeds
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model": "mlp-s"}, "there are no records of mlp-s on vision to plan from; run two seeds or more first"),
        ({"task": "visoin"}, "did you mean 'vision'?"),
        ({"measure": "ilm"}, "unknown measure 'ilm': did you mean 'iml'?"),
        ({"effect": 0.0}, "--effect 0 is no effect; give a number that is not 0"),
        ({"power": 1.0}, "--power 1 is not between 0.05 and 1"),
        ({"measure": "trust"}, "mlp-m on vision@2 has trust in 0 seeds, and a spread needs two"),
    ],
)
def test_what_is_wrong_with_a_plan_is_one_sentence(recorded: Path, given: dict[str, object], sentence: str) -> None:
    whole = {"task": "vision", "model": "mlp-m", "effect": 0.05, "records": recorded} | given
    with pytest.raises(UsageError, match=sentence.replace("?", r"\?").replace("(", r"\(")):
        iml_bench.plan(**whole)  # type: ignore[arg-type]
