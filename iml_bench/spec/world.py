"""What every world says of itself as a specification; each kind stands beside its builder in ``worlds/``."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from iml_bench.errors import UsageError
from iml_bench.extensions import WORLDS
from iml_bench.spec.open import OpenSpec

if TYPE_CHECKING:
    from iml_bench.spec.task import TaskSpec
    from iml_bench.streams import Streams
    from iml_bench.worlds.base import World


class WorldSpec(OpenSpec):
    """Where entities come from and what may be asked about them: the base of all kinds of world."""

    kinds: ClassVar = WORLDS
    named: ClassVar[bool] = False
    """Whether entities have real names, which definitions state."""
    own_questions: ClassVar[bool] = False
    """Whether the world words its questions, and definitions state a name; else the renderer asks for attributes by
    their names and definitions list them."""
    reads_file: ClassVar[bool] = False
    """Whether entities are read from a file of the user's (``--data FILE``)."""

    kind: str

    @property
    @abstractmethod
    def n_attributes(self) -> int:
        """Questions that may be asked about an entity."""

    @property
    def asked_about_each(self) -> int:
        """Questions that there are about every entity, at least."""
        return self.n_attributes

    @abstractmethod
    def build(self, n: int, streams: Streams, data: Path | None) -> World:
        """``n`` entities.

        Args:
            n: how many.
            streams: ``contents`` decides what is drawn.
            data: the file of a world that is read from one.

        Raises:
            UsageError: when there are not enough entities, or the file is missing or not in the right format.
        """

    def check(self, task: TaskSpec) -> None:
        """See that a task fits this world.

        Raises:
            ValueError: what does not, as ``field: reason``.
        """

    def identified(self, task: str, data: Path | None) -> WorldSpec:
        """The world with what identifies its data, where they are not made by this package.

        Args:
            task: the task's name, for messages.
            data: the file that was given.

        Raises:
            UsageError: when a file is missing, is no file, or is given where none is read.
        """
        if data is not None:
            raise UsageError(f"task {task!r} reads no file; leave --data out")
        return self

    @property
    def is_identified(self) -> bool:
        """Whether the specification says all that decides the entities; a key can be computed only then."""
        return True

    def missing(self, data: Path | None) -> str | None:
        """Why the entities cannot be had here, after the task's name; None where they can."""
        return None

    def generated_size(self, n: int) -> int:
        """Numbers that ``n`` entities come to; a check refuses to generate too many."""
        return n * self.n_attributes


class SourcedWorld(WorldSpec):
    """A world whose data come from elsewhere: the specification holds what identifies them."""

    source: str | None = None
    """What identifies the data: a file's SHA-256, or a package's version; filled in when a run is planned."""

    @property
    def is_identified(self) -> bool:
        """Whether the source is filled in."""
        return self.source is not None

    def with_source(self, task: str, source: str) -> WorldSpec:
        """The world with this source.

        Raises:
            UsageError: when it has another already.
        """
        if self.source not in (None, source):
            raise UsageError(f"task {task!r} is of {self.source}, and here is {source}")
        return self.model_copy(update={"source": source})


class FileWorld(SourcedWorld):
    """A world that is read from a file of the user's."""

    reads_file: ClassVar[bool] = True

    def identified(self, task: str, data: Path | None) -> WorldSpec:
        """See ``WorldSpec.identified``: the source is the file's SHA-256."""
        path = self._given(task, data)
        if not path.is_file():
            raise UsageError(f"--data {str(path)!r} is not a file")
        return self.with_source(task, _sha256(path))

    def account(self, data: Path) -> str:
        """How the file is read and what of it is left out, in one line; empty where there is nothing to say.

        Args:
            data: the file.

        Raises:
            UsageError: when it cannot be read.
        """
        return ""

    def missing(self, data: Path | None) -> str | None:
        """See ``WorldSpec.missing``."""
        if data is None:
            return "reads a file (--data FILE)"
        return None if _sha256_once(data) == self.source else f"reads another file than {data}"

    @staticmethod
    def _given(task: str, data: Path | None) -> Path:
        if data is None:
            raise UsageError(f"task {task!r} reads its entities from a file; give --data FILE")
        return data


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_sha256_once: Any = cache(_sha256)
"""For a check of many records of one file."""
