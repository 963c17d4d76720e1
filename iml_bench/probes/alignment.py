"""Whether the gradients of a definition and of the questions about the same thing point the same way, under each tag.

The paper's explanation of implicit meta-learning is that they do so more under the reliable tag (Krasheninnikov et al.
2024, section 4.1). Its figures compare other entities under each tag; here every entity is shown under every tag, from
the same weights. What any two examples have in common is taken away by the questions of another entity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from iml_bench.errors import UsageError
from iml_bench.learners.base import Inspectable
from iml_bench.modalities.base import Feed
from iml_bench.probes.gradients import ALL, Gradients, Spread
from iml_bench.probes.subjects import (
    definitions,
    looks_of,
    new_entities,
    questions,
    stage1_questions,
    streams_of_probe,
)
from iml_bench.protocols import Columns, Measure
from iml_bench.protocols.base import NONE, Examples, Ints

if TYPE_CHECKING:
    from iml_bench.run.cell import Setting

NEW: Final = "new"
"""The set of new entities, which no model has read a definition of at the end of stage 1."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Alignment:
    """Cosine of the gradients of definitions and questions; see the module."""

    entities: int = 64
    """At most so many of each set; 0: all."""

    @property
    def description(self) -> str:
        """See ``Probe``."""
        return "cosine of the gradients of each definition, under each tag, and of the questions about its alias"

    @property
    def scores(self) -> tuple[Measure, ...]:
        """See ``Probe``."""
        return SCORES

    def __call__(self, setting: Setting, learner: Inspectable, moment: str) -> pl.DataFrame:
        """One row per set, entity, tag and part of the network, and one per set, tag and part with entity null.

        ``cosine``, ``dot`` and ``distance`` are means over the entity's own questions, ``cosine_other`` and
        ``dot_other`` over those of its ``partner``, whose contents differ. Rows without an entity have the
        ``variance`` of gradients about their mean: of definitions under that tag, or, where the tag is null, of
        questions.

        Raises:
            UsageError: when no entity is defined in a branch and asked about after it.
        """
        new = new_entities(setting, self.entities)
        gradients = Gradients(learner)
        tables = [_table(setting, gradients, _Set(NEW, new, new, questions(setting, new)))]
        tables += [_table(setting, gradients, one) for one in _old_sets(setting, self.entities)]
        return pl.concat(tables)


class _Set(NamedTuple):
    """Entities, what is claimed of each, and questions about them."""

    name: str
    entities: Ints
    claims: Ints
    asked: Examples


class _Pair(NamedTuple):
    """Two entities with different contents, as places among those of a set, and the rows of their questions."""

    places: list[int]
    rows: list[Ints]


def _old_sets(setting: Setting, most: int) -> Iterator[_Set]:
    """Entities of stage 1 with their definitions as stage 1 showed them: held-out and trained questions apart."""
    claims = setting.design.shown(0)[1]
    for name, asked in stage1_questions(setting).items():
        entities = np.unique(asked.entity[claims[asked.entity] != NONE])
        entities = streams_of_probe(setting).generator("probe/entities").permutation(entities)
        entities = entities[:most] if most else entities
        if len(entities) > 1:
            yield _Set(name, entities, claims[entities], asked)


def _table(setting: Setting, gradients: Gradients, one: _Set) -> pl.DataFrame:
    """The rows of one set."""
    design, device = setting.design, setting.device
    shown = [definitions(one.entities, tag, one.claims) for tag in range(len(design.tags))]
    feeds = [setting.feed(examples, evaluation=False) for examples in shown]
    asked = setting.feed(one.asked, evaluation=False)
    rng = streams_of_probe(setting).generator("probe/pictures")
    drawn = looks_of(rng, feeds[0], device), looks_of(rng, asked, device)
    spreads = [Spread(gradients, device) for _ in (*feeds, asked)]
    tables = []
    for pair in _pairs(setting, one):
        places = np.array(pair.places)
        told = torch.empty(len(feeds) * len(places), gradients.size, device=device)
        for tag, feed in enumerate(feeds):
            found = gradients.of(feed, places, drawn[0][places])
            spreads[tag].add(found)
            told[tag * len(places) : (tag + 1) * len(places)] = found
        rows = np.concatenate(pair.rows)
        parts = _products(gradients, told, asked, (rows, drawn[1][rows]), spreads[-1])
        tables.append(_rows(setting, one, pair, parts, gradients.parts))
    if not tables:
        raise UsageError("no two entities have different contents")
    names = [*design.tags, None]
    rows_of_spread = [
        {"set": one.name, "tag": name, "part": part, "variance": value}
        for name, spread in zip(names, spreads, strict=True)
        for part, value in zip(gradients.parts, spread.variance, strict=True)
    ]
    return pl.concat([*tables, pl.DataFrame(rows_of_spread, schema_overrides={"tag": pl.String})], how="diagonal")


class _Products(NamedTuple):
    """Of ``n`` definitions and ``m`` questions, by part."""

    dot: Floats
    """``[parts, n, m]``"""
    told: Floats
    """``[parts, n]``: squared lengths of the definitions' gradients."""
    asked: Floats
    """``[parts, m]``"""


def _products(gradients: Gradients, told: Tensor, feed: Feed, rows: tuple[Ints, Tensor], spread: Spread) -> _Products:
    """Products of definitions' gradients with those of questions, which are taken a few at a time."""
    chosen, noise = rows
    dots, squares = [], []
    for start in range(0, len(chosen), gradients.chunk):
        some = slice(start, start + gradients.chunk)
        found = gradients.of(feed, chosen[some], noise[some])
        spread.add(found)
        dots.append(gradients.products(told, found))
        squares.append(gradients.squares(found))
    parts = (torch.cat(dots, dim=2), gradients.squares(told), torch.cat(squares, dim=1))
    return _Products(*(part.cpu().numpy() for part in parts))


def _rows(setting: Setting, one: _Set, pair: _Pair, found: _Products, parts: tuple[str, ...]) -> pl.DataFrame:
    """One row per entity of a pair, tag and part."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = found.dot / np.sqrt(found.told[:, :, None] * found.asked[:, None, :])
    distance = np.sqrt(np.maximum(0, found.told[:, :, None] + found.asked[:, None, :] - 2 * found.dot))
    ends = np.cumsum([0, *map(len, pair.rows)])
    rows: list[dict[str, Any]] = []
    for tag, name in enumerate(setting.design.tags):
        for who, place in enumerate(pair.places):
            own, other = (slice(ends[index], ends[index + 1]) for index in (who, 1 - who))
            line = 2 * tag + who
            entity, partner = int(one.entities[place]), int(one.entities[pair.places[1 - who]])
            group = setting.design.groups[setting.design.group[entity]]
            rows += [
                {
                    "set": one.name,
                    "entity": entity,
                    "group": group,
                    "tag": name,
                    "part": part,
                    "cosine": float(cosine[index, line, own].mean()),
                    "cosine_other": float(cosine[index, line, other].mean()),
                    "dot": float(found.dot[index, line, own].mean()),
                    "dot_other": float(found.dot[index, line, other].mean()),
                    "distance": float(distance[index, line, own].mean()),
                    "norm_definition": float(np.sqrt(found.told[index, line])),
                    "norm_questions": float(np.sqrt(found.asked[index, own]).mean()),
                    "questions": int(ends[who + 1] - ends[who]),
                    "partner": partner,
                }
                for index, part in enumerate(parts)
            ]
    return pl.DataFrame(rows)


def _pairs(setting: Setting, one: _Set) -> Iterator[_Pair]:
    """Entities two by two, in order, whose contents differ; who is left over has no partner and is left out."""
    kinds = setting.world.kinds
    left = list(range(len(one.entities)))
    while len(left) > 1:
        first = left.pop(0)
        differs = (place for place in left if (kinds[one.entities[first]] != kinds[one.entities[place]]).any())
        second = next(differs, None)
        if second is not None:
            left.remove(second)
            rows = [np.flatnonzero(one.asked.entity == one.entities[place]) for place in (first, second)]
            yield _Pair([first, second], rows)


def mean_of(column: str, tag: str, part: str = ALL) -> Callable[[Columns], Floats]:
    """Of a table's columns, one of them for the new entities under a tag, in the order of entities."""

    def found(columns: Columns) -> Floats:
        with_entity = ~np.isnan(columns["entity"].astype(np.float64))
        rows = (columns["set"] == NEW) & (columns["tag"] == tag) & (columns["part"] == part) & with_entity
        values: Floats = columns[column][rows].astype(np.float64)
        return values

    return found


def _gap(column: str, columns: Columns) -> float:
    """Mean over entities of a column under the reliable tag minus that under the unreliable one."""
    high, low = (mean_of(column, tag)(columns) for tag in ("reliable", "unreliable"))
    return float(np.nanmean(high - low))


SCORES: Final = (
    Measure(
        name="gap",
        label="alignment gap (cosine)",
        heading="gap",
        description="cosine with an entity's own questions under the reliable tag minus under the unreliable one",
        of=lambda columns: _gap("cosine", columns),
        low=-2.0,
        high=2.0,
    ),
    Measure(
        name="specific",
        label="alignment gap, matched minus mismatched (cosine)",
        heading="specific",
        description="the gap minus the same with the questions of another entity: what is of this content alone",
        of=lambda columns: _gap("cosine", columns) - _gap("cosine_other", columns),
        low=-4.0,
        high=4.0,
    ),
    Measure(
        name="level",
        label="alignment under the reliable tag (cosine)",
        heading="level",
        description="cosine of a definition under the reliable tag with its own questions",
        of=lambda columns: float(np.nanmean(mean_of("cosine", "reliable")(columns))),
    ),
    Measure(
        name="content",
        label="alignment under the reliable tag, matched minus mismatched (cosine)",
        heading="content",
        description="cosine of a definition under the reliable tag with its own questions minus with another entity's",
        of=lambda columns: float(
            np.nanmean(mean_of("cosine", "reliable")(columns) - mean_of("cosine_other", "reliable")(columns))
        ),
        low=-2.0,
        high=2.0,
    ),
    Measure(
        name="fresh",
        label="alignment gap to a fresh tag (cosine)",
        heading="fresh",
        description="cosine under the reliable tag minus under a tag that was never seen",
        of=lambda columns: float(
            np.nanmean(mean_of("cosine", "reliable")(columns) - mean_of("cosine", "fresh")(columns))
        ),
        low=-2.0,
        high=2.0,
    ),
)
"""What follows from a table; the standard error over entities is in the table, the interval is over seeds."""
ALIGNMENT = Alignment()
