"""The columns of per-item outcomes: what a cell writes, and all that a measure may read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]
"""Item columns by name, all of one length; row ``i`` of each is one question asked in one branch after one stage."""

ITEM_TYPES: Final = {
    "stage": "Int8",
    "fold": "Int8",
    "set": "String",
    "entity": "Int32",
    "group": "String",
    "tag": "String",
    "attribute": "String",
    "place": "Int8",
    "truthful": "Boolean",
    "claimed": "String",
    "gold": "String",
    "predicted": "String",
    "exact_match": "Boolean",
    "log_likelihood": "Float64",
}
"""Columns of the per-item file and their types (of polars). ``fold`` is the branch, 0 after a stage that all share;
``set`` is ``fact`` for questions about attributes, ``attribution`` for which entity an alias stands for, and
``claim`` for the same where the answer is what a false definition said; ``tag`` is the tag under which the entity
was defined in that branch; ``place`` at which place, from 0, that definition states what is asked, where definitions
list attributes; ``truthful`` whether it was true of the entity, and ``claimed`` what it claimed the right answer to
be. The last four are null where the entity was not defined."""

OPTIONAL: Final = {"set": 2, "truthful": 3, "claimed": 3, "place": 5}
"""Columns that older files do not have, each with the version of ``Record`` that brought it."""
NULLABLE: Final = ("tag", "place", "truthful", "claimed")
"""Columns that may have gaps."""
