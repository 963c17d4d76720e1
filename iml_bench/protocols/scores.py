"""The scores of one cell, as they stand in its record."""

from __future__ import annotations

from typing import Any, Self

from pydantic import ConfigDict, Field, model_serializer, model_validator

from iml_bench.spec import Spec
from iml_bench.spec.base import Line, Share

MOST = 100
"""Scores, groups and reasons that a record may hold."""


class Scores(Spec):
    """A value for each measure by name, null where it could not be measured: ``scores["iml"]``.

    Which names there are is the protocol's matter at the time when the record was written; bounds are checked by
    whoever knows the protocol (``bound_problem``).
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | None]

    exact_match: dict[Line, Share] = Field(max_length=MOST)
    """Exact match by what was shown, see ``Protocol.slices``."""
    reasons: dict[Line, Line] = Field(default={}, max_length=MOST)
    """Why a score is null."""

    @model_validator(mode="after")
    def _plain_names(self) -> Self:
        if len(self.values) > MOST:
            raise ValueError(f"there are more than {MOST} scores")
        if not all(name.isidentifier() and name.isascii() and len(name) <= MOST for name in self.values):
            raise ValueError("a score has a name that is no plain word")
        return self

    @model_serializer(mode="plain")
    def _flat(self) -> dict[str, Any]:
        return {**self.values, "exact_match": self.exact_match, "reasons": self.reasons}

    @property
    def values(self) -> dict[str, float | None]:
        """All of them by name."""
        return self.__pydantic_extra__

    def __getitem__(self, name: str) -> float | None:
        return self.values[name]

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def get(self, name: str) -> float | None:
        """A score; None where it is null or unknown."""
        return self.values.get(name)
