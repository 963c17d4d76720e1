"""What probes found inside a model, over seeds: the numbers of a mechanism panel.

They are those of the tables that lie beside records. A table that cannot be read is left out, with a sentence.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import Field

from iml_bench.board.by_seed import made_by
from iml_bench.board.probe_tables import (
    ALIGNMENT,
    COLUMNS,
    INTERVENE,
    LINEAR,
    LONGEST,
    MOST,
    UNCHANGED,
    Changed,
    PlacesRead,
    Scores,
    gaps_of,
    heat_of,
    interventions_of,
)
from iml_bench.board.rows import first_labels, task_label
from iml_bench.board.words import some
from iml_bench.errors import UsageError, shown
from iml_bench.protocols import protocol_of
from iml_bench.protocols.base import INITIAL, default_moment
from iml_bench.records import Record, Stored, latest_by_key, read_table
from iml_bench.spec import ModelEntry, Spec, model_key, task_key
from iml_bench.spec.base import Digest, Line, LongLine, canonical_json
from iml_bench.stats import Interval, estimate

if TYPE_CHECKING:
    import polars as pl

T = TypeVar("T")
Depth = Annotated[int, Field(ge=0, le=MOST)]


class Gap(Spec):
    """How much more a definition's gradient points the way of its own questions under the reliable tag.

    More than under the unreliable one, and beyond the same with another entity's questions: ``probes/alignment.py``.
    """

    part: Line
    """Of the network, or ``all`` of it."""
    trained: Interval | None
    initial: Interval | None
    """The same before training."""


class HeatCell(Spec):
    """How well a linear probe reads the tag of new entities at one place; see ``probes/linear.py``."""

    layer: Line
    depth: Depth
    position: int | None
    """Tokens from the first one of the alias; null where there is one position that has no number."""
    token: Line | None
    """What stands there in one of the prompts."""
    accuracy: Interval
    control: float | None
    """Mean over seeds of the accuracy with permuted tags; null where nobody measured it."""


class Heat(Spec):
    """All places at which the tag was read."""

    cells: tuple[HeatCell, ...] = Field(max_length=MOST)
    """Layer by layer."""
    above_control: Interval | None
    """Where inner folds choose: the accuracy minus that with permuted tags. It is no maximum of many."""


class Intervention(Spec):
    """What is left of IML when stage 2 is trained again with the tag changed; see ``probes/intervene.py``."""

    name: Line
    place: Line
    depth: Depth
    iml: Interval | None
    uptake: Interval | None
    taken: Interval | None
    """Mean uptake under both tags, which exchanging them leaves as it is; near zero learning itself was destroyed."""


class Cost(Spec):
    """Mean wall time of a seed in which probes looked while its cell ran."""

    probes: float = Field(ge=0)
    rest: float = Field(ge=0)
    """Of everything else in the cell."""
    n: int


class Panel(Spec):
    """What probes found in one model on one task."""

    task: LongLine
    """As it was run, see ``task_label``."""
    task_key: Digest
    model: Line
    model_key: Digest
    moment: Line
    """At which the probes looked."""
    seeds: tuple[int, ...] = Field(max_length=MOST)
    """Those that have a table."""
    alignment: tuple[Gap, ...] = Field(max_length=MOST)
    """Part by part, in the order of the network."""
    heat: Heat | None
    interventions: tuple[Intervention, ...] = Field(max_length=MOST)
    cost: Cost | None
    """Null where no probe looked while a cell ran."""
    left_out: tuple[LongLine, ...] = Field(max_length=MOST)
    """A sentence for what there is no table of, and for each table that cannot be read."""

    @property
    def unchanged(self) -> Interval | None:
        """IML of stage 2 trained again with nothing changed."""
        return next((one.iml for one in self.interventions if one.name == UNCHANGED), None)


def panels(stored: Sequence[Stored]) -> list[Panel]:
    """A panel for every model and task among some records that have tables of these probes beside them.

    Args:
        stored: the records; panels stand in their order.
    """
    known, labels = latest_by_key(stored), first_labels(stored)
    groups: dict[tuple[str, str], list[Stored]] = defaultdict(list)
    for key in dict.fromkeys(one.record.cell_key for one in stored):
        cell = known[key].record.cell
        groups[task_key(cell), model_key(cell)].append(known[key])
    return [_panel(own, labels[key[1]]) for key, own in groups.items() if any(_has_table(one.record) for one in own)]


def _has_table(record: Record) -> bool:
    found = [made_by(record, probe) for probe in COLUMNS] + [made_by(record, ALIGNMENT, INITIAL)]
    return record.status == "done" and any(one is not None and one.file is not None for one in found)


class _Reading:
    """Reads the tables of some seeds, and keeps a sentence for what cannot be read."""

    def __init__(self, own: Sequence[Stored]) -> None:
        self.own = own
        self._left: dict[str, list[int]] = defaultdict(list)

    def by_seed(self, probe: str, moment: str, of: Callable[[pl.DataFrame], T]) -> dict[int, T]:
        """What tables of a probe say, by seed; those that were made with the options of most."""
        listed = [(one, made) for one in self.own if (made := made_by(one.record, probe, moment)) is not None]
        options = Counter(canonical_json(made.options) for _, made in listed if made.file is not None)
        found: dict[int, T] = {}
        for one, made in listed:
            seed = one.record.cell.seed
            if made.file is None:
                self._left[f"no table of {probe} at {moment}: {made.reason}"].append(seed)
            elif canonical_json(made.options) != options.most_common(1)[0][0]:
                self._left[f"the table of {probe} at {moment} was made with other options"].append(seed)
            else:
                try:
                    found[seed] = of(read_table(one, made, COLUMNS[probe]))
                except UsageError as error:
                    self._left[f"the table of {probe} at {moment} cannot be shown: {error}"].append(seed)
        return found

    @property
    def left_out(self) -> tuple[str, ...]:
        """The sentences, each with its seeds."""
        return tuple(
            f"{shown(why, 700)} (seed{'s' if seeds[1:] else ''} {some([*map(str, seeds)])})"
            for why, seeds in self._left.items()
        )


def _panel(own: Sequence[Stored], model: ModelEntry) -> Panel:
    own = sorted((one for one in own if one.record.status == "done"), key=lambda one: one.record.cell.seed)
    record, reading = own[0].record, _Reading(own)
    task = record.cell.task
    moment = default_moment(protocol_of(task).schedule(task))
    trained = reading.by_seed(ALIGNMENT, moment, gaps_of)
    initial = reading.by_seed(ALIGNMENT, INITIAL, gaps_of) if moment != INITIAL else {}
    heats = reading.by_seed(LINEAR, moment, heat_of)
    changed = reading.by_seed(INTERVENE, moment, interventions_of)
    seeds = sorted({*trained, *initial, *heats, *changed})
    return Panel(
        task=shown(task_label(task.name, task.version, record.changes), 900),
        task_key=task_key(record.cell),
        model=model.name,
        model_key=model_key(record.cell),
        moment=moment,
        seeds=tuple(seeds),
        alignment=tuple(
            Gap(part=_name(part), trained=_mean_of(trained, part), initial=_mean_of(initial, part))
            for part in _keys([*trained.values(), *initial.values()])
        ),
        heat=_over_seeds(heats) if heats else None,
        interventions=tuple(_intervention(key, changed) for key in _keys(changed.values())),
        cost=_cost([one.record for one in own if one.record.cell.seed in seeds]),
        left_out=reading.left_out,
    )


def _keys(found: Iterable[Mapping[T, object]]) -> list[T]:
    """All keys, in the order of the first that has them."""
    return list(dict.fromkeys(key for one in found for key in one))


def _mean_of(by_seed: Mapping[int, Mapping[str, float]], part: str) -> Interval | None:
    return estimate([found[part] for found in by_seed.values() if part in found])


def _name(text: str) -> str:
    return shown(text, LONGEST)


def _over_seeds(by_seed: Mapping[int, PlacesRead]) -> Heat:
    found = _keys([one.cells for one in by_seed.values()])
    layers = list(dict.fromkeys(place.layer for place in found))
    order = {layer: index for index, layer in enumerate(layers)}
    places = sorted(found, key=lambda place: (place.depth, order[place.layer], place.position or 0))
    cells = []
    for place in places:
        read = [one.cells[place] for one in by_seed.values() if place in one.cells]
        controls = [one.control for one in read if one.control is not None]
        accuracy = estimate([one.accuracy for one in read])
        assert accuracy is not None
        cells.append(
            HeatCell(
                layer=_name(place.layer),
                depth=place.depth,
                position=place.position,
                token=None if read[0].token is None else _name(read[0].token),
                accuracy=accuracy,
                control=fmean(controls) if controls else None,
            )
        )
    above = [one.above_control for one in by_seed.values() if one.above_control is not None]
    return Heat(cells=tuple(cells), above_control=estimate(above))


def _intervention(key: Changed, by_seed: Mapping[int, Mapping[Changed, Scores]]) -> Intervention:
    seeds = [found[key] for found in by_seed.values() if key in found]

    def over(values: Iterable[float | None]) -> Interval | None:
        return estimate([value for value in values if value is not None])

    return Intervention(
        name=_name(key.name),
        place=_name(key.place),
        depth=key.depth,
        iml=over(one.iml for one in seeds),
        uptake=over(one.uptake for one in seeds),
        taken=over(one.taken for one in seeds),
    )


def _cost(records: Sequence[Record]) -> Cost | None:
    times = [one.timing.seconds for one in records if "probes" in one.timing.seconds]
    if not times:
        return None
    probes = fmean(one["probes"] for one in times)
    rest = fmean(math.fsum(seconds for part, seconds in one.items() if part != "probes") for one in times)
    return Cost(probes=probes, rest=rest, n=len(times))
