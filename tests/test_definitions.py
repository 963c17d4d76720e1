"""Definitions that cannot be meant: what is wrong with them is said as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from iml_bench.errors import UsageError
from iml_bench.registry import MODELS, SUITES, TASKS
from iml_bench.spec import apply_overrides, parse_source
from iml_bench.spec.written import read_value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("groups.reliable", 10**12),
        ("recipe.batch_size", 10**20),
        ("recipe.stage1.steps", 2**63),
        ("recipe.stage1.epochs", 1e300),
    ],
)
def test_numbers_that_no_machine_could_carry_out_are_refused(path: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{path}: input should be less than or equal to"):
        apply_overrides(TASKS.get("vision"), {path: value})


def test_zero_is_written_in_one_way() -> None:
    assert [repr(read_value(text)) for text in ("-0.0", "-0e5", "0.0", "-0")] == ["0.0", "0.0", "0.0", "0"]


def test_an_option_that_stands_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="option 'hidden' stands twice"):
        parse_source("ref:mlp?hidden=9&hidden=8")


@pytest.mark.parametrize(
    ("text", "said"), [("", "empty"), ("# only\n", "empty"), ("[1]", "a list"), ("hello", "one value")]
)
def test_a_file_without_fields_says_so(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    for registry in (TASKS, MODELS, SUITES):
        with pytest.raises(UsageError, match=f"it is {said}, and a {registry.kind} is fields with values"):
            registry.get(str(tmp_path / "own.yaml"))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").mkdir()
    for registry in (TASKS, MODELS, SUITES):
        with pytest.raises(UsageError, match="is a folder, and a"):
            registry.get(str(tmp_path / "own.yaml"))


def test_a_field_under_a_wrong_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("name: own\nsource: ref:mlp\nmodality: vision\nfamly: f\narchitecture: mlp\n")
    with pytest.raises(UsageError, match="famly: there is no such field; did you mean 'family', which is missing"):
        MODELS.get(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize("words", [["a\nb", "c", "d"], ["", "c", "d"], [" ", "c", "d"], ["a", "a", "b"]])
def test_tags_are_three_words_in_one_line_each(words: list[str]) -> None:
    with pytest.raises(UsageError, match=r"render\.tag_words: (each is a word or some|no two are the same)"):
        apply_overrides(TASKS.get("text"), {"render.tag_words": words})
