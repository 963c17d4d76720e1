"""Hostile entries of models: refused in a sentence each."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import MEANING, refusals
from hypothesis import given, settings
from hypothesis import strategies as st

Json = dict[str, Any]

ENTRY: Json = {"source": "ref:mlp?hidden=77", "modality": "vision", "family": "mlp", "architecture": "perceptron"}
BOMB = "a: &a [x,x,x]\n" + "".join(f"{b}: &{b} [*{a},*{a},*{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))


def entry_refusals(text: str | bytes, name: str = "fine") -> list[str]:
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / f"{name}.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return refusals(path)


def test_the_good_entry_passes() -> None:
    assert entry_refusals(yaml.safe_dump({"name": "fine", **ENTRY})) == []


@settings(max_examples=40)
@given(
    st.sampled_from(["family", "architecture", "notes", "licence", "size"]),
    st.sampled_from([text for text in MEANING if set("<=+@\n\x07\x1b\ud800\u202e") & set(text) or len(text) > 1000]),
)
def test_entries_that_mean_something_elsewhere(field: str, text: str) -> None:
    assert entry_refusals(json.dumps({"name": "fine", **ENTRY, field: text}))


@pytest.mark.parametrize("name", ["A", "-x", ".x", "a b", "a<b>", "=1+1", "x" * 80, "mlp-m", "\u202egnp"])
def test_names_that_are_not_plain_or_taken(name: str) -> None:
    assert entry_refusals(yaml.safe_dump({"name": name, **ENTRY}, allow_unicode=True), name)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", "- " * 5000, "[" * 5000, "\x00", BOMB, "x" * 10_000_000, b"\xff\xfe\x00", "a: !!python/none"),
        "!!python/object/apply:os.system ['true']",
        *(f"{{name: fine, source: '{source}'}}" for source in ("x:y", "timm:", "ref:mlp?a=[[[", "hf:a?b=2020-99-99")),
        *(yaml.safe_dump({"name": "fine", **ENTRY, "size": value}) for value in (float("nan"), -1, ["x"], None)),
        yaml.safe_dump({"name": "fine", **ENTRY, "more": 1}),
        yaml.safe_dump({"name": "other", **ENTRY}),
        yaml.safe_dump({"name": "fine", **ENTRY, "source": "ref:mlp?hidden=128"}),
        yaml.safe_dump({"name": "fine", **ENTRY, "source": "ref:mlp?hidden=" + "1" * 2000}),
    ],
)
def test_files_that_are_no_entry(text: str | bytes) -> None:
    assert len(entry_refusals(text)) == 1
