"""How a probe is asked for, in words: ``NAME[?OPTION=VALUE&...][@MOMENT]``."""

from __future__ import annotations

from typing import Any, NamedTuple

from iml_bench.errors import UsageError, shown
from iml_bench.spec.written import read_value, why


class Look(NamedTuple):
    """What is asked for; whether there are such a probe, such options and such a moment is not known here."""

    name: str
    options: dict[str, Any]
    """Those that are given."""
    moment: str
    """Empty where none is given."""


def parse_look(text: str) -> Look:
    """Split a text.

    Raises:
        UsageError: when a value cannot be read.
    """
    what, _, moment = text.partition("@")
    name, _, query = what.partition("?")
    options: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        key, _, value = part.partition("=")
        try:
            options[key] = read_value(value)
        except Exception as error:  # whatever YAML makes of it
            raise UsageError(f"probe {shown(repr(text))}: {shown(repr(value))} {why(error)}") from error
    return Look(name, options, moment)
