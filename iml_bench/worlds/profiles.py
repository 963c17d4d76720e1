"""People-like profiles, the entities of the embedded text task."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from iml_bench.spec.world import WorldSpec
from iml_bench.streams import Streams
from iml_bench.worlds.base import World, draw_distinct

ATTRIBUTES: Final = {
    "job": "baker farmer lawyer nurse painter pilot sailor singer tailor teacher",
    "city": "Athens Berlin Cairo Dublin Geneva Lisbon Madrid Oslo Prague Vienna",
    "pet": "cat dog goat hamster horse lizard parrot rabbit snake turtle",
    "food": "bread cheese curry noodles olives pasta rice salad soup stew",
    "sport": "archery boxing chess cycling fencing golf hockey judo rowing tennis",
    "colour": "black blue brown green grey orange pink red white yellow",
}
"""The attributes in order, each with its values in order; no word stands under two attributes."""


class ProfileWorld(WorldSpec):
    """Entities are profiles: several attributes, each with one of a few real-word values."""

    kind: Literal["profiles"] = "profiles"
    attributes: int = Field(default=6, ge=2, le=6)
    """Attributes of a profile; the first of the list."""
    values: int = Field(default=10, ge=2, le=10)
    """Values an attribute can take; the first of its list."""

    @property
    def n_attributes(self) -> int:
        """Attributes of a profile."""
        return self.attributes

    def build(self, n: int, streams: Streams, data: Path | None) -> World:
        """See ``WorldSpec.build`` and ``profiles``."""
        return profiles(self, n, streams)


def profiles(spec: ProfileWorld, n: int, streams: Streams) -> World:
    """``n`` different entities, each with one value per attribute, drawn uniformly.

    Raises:
        UsageError: when fewer than ``n`` different profiles exist.
    """
    names = tuple(ATTRIBUTES)[: spec.attributes]
    vocabulary = tuple(tuple(ATTRIBUTES[name].split()[: spec.values]) for name in names)
    sizes = [spec.values] * spec.attributes
    values = draw_distinct(streams.generator("contents"), n, sizes, "profiles")
    return World(attributes=names, vocabulary=vocabulary, values=values)
