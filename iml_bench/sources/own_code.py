"""Which files a ``python:`` model is made of: found by reading its imports, without running any of it."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Final, NamedTuple

from iml_bench.errors import UsageError
from iml_bench.paths import PACKAGE, is_file

OURS: Final = "iml_bench"
"""Never part of a user's code: which version of it ran stands in the record's provenance."""
INSTALLED: Final = {"site-packages", "dist-packages"}
"""Folders of installed packages, whose versions stand in the record's provenance."""


IMPORTS: Final = ("import_module", "__import__")
RUNS: Final = ("spec_from_file_location", "SourceFileLoader", "run_path", "run_module", "exec", "load_source")
"""Functions that run code which is named by a path, or made."""


class OwnCode(NamedTuple):
    """The code that a ``python:`` target names."""

    file: Path
    name: tuple[str, ...]
    """Of its module: one part, or several where it is part of a package."""
    folders: tuple[Path, ...]
    """Where modules beside it are found; none for a module that Python finds by itself."""


class _Module(NamedTuple):
    name: tuple[str, ...]
    file: Path
    is_package: bool

    @property
    def label(self) -> str:
        """``package/module.py``, wherever the package lies."""
        inside = (*self.name, "__init__") if self.is_package else self.name
        return "/".join(inside) + self.file.suffix


def own_code(target: str) -> OwnCode:
    """The file of ``module:callable`` or ``path/to/file.py:callable``, and where its imports are looked for.

    Beside a file lie the modules that it can import, as beside a script. A file that imports relatively and lies in a
    package is that package's module.

    Raises:
        UsageError: when there is no callable named, no such file or no such module.
    """
    module, colon, _ = target.rpartition(":")
    if not colon:
        raise UsageError(f"'python:{target}' is not of the form python:module:callable")
    if not module.endswith(".py"):
        found = [one for one in _located(tuple(module.split(".")), ()) if one.name == tuple(module.split("."))]
        if not found:
            raise UsageError(
                f"'python:{target}': there is no module {module!r}; give a path ending in .py, or install it"
            )
        return OwnCode(found[0].file, found[0].name, ())
    file = Path(module)
    if not is_file(module):
        raise UsageError(f"'python:{target}': there is no file {module}")
    inside: tuple[str, ...] = ()
    root = file.resolve().parent
    while (root / "__init__.py").is_file() and root != root.parent:
        inside, root = (root.name, *inside), root.parent
    stem = file.stem.replace(".", "_")
    folders = dict.fromkeys((file.resolve().parent, root))
    relative = any(level for _, level in _imports(file))
    return OwnCode(file, (*inside, stem) if relative else (stem,), tuple(folders))


def own_files(code: OwnCode) -> list[tuple[str, Path]]:
    """The file that a target names, and every file that it imports and that is not installed, with its place.

    Imports are followed wherever they stand, in functions too, into packages with their ``__init__`` and through
    relative imports. Where a name is computed, or a file is run by its path, all code of the folder is taken.
    Installed packages, the standard library and iml-bench are left out; so are data that the code reads.

    Returns:
        The file itself by its name, then the others by the place in their package, in order.
    """
    first = _Module(code.name, code.file, code.file.name == "__init__.py" and not code.folders)
    found: dict[Path, _Module] = {code.file.resolve(): first}
    todo = [first, *_own(_located(code.name[:-1], code.folders))]
    while todo:
        module = todo.pop()
        if module is not first:
            if module.file.resolve() in found:
                continue
            found[module.file.resolve()] = module
        for name, level in _imports(module.file):
            whole = _absolute(module, name, level)
            if whole:
                todo += _own(_located(whole, code.folders, relative=level > 0))
    others = {module.file.resolve(): (module.label, module.file) for module in found.values() if module is not first}
    if any(map(_computes, [module.file for module in found.values()])):
        for label, file in _all_beside(code):
            others.setdefault(file.resolve(), (label, file))
        others.pop(code.file.resolve(), None)
    return [(code.file.name, code.file), *sorted(others.values())]


def is_own(file: Path) -> bool:
    """Whether a file of code is a user's: neither installed, nor of the standard library, nor of iml-bench."""
    library = Path(sysconfig.get_path("stdlib"))
    return not (INSTALLED & {*file.parts} or file.is_relative_to(library) or file.is_relative_to(PACKAGE))


def beside(name: str, folders: tuple[Path, ...]) -> ModuleSpec | None:
    """What ``import name`` finds in a user's folders; None where it means something else.

    What lies beside a file goes before what is installed, as for a script, but never before the standard library; a
    folder that is no package goes after both.
    """
    if name in sys.stdlib_module_names or name == OURS or not folders:
        return None
    spec = PathFinder.find_spec(name, [str(folder) for folder in folders])
    if spec is not None and spec.origin is None and _elsewhere(name) is not None:
        return None
    return spec


def _elsewhere(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)  # of one part, so that no package is imported
    except (ImportError, ValueError):
        return None


def _located(name: tuple[str, ...], folders: tuple[Path, ...], *, relative: bool = False) -> Iterator[_Module]:
    """The files of a module and of the packages around it, as far as they exist."""
    places: list[str] | None = None
    for end, part in enumerate(name, 1):
        if places is not None:
            spec = PathFinder.find_spec(part, places)
        elif relative and folders:
            spec = PathFinder.find_spec(part, [str(folder) for folder in folders]) or _elsewhere(part)
        else:
            spec = beside(part, folders) or (None if part == OURS else _elsewhere(part))
        if spec is None:
            return
        if spec.origin is not None and Path(spec.origin).is_file():
            yield _Module(name[:end], Path(spec.origin), spec.submodule_search_locations is not None)
        if spec.submodule_search_locations is None:
            return
        places = list(spec.submodule_search_locations)
        if end == len(name) - 1 and name[-1] == "*":
            for one in pkgutil.iter_modules(places):  # what its ``__all__`` may name
                yield from _located((*name[:-1], one.name), folders, relative=relative)
            return


def _own(modules: Iterator[_Module]) -> Iterator[_Module]:
    yield from (module for module in modules if is_own(module.file))


def _all_beside(code: OwnCode) -> Iterator[tuple[str, Path]]:
    """All code in the folders of a file, or in the package of a module, with its place."""
    package = code.file.resolve().parents[max(0, len(code.name) - 1 - (code.file.name != "__init__.py"))]
    for folder in code.folders or (package,):
        for file in folder.rglob("*.py"):
            inside = file.relative_to(folder)
            if not any(part.startswith((".", "__pycache__")) for part in inside.parts) and is_own(file.resolve()):
                yield inside.as_posix(), file


def _computes(file: Path) -> bool:
    """Whether code imports by a name that is not written in it, or runs a file."""
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Call):
            name, first = _called(node.func), next(iter(node.args), None)
            if name in RUNS or (name in IMPORTS and first is not None and not isinstance(first, ast.Constant)):
                return True
    return False


def _absolute(module: _Module, name: tuple[str, ...], level: int) -> tuple[str, ...]:
    """The whole name of what a module imports; empty where it goes above the topmost package."""
    if not level:
        return name
    package = module.name if module.is_package else module.name[:-1]
    above = level - 1
    return (*package[: len(package) - above], *name) if above <= len(package) else ()


def _imports(file: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    """The names that a module's code imports, wherever, with the number of dots before them.

    ``from a import b`` may mean a module ``a.b``, so that is named too, and ``a.*`` for all that is in ``a``.
    """
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            yield from ((tuple(alias.name.split(".")), 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = tuple(node.module.split(".")) if node.module else ()
            yield base, node.level
            yield from (((*base, alias.name), node.level) for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node.func) in IMPORTS:
            named = [word.value for word in node.keywords if word.arg == "name"]
            first = next(iter([*node.args[:1], *named]), None)
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                name = first.value.lstrip(".")
                yield tuple(name.split(".")), len(first.value) - len(name)


def _tree(file: Path) -> ast.Module:
    """A file's code; of what is no Python none, which is said when it is loaded."""
    try:
        return ast.parse(file.read_bytes()) if file.suffix == ".py" else ast.Module([], [])
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
