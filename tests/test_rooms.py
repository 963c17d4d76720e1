"""The way a number travels: each module imports only from those before it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import iml_bench

PACKAGE = Path(iml_bench.__file__).parent
ROOMS = (
    *("errors", "paths", "untrusted", "streams", "runtime", "extensions", "spec", "registry", "sources", "worlds"),
    *("protocols", "modalities", "models", "stats", "learners", "records", "run", "board", "library", "site"),
    *("submit", "cli", "__main__"),
)


def imported(path: Path) -> set[str]:
    """Rooms that a module imports from, inside functions too; not those only for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {module.split(".")[1] for module in modules if module.startswith("iml_bench.")}


def test_every_module_is_in_a_room() -> None:
    found = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_those_before_it(room: str) -> None:
    files = (PACKAGE / room).rglob("*.py") if (PACKAGE / room).is_dir() else [PACKAGE / f"{room}.py"]
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    assert {path.name: imported(path) - allowed for path in files if imported(path) - allowed} == {}
