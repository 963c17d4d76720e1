"""Names to specifications; and what must be importable without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import iml_bench.registry
from iml_bench.errors import UsageError, nearest, unknown
from iml_bench.registry import MODELS, SUITES, TASKS, Registry
from iml_bench.spec import ModelEntry

ENTRY = {"source": "ref:mlp", "modality": "vision", "family": "f", "architecture": "x"}


class Point:
    """An installed package's entry point."""

    def __init__(self, name: str, value: Any, package: str | None = "their-package") -> None:
        self.name, self.value, self.loaded = name, "theirs:" + name, 0
        self.dist = SimpleNamespace(name=package) if package else None
        self._value = value

    def load(self) -> Any:
        self.loaded += 1
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of shipped definitions, with two good ones; no package adds any."""
    monkeypatch.setattr(iml_bench.registry, "data_root", lambda: tmp_path)
    monkeypatch.setattr(iml_bench.registry, "entry_points", lambda group: [])
    models = tmp_path / "models"
    models.mkdir()
    for name in ("alpha-net", "beta-net"):
        write(models / f"{name}.yaml", name)
    return models


def write(path: Path, name: str, **more: Any) -> None:
    path.write_text(yaml.safe_dump({"name": name, **ENTRY, **more}))


def registry() -> Registry[ModelEntry]:
    return Registry("model", ModelEntry, "models", "iml-bench models")


def refusal(name: str) -> str:
    with pytest.raises(UsageError) as caught:
        registry().get(name)
    return str(caught.value)


def test_a_file_is_found_by_its_name(folder: Path) -> None:
    entry = registry().get("alpha-net")
    assert (entry.name, entry.source) == ("alpha-net", "ref:mlp")
    assert registry().origins["alpha-net"].where == str(folder / "alpha-net.yaml")


def test_a_wrong_name_suggests_the_nearest(folder: Path) -> None:
    assert (
        refusal("alpha-nte") == "unknown model 'alpha-nte': did you mean 'alpha-net'? (iml-bench models lists them all)"
    )
    assert (
        refusal("ALPHA-NET") == "unknown model 'ALPHA-NET': did you mean 'alpha-net'? (iml-bench models lists them all)"
    )
    assert refusal("zzz") == "unknown model 'zzz' (iml-bench models lists them all)"


def test_every_registry_names_its_own_kind_and_listing() -> None:
    for known, wrong, message in (
        (TASKS, "visoin", "unknown task 'visoin': did you mean 'vision'? (iml-bench tasks lists them all)"),
        (MODELS, "mlp-mm", "unknown model 'mlp-mm': did you mean 'mlp-m'? (iml-bench models lists them all)"),
        (SUITES, "smokee", "unknown suite 'smokee': did you mean 'smoke'? (iml-bench suite list lists them all)"),
    ):
        with pytest.raises(UsageError) as caught:
            known.get(wrong)
        assert str(caught.value) == message


def test_nearest_ignores_case_and_gives_up_on_the_far() -> None:
    assert nearest("VISION", ["text", "Vision"]) == "Vision"
    assert nearest("qqq", ["text", "Vision"]) is None
    assert nearest("x", []) is None
    assert str(unknown("thing", "b", [], "ls")) == "unknown thing 'b' (ls lists them all)"


def test_listing_names_reads_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "broken.yaml").write_bytes(b"\xff\xfe: [")
    point = Point("theirs", {})
    monkeypatch.setattr(iml_bench.registry, "entry_points", lambda group: [point])

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a file was read")

    for method in ("open", "read_text", "read_bytes"):
        monkeypatch.setattr(Path, method, forbidden)
    assert sorted(registry().origins) == ["alpha-net", "beta-net", "broken", "theirs"]
    assert point.loaded == 0


def test_asking_for_one_does_not_read_the_others(folder: Path) -> None:
    (folder / "broken.yaml").write_text("[")
    assert registry().get("beta-net").name == "beta-net"


def test_broken_definitions_are_listed_with_their_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "no-yaml.yaml").write_text("name: [")
    write(folder / "no-such-field.yaml", "no-such-field", colour="red")
    write(folder / "other-name.yaml", "something-else")
    (folder / "empty.yaml").write_text("")
    points = [Point("cannot-import", ImportError("no module named 'theirs'")), Point("silent", ValueError())]
    monkeypatch.setattr(iml_bench.registry, "entry_points", lambda group: points)
    rows = {row.name: row for row in registry().list()}
    assert list(rows) == sorted(rows)
    assert {name for name, row in rows.items() if row.problem is None} == {"alpha-net", "beta-net"}
    assert all((row.spec is None) == (row.problem is not None) for row in rows.values())
    problems = {name: row.problem or "" for name, row in rows.items()}
    assert problems["no-yaml"].startswith(f"model 'no-yaml' ({folder / 'no-yaml.yaml'}) cannot be read: while parsing")
    where = folder / "no-such-field.yaml"
    assert problems["no-such-field"] == f"{where}: colour: there is no such field"
    where = folder / "other-name.yaml"
    assert problems["other-name"] == f"{where}: it is found as 'other-name', so its name must be that too"
    assert problems["empty"].startswith(f"{folder / 'empty.yaml'}: ")
    assert problems["cannot-import"] == (
        "model 'cannot-import' (theirs:cannot-import (their-package)) cannot be read: no module named 'theirs'"
    )
    assert problems["silent"].endswith("cannot be read: ValueError")


def test_a_broken_definition_is_refused_when_asked_for(folder: Path) -> None:
    (folder / "no-yaml.yaml").write_text("name: [")
    assert "cannot be read" in refusal("no-yaml")


def test_a_users_own_file_is_read_from_its_path(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", "mine", notes="my own")
    write(tmp_path / "mine.yml", "mine")
    assert registry().get(str(tmp_path / "mine.yaml")).notes == "my own"
    assert registry().get(str(tmp_path / "mine.yml")).name == "mine"
    missing = str(tmp_path / "none.yaml")
    assert refusal(missing) == f"there is no model file {missing!r} (iml-bench models lists the names)"
    write(tmp_path / "renamed.yaml", "mine")
    path = str(tmp_path / "renamed.yaml")
    assert refusal(path) == f"{path}: it is found as 'renamed', so its name must be that too"


def test_a_packages_entry_point_is_a_definition(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    as_data = Point("as-data", {"name": "as-data", **ENTRY})
    as_spec = Point("as-spec", ModelEntry(name="as-spec", **ENTRY), package=None)  # type: ignore[arg-type]
    monkeypatch.setattr(iml_bench.registry, "entry_points", lambda group: asked.append(group) or [as_data, as_spec])
    known = registry()
    assert known.get("as-data").name == "as-data"
    assert known.get("as-spec") is as_spec._value
    assert set(asked) == {"iml_bench.models"}
    origins = {row.name: row.origin for row in known.list()}
    assert origins["as-data"] == "theirs:as-data (their-package)"
    assert origins["as-spec"] == "theirs:as-spec (unknown package)"


def test_two_definitions_of_one_name_are_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iml_bench.registry, "entry_points", lambda group: [Point("alpha-net", {})])
    both = f"{folder / 'alpha-net.yaml'} and theirs:alpha-net (their-package)"
    assert refusal("beta-net") == f"two models are named 'alpha-net': {both}; rename one"
    points = [Point("one", {}), Point("one", {}, package="another")]
    monkeypatch.setattr(iml_bench.registry, "entry_points", lambda group: points)
    with pytest.raises(UsageError, match="two models are named 'one'"):
        registry().list()


HEAVY = ("torch", "torchvision", "transformers", "timm", "accelerate", "sklearn")
LIGHT = (
    *(
        "registry",
        "extensions",
        "spec",
        "sources",
        "streams",
        "worlds.grids",
        "protocols.two_stage",
        "stats",
        "records",
    ),
    *("modalities.vision.spec", "modalities.text.spec", "run.plan", "run.suites", "board", "cli.app"),
)


@pytest.mark.parametrize("module", LIGHT)
def test_importing_it_does_not_import_torch(module: str) -> None:
    program = f"import sys, iml_bench.{module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_listing_every_definition_does_not_import_torch() -> None:
    program = (
        "import sys; from iml_bench.registry import TASKS, MODELS, SUITES\n"
        "assert all(r.list() for r in (TASKS, MODELS, SUITES))\n"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
