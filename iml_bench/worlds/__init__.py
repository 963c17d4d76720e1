"""Worlds: where entities and their attributes come from, each kind in its own file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from iml_bench.errors import UsageError
from iml_bench.spec import FROM_FILE, TaskSpec
from iml_bench.streams import Streams
from iml_bench.worlds.base import ATTRIBUTION, World, draw_distinct
from iml_bench.worlds.cities import cities
from iml_bench.worlds.cvdb import cvdb
from iml_bench.worlds.grids import label_grids
from iml_bench.worlds.profiles import profiles
from iml_bench.worlds.sets import sets
from iml_bench.worlds.trex import trex

__all__ = ["ATTRIBUTION", "World", "build_world", "draw_distinct"]

BUILDERS: Final[dict[str, Callable[..., World]]] = {
    "label-grid": label_grids,
    "profiles": profiles,
    "cities": cities,
    "sets": sets,
    "cvdb": cvdb,
    "trex": trex,
}


def build_world(task: TaskSpec, streams: Streams, data: Path | None = None) -> World:
    """The entities of one cell, as many as the task's groups hold.

    Args:
        task: whose world and how many entities.
        streams: ``contents`` decides what is drawn.
        data: the file of a world that is read from one.

    Raises:
        UsageError: when there are not enough entities, or the file is missing or not in the right format.
    """
    arguments: list[Any] = [task.world, task.groups.total, streams]
    if task.world.kind in FROM_FILE:
        if data is None:
            raise UsageError(f"task {task.name!r} reads its entities from a file; give --data FILE")
        arguments.append(data)
    return BUILDERS[task.world.kind](*arguments)
