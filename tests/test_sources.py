"""Model sources, ``scheme:target?option=value``: one text form each, and nothing lost on the way."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iml_bench.errors import UsageError
from iml_bench.spec import SCHEMES, ModelEntry, Source, entry_from_source, parse_source

VISIBLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=0, max_size=12)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), VISIBLE)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=4))
TARGETS = st.from_regex(r"[A-Za-z0-9_./:-]+", fullmatch=True)
OPTIONS = st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), VALUES, max_size=4)


@given(st.sampled_from(sorted(SCHEMES)), TARGETS, OPTIONS)
def test_a_source_read_back_from_its_text_is_the_same(scheme: str, target: str, options: dict[str, Any]) -> None:
    source = Source(scheme, target, options)
    again = parse_source(str(source))
    assert again == source
    assert {key: type(value) for key, value in again.options.items()} == {k: type(v) for k, v in options.items()}
    assert str(again) == str(source)


@pytest.mark.parametrize(
    "source",
    [
        Source("python", "m:f", {"x": "a b"}),
        Source("python", "m:f", {"x": {"a": 1}}),
        Source("python", "m:f", {"x": ["a b", "c"]}),
        Source("python", "a?b.py:f", {}),
        Source("hf", "x%41", {}),
    ],
    ids=lambda source: f"{source.target} {source.options}",
)
def test_spaces_mappings_and_signs_survive_the_text_form(source: Source) -> None:
    assert parse_source(str(source)) == source


def test_the_order_of_options_does_not_matter() -> None:
    one, two = "ref:mlp?hidden=8&depth=2", "ref:mlp?depth=2&hidden=8"
    assert str(parse_source(one)) == str(parse_source(two)) == two
    entry = ModelEntry(name="a", source=one, modality="vision", family="f", architecture="x")
    assert entry.source == two


@pytest.mark.parametrize(
    ("text", "value"),
    [("8", 8), ("0.5", 0.5), ("true", True), ("null", None), ("gelu", "gelu"), ("[1,2]", [1, 2]), ("'8'", "8")],
)
def test_option_values_are_read_as_yaml(text: str, value: Any) -> None:
    read = parse_source(f"timm:vit?x={text}").options["x"]
    assert read == value
    assert type(read) is type(value)


def test_a_source_is_split_at_its_first_colon_and_question_mark() -> None:
    assert parse_source("python:dir/nets.py:build?width=3") == Source("python", "dir/nets.py:build", {"width": 3})
    assert parse_source("hf:EleutherAI/pythia-70m") == Source("hf", "EleutherAI/pythia-70m", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tim:resnet18", "unknown model source 'tim': did you mean 'timm'? (iml-bench models --help lists them all)"),
        ("resnet18", "unknown model source 'resnet18'"),
        ("timm:", "model source 'timm:' names nothing after 'timm:'"),
        ("timm:?a=1", "model source 'timm:?a=1' names nothing after 'timm:'"),
        ("timm:vit?depth", "model source 'timm:vit?depth': 'depth' is not of the form option=value"),
        ("timm:vit?depth=", "model source 'timm:vit?depth=': 'depth=' is not of the form option=value"),
        ("timm:vit?=3", "model source 'timm:vit?=3': '=3' is not of the form option=value"),
    ],
)
def test_a_wrong_source_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert str(caught.value).startswith(message)


def test_a_value_that_is_not_yaml_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        entry_from_source("timm:vit?x=[1")


@pytest.mark.parametrize(
    ("source", "modality", "tokenizer", "family"),
    [
        ("timm:resnet18.a1_in1k", "vision", "task", "resnet18"),
        ("ref:mlp?hidden=8", "vision", "task", "mlp"),
        ("hf:EleutherAI/pythia-70m", "text", "own", "pythia-70m"),
        ("gguf:package/small.Q4_1.gguf", "text", "own", "small"),
        ("hf-config:gpt_neox", "text", "task", "gpt_neox"),
        ("python:nets:build", "any", "task", "nets:build"),
        ("reference:oracle", "any", "task", "oracle"),
    ],
)
def test_a_bare_source_becomes_an_entry(source: str, modality: str, tokenizer: str, family: str) -> None:
    entry = entry_from_source(source)
    assert (entry.name, entry.source) == (source, source)
    assert (entry.modality, entry.tokenizer, entry.family) == (modality, tokenizer, family)
    assert entry.is_reference == source.startswith("reference:")


def test_an_exact_number_survives(value: float = math.pi * 1e-7) -> None:
    assert parse_source(str(Source("timm", "vit", {"x": value}))).options["x"] == value
