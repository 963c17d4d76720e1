"""The pages of a board: a pure function from what was measured to files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from iml_bench.board import Board, LeaderboardTask, Row, data_files, panels, words
from iml_bench.paths import data_root
from iml_bench.protocols import Measure, measures_of
from iml_bench.records import Stored, as_named, in_order, latest_by_key, record_path
from iml_bench.site import assets, charts, mechanism_charts, numbers
from iml_bench.site.commands import reproduce
from iml_bench.site.contents import Contents, Model, Task, Variant, arrange, pairs
from iml_bench.site.panels import Shown, by_model
from iml_bench.site.shipped import ShippedReport
from iml_bench.spec import LEARNING_RATE, ModelEntry, same_model
from iml_bench.spec.written import dump_yaml

# Nothing is loaded from elsewhere and nothing is sent; a script that slipped in as text could not run.
POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file: 'unsafe-inline'; "
    "img-src 'self' file: data: blob:; "
    "base-uri 'none'; form-action 'none'"
)

SIZES = (
    (10**5, "under 100k"),
    (10**6, "100k to 1M"),
    (10**8, "1M to 100M"),
    (10**9, "100M to 1B"),
    (10**99, "over 1B"),
)
SCALE = (-0.25, 1.0)
"""The range of exact match that the intervals in the table are drawn on."""


def build_site(
    board: Board,
    stored: Sequence[Stored],
    entries: Sequence[ModelEntry],
    required: Sequence[LeaderboardTask],
    left_out: Sequence[str] = (),
    reports: Sequence[ShippedReport] = (),
) -> dict[str, bytes]:
    """All files of the page, by relative path; the same for the same board and records, wherever these are.

    Args:
        board: what is shown.
        stored: the records that it was built from; they are shipped with it.
        entries: the registered models.
        required: what a complete row has.
        left_out: a sentence for every file that is no record.
        reports: on claims; they are shipped with it, too.
    """
    stored = in_order(stored)
    contents = arrange(board, stored, entries, required)
    files, places = _records(stored)
    pages = _Pages(contents, entries, places)
    pages.environment.globals["reports"] = reports
    pages.panels = by_model(panels([one for own in contents.cells.values() for one in own]), reports)
    left_out = [*left_out, *(why for report in reports for why in report.problems)]
    for report in reports:
        files |= report.files
    files |= assets.shared({scheme: charts.theme(scheme) for scheme in charts.PALETTES})
    files["index.html"] = pages.index(left_out)
    files["guide.html"] = pages.guide()
    for variant in contents.variants:
        files |= _data(variant, contents)
    for model in contents.models.values():
        files |= pages.model(model)
    for task in contents.tasks.values():
        files |= pages.task(task)
    files |= {f"data/{name}": content for name, content in data_files(board).items()}
    return files


class _Place(NamedTuple):
    """Where a record and its items are shipped."""

    path: str
    items: str | None


def _records(every: Sequence[Stored]) -> tuple[dict[str, bytes], dict[str, _Place]]:
    """The records, named as ``Store`` names them, so that their folder can be given to ``--records``.

    Sweeps are among them, of which no row is made: from them anyone can choose the learning rates again.
    """
    files: dict[str, bytes] = {}
    places: dict[str, _Place] = {}
    for stored in latest_by_key([one for one in every if not one.record.smoke]).values():
        path = "records" / record_path(stored.record.cell)
        files[str(path)] = as_named(stored, path.name)
        items = _items(stored)
        beside = str(path.with_suffix(".parquet")) if items is not None else None
        if beside is not None and items is not None:
            files[beside] = items
        places[stored.record.key] = _Place(str(path), beside)
    return files, places


def _items(stored: Stored) -> bytes | None:
    """The per-item file beside a record, where it is a plain file with the recorded content."""
    items = stored.record.items
    if items is None or (path := stored.path.with_name(items.file)).is_symlink() or not path.is_file():
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == items.sha256 else None


def _data(variant: Variant, contents: Contents) -> dict[str, bytes]:
    """A variant's charts and paired differences, which the page loads when they are asked for."""
    rows = [*variant.ranked, *variant.references]
    found = [
        (
            *(pair.first, pair.second, pair.versus.n_seeds),
            *(pair.versus.difference.mean, pair.versus.difference.low, pair.versus.difference.high),
            *(pair.versus.p, pair.versus.separated),
            words.with_interval(pair.versus.difference),
            *(words.p_value(pair.versus.p), words.apart(pair.versus.separated)),
        )
        for pair in pairs(variant)
    ]
    models = [contents.models[row.model_key].slug for row in variant.ranked]
    drawn = charts.board_charts(rows, variant.label)
    measure = words.headline(rows)
    compared = {"label": variant.label, "measure": measure, "models": models, "pairs": found}
    return {
        f"assets/charts-{variant.slug}.js": assets.data_script("charts", variant.slug, drawn),
        f"assets/pairs-{variant.slug}.js": assets.data_script("pairs", variant.slug, compared),
    }


class _Pages:
    """The templates, with what all of them need."""

    def __init__(self, contents: Contents, entries: Sequence[ModelEntry], places: Mapping[str, _Place]) -> None:
        self.contents, self.entries, self.places = contents, entries, places
        self.panels: Mapping[str, Sequence[Shown]] = {}
        """By model key."""
        self.environment = assets.templates()
        self.environment.globals |= {
            "numbers": numbers,
            "words": words,
            "drawing": mechanism_charts,
            "contents": contents,
            "policy": POLICY,
            "n_records": len(places),
        }

    def render(self, template: str, root: str, **more: Any) -> bytes:
        """A page.

        Args:
            template: its file.
            root: the way from its folder to the page's root, ``""`` or ``"../"``.
            more: what the template asks for.
        """
        return self.environment.get_template(template).render(root=root, **more).encode()

    def guide(self) -> bytes:
        """What every measure is, and how to add a model."""
        protocols = {row.protocol for row in self.contents.board.rows}
        protocols |= {task.spec.protocol for task in self.contents.tasks.values()}
        measures = {measure.name: measure for name in sorted(protocols) for measure in measures_of(name)}
        return self.render("guide.html", "", measures=list(measures.values()))

    def index(self, left_out: Sequence[str]) -> bytes:
        """The table of all variants and what belongs to it."""
        board = self.contents.board
        trained = [row for row in board.rows if not row.reference]
        sizes = [name for _, name in SIZES]
        by_reason = sorted(board.absent, key=lambda row: row.reason)
        return self.render(
            "index.html",
            "",
            modalities=sorted({row.modality for row in trained}),
            families=sorted({row.family for row in trained}),
            sizes=[name for name in sizes if name in {_size(row) for row in trained}],
            size_of=_size,
            drawn=_drawn,
            ticks=[{"x": _x(value), "text": f"{value:g}"} for value in (0.0, 0.5, 1.0)],
            headline=words.headline(trained),
            ranking=_ranking(trained),
            measures=words.columns(trained),
            remarks=words.remarks(trained),
            absent=[(reason, list(rows)) for reason, rows in groupby(by_reason, key=lambda row: row.reason)],
            left_out=left_out,
        )

    def model(self, model: Model) -> dict[str, bytes]:
        """A model's page, its learning curves, and what probes found inside it."""
        files: dict[str, bytes] = {}
        variants = {variant.key: variant for variant in self.contents.variants}
        order = list(variants)
        sections, curves = [], b""
        for row in sorted(model.rows, key=lambda row: order.index(row.task_key)):
            variant = variants[row.task_key]
            own = self.contents.cells[row.task_key, model.key]
            section = self._section(model, row, variant, own)
            if any(stored.record.curve for stored in own):
                section["curve"] = f"{variant.slug}-{model.slug}"
                spec = charts.learning_curve([stored.record for stored in own], variant.label)
                curves += assets.data_script("curve", section["curve"], spec)
            sections.append(section)
        shown = self.panels.get(model.key, ())
        inside = b"".join(
            assets.data_script("mechanism", f"{one.slug}-{kind}", spec)
            for one in shown
            for kind, spec in one.charts.items()
        )
        scripts = {f"{kind}-{model.slug}.js": made for kind, made in (("curves", curves), ("inside", inside)) if made}
        files |= {f"assets/{name}": made for name, made in scripts.items()}
        facts = [
            (field, value)
            for field, value in model.entry.model_dump(mode="json", exclude={"name", "tuned"}).items()
            if value not in ("", None, False)
        ]
        facts += [(f"tuned for {where}", f"{chosen[LEARNING_RATE]:g}") for where, chosen in model.entry.tuned.items()]
        parameters = sorted({row.parameters for row in model.rows if row.parameters})
        if parameters:
            facts.append(("parameters", ", ".join(f"{n:,}" for n in parameters) + " (measured, trainable)"))
        about = {"model": model, "facts": facts, "sections": sections, "panels": shown, "scripts": list(scripts)}
        page = self.render("model.html", "../", **about)
        return {f"models/{model.slug}.html": page, **files}

    def _section(self, model: Model, row: Row, variant: Variant, own: Sequence[Stored]) -> dict[str, Any]:
        task = self.contents.tasks[row.task]
        named = next((entry for entry in self.entries if same_model(entry, model.entry)), None)
        warning = None
        if not task.registered:
            warning = f"The task {row.task} is not registered in this installation; --task takes its file, too."
        elif task.spec.version != row.task_version:
            warning = f"This is version {row.task_version}, and the registered task is version {task.spec.version}."
        seeds = {seed["seed"]: seed for seed in row.per_seed}
        return {
            "row": row,
            "variant": variant,
            "task": task,
            "wanted": None if row.reference else len(variant.wanted),
            "measures": words.columns([row]),
            "ranking": _ranking([row]),
            "cells": [
                {
                    "scores": seeds.get(record.cell.seed),
                    "record": record,
                    "steps": sum(stage.steps for stage in record.stages),
                    "seconds": f"{sum(record.timing.seconds.values()):.1f}",
                    "commit": (record.provenance.commit or "unknown")[:12],
                    "place": self.places[record.key],
                }
                for _, record in own
            ],
            "curve": None,
            "command": reproduce(row, named or model.entry, own[0].record.cell.task, registered=named is not None),
            "warning": warning,
            "made": _made(own),
        }

    def task(self, task: Task) -> dict[str, bytes]:
        """A task's page, and its picture where one is shipped."""
        spec = task.spec
        plain, given = spec.model_dump(mode="json"), spec.model_dump(mode="json", exclude_unset=True)
        shipped = data_root() / "tasks" / "pictures"
        picture, examples = shipped / f"{spec.name}.png", shipped / f"{spec.name}.txt"
        files = {f"tasks/{task.slug}.png": picture.read_bytes()} if task.registered and picture.is_file() else {}
        facts = [
            ("version", spec.version),
            ("modality", spec.modality),
            ("world", _in_words(plain["world"])),
            ("shown as", _in_words(plain["render"])),
            ("batch", spec.recipe.batch_size),
            ("optimiser", f"{spec.recipe.optimizer}, learning rate {spec.recipe.lr:g}, {spec.recipe.schedule}"),
            *((stage, _in_words(plain["recipe"][stage])) for stage in ("stage1", "stage2") if plain["recipe"][stage]),
            ("default model", spec.model),
        ]
        page = self.render(
            "task.html",
            "../",
            task=task,
            picture=f"{task.slug}.png" if files else None,
            examples=examples.read_text(encoding="utf-8") if task.registered and examples.is_file() else None,
            facts=facts,
            groups=[(name, size) for name, size in spec.group_sizes.items() if size],
            history=sorted(spec.history.items()),
            command=f"iml-bench run --task {spec.name} --model {spec.model} --seeds 5",
            specification=dump_yaml(given, sort_keys=False, width=100, allow_unicode=True),
            chances={variant.key: _chance(variant) for variant in task.variants},
            ranking=_ranking([row for variant in task.variants for row in variant.ranked]),
        )
        return {f"tasks/{task.slug}.html": page, **files}


def _in_words(fields: Mapping[str, Any]) -> str:
    known = {name: value for name, value in fields.items() if value is not None}
    return ", ".join(str(value) if name == "kind" else f"{name} {value}" for name, value in known.items())


def _chance(variant: Variant) -> str:
    found = sorted(
        {words.share(row.chance) for row in (*variant.ranked, *variant.references) if row.chance is not None}
    )
    return " to ".join(found) or words.NOT_MEASURED


def _ranking(rows: Iterable[Row]) -> list[Measure]:
    """The measures by which models are ranked, of all protocols among the rows."""
    return list({measure.name: measure for row in rows for measure in row.measures if measure.ranked}.values())


def _size(row: Row) -> str:
    if row.parameters is None:
        return ""
    return next(name for bound, name in SIZES if row.parameters < bound)


def _drawn(row: Row) -> dict[str, Any] | None:
    """Where the mean, the interval and the seeds of a score that can be read stand in the drawing."""
    score = row.score
    if score is None or row.internalised is False or row.headline.unit != "exact match":
        return None
    low, high = (None if bound is None else _x(bound) for bound in (score.low, score.high))
    seeds = [_x(value) for value in row.by_seed().values()]
    return {"zero": _x(0.0), "mean": _x(score.mean), "low": low, "high": high, "seeds": seeds}


def _x(value: float) -> float:
    low, high = SCALE
    return round(4 + 92 * (min(max(value, low), high) - low) / (high - low), 1)


def _made(own: Iterable[Stored]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """The code and machines that made some cells, each with the seeds it made."""
    by_made: dict[str, tuple[list[int], list[tuple[str, Any]]]] = {}
    for _, record in own:
        made = record.provenance.model_dump(mode="json")
        made["libraries"] = ", ".join(f"{name} {version}" for name, version in sorted(made["libraries"].items()))
        facts = [(name.replace("_", "-"), value) for name, value in made.items() if value is not None]
        by_made.setdefault(str(facts), ([], facts))[0].append(record.cell.seed)
    return [(", ".join(map(str, sorted(seeds))), facts) for seeds, facts in by_made.values()]
