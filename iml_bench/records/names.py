"""What a record's file is called: the one rule, for a folder of results, the leaderboard's and a built page's."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final

from iml_bench.paths import is_device_name
from iml_bench.spec import CellSpec, cell_key

LONGEST_STEM: Final = 234
"""Bytes of a record's name without ``.json``. File systems take 255, and the items may be called
``STEM.DIGEST.parquet``, with eight letters of their digest. A task's name of 200 letters is never cut."""
LONGEST_MODEL: Final = 60
OWN: Final = ".iml-bench-"
"""Names of what lies beside records while cells run begin so; no record is below such a folder."""


def record_path(cell: CellSpec) -> PurePosixPath:
    """``MODEL/TASK@VERSION-KEY-seedSEED.json``, below the folder of records; its items lie beside it as ``.parquet``.

    All of it is ASCII letters, digits and ``. _ - @``, whatever the model is called. The name is for people:
    identity is the key inside, whose beginning keeps names apart where the rest had to be cut.
    """
    model = re.sub(r"[^A-Za-z0-9._-]+", "_", cell.model.name)[:LONGEST_MODEL].strip(".") or "model"
    rest = f"@{cell.task.version}-{cell_key(cell)[:12]}-seed{cell.seed}"
    model = f"_{model}" if is_device_name(model) else model  # no folder of that name can be made on Windows
    return PurePosixPath(model, f"{cell.task.name[: LONGEST_STEM - len(rest)]}{rest}.json")
