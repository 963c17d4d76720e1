"""What a protocol is: who is shown what, asked what, in which order, and what is measured.

A protocol says all of it as data. The runner carries the schedule out; stream names, the data digest, the progress
bar, the picture, the checks of a task and the checks of a submission read the same schedule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iml_bench.extensions import MEASURES

if TYPE_CHECKING:
    from iml_bench.protocols.items import Columns
    from iml_bench.protocols.measures import Measure
    from iml_bench.spec import TaskSpec
    from iml_bench.streams import Streams
    from iml_bench.worlds.base import World

Ints = NDArray[np.int64]

NONE: Final = -1
"""No tag, no definition, nothing asked."""
FACTS: Final = "fact"
"""The set of questions about attributes, which every protocol asks."""
BELIEVES, REJECTS = "believes", "rejects"
"""What a reference learner may make of a definition."""
INITIAL: Final = "initial"
"""The moment before anything is trained."""
CURVE: Final = "curve"
"""Every point of the learning curve. What is made there is filed under the training step and how far it was:
``stage1+300``."""
OWN: Final = "own"
"""A random tag that no other definition has."""


class Examples(NamedTuple):
    """Examples as columns; row ``i`` of each is one example. All have shape ``[n]``."""

    entity: Ints
    """Whose alias is shown."""
    content: Ints
    """Whose attributes are stated or asked for; another entity's in a false definition."""
    tag: Ints
    """The tag shown, an index into ``Design.tag_names``; -1 on a question, unless a definition or the tag alone
    stands before it."""
    asked: Ints
    """What a question asks (see ``World``); -1 on a definition."""
    context: Ints
    """Whom the definition that stands before a question says the alias is; -1: none stands there."""

    def __len__(self) -> int:
        return len(self.entity)

    @property
    def is_definition(self) -> NDArray[np.bool_]:
        """Which rows are definitions, shape ``[n]``."""
        return np.equal(self.asked, NONE)

    @classmethod
    def joined(cls, *parts: Examples) -> Examples:
        """Several blocks of examples as one, in order."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Ask(NamedTuple):
    """A step: ask sets of questions, without training."""

    stage: int
    """The stage that was just ended, as the per-item file has it."""
    branch: int = 0
    sets: tuple[str, ...] = (FACTS,)


class Train(NamedTuple):
    """A step: train a phase."""

    phase: str
    """Names what is shown (``Design.trained``) and the streams of its order, pictures and dropout."""
    recipe: str
    """The field of the recipe that says how long."""
    branch: int | None = None
    """None: before the branches part."""
    watched: tuple[Ask, ...] = ()
    """What a learning curve asks while it goes on."""

    @property
    def fold(self) -> int:
        """The branch as records number it: 0 where all share the step."""
        return self.branch or 0

    @property
    def label(self) -> str:
        """``stage1``, ``stage2/fold0``: what its wall time and its weights are filed under."""
        return self.phase if self.branch is None else f"{self.phase}/fold{self.branch}"


class Keep(NamedTuple):
    """A step: remember the weights under a name."""

    name: str


class Restore(NamedTuple):
    """A step: put remembered weights back."""

    name: str


Step = Train | Ask | Keep | Restore


class Volume(NamedTuple):
    """How many examples a cell is about, each time that it meets them."""

    trained: float
    asked: float


class Reading(NamedTuple):
    """What the headline of a reference learner must be: ``value + of_chance * chance`` of the world."""

    value: float
    of_chance: float = 0.0
    """How many guesses it holds: where the learner guesses it is right as often as chance."""
    exact: bool = True
    """False: within 4 standard errors over items."""


class ZeroControl(NamedTuple):
    """A change of a task under which there is nothing to read, whatever the model."""

    name: str
    overrides: Mapping[str, Any]
    exact: tuple[str, ...] = ()
    """Measures that are exactly 0; empty: the headline is 0 within its error over items."""


@dataclass(frozen=True, kw_only=True)
class Design(ABC):
    """Who is in which group, and every example of a cell. ``N`` entities."""

    groups: tuple[str, ...]
    """Names of the groups."""
    tags: tuple[str, ...]
    """Names of the tags that several definitions share, each drawn once for a seed."""
    group: Ints
    """``[N]``, index into ``groups``."""

    @abstractmethod
    def trained(self, phase: str, branch: int = 0) -> Examples:
        """What a phase of training shows, definitions first."""

    @abstractmethod
    def asked(self, stage: int, branch: int = 0, which: str = FACTS) -> Examples:
        """What one set of questions asks after a stage; empty where nobody is asked."""

    def shown(self, branch: int) -> tuple[Ints, Ints]:
        """The definition of each entity in a branch, for the per-item file.

        Returns:
            ``[N]`` its tag, an index into ``tag_names``; and ``[N]`` the entity whose attributes it states.
            -1 where there is no definition, or several.
        """
        none = np.full(len(self.group), NONE)
        return none, none

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The shared tags, then ``own``."""
        return (*self.tags, OWN)

    @property
    def own_tagged(self) -> Ints:
        """Entities whose definition carries a random tag of its own."""
        return np.empty(0, np.int64)

    @property
    def named(self) -> Ints:
        """Entities that are asked about by their real name."""
        return np.empty(0, np.int64)

    def members(self, *groups: str) -> Ints:
        """The entities of the named groups, in order of entity."""
        return np.flatnonzero(np.isin(self.group, [self.groups.index(name) for name in groups]))


class Protocol(ABC):
    """One experiment, as data and small arrays; it knows neither text nor pixels nor models."""

    name: str
    version: int = 1
    """Raised when the same specification would give another answer; part of a cell's key."""
    spec: type[TaskSpec]
    """The format of its tasks."""
    phases: Mapping[str, str] = {}
    """Every phase that a schedule may train, with when that is: ``order/``, ``render/`` and ``dropout/`` of each are
    random streams."""
    own_measures: tuple[Measure, ...] = ()
    """What it measures, the headline first; ``measures`` adds those of other packages."""
    uptake: Callable[[Mapping[str, float | None]], float | None] | None = None
    """From a cell's scores, how much its model learned from definitions at all; a row whose uptake is nought is not
    ranked. None: the protocol knows no such thing."""

    sweep: Mapping[str, Any] = {}
    """Overrides under which a cell ends before what the measures are of: of such cells a learning rate is chosen
    (``run/sweep.py``). Empty: it knows no such end, and its tasks have no tuned ruleset."""
    chosen_by: str = ""
    """The slice whose exact match chooses among the cells of a sweep."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Everything that it measures, in the order in which it is shown."""
        added = (measure for measure in MEASURES.all().values() if measure.protocol == self.name)
        return (*self.own_measures, *added)

    @abstractmethod
    def schedule(self, task: TaskSpec) -> tuple[Step, ...]:
        """What is done, in order."""

    @abstractmethod
    def design(self, task: TaskSpec, world: World, streams: Streams) -> Design:
        """Draw who is who.

        Raises:
            UsageError: when the world cannot be divided as the task asks.
        """

    @abstractmethod
    def slices(self, items: Columns) -> dict[str, float]:
        """Mean exact match by what was shown: the lines of a learning curve."""

    def volume(self, task: TaskSpec) -> Volume | None:
        """The examples of all steps as far as a task's sizes tell, without its data; None where they do not."""
        return None

    def digested(self, task: TaskSpec) -> tuple[Step, ...]:
        """The steps whose first examples the data digest covers."""
        return self.schedule(task)

    def attitudes(self, task: TaskSpec) -> Mapping[str, Mapping[str, str]]:
        """For each reference learner, what it makes of a definition by its tag; their rows stand under every table."""
        return {}

    def reads(self, task: TaskSpec) -> Mapping[str, Reading]:
        """What the headline of each reference learner must be, where that is known."""
        return {}

    def control(self, task: TaskSpec) -> Mapping[str, Any]:
        """The overrides that make a task its null control; empty where it is one, or there is none."""
        return {}

    def zero_controls(self, task: TaskSpec) -> tuple[ZeroControl, ...]:
        """The controls that are cheap enough to check every task by: its headline must read zero in each."""
        return ()

    def panels(self, design: Design) -> list[tuple[str, Examples]]:
        """Titles and single examples that show a person what the task looks like."""
        return []

    def audit(self, task: TaskSpec, world: World, design: Design) -> Iterator[tuple[str, Callable[[], str]]]:
        """What must hold of the drawn data, by name: each raises ``UsageError`` or says what it found."""
        yield from ()


def trains(schedule: tuple[Step, ...]) -> list[Train]:
    """The training steps of a schedule."""
    return [step for step in schedule if isinstance(step, Train)]


def asks(schedule: tuple[Step, ...]) -> list[Ask]:
    """The asking steps of a schedule."""
    return [step for step in schedule if isinstance(step, Ask)]


def moments(schedule: tuple[Step, ...]) -> tuple[str, ...]:
    """The moments of a schedule at which a probe can look."""
    return (INITIAL, *(step.label for step in trains(schedule)))


def default_moment(schedule: tuple[Step, ...]) -> str:
    """The end of what all branches share: after stage 1, before any branch."""
    shared = [step.label for step in trains(schedule) if step.branch is None]
    return shared[-1] if shared else INITIAL
