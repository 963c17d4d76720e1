"""The way a number travels: each module imports only from those before it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import iml_bench

PACKAGE = Path(iml_bench.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = (
    *("errors", "paths", "untrusted", "streams", "generators", "system", "runtime", "extensions"),
    *("spec", "registry", "sources", "worlds", "protocols", "modalities", "models", "stats", "learners"),
    *("records", "probes", "run", "board", "library", "site", "submit", "cli", "__main__"),
)


def imported(path: Path) -> set[str]:
    """Rooms that a module imports from, inside functions too; not those only for type checkers."""
    modules = [node.module for node in ast.walk(checked_tree(path)) if isinstance(node, ast.ImportFrom) and node.module]
    return {module.split(".")[1] for module in modules if module.startswith("iml_bench.")}


def checked_tree(path: Path) -> ast.Module:
    """A module's code without what only type checkers read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    return tree


def test_every_module_is_in_a_room() -> None:
    found = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found - {"__init__"} == set(ROOMS)


def test_no_module_imports_itself_by_a_way_round() -> None:
    """A circle within a room would hide in imports inside functions."""
    modules = {".".join(("iml_bench", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    arrows = {name.removesuffix(".__init__"): modules_of(path) & {*modules} for name, path in modules.items()}
    done: set[str] = set()
    while ready := {name for name, targets in arrows.items() if name not in done and targets <= done}:
        done |= ready
    assert {name for name in arrows if name not in done} == set()


def modules_of(path: Path) -> set[str]:
    """Modules that a module imports from, packages by their parts only, inside functions too."""
    nodes = [node for node in ast.walk(checked_tree(path)) if isinstance(node, ast.ImportFrom) and node.module]
    return {node.module for node in nodes} | {f"{node.module}.{name.name}" for node in nodes for name in node.names}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_those_before_it(room: str) -> None:
    files = (PACKAGE / room).rglob("*.py") if (PACKAGE / room).is_dir() else [PACKAGE / f"{room}.py"]
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    assert {path.name: imported(path) - allowed for path in files if imported(path) - allowed} == {}
