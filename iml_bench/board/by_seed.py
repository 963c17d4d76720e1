"""What a measure is in the cells of a suite, by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from iml_bench.protocols import measure_of, measures_of, protocol_of
from iml_bench.protocols.base import default_moment
from iml_bench.records import Attachment, Record, Stored, scores_of
from iml_bench.spec import CellSpec, cell_key
from iml_bench.spec.look import parse_look
from iml_bench.stats import linearised

NOT_RUN: Final = "not run yet"
NOT_PROBED: Final = "was not probed"


class BySeed(NamedTuple):
    """What a measure is in some cells, one a seed."""

    values: dict[int, float]
    lacking: dict[int, str]
    """Why it is not known in the other seeds."""

    @property
    def missing(self) -> str:
        """The first seed that is lacking, in words; empty where none is."""
        if not self.lacking:
            return ""
        seed, why = min(self.lacking.items())
        return f"{len(self.values)} of {len(self.values) + len(self.lacking)} seeds: seed {seed} {why}"


def measured(cells: Sequence[CellSpec], name: str, known: Mapping[str, Stored], probes: Sequence[str] = ()) -> BySeed:
    """A measure of some cells, one a seed; of a quotient what each seed adds to that of the means (``linearised``).

    Args:
        cells: of one model at one point.
        name: one of the protocol's measures, a slice of exact match, or ``PROBE.SCORE[@MOMENT]``.
        known: records by the key of their cell.
        probes: that were asked for; of one among them only tables with its options count.
    """
    if name not in {one.name for one in measures_of(cells[0].task)}:
        return _of_cells(cells, name, known, probes)
    measure = measure_of(cells[0].task, name)
    if measure.ratio is None:
        return _of_cells(cells, name, known)
    over, under = (_of_cells(cells, part, known) for part in measure.ratio)
    lacking = {**over.lacking, **under.lacking}
    seeds = [seed for seed in over.values if seed not in lacking]
    upper, lower = ([part.values[seed] for seed in seeds] for part in (over, under))
    if seeds and math.fsum(lower) / len(seeds) <= measure.least:
        why = f"is of a row whose {measure.ratio[1]} is on average not above {measure.least:g}"
        return BySeed({}, lacking | dict.fromkeys(seeds, why))
    return BySeed(dict(zip(seeds, linearised(upper, lower), strict=True)) if seeds else {}, lacking)


def _of_cells(
    cells: Sequence[CellSpec], measure: str, known: Mapping[str, Stored], probes: Sequence[str] = ()
) -> BySeed:
    found = BySeed({}, {})
    for cell in cells:
        seed, stored = cell.seed, known.get(cell_key(cell))
        if stored is None:
            found.lacking[seed] = NOT_RUN
        elif stored.record.status == "failed":
            found.lacking[seed] = "failed"
        else:
            if "." in measure:
                value, why = probed(stored.record, measure, probes)
                found.values.update({} if value is None else {seed: value})
                found.lacking.update({seed: why} if value is None else {})
                continue
            scores = scores_of(stored)
            value = scores.get(measure) if measure in scores else scores.exact_match.get(measure)
            if value is None:
                found.lacking[seed] = scores.reasons.get(measure, "not measured")
            else:
                found.values[seed] = value
    return found


def probed(record: Record, name: str, probes: Sequence[str] = ()) -> tuple[float | None, str]:
    """A score of a probe in one record, and why it is not known.

    Args:
        record: of a done cell.
        name: ``PROBE.SCORE`` or ``PROBE.SCORE@MOMENT``; without a moment the one at which probes look by default.
        probes: see ``measured``.
    """
    probe, _, rest = name.partition(".")
    score, _, moment = rest.partition("@")
    moment = moment or _default_moment(record)
    made = made_by(record, probe, moment)
    asked = [look for look in map(parse_look, probes) if look.name == probe]
    wanted = [look.options for look in asked if (look.moment or _default_moment(record)) == moment]
    if made is None:
        return None, f"{NOT_PROBED} by {probe} at {moment}"
    if wanted and made.options not in wanted:
        return None, f"{NOT_PROBED} by {probe} at {moment} with the suite's options"
    if made.file is None:
        return None, f"has no table of {probe}: {made.reason}"
    if score not in made.scores:
        return None, f"has no score {score} of {probe}; it has {', '.join(made.scores) or 'none'}"
    return made.scores[score], made.reasons.get(score, "not measured")


def made_by(record: Record, probe: str, moment: str = "") -> Attachment | None:
    """What a probe made of one record; None where it did not look.

    Args:
        record: of a done cell.
        probe: its name.
        moment: empty: the one at which probes look by default.
    """
    wanted = ("probe", probe, moment or _default_moment(record))
    return next((one for one in record.attachments if (one.kind, one.name, one.moment) == wanted), None)


def _default_moment(record: Record) -> str:
    return default_moment(protocol_of(record.cell.task).schedule(record.cell.task))
