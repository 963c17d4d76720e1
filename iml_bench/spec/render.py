"""What every way to show examples says of itself as a specification; each kind stands in its modality's room."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from iml_bench.extensions import RENDERS
from iml_bench.spec.open import OpenSpec

if TYPE_CHECKING:
    from iml_bench.spec.task import TaskSpec


class RenderSpec(OpenSpec):
    """How definitions and questions look: the base of all kinds."""

    kinds: ClassVar = RENDERS
    modality: ClassVar[str]
    """What a model must be able to read: a name among ``extensions.MODALITIES``."""

    kind: str

    def check(self, task: TaskSpec) -> None:
        """See that a task can be shown so.

        Raises:
            ValueError: what cannot, as ``field: reason``.
        """

    def missing(self, data_dir: Path | None) -> str | None:
        """Why examples cannot be shown here, after the task's name; None where they can."""
        return None

    def too_large(self) -> str | None:
        """Why examples are not generated only to check a record; None where they are."""
        return None
