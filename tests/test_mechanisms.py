"""The mechanism panel: its numbers are those of the tables beside records, and nothing that lies there does harm."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from making import command, write_result
from reading_pages import Page, data_of

from iml_bench.board import Panel, build_board, leaderboard_tasks, panels, probe_tables
from iml_bench.extensions import PROBES
from iml_bench.probes import alignment, gradients, intervene, linear
from iml_bench.probes.base import scores_of_table
from iml_bench.records import Attachments, Store, Stored, Timing, read_record
from iml_bench.site.build import build_site
from iml_bench.site.mechanism_charts import mechanism_charts
from iml_bench.site.panels import PANELS, as_json, read_panels
from iml_bench.site.shipped import shipped_reports
from iml_bench.spec import ModelEntry
from iml_bench.stats import estimate

HOSTILE = "</script><img src=x onerror=alert(1)>"
PARTS = ("all", "0 Linear", "head")
SECONDS = {"setup": 1.0, "stage1": 5.0, "probes": 12.0}
WHERE = (("none", "input", 0), ("input swap", "input", 0), ("state swap", "blocks.0", 1))


def alignment_table(gap: float, parts: tuple[str, ...] = PARTS, more: float = 0.0) -> pl.DataFrame:
    """Three entities whose gap is ``gap`` on average, a fourth without gradients, and rows that are not to be read."""
    rows: list[dict[str, Any]] = []
    for place, part in enumerate(parts):
        for entity in range(4):
            for tag, sign in (("reliable", 1), ("unreliable", -1), ("fresh", 7)):
                cosine = math.nan if entity == 3 and tag == "reliable" else 0.1 + sign * (gap + more * place) / 2
                rows.append({"set": "new", "entity": entity, "tag": tag, "part": part, "cosine": cosine})
                rows[-1]["cosine_other"] = 0.05 + sign * 0.01 * (entity - 1)
            rows.append({"set": "stage 1, held out", "entity": entity, "tag": "reliable", "part": part, "cosine": 0.9})
    rows += [{"set": "new", "tag": tag, "part": "all", "variance": 0.5} for tag in ("reliable", None)]
    return pl.DataFrame(rows, schema_overrides={"variance": pl.Float64})


def linear_table(accuracy: float, layers: tuple[str, ...] = ("embeddings", "h.0"), token: str = "of") -> pl.DataFrame:
    """Two layers and two tokens, of which the last place is chosen; with rows of another set and of a branch."""
    rows = [
        {"set": "after stage 2", "layer": layer, "depth": depth, "position": position, "token": text}
        | {"accuracy": accuracy + 0.1 * depth, "control": 0.5 + 0.02 * position, "chosen": False, "n": 200}
        for depth, layer in enumerate(layers)
        for position, text in ((-1, token), (0, "zor"))
    ]
    rows = rows[::-1]  # the order of a table is nobody's business
    rows += [one | {"set": "after stage 1", "accuracy": 0.99} for one in rows[:2]]
    rows += [one | {"branch": 0, "accuracy": 0.98, "control": None} for one in rows[:2]]
    rows.append(rows[0] | {"accuracy": accuracy + 0.08, "control": 0.51, "chosen": True})
    return pl.DataFrame(rows, schema=linear.SCHEMA)


def intervene_table(iml: float) -> pl.DataFrame:
    """IML as it is, turned round, and unknown."""
    values = ((iml, 0.8, 0.6), (-iml, 0.3, 0.6), (None, None, 0.0))
    rows = [
        {"intervention": name, "place": place, "depth": depth, "iml": one, "uptake": two, "taken": three}
        for (name, place, depth), (one, two, three) in zip(WHERE, values, strict=True)
    ]
    return pl.DataFrame(rows, schema=intervene.SCHEMA)


def attach(path: Path, name: str, table: pl.DataFrame, moment: str = "stage1", **options: Any) -> None:
    made = Attachments(path)
    made.table(name, moment, table, options=options)
    Store(path.parent).attach(Stored(path, read_record(path)), made)


def attach_bytes(path: Path, content: bytes) -> None:
    """A file that is what its record says, and no table."""
    made = Attachments(path)
    made._file("probe", "alignment", "stage1", "parquet", lambda file: file.write_bytes(content))
    Store(path.parent).attach(Stored(path, read_record(path)), made)


def record(root: Path, seed: int, **more: Any) -> Path:
    timing = Timing(started="2026-01-01T00:00:00+00:00", ended="2026-01-01T00:01:00+00:00", seconds=SECONDS)
    return write_result(root, "mlp-m", seed, timing=timing, **more)


def panels_of(root: Path) -> list[Panel]:
    return panels(Store(root).scan()[0])


@pytest.fixture
def probed(tmp_path: Path) -> Path:
    """Two seeds with all tables, and a third that nobody looked into."""
    for seed, (gap, accuracy, iml) in enumerate(((0.1, 0.6, 0.3), (0.2, 0.7, 0.5))):
        path = record(tmp_path / "records", seed)
        attach(path, "alignment", alignment_table(gap, more=0.1))
        attach(path, "alignment", alignment_table(gap / 100), "initial")
        attach(path, "linear", linear_table(accuracy))
        attach(path, "intervene", intervene_table(iml))
    record(tmp_path / "records", 2)
    return tmp_path / "records"


def close(*values: float) -> Any:
    """An interval over seeds."""
    found = estimate(values)
    assert found is not None
    return {"mean": pytest.approx(found.mean), "low": pytest.approx(found.low), "high": pytest.approx(found.high)} | {
        "n": len(values)
    }


def test_the_numbers_are_those_of_the_tables(probed: Path) -> None:
    (panel,) = panels_of(probed)
    assert (panel.model, panel.task, panel.moment, panel.seeds) == ("mlp-m", "vision@2", "stage1", (0, 1))
    assert [one.part for one in panel.alignment] == list(PARTS)
    # Of entities 0, 1 and 2: their own gap, minus .02 times -1, 0 and 1 with another's questions.
    for place, one in enumerate(panel.alignment):
        assert one.model_dump()["trained"] == close(0.1 + 0.1 * place, 0.2 + 0.1 * place)
        assert one.model_dump()["initial"] == close(0.001, 0.002)
    assert panel.heat is not None
    cells = {(one.layer, one.position): one for one in panel.heat.cells}
    assert list(cells) == [("embeddings", -1), ("embeddings", 0), ("h.0", -1), ("h.0", 0)]
    assert [one.token for one in panel.heat.cells] == ["of", "zor"] * 2
    for (layer, position), one in cells.items():
        depth = ("embeddings", "h.0").index(layer)
        assert one.model_dump()["accuracy"] == close(0.6 + 0.1 * depth, 0.7 + 0.1 * depth)
        assert one.control == pytest.approx(0.5 + 0.02 * (position or 0)) and one.depth == depth
    assert panel.heat.model_dump()["above_control"] == close(0.17, 0.27)
    assert [(one.name, one.place, one.depth) for one in panel.interventions] == list(WHERE)
    assert [one.model_dump()["iml"] for one in panel.interventions] == [close(0.3, 0.5), close(-0.3, -0.5), None]
    assert [one.model_dump()["taken"] for one in panel.interventions] == [close(0.6, 0.6)] * 2 + [close(0, 0)]
    assert panel.interventions[1].model_dump()["uptake"] == close(0.3, 0.3)
    assert panel.cost is not None and (panel.cost.probes, panel.cost.rest, panel.cost.n) == (12.0, 6.0, 2)
    assert panel.left_out == ()


def test_they_are_the_scores_of_the_probes() -> None:
    specific = scores_of_table(PROBES.get("alignment"), _without_gaps(alignment_table(0.1)))["specific"][0]
    assert specific == pytest.approx(probe_tables.gaps_of(alignment_table(0.1))["all"]) == pytest.approx(0.1)
    above = scores_of_table(linear.LINEAR, linear_table(0.6))["tag_readable"][0]
    assert above == pytest.approx(probe_tables.heat_of(linear_table(0.6)).above_control)


def _without_gaps(table: pl.DataFrame) -> pl.DataFrame:
    """As the probe writes it; the fourth entity is left out, which the score drops for each of its two means alone."""
    known = pl.when(pl.col("entity").is_not_null()).then(1.0).alias("norm_definition")
    return table.with_columns(known).filter(pl.col("entity").is_null() | (pl.col("entity") < 3))


def test_what_is_read_is_what_probes_write() -> None:
    names = alignment.NEW, gradients.ALL, linear.AFTER_2, intervene.UNCHANGED, intervene.INPUT
    read = probe_tables.NEW, probe_tables.WHOLE, probe_tables.AFTER_2, probe_tables.UNCHANGED, probe_tables.INPUT
    assert read == names
    for probe, schema in (("linear", linear.SCHEMA), ("intervene", intervene.SCHEMA)):
        written = {name: str(kind()) for name, kind in schema.items()}
        assert probe_tables.COLUMNS[probe].items() <= written.items()


def test_one_seed_has_no_interval_and_a_failed_one_is_nobody(tmp_path: Path) -> None:
    attach(record(tmp_path, 5), "intervene", intervene_table(0.3))
    (panel,) = panels_of(tmp_path)
    assert panel.seeds == (5,) and panel.alignment == () and panel.heat is None
    assert panel.unchanged is not None and (panel.unchanged.low, panel.unchanged.n) == (None, 1)
    assert list(mechanism_charts(panel)) == ["interventions"]


def test_without_tables_there_is_no_panel(tmp_path: Path) -> None:
    path = record(tmp_path, 0)
    attach(path, "losses", pl.DataFrame({"x": [1.0]}))
    made = Attachments(path)
    made.missing("alignment", "stage1", "a reference learner has no weights to look into")
    Store(path.parent).attach(Stored(path, read_record(path)), made)
    assert panels_of(tmp_path) == []


def _spoilt(name: str) -> Callable[[Path], Any]:
    def file_of(path: Path) -> Path:
        return path.with_name(f"{path.stem}.alignment-stage1.parquet")

    def with_table(table: pl.DataFrame) -> Callable[[Path], Any]:
        return lambda path: attach(path, "alignment", table)

    good = alignment_table(0.1)
    return {
        "other bytes": lambda path: file_of(path).write_bytes(file_of(path).read_bytes()[:-1] + b"x"),
        "no file": lambda path: file_of(path).unlink(),
        "a link": lambda path: file_of(path).symlink_to(file_of(path).rename(path.parent / "elsewhere")),
        "no Parquet": lambda path: attach_bytes(path, b"PAR1 and nothing else PAR1"),
        "nothing at all": lambda path: attach_bytes(path, b""),
        "other columns": with_table(pl.DataFrame({"x": ["<b>"]})),
        "other types": with_table(good.with_columns(pl.col("entity").cast(pl.String))),
        "no cosine": with_table(good.with_columns(cosine=pl.lit(1e300))),
        "no number": with_table(good.with_columns(cosine=pl.lit(math.inf))),
        "no rows": with_table(good.clear()),
        "too many parts": with_table(
            pl.concat([good.filter(pl.col("entity") == 0).with_columns(part=pl.lit(f"p{i}")) for i in range(10_001)])
        ),
    }[name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("other bytes", "it is not the file that its record was made with"),
        ("no file", "it is missing"),
        ("a link", "it cannot be read: it is a link"),
        ("no Parquet", "it is not a Parquet file"),
        ("nothing at all", "it is not a Parquet file"),
        ("other columns", "its column 'cosine' is not as it must be"),
        ("other types", "its column 'entity' is not as it must be"),
        ("no cosine", "it has 1e+300 where nothing can be below -1 or above 1"),
        ("no number", "it has inf where"),
        ("no rows", "it says nothing of what is shown here"),
        ("too many parts", "it has 10,001 places"),
    ],
)
def test_a_table_that_cannot_be_read_is_a_sentence(name: str, said: str, probed: Path) -> None:
    path = next(one.path for one in Store(probed).scan()[0] if one.record.cell.seed == 0)
    _spoilt(name)(path)
    (panel,) = panels_of(probed)
    (why,) = panel.left_out
    assert why.startswith(f"the table of alignment at stage1 cannot be shown: {said}") and why.endswith("(seed 0)")
    assert why.isprintable() and str(probed) not in why
    first = panel.alignment[0].trained
    assert first is not None and (first.n, first.mean) == (1, pytest.approx(0.2)) and panel.seeds == (0, 1)


def test_tables_of_other_options_are_not_averaged(tmp_path: Path) -> None:
    for seed, entities in enumerate((8, 64, 64)):
        attach(record(tmp_path, seed), "alignment", alignment_table(0.1 * seed), entities=entities)
    (panel,) = panels_of(tmp_path)
    assert panel.seeds == (1, 2)
    assert panel.left_out == ("the table of alignment at stage1 was made with other options (seed 0)",)


def test_why_there_is_no_table_is_said(probed: Path) -> None:
    path = next(one.path for one in Store(probed).scan()[0] if one.record.cell.seed == 2)
    made = Attachments(path)
    made.missing("linear", "stage1", "a linear probe takes 50 examples of each class, and there are <b>8</b>")
    Store(path.parent).attach(Stored(path, read_record(path)), made)
    (panel,) = panels_of(probed)
    assert panel.left_out == (
        "no table of linear at stage1: a linear probe takes 50 examples of each class, and there are <b>8</b> (seed 2)",
    )
    (details,) = Page(_build(probed)["models/mlp-m.html"]).find("details", "data-panel")
    assert f"Left out: {panel.left_out[0]}." in details.said


def _build(root: Path, *reports: Any) -> dict[str, bytes]:
    stored = Store(root).scan()[0]
    return build_site(build_board(stored, [], leaderboard_tasks()), stored, [], leaderboard_tasks(), (), reports)


def test_a_model_s_page_shows_it(probed: Path, tmp_path: Path) -> None:
    files = _build(probed)
    page = Page(files["models/mlp-m.html"])
    (details,) = page.find("details", "data-panel")
    charts = [one.attributes["data-chart"] for one in page.find("div", "data-chart")]
    assert charts == [f"mlp-m-vision-2-{kind}" for kind in ("alignment", "readable", "interventions")]
    drawn = {key: spec for kind, key, spec in data_of(files["assets/inside-mlp-m.js"]) if kind == "mechanism"}
    assert list(drawn) == charts and all(spec["description"] for spec in drawn.values())
    points = drawn[charts[0]]["datasets"]["points"]
    assert [point["value"] for point in points[:2]] == [pytest.approx(0.15), pytest.approx(0.0015)]
    assert [line["value"] for line in drawn[charts[2]]["datasets"]["lines"]] == [0.4, -0.4]
    assert [cell["text"] for cell in drawn[charts[1]]["datasets"]["cells"]] == [".65", ".65", ".75", ".75"]
    assert "2 seeds" in details.said and "Looking took 12 s a seed, the rest of the cell 6 s." in details.said
    assert "docs/mechanisms.md" in details.said and "+0.150 [" in details.said
    write_result(tmp_path / "others", "mlp-m", 0)
    files = _build(tmp_path / "others")
    assert "inside" not in files["models/mlp-m.html"].decode() and not any("inside" in name for name in files)


def test_what_a_table_calls_things_stays_text(tmp_path: Path) -> None:
    entry = ModelEntry(name=HOSTILE, source="ref:mlp?hidden=3", modality="vision", family="x", architecture="x")
    path = write_result(tmp_path / "records", seed=0, entry=entry)
    attach(path, "alignment", alignment_table(0.1, parts=(HOSTILE, "two\nlines", "x" * 5000)))
    attach(path, "linear", linear_table(0.6, layers=(HOSTILE, "h"), token=HOSTILE))
    attach(path, "intervene", intervene_table(0.3).with_columns(place=pl.lit(HOSTILE)))
    (panel,) = panels_of(tmp_path / "records")
    assert [one.part for one in panel.alignment] == [HOSTILE, "two\\nlines", "x" * 80 + "..."]
    files = _build(tmp_path / "records")
    files |= {f"report/{name}": content for name, content in _report(tmp_path, entry.source).items()}
    for name, content in files.items():
        if name.startswith(("models/", "assets/inside", "report/")) and not name.endswith((".png", ".json")):
            assert b"<img src=x" not in content and b"</script><img" not in content, name
    (page,) = [Page(content) for name, content in files.items() if name.startswith("models/")]
    assert HOSTILE in page.find("main", "id")[0].said
    assert not page.find("img")


def _report(folder: Path, *models: str, ship: bool = False) -> dict[str, bytes]:
    grid = {"name": "g", "task": "vision", "models": list(models), "seeds": 2, "probes": ["alignment"]}
    claim = {"name": "c", "says": "s", "grid": "g", "measure": "iml", "estimand": "mean", "delta": 0.05}
    suite = {"name": "mine", "description": "d", "grids": [grid], "claims": [claim | {"direction": "up"}]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(suite))
    out = folder / "claims" / "mine"
    asked = ["suite", "report", "mine.yaml", "--records", "records", "--out", str(out), *(["--ship"] if ship else [])]
    done = command(*asked, cwd=folder)
    assert done.returncode == 0, done.stderr
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_report_has_the_figures(probed: Path) -> None:
    files = _report(probed.parent, "mlp-m")
    places = [f"mechanisms/mlp-m-vision-2-{kind}" for kind in ("alignment", "readable", "interventions")]
    for place in places:
        assert files[f"{place}.png"].startswith(b"\x89PNG") and files[f"{place}.svg"].startswith(b"<svg")
        assert f"]({place}.svg)" in files["report.md"].decode()
    page = Page(files["index.html"])
    assert len(page.find("details", "data-panel")) == 1 and len(page.find("svg")) == 4
    assert "What the tag does inside" in page.find("body")[0].said
    assert set(json.loads(files["report.json"])) == {"suite", "claims", "records", "command"}
    assert json.loads(files[PANELS]) == [one.model_dump(mode="json") for one in panels_of(probed)]


def test_without_tables_a_report_is_as_it_was(tmp_path: Path) -> None:
    for seed in (0, 1):
        record(tmp_path / "records", seed)
    files = _report(tmp_path, "mlp-m")
    assert PANELS not in files and not any(name.startswith("mechanisms/") for name in files)
    assert b"What the tag does inside" not in files["index.html"] + files["report.md"]


def test_a_shipped_report_brings_it_to_the_model_s_page(probed: Path, tmp_path: Path) -> None:
    files = _report(probed.parent, "mlp-m", ship=True)
    assert not any(name.endswith((".png", ".parquet")) for name in files)
    (report,) = shipped_reports(probed.parent)
    assert report.panels == panels_of(probed) and report.problems == []
    write_result(tmp_path / "board", "mlp-m", 0)
    page = Page(_build(tmp_path / "board", report)["models/mlp-m.html"])
    assert [one.said for one in page.find("a", "href") if "claims/mine" in one.attributes["href"]] == ["mine"]
    assert len(page.find("div", "data-chart")) == 3
    both = Page(_build(probed, report)["models/mlp-m.html"]).find("div", "data-chart")
    assert len({one.attributes["data-chart"] for one in both}) == len(both) == 6, "its own, and those of the report"
    write_result(tmp_path / "other", "mlp-s", 0)
    assert "inside" not in _build(tmp_path / "other", report)["models/mlp-s.html"].decode()


def test_panels_round_trip_and_foreign_ones_are_a_sentence(probed: Path, tmp_path: Path) -> None:
    found = panels_of(probed)
    path = tmp_path / PANELS
    path.write_bytes(as_json(found))
    assert read_panels(path) == found
    _report(probed.parent, "mlp-m", ship=True)
    shipped = probed.parent / "claims" / "mine" / PANELS
    data = json.loads(shipped.read_text())
    changes: dict[str, Any] = {
        "no JSON": "{",
        "no list": json.dumps({}),
        "unknown field": json.dumps([data[0] | {"x": HOSTILE}]),
        "no key": json.dumps([data[0] | {"model_key": HOSTILE}]),
        "no number": shipped.read_text().replace("0.6", "NaN", 1),
    }
    for name, text in changes.items():
        shipped.write_text(text)
        (report,) = shipped_reports(probed.parent)
        (why,) = report.problems
        assert report.panels == [] and why.startswith(f"mine/{PANELS}") and why.isprintable(), name
    index = _build(probed, report)["index.html"].decode()
    assert f"mine/{PANELS}" in index and HOSTILE not in index
