"""What tests of identity share: files of a folder, and the key of a model on a task."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from making import small_cell

from iml_bench.sources import find_model
from iml_bench.spec import cell_key


def key_of(source: str, task: str = "vision", **fields: Any) -> str:
    model = find_model(source).model_copy(update=fields)
    return cell_key(small_cell("mlp-xs").model_copy(update={"model": model}))


def written(folder: Path, files: dict[str, Any]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder
