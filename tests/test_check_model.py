"""What is told of a model before its weights are read: all that can be, and nothing that is not so."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import CPU, small_cell, small_task
from small_models import SEQ2SEQ, SHAPE, SIZES, Save, bpe_tokenizer, build, entry, load, refusal, saver
from torch import Tensor, nn

from iml_bench.errors import UsageError
from iml_bench.models import VisionShape, check_model, count_parameters, language, load_model, memory, outline
from iml_bench.run.cell import run_cell
from iml_bench.run.executors.inline import InlineExecutor
from iml_bench.run.job import Job, check_job
from iml_bench.runtime import THREADS
from iml_bench.sources import hub
from iml_bench.spec import CellSpec

GRID = VisionShape(32, 32, 1, 4, 10)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Save:
    return saver(tmp_path_factory)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A folder with a small model in several files, to be damaged."""
    build("llama").save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    bpe_tokenizer().save_pretrained(tmp_path / "sharded")
    return tmp_path / "sharded"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows by one whenever a published model is read: whether its weights were."""
    calls: list[bool] = []
    read_weights = language.read_weights

    def counted(*arguments: Any, **where_to: Any) -> Any:
        model, report = read_weights(*arguments, **where_to)
        devices = {parameter.device.type for parameter in model.parameters()}
        assert devices == {"meta" if where_to else "cpu"}
        calls.append(not where_to)
        return model, report

    for module in (language, outline):
        monkeypatch.setattr(module, "read_weights", counted)
    return calls


def published_cell(folder: Path, seed: int = 0) -> CellSpec:
    model = entry(folder).model_copy(update={"modality": "text"})
    return CellSpec(task=small_task("text-cities", recipe__batch_size=16), model=model, seed=seed)


# Weights are read once per cell, and not for a check


def test_weights_are_read_once_per_cell_and_not_by_the_check(saved: Save, tmp_path: Path, read: list[bool]) -> None:
    jobs = [Job(published_cell(saved("llama"), seed), {}, True, tmp_path) for seed in (0, 1)]
    kinds: list[str] = []
    InlineExecutor().run([jobs], CPU, lambda event: kinds.append(event.kind))
    assert read == [False, True, True]
    assert kinds.count("done") == 2


def huge(folder: Path, hidden: int = 2048, layers: int = 6) -> int:
    """A Llama of two files that are full of holes; its bytes."""
    from transformers import AutoConfig

    sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    config = AutoConfig.for_model("llama", vocab_size=266, num_attention_heads=16, **sizes)
    with torch.device("meta"):
        weights = language._auto_class(config).from_config(config).state_dict()
    config.save_pretrained(folder)
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    names = sorted(weights)
    for file, chosen in zip(files, (names[::2], names[1::2]), strict=True):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in chosen:
            n = 4 * weights[name].numel()
            header[name] = {"dtype": "F32", "shape": list(weights[name].shape), "data_offsets": [end, end + n]}
            end += n
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + end)
    where = {name: files[index % 2] for index, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return 4 * sum(tensor.numel() for tensor in weights.values())


def peak() -> int:
    """The most memory that this process has held since the last look, in bytes."""
    status = Path("/proc/self/status").read_text()
    found = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return 1024 * found


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells how much memory was held")
def test_the_memory_of_a_check_does_not_grow_with_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1e15)
    size = huge(tmp_path)
    assert size > 1.5e9
    peak()
    before = peak()
    assert check_model(entry(tmp_path), SHAPE) == size // 4
    assert peak() - before < size / 5


# The check changes nothing


SCHEMES = {
    "hf": None,
    "hf-config": f"hf-config:gpt2?{SIZES['gpt2']}",
    "timm": "timm:test_resnet",
    "ref": "ref:mlp",
    "python": "python:test_check_model:drawing",
}


def drawing(shape: VisionShape) -> nn.Module:
    """Named by a ``python:`` source: draws wherever it can."""
    random.random()
    np.random.random()  # noqa: NPY002
    return nn.Sequential(nn.Flatten(), nn.Linear(shape.height * shape.width, shape.positions * shape.classes))


def states() -> tuple[object, ...]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_a_check_moves_no_random_generator(scheme: str, saved: Save) -> None:
    source = SCHEMES[scheme] or saved("gpt2")
    before = states()
    assert check_model(entry(source), SHAPE if scheme.startswith("hf") else GRID) > 0
    assert states() == before


@pytest.mark.parametrize("model", ["hf", "timm:test_vit2", "python:models_for_tests:with_dropout"])
def test_outcomes_are_the_same_whether_a_model_was_checked_or_not(model: str, saved: Save, tmp_path: Path) -> None:
    torch.set_num_threads(THREADS)  # as a check and a job have it: it decides how sums are rounded
    cell = published_cell(saved("llama")) if model == "hf" else small_cell(model)
    plain = run_cell(cell, CPU).items
    check_job(Job(cell, {}, True, tmp_path), CPU)
    assert run_cell(cell, CPU).items.equals(plain)
    assert list(tmp_path.iterdir()) == []


# What is found without weights


def drop_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


def cut_shard(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-1])


def cut_header(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:50])


def reshape_shard(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = sorted(folder.glob("*.safetensors"))[1]
    weights = {name: tensor[..., :3].contiguous() for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def pickle_shards(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.rename(path.with_suffix(".bin"))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard is missing": (drop_shard, "has no safetensors weights"),
    "a shard is cut": (cut_shard, "has weights that are damaged or cut short"),
    "a header is cut": (cut_header, "has weights that are damaged or cut short"),
    "wrong shapes": (reshape_shard, "has weights that do not fit its configuration (model.layers."),
    "pickles": (pickle_shards, "has no safetensors weights: pickled ones are not read; convert them first"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
}


def test_a_model_in_several_files_is_whole(sharded: Path, read: list[bool]) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert check_model(entry(sharded), SHAPE) == count_parameters(build("llama"))
    assert read == [False]


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_damaged_shard_is_found_without_weights(damage: str, sharded: Path, read: list[bool]) -> None:
    action, words = DAMAGE[damage]
    action(sharded)
    with pytest.raises(UsageError) as caught:
        check_model(entry(sharded), SHAPE)
    assert True not in read
    assert str(caught.value).startswith(f"model 'small' (hf:{sharded}) {words}")
    assert refusal(sharded) == str(caught.value)


@pytest.mark.parametrize("options", ["hidden_size=32", "num_hidden_layers=3"])
def test_options_that_do_not_fit_the_files_are_found_without_weights(
    options: str, saved: Save, read: list[bool]
) -> None:
    with pytest.raises(UsageError, match="has weights that do not fit its configuration"):
        check_model(entry(f"hf:{saved('llama')}?{options}"), SHAPE)
    assert read == [False]


VISION_REFUSALS = {
    "timm:inception_v3": "model 'small' cannot take images of 32x32: Calculated padded input size per channel",
    "timm:test_resnet?nonsense=3": "timm model 'test_resnet' cannot be made for images of 32x32: ",
    "timm:resnet81": "unknown timm architecture 'resnet81'",
    "ref:mlp?hiden=3": "model 'small' (ref:mlp?hiden=3): got an unexpected keyword argument 'hiden'",
    "ref:nlp": "unknown reference network 'nlp'",
    "python:models_for_tests:not_a_module": "'python:models_for_tests:not_a_module' returned int, not a torch.nn",
    "python:models_for_tests:linear?more=2": "model 'small' (python:models_for_tests:linear?more=2): got an unexpected",
    "python:nowhere:f": "'python:nowhere:f': there is no module 'nowhere'; give a path ending in .py, or install it",
    "python:test_check_model:twice": "model 'small' cannot take images of 32x32: "
    "when it is asked it gave logits of shape (2, 80)",
}


def twice(shape: VisionShape) -> nn.Module:
    """Named by a ``python:`` source: twice as many outputs as are asked for."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape.height * shape.width, 2 * shape.positions * shape.classes))


@pytest.mark.parametrize("source", sorted(VISION_REFUSALS))
def test_what_cannot_take_images_ends_with_the_same_sentence(source: str) -> None:
    sentences = []
    for step in (lambda: load_model(entry(source), GRID, 0), lambda: check_model(entry(source), GRID)):
        with pytest.raises(UsageError) as caught:
            step()
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]
    assert sentences[0].startswith(VISION_REFUSALS[source])


# What needs real tensors is not refused


@pytest.mark.parametrize("kind", [*sorted(SIZES), "mixtral"])
def test_every_architecture_passes_without_memory_and_where_that_fails_with_some(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outline, "SMALL", 0)
    sizes = SIZES.get(kind, f"{SIZES['llama']}&num_local_experts=2&num_key_value_heads=2")
    load(f"hf-config:{kind}?{sizes}", SEQ2SEQ if kind in ("t5", "bart") else SHAPE)


class _Asking(nn.Module):
    """Decides by the values of its input and its weights."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.outputs = shape.positions * shape.classes
        self.steps = [float(step) for step in torch.linspace(0, 1, 3)]

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.sum() == 0 and self.scale > 0.5:
            return self.scale * pixels.new_zeros(len(pixels), self.outputs)
        raise ValueError("never with the weights that it has")


def asking(shape: VisionShape) -> nn.Module:
    """See ``_Asking``."""
    return _Asking(shape)


def test_code_that_asks_for_values_gets_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_model(entry("python:test_check_model:asking"), GRID) == 1
    import timm

    monkeypatch.setattr(timm, "create_model", lambda *arguments, **options: _Asking(GRID))
    assert check_model(entry("timm:resnet18"), GRID) == 1


def test_what_the_models_code_raises_is_told_before_the_first_cell(tmp_path: Path) -> None:
    cell = small_cell("python:test_check_model:broken")
    with pytest.raises(UsageError, match="cannot be prepared for task 'vision': ZeroDivisionError: integer division"):
        check_job(Job(cell, {}, True, tmp_path), CPU)
    with pytest.raises(ZeroDivisionError):
        run_cell(cell, CPU)


def broken(shape: VisionShape) -> nn.Module:
    """Named by a ``python:`` source."""
    return nn.Linear(1, 1 // 0)


def test_gradient_checkpointing_is_checked_before_a_cell(tmp_path: Path) -> None:
    runtime = replace(CPU, checkpointing=True)
    check_job(Job(small_cell("timm:test_vit2"), {}, True, tmp_path), runtime)
    with pytest.raises(UsageError, match="--gradient-checkpointing: this model has no such mode"):
        check_job(Job(small_cell("mlp-xs"), {}, True, tmp_path), runtime)


def test_a_copy_of_a_folder_in_the_hubs_cache_is_checked_without_weights(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[bool]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    repository = tmp_path / "models--someone--small"
    shutil.copytree(saved("gpt2"), repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    assert check_model(entry("hf:someone/small"), SHAPE) > 0
    assert read == [False]
