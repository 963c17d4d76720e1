"""Values as people write them: taken as they are written, or refused with what was understood."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from iml_bench.cli.options import task_or_model
from iml_bench.errors import UsageError
from iml_bench.models.loading import _call
from iml_bench.registry import MODELS, SUITES, TASKS
from iml_bench.run.command import _as_typed
from iml_bench.spec import (
    Source,
    Spec,
    SuiteSpec,
    apply_overrides,
    entry_from_source,
    parse,
    parse_override,
    parse_seeds,
    parse_source,
)
from iml_bench.spec.written import dump_yaml, read_value, read_yaml, show_value, why

ODD = (
    *("no", "No", "NO", "yes", "on", "off", "y", "n", "true", "True", "TRUE", "false", "null", "Null", "~", "none"),
    *("010", "00", "08", "0x10", "0o10", "0b1", "1_000", "1:30", "190:20:30", "2020-01-01", "1e3", "1E-3", "1e+3"),
    *(".inf", "-.inf", ".nan", "inf", "nan", "Infinity", "<<", "=", "3", "-3", "+3", "3.0", "1.5", ".5", "5.", "-0"),
    *("1e400", "1e-400", "0e5", "1" * 5000, "1,5", "1,000", "0.5", "١٢", "1e", "e1", "-", "+", ".", "0_1", "1__0"),
)
SPELLED = st.one_of(st.sampled_from(ODD), st.text("0123456789+-._:eExobnyftrulsaNOYTF~<=", min_size=1, max_size=8))


class Fields(Spec):
    text: str | None = None
    whole: int | None = None
    number: float | None = None
    truth: bool | None = None
    word: Literal["no", "on", "010"] | None = None
    count: Literal[1, 2] | None = None
    texts: tuple[str, ...] = ()
    wholes: tuple[int, ...] = ()
    numbered: dict[int, str] = {}


def as_written(field: str, text: str, value: Any) -> bool:
    """Whether a field's value is what was written and nothing else: said here without the reader's own rules."""
    if value is None:
        return text == "null"
    if field in ("text", "word"):
        return value == text
    if field == "truth":
        return {"true": True, "false": False}.get(text) is value
    kind = float if field == "number" else int
    decimal = re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text, re.ASCII) is not None
    zeros = re.match(r"[-+]?0[0-9]", text) is not None
    return type(value) is kind and decimal and not zeros and value == kind(text)


def outcome(data: Any) -> Fields | str:
    try:
        return parse(Fields, data, "here")
    except UsageError as error:
        assert str(error).isprintable() and len(str(error)) < 700
        return str(error)


def by_option(field: str, text: str) -> Any:
    return parse_source(f"timm:vit?{field}={quote(text)}").options[field]


def by_setting(field: str, text: str) -> Any:
    path, value = parse_override(f"{field}={text}")
    assert path == field
    return value


def by_file(field: str, text: str) -> Any:
    try:
        return read_yaml(f"{field}: {text}\n".encode())[field]
    except yaml.YAMLError as error:
        raise UsageError(why(error)) from error


WAYS = (by_setting, by_file, by_option)


@given(st.sampled_from(["text", "whole", "number", "truth", "word", "count"]), SPELLED)
@example("text", "1e3")
@example("count", "true")
def test_a_scalar_is_taken_as_it_is_written_or_refused_whichever_way_it_comes(field: str, text: str) -> None:
    seen = []
    for way in WAYS:
        try:
            value = way(field, text)
        except UsageError:
            continue
        read = outcome({field: value})
        seen.append(read)
        if isinstance(read, Fields):
            assert as_written(field, text, getattr(read, field)), (way.__name__, read)
    assert len(set(map(str, seen))) <= 1
    decimal = re.fullmatch("-?[1-9][0-9]{0,14}", text, re.ASCII)
    if (decimal and field in ("whole", "number")) or (text in ("no", "on") and field in ("text", "word")):
        assert len(seen) == 3 and isinstance(seen[0], Fields)


@given(st.lists(SPELLED.filter(lambda text: not set(":=") & set(text)), min_size=1, max_size=4))
def test_within_a_list_too(texts: list[str]) -> None:
    for field in ("texts", "wholes"):
        try:
            read = outcome({field: read_value(f"[{', '.join(texts)}]")})
        except yaml.YAMLError:
            continue
        if isinstance(read, Fields):
            single = "text" if field == "texts" else "whole"
            assert all(as_written(single, *pair) for pair in zip(texts, getattr(read, field), strict=True))


TEXTS = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS)
PLAIN = st.recursive(SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXTS, part, max_size=3))


def typed(value: Any) -> str:
    if isinstance(value, dict):
        return repr(sorted((key, typed(part)) for key, part in value.items()))
    return repr([typed(part) for part in value]) if isinstance(value, list) else repr(value)


@given(PLAIN)
def test_what_is_shown_reads_back_the_same(value: Any) -> None:
    readings = [read_value(show_value(value)), read_value(_as_typed(value)), read_yaml(dump_yaml([value]).encode())[0]]
    readings.append(parse_source(str(Source("timm", "vit", {"x": value}))).options["x"])
    for again in readings:
        assert typed(again) == typed(value)  # 1 is neither true nor 1.0


@given(TEXTS)
def test_a_canonical_source_stays_as_it_is(text: str) -> None:
    try:
        canonical = str(parse_source(f"timm:vit?x={quote(text)}"))
    except UsageError:
        return
    assert str(parse_source(canonical)) == canonical


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("recipe.precision=no", "no"),
        ("render.tag_words=[yes, no, on]", ["yes", "no", "on"]),
        ("description=2020-01-01", "2020-01-01"),
        ("description=a: b #c", "a: b #c"),
        ("description=null", None),
        ("description='null'", "null"),
        ("recipe.lr=1e-3", 1e-3),
        ("recipe.stage1.steps=+7", 7),
    ],
)
def test_what_a_setting_is_read_as(setting: str, value: Any) -> None:
    read = parse_override(setting)[1]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("recipe.batch_size=010", "recipe.batch_size: 010 is not a number as it is written; write 10 or 8"),
        ("recipe.batch_size=08", "recipe.batch_size: 08 is not a number as it is written; write 8"),
        ("recipe.batch_size=0x10", "recipe.batch_size: 0x10 is not a number as it is written; write 16"),
        ("recipe.batch_size=1:30", "recipe.batch_size: 1:30 is not a number as it is written; write 90"),
        ("recipe.batch_size=1_000", "recipe.batch_size: 1_000 is not a number as it is written; write 1000"),
        ("recipe.lr=0,5", "recipe.lr: 0,5 is not a number as it is written; write 0.5"),
        ("recipe.batch_size=true", "recipe.batch_size: true is not a number"),
        ("recipe.batch_size='010'", "recipe.batch_size: 010 is not a number as it is written; write 10 or 8"),
        ("recipe.batch_size='3.0'", "recipe.batch_size: 3.0 is not a whole number as it is written; write 3"),
        ("render.delimited='yes'", "render.delimited: 'yes' is not true or false as it is written; write true"),
        ("recipe.batch_size=3.0", "recipe.batch_size: 3.0 is not a whole number as it is written; write 3"),
        ("recipe.batch_size=1.5", "recipe.batch_size: input should be a valid integer (given: 1.5)"),
        ("alpha=yes", "alpha: input should be a valid number (given: 'yes')"),
        ("alpha=true", "alpha: true is not a number"),
        ("recipe.max_grad_norm=~", "recipe.max_grad_norm: '~' is not a number; where there may be none, write null"),
        ("render.delimited=off", "render.delimited: 'off' is not true or false as it is written; write false"),
        ("render.delimited=0", "render.delimited: 0 is not true or false as it is written; write false"),
        ("render.tag_words=[1, b, c]", "render.tag_words.0: 1 is a number and no text; write it in quotes: '1'"),
        ("description=null", "description: null is no text as it is written; in quotes it is: 'null'"),
        ("stages=true", "stages: input should be 1 or 2 or 3 (given: True)"),
        ("stages='02'", "stages: input should be 1 or 2 or 3 (given: '02')"),
        ("recipe.precision=false", "recipe.precision: input should be 'no', 'bf16' or 'fp16' (given: False)"),
    ],
)
def test_a_refusal_says_what_was_understood(setting: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply_overrides(TASKS.get("text"), dict([parse_override(setting)]))
    assert str(caught.value).startswith(f"task 'text' with these settings: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no value; write null for none, '' for an empty text"),
        ("1e400", "1e400 is too large for a number"),
        ("1e-400", "1e-400 is too small for a number other than 0"),
        (".inf", ".inf is no finite number; in quotes it is a text"),
        ("9" * 5000, "a number of 5000 digits is too long"),
        ("'a' b", "expected '<document start>'"),
        ("[1] # one", "something follows after [1]"),
        ("{a: 1, a: 2}", "'a' stands twice, first in line 1 (line 1, column 8)"),
        ("{<<: {a: 1}}", "the merge key << is not read; write out what it stands for (line 1, column 2)"),
        ("[!!int '3']", "the tag tag:yaml.org,2002:int is not read (line 1, column 2)"),
        ("[2020-13-99, 1", "while parsing a flow sequence"),
        ("[" * 5000, "it is nested too deep"),
        ("a\x00b", "the sign \\x00 cannot stand in YAML"),
    ],
)
def test_what_is_no_value(text: str, said: str) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        read_value(text)
    assert why(caught.value).startswith(said)
    with pytest.raises(UsageError) as refused:
        parse_override(f"alpha={text}")
    assert str(refused.value).isprintable() or "\n" not in str(refused.value)


ENTRY = "name: {name}\nsource: ref:mlp\nmodality: vision\nfamily: f\narchitecture: x\n"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"name: x\nnotes: a\n\tsize: f\n", "'\\t' that cannot start any token; indent with spaces (line 3, column 1)"),
        (ENTRY.format(name="x").encode() + b"family: g\n", "'family' stands twice, first in line 4 (line 6, column 1)"),
        (b"name: x\nnotes: \xe9\n", "it is not UTF-8 (byte 15, line 2)"),
        (b"name: x\nnotes: \x07\n", "the sign \\x07 cannot stand in YAML (line 2, column 8)"),
        (b"name: x\n---\nname: y\n", "found another document (line 2, column 1)"),
        (b"a: 1\nc:\n  <<: {b: 1}\n", "<< is not read; write out what it stands for (line 3, column 3)"),
        (b"a: &a {b: 1}\nc:\n  d: *a\n", "the alias *a is not read (line 3, column 6)"),
        (b"smoke: &a {recipe.lr: *a}\n", "the alias *a is not read (line 1, column 23)"),
        (b"size: !!str 3\n", "the tag tag:yaml.org,2002:str is not read (line 1, column 7)"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_where_and_why(raw: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(raw)
    for get in (MODELS.get, TASKS.get, SUITES.get, task_or_model):
        with pytest.raises(UsageError) as caught:
            get(str(path))
        assert str(caught.value).endswith(said) and f"({path}) cannot be read: " in str(caught.value)


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_have_a_mark_of_its_encoding(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes((ENTRY.format(name="x") + "notes: é\n").encode(codec))
    assert MODELS.get(str(path)).notes == "é"


def test_words_in_a_file_stay_words(tmp_path: Path) -> None:
    path = tmp_path / "no.yaml"
    path.write_text(ENTRY.format(name="no").replace("family: f", "family: on") + "size: 1_000\nnotes: 2020-01-01\n")
    entry = MODELS.get(str(path))
    assert (entry.name, entry.family, entry.size, entry.notes) == ("no", "on", "1_000", "2020-01-01")
    path.write_text(ENTRY.format(name="no") + "trust_remote_code: yes\n")
    with pytest.raises(UsageError, match="trust_remote_code: 'yes' is not true or false as it is written; write true"):
        MODELS.get(str(path))


def suite(**fields: Any) -> SuiteSpec:
    grid = {"task": "text", "models": ["neox-s"], "seeds": 1, **fields}
    return parse(SuiteSpec, {"name": "s", "description": "d", "grids": [grid]}, "s.yaml")


@pytest.mark.parametrize("seeds", ["010", "0-07", "01,2"])
def test_seeds_are_decimal_numbers(seeds: str) -> None:
    for read in (lambda: parse_seeds(seeds), lambda: suite(seeds=read_yaml(f"seeds: {seeds}".encode())["seeds"])):
        with pytest.raises((ValueError, UsageError), match="is not a number as it is written; write"):
            read()
    assert suite(seeds=read_yaml(b"seeds: 3")["seeds"]).grids[0].seeds == (0, 1, 2)


@pytest.mark.parametrize("seeds", ["[true]", "[1.0]", "['01']", "true", "1:30", "[010]", "0x3", "٣", "1_0", "3.0"])
def test_seeds_of_a_suite_are_nothing_else(seeds: str) -> None:
    with pytest.raises(UsageError):
        suite(seeds=read_yaml(f"seeds: {seeds}".encode())["seeds"])


def test_words_in_a_suite_stay_words() -> None:
    varied = suite(axes={"recipe.precision": read_value("[no, bf16]")}, set={"model.act": read_value("on")})
    assert varied.grids[0].axes == {"recipe.precision": ("no", "bf16")}
    assert varied.grids[0].set == {"model.act": "on"}


def test_keys_that_json_writes_as_text_are_numbers_again() -> None:
    assert parse(Fields, {"numbered": {"1": "a", 2: "b"}}, "x").numbered == {1: "a", 2: "b"}
    for key in ("01", "1_0", " 1", True, 1.0):
        with pytest.raises(UsageError):
            parse(Fields, {"numbered": {key: "a"}}, "x")


def test_lists_are_tuples_and_whole_numbers_are_numbers() -> None:
    assert parse(Fields, {"wholes": [1, 2], "number": 1}, "x") == Fields(wholes=(1, 2), number=1.0)


def test_numbers_in_quotes_are_the_same_numbers() -> None:
    data = {"whole": "3", "number": "1e-3", "truth": "true", "count": "2", "text": "3"}
    assert parse(Fields, data, "x") == Fields(whole=3, number=1e-3, truth=True, count=2, text="3")


def test_what_is_no_such_mistake_is_said_as_before() -> None:
    with pytest.raises(UsageError, match=r"x: number: input should be a valid number \(given: 'fast'\)"):
        parse(Fields, {"number": "fast"}, "x")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("width=010", "width: 010 is not a number as it is written; write 10 or 8"),
        ("width=true", "width: true is not a number"),
        ("width=2.0", "width: 2.0 is not a whole number as it is written; write 2"),
        ("scale=yes", "scale: 'yes' is no float"),
        ("bias=on", "bias: 'on' is not true or false as it is written; write true, without quotes"),
        ("act=1", "act: 1 is a number and no text; write it in quotes: '1'"),
    ],
)
def test_options_are_of_the_declared_type(option: str, said: str) -> None:
    def build(
        shape: int, width: int = 1, scale: float = 1.0, bias: bool = True, act: str = "relu", more: Any = 0
    ) -> int:
        return width

    with pytest.raises(UsageError) as caught:
        _call(entry_from_source(f"python:m:build?{option}"), build, 1)
    assert str(caught.value).endswith(said)
    assert _call(entry_from_source("python:m:build?width=3&scale=1&bias=false&act=no&more=010"), build, 1) == 3


class TestCheckNamesTheReason:
    """``iml-bench check FILE`` says of a file what ``run`` says of it."""

    def test_of_a_model(self, tmp_path: Path) -> None:
        path = tmp_path / "my.yaml"
        path.write_text(ENTRY.format(name="my").replace("family: f", "family: 12"))
        assert task_or_model(str(path)) == "model"
        with pytest.raises(UsageError, match=r"my\.yaml: family: 12 is a number and no text"):
            MODELS.get(str(path))

    def test_of_a_task(self, tmp_path: Path) -> None:
        path = tmp_path / "my.yaml"
        path.write_text("name: my\nversion: one\nworld: {kind: no}\nrecipe: 3\n")
        assert task_or_model(str(path)) == "task"

    @pytest.mark.parametrize("content", ["", "3\n", "[a]\n", "name: my\n", "colour: red\n"])
    def test_of_neither(self, content: str, tmp_path: Path) -> None:
        path = tmp_path / "my.yaml"
        path.write_text(content)
        with pytest.raises(UsageError, match=r"is no task or model: a task says name, .*; a model says name, source"):
            task_or_model(str(path))

    def test_of_no_file_and_no_name(self) -> None:
        with pytest.raises(UsageError, match=r"there is no file 'none\.yaml'"):
            task_or_model("none.yaml")
        with pytest.raises(UsageError, match="unknown task or model 'visoin': did you mean 'vision'"):
            task_or_model("visoin")
        assert (task_or_model("vision"), task_or_model("mlp-m"), task_or_model("tim:resnet18")) == (
            "task",
            "model",
            "model",
        )
