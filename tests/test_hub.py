"""Models of the hub: known by the commit that is loaded, which is resolved when a run is planned."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from making import small_cell
from small_models import bpe_tokenizer, build

from iml_bench.errors import UsageError
from iml_bench.models import VisionShape, load_form, load_model
from iml_bench.sources import find_model, hub, pretrained
from iml_bench.spec import ModelEntry, cell_key, identity, model_key, same_model

OLD, NEW = "a" * 40, "b" * 40
GRID = VisionShape(32, 32, 1, 4, 10)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No hub, and an empty cache of its own; the cache's folder."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    return tmp_path / "hub"


def downloaded(cache: Path, name: str, **commits: str) -> Path:
    """A repository in the cache, with the commits of its revisions; the folder of snapshots."""
    repository = cache / f"models--{name.replace('/', '--')}"
    for revision, commit in commits.items():
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
        (repository / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
    return repository / "snapshots"


class Hub:
    """A hub that answers from memory."""

    def __init__(self, **commits: str) -> None:
        self.commits, self.asked, self.files = commits, 0, ["config.json"]

    def model_info(self, name: str, revision: str | None, timeout: float) -> Any:
        self.asked += 1
        if (revision or "main") not in self.commits:
            raise OSError("404 Client Error.\nRevision Not Found")
        siblings = [SimpleNamespace(rfilename=file) for file in self.files]
        return SimpleNamespace(sha=self.commits[revision or "main"], siblings=siblings)


@pytest.fixture
def online(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub

    found = Hub(main=OLD, step3=NEW)
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    hub._asked.cache_clear()
    yield found
    hub._asked.cache_clear()


def key_of(model: ModelEntry) -> str:
    return cell_key(small_cell("mlp-xs").model_copy(update={"model": model}))


def test_what_is_keyed_is_the_commit_and_not_the_name(online: Hub) -> None:
    old = find_model("hf:org/name")
    assert old.commit == OLD and old.digest is None
    assert key_of(find_model("hf:renamed/name")) == key_of(old)
    assert key_of(find_model("hf:org/name?revision=step3")) != key_of(old)
    assert key_of(find_model("hf:org/name?subfolder=x")) != key_of(old)
    assert key_of(find_model("hf:org/name?lora=2")) != key_of(old)
    online.commits["main"] = NEW
    assert find_model("hf:org/name").commit == OLD, "one commit for all cells of a process"
    hub._asked.cache_clear()
    assert find_model("hf:org/name").commit == NEW
    assert key_of(find_model("hf:org/name")) == key_of(find_model("hf:org/name?revision=step3")) != key_of(old)


def test_the_hub_is_asked_once_for_a_repository(online: Hub) -> None:
    for _ in range(3):
        find_model("hf:org/name")
    assert online.asked == 1


def test_what_is_loaded_is_the_commit(online: Hub) -> None:
    entry = find_model("hf:org/name?subfolder=x")
    assert hub.place_of(entry) == ("org/name", {"subfolder": "x", "revision": OLD})
    online.commits["main"] = NEW
    hub._asked.cache_clear()
    assert hub.place_of(entry)[1]["revision"] == OLD
    assert hub.place_of(entry.model_copy(update={"commit": None}))[1]["revision"] == NEW, "an older record's"


def test_a_revision_that_is_not_there_is_one_sentence(online: Hub) -> None:
    with pytest.raises(UsageError) as caught:
        find_model("hf:org/name?revision=none")
    assert str(caught.value) == (
        "hf:org/name?revision=none: the hub does not say which commit none of org/name is: 404 Client Error."
    )
    online.files.append("adapter_config.json")
    with pytest.raises(UsageError, match="holds an adapter"):
        find_model("hf:org/name")


def test_a_downloaded_model_is_of_the_commit_in_the_cache(cache: Path) -> None:
    assert find_model("hf:org/name").commit is None
    snapshots = downloaded(cache, "org/name", main=OLD, step3=NEW)
    for commit in (OLD, NEW):
        build("gpt2", n_layer=1 if commit == OLD else 2).save_pretrained(snapshots / commit)
        bpe_tokenizer().save_pretrained(snapshots / commit)
    for source, commit in (("hf:org/name", OLD), ("hf:org/name?revision=step3", NEW), (f"hf:o/n?revision={NEW}", None)):
        entry = find_model(source)
        assert entry.commit == commit
        if commit is not None:
            assert hub.place_of(entry)[0] == str(snapshots / commit)
            assert load_form(entry).tokenizer is not None
    planned = find_model("hf:org/name")
    downloaded(cache, "org/name", main=NEW)
    assert hub.place_of(planned)[0] == str(snapshots / OLD), "what was planned is what is loaded"
    assert key_of(find_model("hf:org/name")) != key_of(planned)


def test_records_of_before_keep_their_keys(cache: Path) -> None:
    entry = find_model("hf:org/name")
    cell = small_cell("mlp-xs").model_copy(update={"model": entry})
    model = identity(cell)["model"]
    assert model["source"] == "hf:org/name" and "commit" not in model
    pinned = entry.model_copy(update={"commit": OLD})
    assert same_model(entry, pinned) and not same_model(pinned, entry)
    assert model_key(cell) != model_key(cell.model_copy(update={"model": pinned}))


PRETRAINED = "timm:test_vit?pretrained=true"


def test_pretrained_weights_are_of_a_commit(online: Hub) -> None:
    entry = find_model(PRETRAINED)
    assert entry.commit == OLD
    overlay = pretrained.pinned(entry)["pretrained_cfg_overlay"]
    assert overlay["hf_hub_id"] == f"timm/test_vit.r160_in1k@{OLD}"
    before = key_of(entry)
    online.commits["main"] = NEW
    hub._asked.cache_clear()
    assert key_of(find_model(PRETRAINED)) != before
    assert pretrained.pinned(entry)["pretrained_cfg_overlay"] == overlay
    assert find_model("timm:test_vit").commit is None


def test_pretrained_weights_that_are_not_here_are_refused_at_once(cache: Path) -> None:
    entry = find_model(PRETRAINED)
    assert entry.commit is None
    start = time.perf_counter()
    with pytest.raises(UsageError) as caught:
        load_model(entry, GRID, 0)
    assert str(caught.value) == (
        f"model {PRETRAINED!r} (timm:test_vit) is not on this machine and the hub cannot be reached; download it first "
        "(`hf download timm/test_vit.r160_in1k`), or give a local file, checkpoint_path=FILE"
    )
    assert time.perf_counter() - start < 10


def test_downloaded_pretrained_weights_need_no_hub(cache: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    snapshots = downloaded(cache, "timm/test_vit.r160_in1k", main=OLD)
    weights = {name: torch.full_like(value, 0.25) for name, value in timm.create_model("test_vit").state_dict().items()}
    save_file(weights, snapshots / OLD / "model.safetensors")
    entry = find_model(PRETRAINED)
    assert entry.commit == OLD
    loaded = load_model(entry, GRID, 0).state_dict()
    assert torch.equal(loaded["body.blocks.0.mlp.fc1.weight"], weights["blocks.0.mlp.fc1.weight"])
