"""Whether a model can be trained in the memory that is there, asked before its weights are read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from small_models import (
    Save,
    entry,
    load,
    refusal,
    saver,
)

from iml_bench.errors import UsageError
from iml_bench.models import language, memory
from iml_bench.models.memory import GIB, check_memory

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Save:
    return saver(tmp_path_factory)


def free(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: gib * GIB)


@pytest.mark.parametrize(
    ("optimizer", "trainable", "bytes_each"),
    [("adamw", 1.0, 20), ("adafactor", 1.0, 12.1), ("sgd", 1.0, 12), ("adamw", 0.0, 4)],
)
def test_memory_is_weights_gradients_state_and_a_copy(
    optimizer: str, trainable: float, bytes_each: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, model = 2**30, entry("hf:a/b")
    free(monkeypatch, bytes_each + 0.01)
    check_memory(model, n, int(n * trainable), optimizer, CPU)
    free(monkeypatch, bytes_each - 0.01)
    with pytest.raises(UsageError) as caught:
        check_memory(model, n, int(n * trainable), optimizer, CPU)
    words = f"model 'small' has 1.07 billion parameters and needs at least {bytes_each:.1f} GiB of memory to be trained"
    assert str(caught.value).startswith(f"{words} with {optimizer}, and {bytes_each - 0.01:.1f} GiB are free")
    assert ("adafactor needs less" in str(caught.value) or "adafactor or" in str(caught.value)) == (
        optimizer == "adamw"
    )
    assert ("LoRA" in str(caught.value)) == (trainable == 1.0)


def test_on_a_gpu_the_copy_is_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    n, gpu = 2**30, torch.device("cuda", 0)
    for on_gpu, on_host, refused in ((17, 5, None), (15, 5, "16.0 GiB of GPU memory"), (17, 3, "4.0 GiB of memory")):
        left = {"cuda": on_gpu * GIB, "cpu": on_host * GIB}
        monkeypatch.setattr(memory, "free_bytes", lambda device, left=left: left[device.type])
        if refused is None:
            check_memory(entry("hf:a/b"), n, n, "adamw", gpu)
            continue
        with pytest.raises(UsageError, match=refused):
            check_memory(entry("hf:a/b"), n, n, "adamw", gpu)


def test_small_models_and_shared_ones_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 0)
    check_memory(entry("hf:a/b"), 10**6, 10**6, "adamw", CPU)
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    check_memory(entry("hf:a/b"), 10**12, 10**12, "adamw", CPU)


def test_a_model_that_is_too_large_is_never_built(monkeypatch: pytest.MonkeyPatch, saved: Save) -> None:
    monkeypatch.setattr(memory, "SMALL", 1)
    free(monkeypatch, 0)
    large = "hidden_size=16384&intermediate_size=65536&num_attention_heads=128&num_hidden_layers=96"
    start = time.perf_counter()
    with pytest.raises(UsageError, match=r"has 309\.\d\d billion parameters and needs at least 3\d\d\d\.\d GiB"):
        load(f"hf-config:gpt_neox?{large}", optimizer="sgd")
    assert time.perf_counter() - start < 30
    monkeypatch.setattr(language, "load_weights", lambda *arguments: pytest.fail("weights were read"))
    assert "billion parameters" in refusal(saved("gpt_neox"))
    assert "LoRA" not in refusal(f"hf:{saved('gpt_neox')}?lora=2")


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/outer/inner\n")
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    for folder, limit in ((inner, "max"), (inner.parent, str(8 * GIB))):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(str(5 * GIB))
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {2 * GIB}\n")
    assert list(memory._left_in_groups(tmp_path, own)) == [5 * GIB]
    own.write_text("4:memory:/job\n1:cpu:/\n")
    job = tmp_path / "memory" / "job"
    job.mkdir(parents=True)
    (job / "memory.limit_in_bytes").write_text(str(3 * GIB))
    (job / "memory.usage_in_bytes").write_text(str(GIB))
    (job / "memory.stat").write_text("total_inactive_file 0\n")
    assert list(memory._left_in_groups(tmp_path, own)) == [2 * GIB]
    assert list(memory._left_in_groups(tmp_path, tmp_path / "none")) == []
