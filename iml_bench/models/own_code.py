"""A user's own code: its modules, each model's in a namespace of their own."""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

from iml_bench.errors import UsageError, shown
from iml_bench.modalities.trial import first_line
from iml_bench.sources.digest import file_digest
from iml_bench.sources.own_code import OwnCode, beside, is_own, own_code, own_files

PREFIX: Final = "own_"


def find_callable(target: str) -> Callable[..., Any]:
    """The callable of ``module:name`` or ``path/to/file.py:name``.

    The modules beside a file can be imported by it, as beside a script, and are its own: another file's modules of the
    same names are others. They are read anew whenever they are asked for. A module that Python finds by itself is
    imported as usual, and again when a file of it has changed.

    Raises:
        UsageError: when the module or the name does not exist, or is no Python.
    """
    code, name = own_code(target), target.rpartition(":")[2]
    try:
        found = getattr(_Space(code).module() if code.folders else _imported(target, code), name)
    except (ImportError, AttributeError, OSError, SyntaxError, ValueError) as error:
        reason = first_line(error) if isinstance(error, SyntaxError) else str(error).replace(f"{_space(code)}.", "")
        raise UsageError(f"python:{target}: {reason}; it is python:module:callable") from error
    if not callable(found):
        raise UsageError(f"python:{target} is not callable")
    return found  # type: ignore[no-any-return]


@contextmanager
def contained(target: str) -> Iterator[None]:
    """Let a user's code read no code but what the digest of its model covers; ``sys.path`` is put back.

    Args:
        target: ``module:name`` or ``path/to/file.py:name``.

    Raises:
        UsageError: when it has read other code, which may change without anybody's notice.
    """
    known = {path.resolve() for _, path in own_files(own_code(target))}
    paths = list(sys.path)
    _HEARD.clear()
    _hear_of_files()
    try:
        yield
    finally:
        read, sys.path[:] = {*_HEARD}, paths
        _HEARD.clear()
        _LISTENS.clear()
    strange = sorted(file for file in map(_source, read) if is_own(file) and file not in known)
    if strange:
        raise UsageError(
            f"python:{target} reads {shown(str(strange[0]), 300)}, which lies outside of its folder and would not be "
            "part of what the model is known by; put it beside the file, or install it"
        )


_HEARD: Final[set[str]] = set()
"""Files of code that were opened while somebody listens."""
_LISTENS: Final[set[bool]] = set()
_HOOKED: Final[list[bool]] = []


def _hear_of_files() -> None:
    _LISTENS.add(True)
    if not _HOOKED:  # such a hook cannot be taken away again
        _HOOKED.append(True)
        sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _LISTENS and isinstance(arguments[0], str) and arguments[0].endswith((".py", ".pyc")):
        _HEARD.add(arguments[0])


def _source(file: str) -> Path:
    """The source of a file of code, which may be a compiled copy."""
    path = Path(file).resolve()
    if path.suffix == ".pyc" and path.parent.name == "__pycache__":
        return path.parent.with_name(f"{path.name.partition('.')[0]}.py")
    return path


def _space(code: OwnCode) -> str:
    return PREFIX + hashlib.sha256(str(code.file.resolve()).encode(errors="surrogateescape")).hexdigest()[:12]


class _Space:
    """The modules of a file and those beside it, as a package that nobody wrote.

    ``import blocks`` in any of them means the package's ``blocks``, so that two folders that both have one, or one that
    was changed, are never mixed up in ``sys.modules``.
    """

    def __init__(self, code: OwnCode) -> None:
        self.code, self.name = code, _space(code)
        self.builtins = {**vars(builtins), "__import__": self._import}
        self._known: dict[str, bool] = {}

    def module(self) -> ModuleType:
        """The file's module, run anew with all that it imports."""
        for name in [name for name in sys.modules if name.partition(".")[0] == self.name]:
            del sys.modules[name]
        importlib.invalidate_caches()
        package = ModuleType(self.name)
        package.__path__ = [str(folder) for folder in self.code.folders]
        sys.modules[self.name] = package
        _FINDER.spaces[self.name] = self
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
        for end in range(1, len(self.code.name)):
            importlib.import_module(".".join((self.name, *self.code.name[:end])))
        whole = ".".join((self.name, *self.code.name))
        if whole in sys.modules:  # its package has imported it
            return sys.modules[whole]
        file = str(self.code.file.absolute())
        spec = importlib.util.spec_from_file_location(whole, file, loader=_Loader(whole, file))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[whole] = module
        spec.loader.exec_module(module)
        return module

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """``__import__`` as the modules of this space have it."""
        top = name.partition(".")[0]
        if level or not self._has(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = importlib.import_module(f"{self.name}.{name}")
        if fromlist:
            return builtins.__import__(module.__name__, globals, locals, fromlist, 0)
        return sys.modules[f"{self.name}.{top}"]

    def _has(self, top: str) -> bool:
        if top not in self._known:
            self._known[top] = beside(top, self.code.folders) is not None
        return self._known[top]


class _Loader(SourceFileLoader):
    """Runs a module of a space from its source; compiled copies know a change only by its second."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = _FINDER.spaces[module.__name__.partition(".")[0]].builtins
        super().exec_module(module)


class _Finder:
    """Finds the modules of spaces, and no others."""

    def __init__(self) -> None:
        self.spaces: dict[str, _Space] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None or fullname.partition(".")[0] not in self.spaces:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader, spec.cached = _Loader(fullname, spec.loader.path), None
        return spec


_FINDER: Final = _Finder()
_SEEN: Final[dict[Path, bytes]] = {}
"""Digests of the files of modules that Python found by itself, when they were imported."""


def _imported(target: str, code: OwnCode) -> ModuleType:
    """A module that Python finds by itself, imported anew with all of the user's when a file of it has changed."""
    files = {path.resolve(): file_digest(path) for _, path in own_files(code)}
    changed = any(_SEEN.get(path, digest) != digest for path, digest in files.items())
    for name, module in list(sys.modules.items()) if changed else ():
        origin = getattr(module, "__file__", None)
        if origin is not None and Path(origin).resolve() in files:
            del sys.modules[name]
            Path(importlib.util.cache_from_source(origin)).unlink(missing_ok=True)
    importlib.invalidate_caches()
    _SEEN.update(files)
    return importlib.import_module(target.rpartition(":")[0])
