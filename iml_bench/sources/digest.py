"""Which bytes a model is made of: SHA-256 of the local files that its source points at."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from iml_bench.errors import UsageError, shown
from iml_bench.paths import is_folder
from iml_bench.sources.gguf import resolve_gguf
from iml_bench.sources.own_code import own_code, own_files
from iml_bench.sources.pretrained import local_weights
from iml_bench.spec import ModelEntry, Source

CACHES: Final = {"__pycache__"}
DOCUMENTS: Final = {".md"}
"""Files that nothing loads."""
BESIDE_GGUF: Final = {".json", ".jinja", ".model", ".txt"}
"""Configurations and tokenizers, which ``transformers`` prefers to what a GGUF file says of itself."""


def digest_files(entry: ModelEntry) -> str | None:
    """SHA-256 of the local files that a model is loaded from; null where its source points at a hub or at a library.

    ``hf:`` a folder: every file below it by its place in the folder, with these exceptions: hidden files and folders,
    ``__pycache__``, documents (``.md``), and folders that hold a ``config.json`` of their own, which are other models
    (but what an index of shards names is of this one). With ``subfolder`` it is that folder, from which
    configuration, weights and tokenizer are all read, and of the folder around it the code and the adapters, which
    are not.

    ``gguf:`` the file, and the configuration and tokenizer files beside it. ``python:`` the file with everything that
    it imports and that is not installed, see ``own_files``. ``timm:`` weights that are given as a file.

    Raises:
        UsageError: when a file is not there or cannot be read.
    """
    source = entry.parsed
    try:
        if source.scheme == "hf" and is_folder(source.target):
            return _digest(_in_order(_model_files(Path(source.target), source.options.get("subfolder", ""))))
        if source.scheme == "gguf":
            file = resolve_gguf(source.target)
            beside = (one for one in file.parent.iterdir() if one.suffix in BESIDE_GGUF and one.is_file())
            return _digest([(file.name, file), *_in_order({one.name: one for one in beside})])
        if source.scheme == "python":
            importlib.invalidate_caches()
            return _digest(own_files(own_code(source.target)))
        if source.scheme == "timm":
            return _digest(_weight_files(source)) if local_weights(source) else None
    except OSError as error:
        where = shown(str(error.filename or "a file"), 300)
        raise UsageError(f"{shown(entry.source)}: {where} cannot be read: {error.strerror}") from error
    return None


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _digest(files: Iterable[tuple[str, Path]]) -> str:
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(os.fsencode(name) + b"\0" + file_digest(path))
    return digest.hexdigest()


def _in_order(files: dict[str, Path]) -> list[tuple[str, Path]]:
    return sorted(files.items(), key=lambda item: PurePosixPath(item[0]))


def _model_files(root: Path, subfolder: str) -> dict[str, Path]:
    """The files of a published model by their place below the folder that it is read from."""
    chosen = root / subfolder
    found = {path.relative_to(chosen).as_posix(): path for path in _below(chosen)}
    for name, path in list(found.items()):
        if name.endswith(".index.json"):
            found |= {shard: chosen / shard for shard in _shards(path) if (chosen / shard).is_file()}
    if chosen.resolve() != root.resolve():
        outside = (one for one in _below(root) if one.suffix == ".py" or one.name.startswith("adapter_"))
        found |= {f"../{path.relative_to(root).as_posix()}": path for path in outside if chosen not in path.parents}
    return found


def _below(folder: Path) -> Iterator[Path]:
    """Files below a folder, through links too, but not in hidden folders, caches and folders of other models."""
    seen: set[str] = set()
    for at, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(at)
        if here in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(here)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and name not in CACHES and not Path(at, name, "config.json").exists()
        ]
        for name in names:
            path = Path(at, name)
            if not name.startswith(".") and path.suffix not in DOCUMENTS and path.is_file():
                yield path


def _shards(index: Path) -> set[str]:
    try:
        named = json.loads(index.read_bytes())["weight_map"].values()
        return {name for name in named if isinstance(name, str)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()  # said when it is loaded


def _weight_files(source: Source) -> list[tuple[str, Path]]:
    """Weights by what names them: their own name says only how they are read, by its end."""
    files: dict[str, Path] = {}
    for number, name in enumerate(local_weights(source)):
        path = Path(name)
        inside = _below(path) if path.is_dir() else [path]
        files |= {f"{number}{one.suffix}/{one.relative_to(path).as_posix()}": one for one in inside}
    return _in_order(files)
