"""What of a probe's table stands in a mechanism panel (``board/mechanisms.py``), of one seed.

What a table must have to be read is said here, since pages are built where torch, and with it a probe, is not loaded.
Whoever wrote one may have meant harm: what is not as it must be is refused.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iml_bench.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

ALIGNMENT, LINEAR, INTERVENE = "alignment", "linear", "intervene"
"""The probes of which a panel shows something."""
COLUMNS: Final = {
    ALIGNMENT: {
        **{"set": "String", "entity": "Int64", "tag": "String", "part": "String"},
        **{"cosine": "Float64", "cosine_other": "Float64"},
    },
    LINEAR: {
        **{"set": "String", "branch": "Int64", "position": "Int64", "token": "String", "layer": "String"},
        **{"depth": "Int64", "accuracy": "Float64", "control": "Float64", "chosen": "Boolean"},
    },
    INTERVENE: {
        **{"intervention": "String", "place": "String", "depth": "Int64"},
        **{"iml": "Float64", "uptake": "Float64", "taken": "Float64"},
    },
}
"""What is read of their tables."""
NEW: Final = "new"
"""The set of a table of alignment that is shown."""
AFTER_2: Final = "after stage 2"
"""The set of a table of linear probes that is shown."""
WHOLE: Final = "all"
"""The part that is the whole network."""
UNCHANGED, INPUT = "none", "input"
"""The intervention that all others are compared with, and the place of those that change what is read."""
RELIABLE, UNRELIABLE = "reliable", "unreliable"
MOST: Final = 10_000
"""Parts, cells or interventions of one table."""
LONGEST: Final = 80
"""Characters of the name of a part, a layer, a token or a place."""


def _known(value: float | None, low: float, high: float) -> bool:
    """Whether a number was measured.

    Raises:
        UsageError: when it cannot be what it is said to be.
    """
    if value is None or math.isnan(value):
        return False
    if not low - 1e-6 <= value <= high + 1e-6:
        raise UsageError(f"it has {value:g} where nothing can be below {low:g} or above {high:g}")
    return True


def _some(found: Mapping[Any, object]) -> None:
    """See that a table says something, and no more than can be shown.

    Raises:
        UsageError: when it does not.
    """
    if not found:
        raise UsageError("it says nothing of what is shown here")
    if len(found) > MOST:
        raise UsageError(f"it has {len(found):,} places, and no more than {MOST:,} are shown")


def gaps_of(table: pl.DataFrame) -> dict[str, float]:
    """Of one seed by part: the mean over new entities."""
    import polars as pl

    rows = table.filter(pl.col("set") == NEW).drop_nulls(("entity", "part"))
    by_tag: dict[str, dict[tuple[str, int], float]] = {RELIABLE: {}, UNRELIABLE: {}}
    for part, entity, tag, own, other in rows["part", "entity", "tag", "cosine", "cosine_other"].iter_rows():
        if tag in by_tag and _known(own, -1, 1) and _known(other, -1, 1):
            by_tag[tag][part, entity] = own - other
    found: dict[str, list[float]] = defaultdict(list)
    for (part, entity), value in by_tag[RELIABLE].items():
        if (part, entity) in by_tag[UNRELIABLE]:
            found[part].append(value - by_tag[UNRELIABLE][part, entity])
    _some(found)
    return {part: fmean(values) for part, values in found.items()}


class Place(NamedTuple):
    """Where a linear probe read."""

    depth: int
    layer: str
    position: int | None


class Read(NamedTuple):
    """What it read there in one seed."""

    accuracy: float
    control: float | None
    token: str | None


class PlacesRead(NamedTuple):
    """The same of all places."""

    cells: dict[Place, Read]
    above_control: float | None


def heat_of(table: pl.DataFrame) -> PlacesRead:
    """Of one seed: the set that is shown, all branches together."""
    import polars as pl

    names = ("depth", "layer", "position", "accuracy", "control", "token", "chosen")
    rows = table.filter((pl.col("set") == AFTER_2) & pl.col("branch").is_null()).drop_nulls(("depth", "layer"))
    cells, above = dict[Place, Read](), None
    for depth, layer, position, accuracy, control, token, chosen in rows[names].iter_rows():
        if not 0 <= depth <= MOST:
            raise UsageError(f"it has a layer at depth {depth}")
        if not _known(accuracy, 0, 1):
            continue
        control = control if _known(control, 0, 1) else None
        if chosen:
            above = None if control is None else accuracy - control
        else:
            cells[Place(depth, layer, position)] = Read(accuracy, control, token)
    _some(cells)
    return PlacesRead(cells, above)


class Changed(NamedTuple):
    """An intervention, and where."""

    name: str
    place: str
    depth: int


class Scores(NamedTuple):
    """After it, in one seed; None where one cannot be measured."""

    iml: float | None
    uptake: float | None
    taken: float | None


def interventions_of(table: pl.DataFrame) -> dict[Changed, Scores]:
    """Of one seed, in the order of its table."""
    names = ("intervention", "place", "depth", "iml", "uptake", "taken")
    found: dict[Changed, Scores] = {}
    for name, place, depth, *scores in table[names].drop_nulls(names[:3]).iter_rows():
        if not 0 <= depth <= MOST:
            raise UsageError(f"it has a place at depth {depth}")
        found[Changed(name, place, depth)] = Scores(*(one if _known(one, -1, 1) else None for one in scores))
    _some(found)
    return found
