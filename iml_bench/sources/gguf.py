"""Where a GGUF file is: a path, or inside an installed package that is never imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from iml_bench.errors import UsageError

MAGIC = b"GGUF"


def resolve_gguf(target: str) -> Path:
    """The file that a ``gguf:`` source names.

    Args:
        target: the file's path, or ``package/file.gguf`` of an installed package. A package that carries
            weights may need libraries that nobody here wants, so it is found and not imported.

    Raises:
        UsageError: when there is no such file, or it is not a GGUF file.
    """
    path = Path(target)
    if not path.is_file():
        package, _, inside = target.partition("/")
        path = _inside_package(package, inside) or path
    if not path.is_file():
        raise UsageError(
            f"gguf:{target}: there is no such file, and no installed package that holds it; "
            "it is gguf:PATH or gguf:package/file.gguf"
        )
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UsageError(f"gguf:{target}: {path.name} is not a GGUF file")
    return path


def gguf_tensors(path: Path) -> dict[str, int]:
    """The names of a GGUF file's tensors and how many numbers each has, from its header: none of them is read.

    Args:
        path: what ``resolve_gguf`` found.

    Raises:
        Exception: whatever the reader raises, when the header is broken or there should be more of the file.
    """
    from gguf import GGUFReader

    return {tensor.name: int(tensor.n_elements) for tensor in GGUFReader(path).tensors}


def _inside_package(package: str, inside: str) -> Path | None:
    if not package.isidentifier() or not inside:
        return None
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        if (Path(folder) / inside).is_file():
            return Path(folder) / inside
    return None
