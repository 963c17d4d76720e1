"""Mechanism panels as pages show them: their figures, and whose page they stand on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from iml_bench.board import Panel
from iml_bench.board.mechanisms import HeatCell
from iml_bench.errors import UsageError
from iml_bench.site.charts import Spec
from iml_bench.site.mechanism_charts import captions, mechanism_charts
from iml_bench.site.names import unique_slugs
from iml_bench.spec import digest_of
from iml_bench.spec.base import parse
from iml_bench.untrusted import read_json

if TYPE_CHECKING:
    from iml_bench.site.shipped import ShippedReport

PANELS: Final = "mechanisms.json"
"""The panels of a report, beside it."""
LARGEST: Final = 50_000_000
"""Bytes of that file."""
COLUMNS: Final = 15
"""Tokens of a figure that stands beside another."""


class Shown(NamedTuple):
    """A panel on a page."""

    panel: Panel
    slug: str
    charts: dict[str, Spec]
    """By kind."""
    report: ShippedReport | None
    """Where it comes from; None: from the records that are shown."""

    @property
    def figures(self) -> list[tuple[str, str]]:
        """The kind of each figure, and what is said of it."""
        said = captions(self.panel)
        return [(kind, said[kind]) for kind in self.charts]

    @property
    def _cells(self) -> tuple[HeatCell, ...]:
        return self.panel.heat.cells if self.panel.heat else ()

    def is_wide(self, kind: str) -> bool:
        """Whether a figure has more columns than fit beside another."""
        return kind == "readable" and len({one.position for one in self._cells}) > COLUMNS


def shown_panels(found: Sequence[Panel], reports: Sequence[ShippedReport] = ()) -> list[Shown]:
    """Panels with their figures, and names that no two of them share.

    Args:
        found: of the records that are shown.
        reports: whose panels follow.
    """
    every = [*((one, None) for one in found), *((one, report) for report in reports for one in report.panels)]
    by_key = {
        digest_of([one.task_key, one.model_key, report.name if report else None]): (one, report)
        for one, report in every
    }
    slugs = unique_slugs({key: f"{one.model} {one.task}" for key, (one, _) in by_key.items()})
    return [Shown(one, slugs[key], mechanism_charts(one), report) for key, (one, report) in by_key.items()]


def by_model(found: Sequence[Panel], reports: Sequence[ShippedReport]) -> dict[str, list[Shown]]:
    """What stands on the page of each model, by its key; see ``shown_panels``."""
    result: dict[str, list[Shown]] = defaultdict(list)
    for one in shown_panels(found, reports):
        result[one.panel.model_key].append(one)
    return result


def as_json(found: Sequence[Panel]) -> bytes:
    """The file ``PANELS``."""
    return (json.dumps([one.model_dump(mode="json") for one in found], indent=1, ensure_ascii=False) + "\n").encode()


def read_panels(path: Path) -> list[Panel]:
    """The panels in a file, which may come from anybody.

    Raises:
        UsageError: when it holds something else.
    """
    where = f"{path.parent.name}/{path.name}"
    try:
        data = read_json(path, LARGEST)
    except UsageError as error:
        raise UsageError(f"{where} cannot be read: {error}") from error
    if not isinstance(data, list):
        raise UsageError(f"{where} is no list of panels")
    return [parse(Panel, one, where) for one in data]
