"""What every specification shares: frozen, and no field that is not declared."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from iml_bench.errors import UsageError, shown

S = TypeVar("S", bound="Spec")


def one_line(text: str) -> str:
    """A text of one printable line, as it is.

    Raises:
        ValueError: when it holds a line end or another control character.
    """
    if not text.isprintable():
        raise ValueError("it is one line without control characters")
    return text


Line = Annotated[str, Field(max_length=200), AfterValidator(one_line)]
"""A label: one printable line of moderate length. It may still hold HTML or a formula, and is escaped where it is
shown."""
FileName = Annotated[str, Field(max_length=255), AfterValidator(one_line)]
LongLine = Annotated[str, Field(max_length=1000), AfterValidator(one_line)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A SHA-256 in hexadecimal."""
Share = Annotated[float, Field(ge=0, le=1)]
Gap = Annotated[float, Field(ge=-1, le=1)]
"""A difference of two shares."""


class Spec(BaseModel):
    """A frozen specification; a field that is not declared, NaN and infinity are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def canonical_json(value: Any) -> str:
    """The one text form of plain data: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical text form of plain data, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def read_value(text: str) -> Any:
    """A value as a person writes it on a command line, read as YAML: a number, null, true, a word, a list.

    Raises:
        yaml.YAMLError: when it is not YAML.
    """
    try:
        value = yaml.safe_load(text)
    except (ValueError, RecursionError) as error:  # the 99th of a month, or brackets without end
        raise yaml.YAMLError(str(error)) from error
    if isinstance(value, str) and value == text.strip():
        try:
            return float(value)  # YAML 1.1 takes 1e-3 for a word; a person means the number
        except ValueError:
            return value
    return value


def parse(spec_class: type[S], data: Any, where: str) -> S:
    """Validate plain data as ``spec_class``.

    Raises:
        UsageError: one sentence naming the first field that is wrong, and why.
    """
    try:
        return spec_class.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first thing pydantic found wrong, as ``field.path: reason``."""
    first, path = error.errors()[0], []
    while True:
        path += [str(part) for part in first["loc"]]
        inner = first.get("ctx", {}).get("error")
        if not isinstance(inner, ValidationError):
            break
        first = inner.errors()[0]  # of a kind that its open family handed the data to
    where = shown(".".join(path))
    reason = shown(str(first["msg"]).removeprefix("Value error, "), 400)
    given = first.get("input")
    value = f" (given: {shown(repr(given))})" if isinstance(given, str | int | float) else ""
    return f"{where + ': ' if where else ''}{reason[:1].lower() + reason[1:]}{value}"
