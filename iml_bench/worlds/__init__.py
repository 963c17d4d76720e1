"""Worlds: where entities and their attributes come from."""

from iml_bench.spec import LabelGridWorld, TaskSpec
from iml_bench.streams import Streams
from iml_bench.worlds.base import World, draw_distinct
from iml_bench.worlds.grids import label_grids
from iml_bench.worlds.profiles import profiles

__all__ = ["World", "build_world", "draw_distinct"]


def build_world(task: TaskSpec, streams: Streams) -> World:
    """The entities of one cell, as many as the task's groups hold."""
    n = task.groups.total
    if isinstance(task.world, LabelGridWorld):
        return label_grids(task.world, n, streams)
    return profiles(task.world, n, streams)
