"""What stands around the pages: figures, commands to reproduce, pictures, and the verbs that write and serve them."""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from making import write_result
from PIL import Image
from site_records import read, write_records

from iml_bench.board import build_rows
from iml_bench.cli import pages
from iml_bench.cli.options import parse_overrides
from iml_bench.errors import UsageError
from iml_bench.modalities.vision.picture import PANEL
from iml_bench.paths import data_root
from iml_bench.records import Store
from iml_bench.registry import TASKS
from iml_bench.run.command import seeds
from iml_bench.run.picture import draw_task
from iml_bench.run.plan import Request, plan
from iml_bench.runtime import Runtime
from iml_bench.site import assets, charts
from iml_bench.site.commands import reproduce
from iml_bench.site.write import write_site
from iml_bench.spec import parse_seeds

PICTURES = sorted((data_root() / "tasks" / "pictures").iterdir())


@pytest.mark.parametrize(
    "request_",
    [
        Request(task="text", models=("neox-s",), seeds=(0, 1, 2)),
        Request(task="text", models=("neox-s",), seeds=(3,), overrides={"alpha": 0.5, "recipe.lr": 1e-5}),
        Request(task="text-sets", models=("llama-m",), seeds=(1, 4), small=True, overrides={"recipe.batch_size": 64}),
        Request(
            task="text",
            models=("neox-s",),
            seeds=(2, 3),
            overrides={"render.question": 'a "b" {attribute} $(c) {alias}'},
        ),
        Request(task="vision-mnist", models=("mlp-xs",), small=True, variant="joint", overrides={"alpha": 0.5}),
        Request(task="vision", models=("ref:mlp?hidden=9&depth=2",), overrides={"recipe.stage1.epochs": 2}),
    ],
)
def test_the_command_runs_the_same_cells(request_: Request, tmp_path: Path) -> None:
    jobs = [job for job in plan([request_], tmp_path) if not job.cell.model.is_reference]
    for job in jobs:
        write_result(tmp_path, seed=job.cell.seed, task=job.cell.task, entry=job.cell.model, changes=job.changes)
    (row,) = build_rows(Store(tmp_path).scan()[0])
    entry = jobs[0].cell.model
    words = shlex.split(reproduce(row, entry, jobs[0].cell.task, registered=":" not in entry.name))
    options = {name: [words[i + 1] for i, word in enumerate(words) if word == name] for name in words if name[0] == "-"}
    again = Request(
        task=options["--task"][0],
        models=tuple(options["--model"]),
        seeds=parse_seeds(options["--seeds"][0]),
        overrides=parse_overrides(options.get("--set", []), {}),
        small="--small" in words,
        variant=options.get("--variant", [None])[0],
    )
    assert words[:2] == ["iml-bench", "run"]
    assert [job.cell for job in plan([again], tmp_path) if not job.cell.model.is_reference] == [
        job.cell for job in jobs
    ]


@pytest.mark.parametrize("wanted", [(0, 1, 2), (3, 4), (5,), (0, 2, 7), (0,)])
def test_seeds_are_written_as_they_are_read(wanted: tuple[int, ...]) -> None:
    assert parse_seeds(seeds(wanted)) == wanted


def test_charts_hold_the_rows_and_nothing_else(tmp_path: Path) -> None:
    write_records(tmp_path)
    rows = [row for row in read(tmp_path)[1].rows if row.label == "vision@2"]
    spec = charts.score_by_parameters(rows, "vision@2")
    drawn = {point["model"]: point for point in spec["datasets"]["models"]}
    shown = [row for row in rows if not row.reference and row.score is not None]
    assert {name: (point["value"], point["low"]) for name, point in drawn.items()} == {
        row.model: (row.score.mean, row.score.low) for row in shown if row.score
    }
    assert len(spec["datasets"]["seeds"]) == sum(row.n_seeds for row in shown)
    assert spec == charts.score_by_parameters(rows, "vision@2")
    lifts = charts.lifts(rows, "vision@2")["datasets"]["lifts"]
    assert [(point["label"], point["value"]) for point in lifts if point["lift"] == "unreliable"] == [
        (row.model, pytest.approx((row.mean("uptake") or 0.0) - (row.mean("iml") or 0.0))) for row in shown
    ]
    fresh = {point["label"]: point["value"] for point in lifts if point["lift"] == "fresh"}
    told = {
        row.model: (row.mean("uptake") or 0.0) - (row.mean("trust") or 0.0) for row in shown if "trust" in row.scores
    }
    assert fresh == pytest.approx(told)
    assert len(fresh) == 4


def test_families_never_look_alike() -> None:
    looks = {(index % len(charts.PALETTES["light"]), shape) for index, shape in enumerate(charts.family_shapes(48))}
    assert len(looks) == 48


def test_figures_can_be_drawn_without_a_browser(tmp_path: Path) -> None:
    import vl_convert

    write_records(tmp_path)
    rows = read(tmp_path)[1].rows
    for scheme in charts.PALETTES:
        svg = vl_convert.vegalite_to_svg(charts.themed(charts.lifts(rows, "all"), scheme), vl_version=charts.VEGA_LITE)
        assert svg.startswith("<svg") and "<script" not in svg


@pytest.mark.parametrize("path", PICTURES, ids=[path.name for path in PICTURES])
def test_shipped_pictures_are_what_the_command_draws(path: Path, tmp_path: Path) -> None:
    drawn = tmp_path / path.name
    draw_task(TASKS.get(path.stem), 0, drawn, Runtime(device="cpu"))
    if path.suffix == ".txt":
        assert drawn.read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
        return
    # Pixels of the examples; how letters are drawn below them is the font library's business.
    ours, theirs = (np.asarray(Image.open(file))[: PANEL + 8] for file in (path, drawn))
    assert np.array_equal(ours, theirs)


def test_pixels_are_not_written_as_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png"):
        draw_task(TASKS.get("vision"), 0, tmp_path / "vision.txt", Runtime(device="cpu"))


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match="new or empty"):
            pages.build(out=out, records=[tmp_path])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine.txt"]


def test_an_earlier_page_is_replaced_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path / "records", "mlp-m", 0, 0.2)
    out = tmp_path / "page"
    pages.build(out=out, records=[tmp_path / "records"])
    assert f"open {out / 'index.html'}" in capsys.readouterr().out
    (out / "old.html").touch()
    pages.build(out=out, records=[tmp_path / "records"])
    assert not (out / "old.html").exists() and (out / "models" / "mlp-m.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page", "records"]


def test_a_failed_write_leaves_the_earlier_page(tmp_path: Path) -> None:
    write_site({"index.html": b"earlier"}, tmp_path / "page")
    with pytest.raises(UsageError, match="cannot write"):
        write_site({"a": b"", "a/b": b""}, tmp_path / "page")
    assert (tmp_path / "page" / "index.html").read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("altair", "itables") else found(name)
    )
    with pytest.raises(UsageError, match=r"the page needs altair, itables: pip install 'iml-bench\[site\]'"):
        pages.build(out=tmp_path / "page")


def test_the_table_library_of_another_form_is_refused() -> None:
    with pytest.raises(UsageError, match="pip install -U"):
        assets.classic("export default 3;")
    assert (
        assets.classic("var a=1;export{b as c,a as default};")
        == '(function(){"use strict";var a=1;window.DataTable=a;})();\n'
    )


def test_scripts_cannot_be_ended_from_within() -> None:
    text = assets.script_json("</script>&\u2028")
    assert not set("<>&\u2028") & set(text)


def test_building_imports_no_torch_and_listing_no_charts() -> None:
    program = (
        "import sys, iml_bench.site.build, iml_bench.cli.pages\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
        "assert 'jinja2' in sys.modules and 'altair' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    program = "import sys, iml_bench.cli.app; assert not {'altair', 'jinja2', 'vl_convert'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_served_until_interrupted(tmp_path: Path) -> None:
    write_result(tmp_path, "mlp-m", 0, 0.2)
    program = (
        "from pathlib import Path; from iml_bench.cli.pages import serve; import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whoever began the tests may have it ignored
        "serve([Path(sys.argv[1])], port=0)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}models/mlp-m.html") as answer:
            assert b"mlp-m" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()


def test_the_speed_script_makes_records_of_which_a_page_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks" / "speed"))
    importlib.import_module("pages").write_records(tmp_path, 6, 3)
    stored, board, left_out = read(tmp_path)
    assert (len(stored), left_out) == (18, [])
    assert [(row.n_seeds, len(row.seeds)) for row in board.rows] == [(3, 3)] * 6
    assert len({row.family for row in board.rows}) == 2 and len(board.families) == 1
