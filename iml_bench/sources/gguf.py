"""Where a GGUF file is, by path or inside an installed package that is never imported; and what its header says."""

from __future__ import annotations

import importlib.util
import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

from iml_bench.errors import UsageError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
"""Of the tensors that follow the header, unless it says otherwise."""
TEXT, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Kinds of values in the header, as ``struct`` has them."""


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


class GgufTable(NamedTuple):
    """What the header of a GGUF file says is in it."""

    architecture: str
    sizes: dict[str, int]
    """How many numbers each tensor has, by its name."""


def read_gguf_table(path: Path) -> GgufTable:
    """The header of a GGUF file; no tensor is read, and the vocabulary, which is most of it, is skipped.

    Args:
        path: what ``resolve_gguf`` found.

    Raises:
        ValueError: when the header is broken or of a form that is not known here, or the file is cut short.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = _Header(data, len(MAGIC))
        try:
            version, n_tensors, n_fields = header.take("IQQ")
            if version not in VERSIONS:
                raise ValueError(f"version {version} of GGUF is not known")
            fields = {header.text(): header.value(header.take("I")[0]) for _ in range(n_fields)}
            sizes, end = {}, 0
            for _ in range(n_tensors):
                name = header.text()
                shape = header.take(f"{header.take('I')[0]}Q")
                kind, offset = header.take("IQ")
                numbers, packed = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
                sizes[name] = math.prod(shape)
                end = max(end, offset + sizes[name] // numbers * packed)
        except (struct.error, OverflowError, KeyError, MemoryError) as error:
            raise ValueError(f"its header is broken: {error}") from error
        alignment = int(fields.get("general.alignment") or ALIGNMENT)
        if -(-header.at // alignment) * alignment + end > len(data):
            raise ValueError("there should be more of the file")
    return GgufTable(str(fields.get("general.architecture")), sizes)


class _Header:
    """A place in a GGUF file, which moves on as values are taken."""

    def __init__(self, data: mmap.mmap, at: int) -> None:
        self.data, self.at = data, at

    def take(self, kinds: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{kinds}", self.data, self.at)
        self.at += struct.calcsize(f"<{kinds}")
        return found

    def text(self) -> str:
        (length,) = self.take("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode(errors="replace")

    def value(self, kind: int) -> Any:
        """A value of the metadata; None for an array, which is skipped."""
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.take(NUMBERS[kind])[0]
        inner, n = self.take("IQ")
        if inner in NUMBERS:
            self.at += n * struct.calcsize(f"<{NUMBERS[inner]}")
        else:
            for _ in range(n):
                self.value(inner)
        return None


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
