"""Every kind of thing that another package can add, on one page.

Each kind is a table of names. What this package ships stands here as ``module:attribute``; another package adds a
name by an entry point in the group ``iml_bench.KIND`` (``docs/extend.md`` has a worked example of each). Nothing is
imported before it is asked for by name, so that listing tasks never imports torch.

Tasks, model entries and suites are data, not code: ``registry`` finds those.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, NamedTuple

from iml_bench.errors import UsageError, shown, unknown


class Origin(NamedTuple):
    """Where a name comes from."""

    reference: str
    """``module:attribute``."""
    package: str
    """The distribution that adds it."""


class Extensions:
    """The names of one kind, and what each stands for."""

    def __init__(self, kind: str, what: str, shipped: Mapping[str, str]) -> None:
        """Args:
        kind: of the things, in the plural: the entry-point group is ``iml_bench.KIND``.
        what: such a thing is, as it stands in ``module:attribute``.
        shipped: name to ``module:attribute`` below ``iml_bench``.
        """
        self.kind, self.what, self._shipped = kind, what, dict(shipped)
        self._loaded: dict[str, Any] = {}

    @property
    def group(self) -> str:
        """The entry-point group that adds names."""
        return f"iml_bench.{self.kind}"

    @cached_property
    def origins(self) -> dict[str, Origin]:
        """Every name with where it comes from; nothing is imported.

        Raises:
            UsageError: when two packages add the same name.
        """
        found = {name: Origin(f"iml_bench.{reference}", "iml-bench") for name, reference in self._shipped.items()}
        for point in entry_points(group=self.group):
            origin = Origin(point.value, _package(point))
            if found.setdefault(point.name, origin) != origin:
                raise UsageError(
                    f"two {self.kind} are named {point.name!r}: {found[point.name].reference} of "
                    f"{found[point.name].package} and {origin.reference} of {origin.package}; rename one"
                )
        return found

    def get(self, name: str) -> Any:
        """What a name stands for, imported when it is first asked for.

        Raises:
            UsageError: when there is no such name, or importing it fails.
        """
        if name not in self._loaded:
            if name not in self.origins:
                raise unknown(self.kind.removesuffix("s"), name, self.origins, f"{self.group} in docs/extend.md")
            origin = self.origins[name]
            module, _, attribute = origin.reference.partition(":")
            try:
                self._loaded[name] = getattr(import_module(module), attribute)
            except Exception as error:
                # Whatever another package's code raises is that name's problem alone.
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise UsageError(
                    f"{self.kind.removesuffix('s')} {shown(repr(name))} ({origin.reference} of {origin.package}) "
                    f"cannot be imported: {shown(reason[0], 300)}"
                ) from error
        return self._loaded[name]

    def all(self) -> dict[str, Any]:
        """Every name with what it stands for.

        Raises:
            UsageError: when one of them cannot be imported.
        """
        return {name: self.get(name) for name in self.origins}

    def forget(self) -> None:
        """Look for entry points anew: a package was installed while this process ran."""
        self.__dict__.pop("origins", None)
        self._loaded.clear()


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown package"


WORLDS: Final = Extensions(
    "worlds",
    "a subclass of `spec.world.WorldSpec`, with its builder: where entities come from and what is asked about them",
    {
        "label-grid": "worlds.grids:LabelGridWorld",
        "profiles": "worlds.profiles:ProfileWorld",
        "cities": "worlds.cities:CitiesWorld",
        "cvdb": "worlds.cvdb:CvdbWorld",
        "trex": "worlds.trex:TrexWorld",
        "sets": "worlds.sets:SetsWorld",
    },
)
RENDERS: Final = Extensions(
    "renders",
    "a subclass of `spec.render.RenderSpec`, which names its modality: how definitions and questions look",
    {
        "digit-grid": "modalities.vision.spec:DigitGridRender",
        "text": "modalities.text.spec:TextRender",
    },
)
MODALITIES: Final = Extensions(
    "modalities",
    "a `modalities.base.Modality`: examples to tensors, the shape a model must have, the wrapper around its body",
    {
        "vision": "modalities.vision.modality:VISION",
        "text": "modalities.text.modality:TEXT",
    },
)
PROTOCOLS: Final = Extensions(
    "protocols",
    "a `protocols.base.Protocol`: the task's own fields, who is shown what, the schedule, the measures",
    {
        "two-stage": "protocols.two_stage:TWO_STAGE",
    },
)
MEASURES: Final = Extensions(
    "measures",
    "a `protocols.measures.Measure` with the name of the protocol that it is added to",
    {},
)
LEARNERS: Final = Extensions(
    "learners",
    "by scheme of a model's source, a function from a cell and its data to a `learners.base.Learner`",
    {
        "reference": "learners.reference:build_reference",
        "ref": "learners.network:build_network",
        "timm": "learners.network:build_network",
        "hf": "learners.network:build_network",
        "gguf": "learners.network:build_network",
        "hf-config": "learners.network:build_network",
        "python": "learners.network:build_network",
    },
)
PROBES: Final = Extensions(
    "probes",
    "a `probes.base.Probe`: it looks at a learner after a step of the schedule and returns a table of its own",
    {
        "losses": "probes.losses:LOSSES",
        "alignment": "probes.alignment:ALIGNMENT",
        "uptake": "probes.uptake:UPTAKE",
        "linear": "probes.linear:LINEAR",
        "order": "probes.order:ORDER",
        "intervene": "probes.intervene:INTERVENE",
    },
)
EXECUTORS: Final = Extensions(
    "executors",
    "a class with the methods of `run.executors.base.Executor`, or of `run.executors.engine.Engine` for other machines",
    {
        "local": "run.executors.local:LocalExecutor",
        "inline": "run.executors.inline:InlineExecutor",
        "processes": "run.executors.processes:ProcessExecutor",
        "slurm": "run.executors.slurm:SlurmEngine",
        "ray": "run.executors.ray:RayEngine",
    },
)
