"""Which bytes a model is made of: SHA-256 of the local files that its source points at."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from iml_bench.errors import UsageError
from iml_bench.sources.gguf import resolve_gguf
from iml_bench.spec import ModelEntry


def digest_files(entry: ModelEntry) -> str | None:
    """SHA-256 of the local files a source points at; null where it points at a hub or at a library."""
    source = entry.parsed
    if source.scheme == "hf" and Path(source.target).is_dir():
        wanted = (".safetensors", ".json", ".txt", ".model", ".py")
        return _hash_files(path for path in Path(source.target).iterdir() if path.suffix in wanted)
    if source.scheme == "gguf":
        return _hash_files([resolve_gguf(source.target)])
    if source.scheme == "python":
        module, colon, _ = source.target.rpartition(":")
        if not colon:
            raise UsageError(f"{entry.source!r} is not of the form python:module:callable")
        return _hash_files([_module_file(module, entry)])
    return None


def _module_file(module: str, entry: ModelEntry) -> Path:
    if module.endswith(".py"):
        path = Path(module)
        if not path.is_file():
            raise UsageError(f"{entry.source!r}: there is no file {module}")
        return path
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise UsageError(f"{entry.source!r}: there is no module {module!r}; give a path ending in .py, or install it")
    return Path(spec.origin)


def _hash_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
