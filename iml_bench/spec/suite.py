"""What a suite is: named grids of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from iml_bench.errors import UsageError, unknown
from iml_bench.spec.base import Line, Spec, first_problem, parse
from iml_bench.spec.cell import OUTSIDE_KEY
from iml_bench.spec.claim import PARAMETERS, Claim, check_claim
from iml_bench.spec.control import Control
from iml_bench.spec.look import parse_look
from iml_bench.spec.model import LEARNING_RATE, ModelEntry, entry_from_source, label, parse_source
from iml_bench.spec.seeds import LIMIT, parse_seeds
from iml_bench.spec.task import NAME_PATTERN

MODEL = "model."
"""Fields that begin with this are the model's; all others are the task's, its recipe's among them."""
OWN_FIELDS = ("source", "tokenizer")
"""Fields of a model entry that may vary; any other name is an option of its source."""


class Grid(Spec):
    """Cells of one task: every model with everything that varies, and every seed.

    A field is given as ``--set`` takes it (``alpha``, ``recipe.batch_size``), or as ``model.OPTION`` for
    an option of the model's source, or ``model.source`` and ``model.tokenizer``.
    """

    name: str | None = Field(default=None, pattern=NAME_PATTERN)
    """What the grid is called where it is spoken of; no other of the suite has it."""
    task: str
    models: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0, lt=LIMIT)], ...] = Field(min_length=1)
    """In the file a number (5: seeds 0 to 4), or text as ``--seeds`` takes it (``100-104``)."""
    ruleset: Literal["shared", "tuned"] = "shared"
    """``tuned``: each model at the learning rate that was chosen for it, see ``ModelEntry.tuned``."""
    small: bool = False
    """Whether it is the task's small setting that the fields are changed in."""
    variant: str | None = None
    """The variant of the task that the fields are changed in."""
    set: dict[str, Any] = {}
    """Fields that are the same in the whole grid."""
    axes: dict[str, tuple[Any, ...]] = {}
    """Fields that vary, each on its own: all combinations are run."""
    zip: dict[str, tuple[Any, ...]] = {}
    """Fields that vary together: all first values, all second ones, and so on, each crossed with the axes."""
    probes: tuple[Line, ...] = ()
    """Probes that look into every cell, as ``--probe`` takes them; claims may be about their scores."""
    control: Control | None = None
    """What must be zero in this grid, for each model at every point of it."""

    @field_validator("seeds", mode="before")
    @classmethod
    def _as_written(cls, value: Any) -> Any:
        written = isinstance(value, int | str) and not isinstance(value, bool)
        return parse_seeds(str(value)) if written else value

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        places: dict[str, str] = {}
        for place, fields in (("set", self.set), ("axes", self.axes), ("zip", self.zip)):
            for path in fields:
                if path in places:
                    raise ValueError(f"{path} stands in both {places[path]} and {place}; leave it in one")
                if f"task.{path}" in OUTSIDE_KEY or path == MODEL:
                    raise ValueError(f"{path} in {place} would change no cell; models stand in models")
                if path == LEARNING_RATE and self.ruleset == "tuned":
                    raise ValueError(f"{path} in {place} is what the tuned ruleset chooses; leave one of them out")
                places[path] = place
        for place, varied in (("axes", self.axes), ("zip", self.zip)):
            for path, values in varied.items():
                if not values:
                    raise ValueError(f"{path} in {place} has no values")
        lengths = {path: len(values) for path, values in self.zip.items()}
        if len({*lengths.values()}) > 1:
            shown = ", ".join(f"{path} has {n}" for path, n in lengths.items())
            raise ValueError(f"the fields of zip vary together, so they need as many values each: {shown}")
        if self.control is not None and self.name is None:
            raise ValueError("control: its verdict is told by the grid's name; give the grid one")
        return self

    def along(self, path: str | None) -> frozenset[str]:
        """The fields that vary where one does: those of ``zip`` vary together."""
        return frozenset(self.zip) if path in self.zip else frozenset([path] if path is not None else [])

    @property
    def probed(self) -> tuple[str, ...]:
        """The names of its probes, without options and moments."""
        return tuple(dict.fromkeys(parse_look(text).name for text in self.probes))

    @property
    def everywhere(self) -> tuple[tuple[str, str], ...]:
        """Every model at every point."""
        return tuple((model, repr(point)) for model in self.models for point in self.points)

    @property
    def points(self) -> list[dict[str, Any]]:
        """The values of all fields that vary, once for every combination that is run."""
        zipped: list[Sequence[Any]] = list(zip(*self.zip.values(), strict=True)) or [()]
        return [
            dict(zip((*self.axes, *self.zip), (*crossed, *together), strict=True))
            for crossed in product(*self.axes.values())
            for together in zipped
        ]


class SuiteSpec(Spec):
    """A suite; a YAML file in ``benchmarks/``."""

    name: str = Field(pattern=NAME_PATTERN)
    description: str
    grids: tuple[Grid, ...] = Field(min_length=1)
    claims: tuple[Claim, ...] = ()
    """What is claimed about the grids; all are judged together."""

    @field_validator("grids", mode="before")
    @classmethod
    def _each(cls, grids: Any, info: ValidationInfo) -> Any:
        if not isinstance(grids, list | tuple):
            return grids
        return tuple(_grid(grid, number, info.data.get("name")) for number, grid in enumerate(grids))

    @model_validator(mode="after")
    def _named_apart(self) -> Self:
        names = [grid.name for grid in self.grids if grid.name is not None]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"suite {self.name!r} has two grids named {name!r}")
        return self

    @model_validator(mode="after")
    def _mirrors(self) -> Self:
        for index, grid in enumerate(self.grids):
            if grid.control is not None and grid.control.mirror_of is not None:
                try:
                    _check_mirror(grid, self.named(grid.control.mirror_of))
                except UsageError as error:
                    raise ValueError(f"{self.where(index)}: control.mirror_of: {error}") from error
        return self

    @field_validator("claims", mode="before")
    @classmethod
    def _each_claim(cls, claims: Any, info: ValidationInfo) -> Any:
        if not isinstance(claims, list | tuple):
            return claims
        return tuple(_claim(claim, number, info.data.get("name")) for number, claim in enumerate(claims, 1))

    @model_validator(mode="after")
    def _claimed(self) -> Self:
        for index, claim in enumerate(self.claims):
            try:
                if claim.name in [other.name for other in self.claims[:index]]:
                    raise UsageError("there is another claim of this name")
                grid = self.named(claim.grid)
                varied = {PARAMETERS: grid.models, **grid.axes, **grid.zip}
                if claim.is_along_score and (claim.along or "").partition(".")[0] in grid.probed:
                    varied[claim.along or ""] = grid.everywhere
                check_claim(claim, varied, f"iml-bench suite show {self.name}")
            except UsageError as error:
                raise ValueError(f"{self.where_claimed(claim)}: {error}") from error
        return self

    @property
    def claimed(self) -> set[str]:
        """The names of the grids that a claim is about."""
        return {claim.grid for claim in self.claims}

    def where_claimed(self, claim: Claim) -> str:
        """How a claim is spoken of."""
        return f"suite {self.name!r}, claim {claim.name!r}"

    def named(self, name: str) -> Grid:
        """The grid of a name.

        Raises:
            UsageError: when there is none.
        """
        known = {grid.name: grid for grid in self.grids if grid.name is not None}
        if name not in known:
            raise unknown("grid", name, known, f"iml-bench suite show {self.name}")
        return known[name]

    def where(self, index: int) -> str:
        """How a grid is spoken of: ``suite 'sizes', grid 2``, or with its name in place of the number."""
        return _where(self.name, index, self.grids[index].name)


ALIKE = ("task", "models", "seeds", "ruleset", "small", "axes", "zip")
"""What two grids share whose cells are set against each other one by one."""


def _check_mirror(grid: Grid, mirror: Grid) -> None:
    if mirror is grid:
        raise UsageError(f"grid {grid.name!r} cannot be its own mirror")
    different = [name for name in ALIKE if getattr(grid, name) != getattr(mirror, name)]
    if different:
        raise UsageError(
            f"cells of grids {grid.name!r} and {mirror.name!r} are added one by one, and the grids differ in "
            f"{', '.join(different)}; let only what is set differ"
        )


def _claim(data: Any, number: int, suite: str | None) -> Claim:
    try:
        return Claim.model_validate(data)
    except ValidationError as error:
        name = data.get("name", number) if isinstance(data, dict) else number
        raise ValueError(f"suite {suite!r}, claim {name!r}: {first_problem(error)}") from error


def _where(suite: str | None, index: int, grid: str | None) -> str:
    return f"suite {suite!r}, grid {index + 1 if grid is None else repr(grid)}"


def _grid(data: Any, index: int, suite: str | None) -> Grid:
    try:
        return Grid.model_validate(data)
    except ValidationError as error:
        name = data.get("name") if isinstance(data, dict) else None
        raise ValueError(f"{_where(suite, index, name)}: {first_problem(error)}") from error


def vary_model(entry: ModelEntry, fields: Mapping[str, Any]) -> ModelEntry:
    """The entry with options of its source, or its own fields, changed; the same entry where nothing changes.

    It is named after the original and what was changed (``mlp-m?hidden=32``), and of the same family.

    Args:
        entry: what is changed.
        fields: values by option, or by one of ``OWN_FIELDS``.

    Raises:
        UsageError: when it would be no valid entry. Whether the model has such options is known when it is built.
    """
    source = parse_source(str(fields.get("source", entry.source)))
    options = {name: value for name, value in fields.items() if name not in OWN_FIELDS}
    source = source._replace(options={**source.options, **options})
    tokenizer = fields.get("tokenizer", entry.tokenizer)
    if (str(source), tokenizer) == (entry.source, entry.tokenizer):
        return entry
    name = label(str(source))
    if entry.name != entry_from_source(entry.source).name:
        _, _, said = str(source._replace(options=dict(fields))).partition("?")
        name = label(f"{entry.name}?{said}")
    changed = {"name": name, "source": str(source), "tokenizer": tokenizer, "size": "", "notes": "", "tuned": {}}
    bytes_open = {"digest": None, "commit": None}
    return parse(ModelEntry, entry.model_dump() | changed | bytes_open, f"model {entry.name!r} with {dict(fields)}")
