"""What a cell takes of a machine: where it can run, never what it answers."""

from __future__ import annotations

from pydantic import Field

from iml_bench.spec.base import Spec


class Needs(Spec):
    """What one cell takes. A model entry may say it; no record and no key holds it."""

    cpus: int = Field(default=1, ge=1, le=4096)
    """Cores of a machine; a cell computes in one thread a process."""
    gpus: int = Field(default=0, ge=0, le=1024)
    processes: int = Field(default=1, ge=1, le=1024)
    """Processes that share every global batch, on one machine."""
    memory: float | None = Field(default=None, gt=0)
    """Of the machine, in GB; None: whatever a job is given."""

    @property
    def cores(self) -> int:
        """Cores that are taken: each process has one of its own."""
        return max(self.cpus, self.processes)

    def __str__(self) -> str:
        """In words."""
        parts = [f"{self.cores} core{'s' if self.cores > 1 else ''}"]
        parts += [f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"] if self.gpus else []
        parts += [f"{self.memory:g} GB"] if self.memory else []
        return ", ".join(parts)
