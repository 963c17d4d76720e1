"""Plain data as a person writes them: YAML in which nothing is taken for more than it looks like.

YAML 1.1 takes ``no`` for false, ``010`` for 8, ``1:30`` for 90 and ``2020-01-01`` for a date. Here ``null``, ``true``
and ``false`` are what they say, decimal numbers are numbers, and everything else is the text that was written. A
field that wants a number then refuses the text, and ``understood`` says what may have been meant.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from copy import deepcopy
from functools import lru_cache
from typing import Any, Final

import yaml

KEYWORDS: Final[dict[str, bool | None]] = {"null": None, "true": True, "false": False}
WHOLE: Final = re.compile("[-+]?(?:0|[1-9][0-9]*)")
DECIMAL: Final = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
ENDLESS: Final = re.compile(r"[-+]?\.(?:inf|nan)", re.IGNORECASE)
OPENING: Final = ("[", "{", "'", '"')
"""With these a value begins that has an inside; any other is one scalar from its first sign to its last."""
TEXT_TAG: Final = "tag:yaml.org,2002:str"
PLAIN_TAG: Final = "tag:plain"
"""Of a scalar without quotes, which may be a number or a keyword."""


def scalar(text: str) -> Any:
    """What stands without quotes: None, a truth value, a number, or the text itself.

    Raises:
        ValueError: when it is a number beyond all that a computer holds, or YAML's infinity or not-a-number.
    """
    if text in KEYWORDS:
        return KEYWORDS[text]
    if ENDLESS.fullmatch(text):
        raise ValueError(f"{text} is no finite number; in quotes it is a text")
    if WHOLE.fullmatch(text):
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"a number of {len(text)} digits is too long") from None
    if DECIMAL.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"{text} is too large for a number")
        if number == 0 and re.search("[1-9]", re.split("[eE]", text)[0]):
            raise ValueError(f"{text} is too small for a number other than 0")
        return number or 0.0  # -0.0 would be another text of the same number
    return text


def read_value(text: str) -> Any:
    """A value on a command line or in a model's source: a scalar as it stands, or a list, a mapping or text in quotes.

    Spaces around it are no part of it. Nothing within a scalar means anything else (``a: b`` and ``a #b`` are texts).

    Raises:
        yaml.YAMLError: when there is none, or it is not YAML.
    """
    stripped = text.strip()
    if not stripped:
        raise yaml.YAMLError("there is no value; write null for none, '' for an empty text")
    if stripped.startswith(OPENING):
        return _load(stripped)
    yaml.reader.Reader(stripped)  # refuses signs that cannot be printed
    try:
        return scalar(stripped)
    except ValueError as error:
        raise yaml.YAMLError(str(error)) from error


def read_yaml(raw: bytes) -> Any:
    """The contents of a YAML file.

    Raises:
        yaml.YAMLError: what it holds that cannot be read, see ``why``.
    """
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise yaml.YAMLError(f"it is not {'UTF-16' if wide else 'UTF-8'} (byte {error.start}, line {line})") from error
    return _load(text, several_lines=True)


def dump_yaml(value: Any, **options: Any) -> str:
    """YAML that ``read_yaml``, and any other reader, takes for the same value; options as of ``yaml.safe_dump``."""
    return str(yaml.dump(value, Dumper=_Writer, **options))


def show_value(value: Any) -> str:
    """A value in one line, which ``read_value`` takes for the same value."""
    text = dump_yaml(value, default_flow_style=True, width=10**6)
    return text.strip().removesuffix("...").strip()


def why(error: BaseException) -> str:
    """What is wrong with YAML, in one line, with line and column."""
    if isinstance(error, yaml.reader.ReaderError) and isinstance(error.character, int):
        return f"the sign {chr(error.character).encode('unicode_escape').decode()} cannot stand in YAML"
    if not isinstance(error, yaml.MarkedYAMLError):
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    said = ", ".join(part for part in (error.context, error.problem) if part)
    hint = "; indent with spaces" if "'\\t'" in said else ""
    mark = error.problem_mark or error.context_mark
    return f"{said}{hint}" + (f" (line {mark.line + 1}, column {mark.column + 1})" if mark else "")


def understood(kind: str, given: Any) -> str | None:
    """Why a value does not fit its field, where how it is written says so, and what to write instead.

    Args:
        kind: the type of pydantic's error.
        given: the value.
    """
    wanted = kind.partition("_")[0]
    if wanted == "string":
        return _for_text(given)
    if wanted == "bool" and isinstance(given, str | int | float):
        word = str(given).lower()
        written = {"yes": "true", "on": "true", "y": "true", "1": "true", "true": "true"}.get(word)
        written = written or ("false" if word in ("no", "off", "n", "0", "false") else "true or false")
        return f"{given!r} is not true or false as it is written; write {written}, without quotes"
    if wanted in ("int", "float"):
        return _for_number(given, whole=wanted == "int")
    return None


def misfit(declared: Any, given: Any) -> str | None:
    """Why a value is not of the plain type that a parameter is declared as; None where it is, or the type is no such.

    Args:
        declared: int, float, bool or str, or the name of it, as ``inspect.Parameter.annotation`` has it.
        given: the value.
    """
    name = declared if isinstance(declared, str) else getattr(declared, "__name__", None)
    fits = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
    if name not in fits or (isinstance(given, fits[name]) and (name == "bool" or not isinstance(given, bool))):
        return None
    return understood("string" if name == "str" else name, given) or f"{given!r} is no {name}"


def _for_text(given: Any) -> str | None:
    if isinstance(given, bool) or given is None:
        return f"{show_value(given)} is no text as it is written; in quotes it is: '{show_value(given)}'"
    if isinstance(given, int | float):
        sample = f": '{given}'" if isinstance(given, int) else ""  # how the other was written is not known any more
        return f"{given} is a number and no text; write it in quotes{sample}"
    return None


def _for_number(given: Any, *, whole: bool) -> str | None:
    if isinstance(given, bool):
        return f"{show_value(given)} is not a number"
    if whole and isinstance(given, float) and given.is_integer() and abs(given) < 2**53:
        return f"{given} is not a whole number as it is written; write {int(given)}"
    if not isinstance(given, str):
        return None
    if given.lower() in ("~", "null", "none", ""):
        return f"{given!r} is not a number; where there may be none, write null without quotes"
    if _number(given) is not None:
        return f"{given!r} is text; write {given} without quotes"
    meant = list(dict.fromkeys(_meanings(given)))
    return f"{given} is not a number as it is written; write {' or '.join(meant)}" if meant else None


def _number(text: str) -> int | float | None:
    try:
        value = scalar(text)
    except ValueError:
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _meanings(text: str) -> list[str]:
    """Numbers that somebody may have meant, by the ways of writing them that are not taken."""
    text = text[:40]
    digits = text.lstrip("+-").lower()
    sign = "-" if text.startswith("-") else ""
    found: list[str] = []
    if re.fullmatch("0[0-9]+", digits):
        found.append(str(int(digits)))
        found += [str(int(digits, 8))] if re.fullmatch("[0-7]+", digits) else []
    elif re.fullmatch("0x[0-9a-f]+|0o[0-7]+|0b[01]+", digits):
        found.append(str(int(digits, 0)))
    elif re.fullmatch("[0-9]+(?::[0-5]?[0-9])+", digits):
        total = 0
        for part in digits.split(":"):
            total = 60 * total + int(part)
        found.append(str(total))
    elif re.fullmatch(r"0+[0-9]+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?", digits):
        found.append(re.sub("^0+(?=[0-9])", "", digits))
    elif re.fullmatch(r"[0-9][0-9_]*(?:\.[0-9_]*)?", digits):
        found.append(digits.replace("_", ""))
    elif re.fullmatch("[0-9]{1,3}(?:,[0-9]{3})+", digits):
        found.append(digits.replace(",", ""))
    if re.fullmatch("[0-9]+,[0-9]+", digits):
        found.append(digits.replace(",", "."))
    return [f"{sign}{number}" for number in found if _number(number) is not None]


def _load(text: str, *, several_lines: bool = False) -> Any:
    return deepcopy(_loaded(text, several_lines=several_lines))


# A suite of many points names one task, and some models, over and over; their files are looked at every time.
@lru_cache(256)
def _loaded(text: str, *, several_lines: bool) -> Any:
    try:
        reader = _Reader(text)
        node = reader.get_single_node()
        if not several_lines and node is not None and node.end_mark.index < len(text):
            raise yaml.YAMLError(f"something follows after {text[: node.end_mark.index]}")
        return None if node is None else reader.construct_document(node)
    except yaml.reader.ReaderError as error:
        if not several_lines or not isinstance(error.character, int):
            raise
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        raise yaml.YAMLError(f"{why(error)} (line {line}, column {column})") from error
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deep") from error


class _Reader(yaml.SafeLoader):
    """YAML without tags, aliases and merge keys, in which no key stands twice and a scalar is what ``scalar`` says."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return PLAIN_TAG if implicit[0] else TEXT_TAG
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            mark: Any = event.start_mark
            raise yaml.composer.ComposerError(None, None, f"the alias *{event.anchor} is not read", mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, f"the tag {event.tag} is not read", event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name == "<<" and key.style is None:
                raise _refused("the merge key << is not read; write out what it stands for", key)
            if name in lines:
                raise _refused(f"{name!r} stands twice, first in line {lines[name]}", key)
            if name is not None:
                lines[name] = key.start_mark.line + 1
        return dict(super().construct_mapping(node, deep))

    def construct_plain(self, node: yaml.ScalarNode) -> Any:
        try:
            return scalar(node.value) if node.value else None
        except ValueError as error:
            raise _refused(str(error), node) from error


_Reader.add_constructor(PLAIN_TAG, _Reader.construct_plain)


def _refused(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Writer(yaml.SafeDumper):
    """Puts a text into quotes where ``scalar`` or YAML 1.1 would take it for something else."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        tag = str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]
        if kind is yaml.ScalarNode and implicit[0] and tag == TEXT_TAG:
            try:
                return tag if isinstance(scalar(value), str) else PLAIN_TAG
            except ValueError:
                return PLAIN_TAG
        return tag
