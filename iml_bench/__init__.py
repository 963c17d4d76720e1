"""Measure implicit meta-learning: which sources a model learns to believe by ordinary training.

As a library::

    import iml_bench

    results = iml_bench.run("vision", model=["mlp-m", "convnet-s"], seeds=3)
    results.cells  # a row for every cell: what varied, every score; a frame of polars
    results.items  # a row for every question
    iml_bench.compare("mlp-m", "convnet-s", records=results)

Each function says what it takes (``help(iml_bench.run)``); each is imported when it is first asked for.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iml_bench.errors import UsageError as UsageError
    from iml_bench.library.listing import models as models
    from iml_bench.library.listing import tasks as tasks
    from iml_bench.library.reading import board as board
    from iml_bench.library.reading import compare as compare
    from iml_bench.library.reading import plan as plan
    from iml_bench.library.reading import read as read
    from iml_bench.library.reading import score as score
    from iml_bench.library.results import Results as Results
    from iml_bench.library.running import run as run
    from iml_bench.library.tuning import tune as tune

__version__ = "0.1.0"
__all__ = ["Results", "UsageError", "board", "compare", "models", "plan", "read", "run", "score", "tasks", "tune"]

_PLACES = {
    "UsageError": "errors",
    "Results": "library.results",
    "run": "library.running",
    "tune": "library.tuning",
    "read": "library.reading",
    "board": "library.reading",
    "compare": "library.reading",
    "plan": "library.reading",
    "score": "library.reading",
    "tasks": "library.listing",
    "models": "library.listing",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'iml_bench' has no attribute {name!r}")
    value = getattr(import_module(f"iml_bench.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """``run``, ``board`` and ``models`` are functions here and folders of modules.

    Importing ``iml_bench.run.plan`` would put the folder in the function's place; it can be imported from as ever.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PLACES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
