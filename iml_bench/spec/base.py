"""What every specification shares: frozen, and no field that is not declared."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from iml_bench.errors import UsageError, nearest, shown
from iml_bench.spec.written import scalar, understood

S = TypeVar("S", bound="Spec")
T = TypeVar("T")


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


def _take_as_written(part: Any) -> None:
    """Let the numbers and truth values of a pydantic schema take nothing but what is written as one, in place."""
    if isinstance(part, dict):
        kind, inner = part.get("type"), dict(part)
        check: Callable[[Any], Any] | None = None
        if kind in ("int", "float", "bool"):
            check = None if part.get("strict") else _number  # what is strict by itself takes no text at all
            inner["strict"] = True
        elif kind == "literal" and not all(isinstance(value, str) for value in part["expected"]):
            check = _same_type(part["expected"])
        if check is not None:
            part.clear()
            checked = core_schema.no_info_before_validator_function(check, cast(CoreSchema, inner), metadata=DONE)
            part.update(cast(dict[str, Any], checked))
        if part.get("metadata") is DONE:
            return  # perhaps of a specification within this one
        part = list(part.values())
    for one in part:
        if isinstance(one, dict | list | tuple):
            _take_as_written(one)


DONE: dict[str, Any] = {"as written": True}
"""Marks a part of a schema that is as it should be."""


def _number(given: Any) -> Any:
    """A text as the number that it is: JSON writes keys so, and YAML 1.1 reads ``1e-3`` as one."""
    return scalar(given) if isinstance(given, str) else given


def _same_type(expected: Sequence[Any]) -> Callable[[Any], Any]:
    """Refuses what equals one of the values and is another, as true equals 1."""

    def check(given: Any) -> Any:
        given = _number(given)
        if type(given) not in {type(value) for value in expected}:
            raise PydanticCustomError("literal_error", f"Input should be {' or '.join(map(str, expected))}")
        return given

    return check


class Spec(BaseModel):
    """A frozen specification; a field that is not declared, NaN and infinity are errors.

    Numbers and truth values are taken as they are written: true is no number, 1 is not true, 3.0 is no whole number. A
    whole number where any number may stand is one, and so is "3", as text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler, /) -> CoreSchema:
        """See ``pydantic.BaseModel``; not ``strict`` as a whole, which would refuse JSON's lists for tuples."""
        schema = handler(source)
        _take_as_written(handler.resolve_ref_schema(schema))
        return schema


def remembered(work_out: Callable[[S], T]) -> Callable[[S], T]:
    """Let what follows from a specification be worked out once, and kept for as long as that very object is there.

    It is not kept in the object, so that a copy with other fields has nothing of it, and no comparison sees it. What is
    worked out must not be changed by whoever gets it.
    """
    known: dict[int, tuple[weakref.ref[S], T]] = {}

    @wraps(work_out)
    def found(spec: S) -> T:
        number = id(spec)
        kept = known.get(number)
        if kept is not None and kept[0]() is spec:
            return kept[1]
        value = work_out(spec)
        known[number] = (weakref.ref(spec, lambda _: known.pop(number, None)), value)
        return value

    return found


def canonical_json(value: Any) -> str:
    """The one text form of plain data: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical text form of plain data, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def parse(spec_class: type[S], data: Any, where: str) -> S:
    """Validate plain data as ``spec_class``.

    Raises:
        UsageError: one sentence naming the first field that is wrong, and why.
    """
    try:
        return spec_class.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_problem(error)}") from error


def _telling(error: ValidationError) -> Any:
    """The error that says most: a field that is missing may stand there under a name that is none."""
    return min(error.errors(), key=lambda one: one["type"] == "missing")


def first_problem(error: ValidationError) -> str:
    """The first thing pydantic found wrong, as ``field.path: reason``."""
    first, path = _telling(error), []
    while True:
        path += [str(part) for part in first["loc"]]
        inner = first.get("ctx", {}).get("error")
        if not isinstance(inner, ValidationError):
            break
        error, first = inner, _telling(inner)  # of a kind that its open family handed the data to
    where = shown(".".join(path))
    given = first.get("input")
    if first["type"] == "extra_forbidden":
        missing = [str(one["loc"][-1]) for one in error.errors() if one["type"] == "missing"]
        near = nearest(path[-1], missing)
        return f"{where}: there is no such field" + (f"; did you mean {near!r}, which is missing?" if near else "")
    meant = understood(first["type"], given)
    if meant is not None:
        return f"{where + ': ' if where else ''}{shown(meant, 400)}"
    reason = shown(str(first["msg"]).removeprefix("Value error, "), 400)
    value = f" (given: {shown(repr(given))})" if isinstance(given, str | int | float) else ""
    return f"{where + ': ' if where else ''}{reason[:1].lower() + reason[1:]}{value}"
