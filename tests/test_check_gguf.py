"""GGUF files before their blocks are unpacked: what the header tells of a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_models import SHAPE, build, entry, load

from iml_bench.errors import UsageError
from iml_bench.models import check_model, count_parameters, load_model
from iml_bench.sources.gguf import read_gguf_table


@pytest.fixture
def gguf_file(tmp_path: Path) -> Iterator[Path]:
    """A whole GGUF file of a small Llama without a vocabulary."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {
        "block_count": 2,
        "context_length": 64,
        "embedding_length": 16,
        "feed_forward_length": 32,
        "head_count": 2,
        "head_count_kv": 2,
        "vocab_size": 266,
        "layer_norm_rms_eps": 1e-5,
    }.items():
        getattr(writer, f"add_{name}")(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in build("llama", num_key_value_heads=2).state_dict().items():
        writer.add_tensor(names.get_name(name, (".weight",)), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    yield path


def test_no_block_of_a_gguf_file_is_unpacked_by_the_check(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf

    n_parameters = count_parameters(load(f"gguf:{gguf_file}"))
    monkeypatch.setattr(gguf, "dequantize", lambda *arguments: pytest.fail("a block was unpacked"))
    assert check_model(entry(f"gguf:{gguf_file}"), SHAPE) == n_parameters


@pytest.mark.parametrize("options", ["hidden_size=32", "num_hidden_layers=3", "intermediate_size=16"])
def test_options_that_do_not_fit_a_gguf_file_end_with_the_same_sentence(options: str, gguf_file: Path) -> None:
    sentences = []
    source = entry(f"gguf:{gguf_file}?{options}")
    for step in (lambda: load_model(source, SHAPE, 0), lambda: check_model(source, SHAPE)):
        with pytest.raises(UsageError, match="has weights that do not fit its configuration") as caught:
            step()
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]


def test_a_short_context_of_a_gguf_file_is_found(gguf_file: Path) -> None:
    with pytest.raises(UsageError, match="reads at most 64 tokens and the longest text of this task has 65"):
        check_model(entry(f"gguf:{gguf_file}"), SHAPE._replace(max_length=65))


def test_the_header_of_a_gguf_file_is_read_as_its_library_does(gguf_file: Path) -> None:
    from gguf import GGUFReader

    table = read_gguf_table(gguf_file)
    assert table.architecture == "llama"
    assert table.sizes == {tensor.name: tensor.n_elements for tensor in GGUFReader(gguf_file).tensors}
    whole = gguf_file.read_bytes()
    for n in (len(whole) - 1, len(whole) // 2, 300, 30, 7):
        gguf_file.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"more of the file|is broken"):
            read_gguf_table(gguf_file)
    gguf_file.write_bytes(whole[:4] + b"\xff" * 40)
    with pytest.raises(ValueError, match="version"):
        read_gguf_table(gguf_file)
