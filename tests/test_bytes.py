"""A model is the bytes that are loaded: any of them changes its key, and the place where they lie does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loaded_bytes import key_of, written
from making import small_cell, write_result

from iml_bench.board import build_board, build_rows
from iml_bench.errors import UsageError
from iml_bench.records import Store, Timing, latest_by_key, read_record
from iml_bench.run.job import Job
from iml_bench.run.plan import Request, plan
from iml_bench.run.session import status_of
from iml_bench.sources import find_model
from iml_bench.sources.find import as_typed
from iml_bench.spec import ModelEntry, cell_key, entry_from_source, identity, key_with_place, parse_source, same_model
from iml_bench.spec.cell import CellSpec
from iml_bench.submit.entries import add_entry

FRESH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = st.sampled_from(["model.safetensors", "config.json", "vocab.txt", "chat_template.jinja", "weights.bin", "a.py"])
TREES = st.dictionaries(
    st.lists(st.sampled_from(["shards", "code", "deep"]), max_size=2)
    .flatmap(lambda parts: NAMES.map(lambda name: "/".join((*parts, name))))
    .filter(lambda path: path == "config.json" or not path.endswith("/config.json")),
    st.binary(max_size=8),
    min_size=1,
    max_size=6,
)


# Folders of language models


@FRESH
@given(TREES, st.data())
def test_any_byte_of_a_folder_changes_the_key_and_its_place_does_not(
    tmp_path: Path, tree: dict[str, bytes], data: st.DataObject
) -> None:
    folder = written(tmp_path / "one" / "model", tree)
    before = key_of(f"hf:{folder}")
    moved = tmp_path / "other"
    shutil.rmtree(moved, ignore_errors=True)
    shutil.copytree(folder, moved)
    assert key_of(f"hf:{moved}") == before
    changed = data.draw(st.sampled_from(sorted(tree)))
    (moved / changed).write_bytes(tree[changed] + b"!")
    assert key_of(f"hf:{moved}") != before
    (moved / changed).unlink()
    assert key_of(f"hf:{moved}") != before


FLAT = {"config.json": "{}", "model.safetensors": "w", "tokenizer.model": "t", "merges.txt": "m", "modeling_x.py": "x"}


def test_the_digest_of_a_flat_folder_is_what_it_always_was(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", FLAT)
    digest = "92f0aa83c2c1514fea00d2bcf93fc35669865c6500c1d8a162ac997bd5d3daf4"
    assert find_model(f"hf:{folder}").digest == digest


def test_what_nothing_loads_is_no_part_of_a_folder(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", FLAT)
    before = key_of(f"hf:{folder}")
    for name in (".git/HEAD", ".gitattributes", "__pycache__/x.pyc", "README.md", "step2/config.json", "step2/w.bin"):
        written(folder / "x", {})
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("anything")
    assert key_of(f"hf:{folder}") == before


def test_a_subfolder_is_what_is_loaded(tmp_path: Path) -> None:
    outer = {"step1/config.json": "{}", "step1/model.safetensors": "1", "config.json": "{}", "model.safetensors": "0"}
    folder = written(tmp_path / "ck", outer)
    source = f"hf:{folder}?subfolder=step1"
    before = key_of(source)
    assert before == key_of(f"hf:{folder}/step1"), "the tokenizer is read from there, too"
    (folder / "model.safetensors").write_text("2")
    assert key_of(source) == before
    (folder / "step1" / "model.safetensors").write_text("2")
    after = key_of(source)
    assert after != before
    (folder / "modeling.py").write_text("code is read from the folder around it")
    assert key_of(source) != after


def test_shards_are_followed_into_other_folders(tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"a": "parts/1.safetensors"}})
    folder = written(
        tmp_path / "model",
        {"model.safetensors.index.json": index, "parts/1.safetensors": "w", "parts/config.json": "{}"},
    )
    before = key_of(f"hf:{folder}")
    (folder / "parts" / "1.safetensors").write_text("v")
    assert key_of(f"hf:{folder}") != before


def test_a_folder_that_links_to_itself_is_read_once(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", FLAT)
    (folder / "again").symlink_to(folder)
    assert find_model(f"hf:{folder}").digest is not None


def test_an_adapter_without_its_model_is_refused(tmp_path: Path) -> None:
    from iml_bench.sources import hub

    files = {"adapter_config.json": "{}", "step1/config.json": "{}"}
    entry = find_model(f"hf:{written(tmp_path / 'model', files)}?subfolder=step1")
    with pytest.raises(UsageError, match=r"holds an adapter .* merge it into that model"):
        hub.place_of(entry)


def test_code_of_another_repository_is_refused(tmp_path: Path) -> None:
    from iml_bench.sources import hub

    config = json.dumps({"auto_map": {"AutoConfig": "someone/else--modeling.Config"}})
    source = f"hf:{written(tmp_path / 'model', {'config.json': config})}"
    assert hub.place_of(find_model(source))[0] == source[3:]
    with pytest.raises(UsageError, match="its code lies in another repository, someone/else; copy it beside"):
        hub.place_of(find_model(source, trust_remote_code=True))


def test_a_gguf_file_is_what_lies_beside_it_too(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", {"a.gguf": "GGUF", "b.gguf": "GGUF2"})
    before = key_of(f"gguf:{folder}/a.gguf")
    (folder / "b.gguf").write_text("GGUF3")
    assert key_of(f"gguf:{folder}/a.gguf") == before
    (folder / "tokenizer_config.json").write_text("{}")
    assert key_of(f"gguf:{folder}/a.gguf") != before


def test_weights_of_a_timm_model_from_a_file_are_known_by_their_bytes(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_text("w")
    before = key_of(f"timm:test_vit?checkpoint_path={file}")
    moved = file.rename(tmp_path / "renamed.safetensors")
    assert key_of(f"timm:test_vit?checkpoint_path={moved}") == before
    assert key_of(f"timm:test_vit2?checkpoint_path={moved}") != before
    moved.write_text("v")
    assert key_of(f"timm:test_vit?checkpoint_path={moved}") != before
    with pytest.raises(UsageError, match="timm:test_vit: there is no file nowhere"):
        find_model("timm:test_vit?checkpoint_path=nowhere")
    with pytest.raises(UsageError, match="may be other weights tomorrow"):
        find_model("timm:test_vit?pretrained=true&pretrained_cfg_overlay={url: 'https://x/y'}")


# One model, one key


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model under ``lm/gpt2``."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "lm" / "gpt2", FLAT)
    return tmp_path


def test_every_spelling_of_a_folder_is_one_model_and_one_row(here: Path) -> None:
    spellings = ["hf:lm/gpt2", "hf:./lm/gpt2", "hf:lm/gpt2/", f"hf:{here}/lm/gpt2", "hf:lm//gpt2"]
    entries = [find_model(source) for source in spellings]
    shutil.copytree(here / "lm" / "gpt2", here / "moved")
    entries.append(find_model("hf:moved"))
    for seed, entry in enumerate(entries):
        started = Timing(started=f"2026-01-01T00:00:0{seed}+00:00", ended="2026-01-01T00:01:00+00:00", seconds={})
        write_result(here / "records", seed=seed, entry=entry.model_copy(update={"modality": "any"}), timing=started)
    stored = Store(here / "records").scan()[0]
    rows = [row for row in build_rows(stored) if not row.reference]
    assert [(row.model, row.n_seeds) for row in rows] == [("hf:lm/gpt2", len(entries))]
    assert all(same_model(one, other) for one in entries for other in entries)
    assert not same_model(entries[0], entry_from_source("hf:lm/gpt2"))
    assert same_model(entry_from_source("hf:./lm/gpt2/"), entries[0])


def older(path: Path, **cell: Any) -> None:
    """A record as an earlier version wrote it: the path is in its key, and no commit is."""
    data = json.loads(path.read_text())
    data["cell"]["model"].pop("commit")
    data["schema_version"] = 3
    del data["seal"]
    data["key"] = key_with_place(CellSpec.model_validate(data["cell"]))
    path.write_text(json.dumps(data | cell))


def test_an_older_record_keeps_its_key_and_still_counts_as_done(here: Path) -> None:
    entry = find_model("hf:lm/gpt2").model_copy(update={"modality": "any"})
    stored = write_result(here / "records", entry=entry)
    path = Store(here / "records").scan()[0][0].path
    older(path)
    record = read_record(path)
    assert record.key == key_with_place(record.cell) != cell_key(record.cell)
    cell = record.cell.model_copy(update={"model": find_model("hf:./lm/gpt2/").model_copy(update={"modality": "any"})})
    job = Job(cell, {}, smoke=False, out=here / "records")
    assert status_of([job], Store(here / "records").scan()[0]) == {cell_key(cell): "done"}
    assert [*latest_by_key(Store(here / "records").scan()[0])] == [cell_key(cell)]
    data = json.loads(path.read_text()) | {"schema_version": 4}
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match="the key does not belong"):
        read_record(path)
    assert stored is not None


def test_the_options_and_the_callable_of_local_models_stay_in_the_key(here: Path) -> None:
    file = here / "nets.py"
    file.write_text("def a(shape, subfolder=1): ...\ndef b(shape): ...\n")
    assert key_of("python:nets.py:a") != key_of("python:nets.py:b")
    assert key_of("python:nets.py:a?subfolder=2") != key_of("python:nets.py:a")
    assert key_of("hf:lm/gpt2?lora=2") != key_of("hf:lm/gpt2")
    model = identity(small_cell("mlp-xs").model_copy(update={"model": find_model("python:nets.py:a?x=2")}))["model"]
    assert model["source"] == "python:a?x=2" and "commit" not in model


# Names


@pytest.mark.parametrize(
    "name", ["a%20b", "what?", "a?b=c", "a&b", "a#b", "a=b", "a b", "100%", "模型" * 11, "x" * 205]
)
def test_a_folder_is_found_as_it_is_typed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / name, FLAT)
    for text in (f"hf:{name}", f"hf:./{name}/", f"hf:{tmp_path}/{name}"):
        entry = find_model(text)
        assert entry.digest is not None
        assert Path(entry.parsed.target).resolve() == tmp_path / name
        assert max(map(len, (entry.name, entry.family, entry.architecture))) <= 200
    varied = find_model(f"hf:{name}?lora=2")
    assert varied.parsed.options == {"lora": 2} and varied.digest == entry.digest
    (tmp_path / name / "net.py").write_text("")
    assert find_model(f"python:{name}/net.py:build").digest is not None


PRINTABLE = st.text(st.characters(blacklist_categories=("C",), blacklist_characters="/"), min_size=1, max_size=80)


@FRESH
@given(st.lists(PRINTABLE.filter(lambda part: part not in (".", "..") and part.isprintable()), min_size=1, max_size=3))
def test_a_path_of_any_printable_signs_is_found_or_told_in_one_sentence(tmp_path: Path, parts: list[str]) -> None:
    folder = tmp_path.joinpath(*parts)
    absent = f"hf:{folder}/absent"
    try:
        written(folder, FLAT)
    except OSError:
        with pytest.raises(UsageError):  # a name that the file system does not take
            from iml_bench.sources import hub

            hub.place_of(find_model(f"hf:{folder}"))
        return
    entry = find_model(f"hf:{folder}")
    assert entry.digest is not None and Path(entry.parsed.target) == folder
    assert ModelEntry.model_validate(entry.model_dump()) == entry
    try:
        assert find_model(absent).digest is None
    except UsageError as error:
        assert "\n" not in str(error)


@given(st.sampled_from(["hf", "timm", "python", "gguf", "ref"]), st.text(min_size=1, max_size=30))
def test_a_source_that_can_be_read_is_the_same_when_written_and_read_again(scheme: str, rest: str) -> None:
    try:
        source = parse_source(f"{scheme}:{rest}")
    except (UsageError, ValueError):
        return
    again = parse_source(str(source))
    assert str(again) == str(source)
    assert again.target == source.target


def test_a_revision_that_looks_like_a_number_survives() -> None:
    for text in ("hf:a/b?revision=10", "hf:a/b?revision=1.0&subfolder=010", "timm:x?checkpoint_path=1e3"):
        assert str(parse_source(text)) == text
        assert all(isinstance(value, str) for value in parse_source(text).options.values())


def test_what_is_not_there_as_typed_stays_a_source() -> None:
    for text in ("hf:org/name?revision=a", "timm:resnet18?pretrained=true", "python:m:f?x=1", "mlp-m"):
        assert as_typed(text) == text


# Twins


def test_adding_an_entry_says_which_one_it_equals(tmp_path: Path) -> None:
    _, remarks = add_entry("wide", "ref:mlp?hidden=128&depth=2", "mlp", tmp_path)
    assert remarks[0].startswith("ref:mlp?depth=2&hidden=128 builds the model of the entry 'mlp-m', whose defaults")
    _, remarks = add_entry("deep", "ref:mlp?hidden=128&depth=3", "mlp", tmp_path)
    assert not any("one is enough" in remark for remark in remarks)


def test_the_board_says_which_rows_are_one_model(tmp_path: Path) -> None:
    one = entry_from_source("ref:mlp?hidden=128")
    other = entry_from_source("ref:mlp?hidden=128&depth=2")
    for entry in (one, other):
        write_result(tmp_path, entry=entry)
    stored = Store(tmp_path).scan()[0]
    (twins,) = build_board(stored, [], []).twins
    assert set(twins.models) == {one.name, other.name}
    assert str(twins).endswith("gave the same answers to every question, to the last digit: they are one model")


def test_records_do_not_go_into_the_folder_of_a_model(here: Path) -> None:
    for out in (Path("lm/gpt2"), Path("lm/gpt2/inside"), (here / "lm" / "gpt2" / "x")):
        with pytest.raises(UsageError, match="would lie in the folder of model 'hf:lm/gpt2' and count as its files"):
            plan([Request("text", ("hf:lm/gpt2",), (0,), smoke=True)], out)
    plan([Request("text", ("hf:lm/gpt2",), (0,), smoke=True)], Path("lm"))
