"""Worlds: where entities and their attributes come from, each kind in its own file, with its specification."""

from iml_bench.worlds.base import ATTRIBUTION, World, draw_distinct

__all__ = ["ATTRIBUTION", "World", "draw_distinct"]
