"""Specifications of which another package can add a kind."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import ModelWrapValidatorHandler, model_validator

from iml_bench.errors import UsageError
from iml_bench.extensions import Extensions
from iml_bench.spec.base import Spec


class OpenSpec(Spec):
    """The base of an open family: validating plain data as the base gives the kind that the data name.

    A direct subclass is such a base: it says where kinds are found and which field names them.
    """

    kinds: ClassVar[Extensions]
    """The names of the family."""
    named_by: ClassVar[str] = "kind"
    """The field that names a kind."""
    default_kind: ClassVar[str | None] = None
    """The kind of data that name none; None: they must."""

    @classmethod
    def of_kind(cls, name: str) -> type[OpenSpec]:
        """The class of a kind."""
        found: type[OpenSpec] = cls.kinds.get(name)
        return found

    @model_validator(mode="wrap")
    @classmethod
    def _dispatch(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if OpenSpec not in cls.__bases__ or isinstance(data, cls):
            return handler(data)
        name = data.get(cls.named_by, cls.default_kind) if isinstance(data, dict) else None
        if not isinstance(name, str):
            raise ValueError(f"it names its {cls.named_by} as text ({', '.join(cls.kinds.origins)})")
        try:
            kind = cls.of_kind(name)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return kind.model_validate(data)  # type: ignore[return-value]
