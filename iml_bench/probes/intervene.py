"""What of a tag is used: stage 2 is trained again with the tag changed in its examples, and asked as ever.

The probe of ``linear.py`` says where a tag can be read; this one, what learning does when it is something else there.
From the weights that all branches share every branch trains stage 2 once more under each *intervention*, which
changes definitions while the network trains on them and nothing else: the questions carry no tag, the random draws are
the cell's own, and an item's tag is the one that the design gives its definition, whatever was put in its place.

``none``
    Nothing is changed; this gives the cell's own IML, bit for bit, and all others are compared with it.
``input swap``
    The reliable and the unreliable tag change places in what is read. It must turn IML into its negative, exactly so
    in a pair of branches, and only checks the machinery.
``input ablate``
    Every definition shows the mean of both tags: of pixels, or of the vectors that the input embedding gives. Nothing
    can tell tags apart, so IML must vanish: what it reads here is noise between branches.
``state swap`` (texts)
    At the tag's own positions the state behind the input embedding or behind a block is that of the same definition
    under the other tag, with its gradient; the state everywhere else is its own. IML turns into its negative as far as
    what learning uses of the tag still goes through these positions; it stays as far as other positions have read the
    tag in earlier blocks. Behind the embedding it is the input swap again. Near zero says that both count alike, or
    that the two tags at once leave nothing to go by.
``direction swap`` (pictures, whose states have no positions)
    The state behind a block is moved by the difference of the tags' mean states, towards the other tag. Where IML turns
    into its negative this difference is enough to carry the tag; where it stays, the tag is used in another form, or
    in the blocks before.
``direction ablate``
    The component along that difference is set, behind a block, to what it is halfway between both tags; in texts at
    each position from the tag on with a difference of its own. Both tags then have equal means there, so that no
    linear probe of these states does better than a constant, at the shared weights. IML that is left is due to what
    is not in the means, to blocks before this one, whose weights still learn from inputs with a tag, or to what stage
    2 changes: the direction stays as it is at the shared weights. For two balanced classes it is the direction of a
    linear probe but for whitening.
``random direction ablate``
    The same with the difference between the means of two random halves of the entities, orthogonal to the tag's. It
    tells what any loss of a direction does. At positions that know nothing of the entity it does nothing.

An intervention that destroys learning itself says nothing of the tag: read ``taken`` beside ``iml``. Blocks are cut
where the next matrix of weights begins, so that a normalisation and an activation belong to the layer before them.
Behind the last block of a text nothing reads the tag's own positions, unless they are scored, and to swap their states
there changes nothing. Where a tag's tokens are scored (``loss_on: text``), they count nothing while states are changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from iml_bench.errors import UsageError
from iml_bench.generators import seeded
from iml_bench.learners.answers import answer_questions
from iml_bench.learners.base import Inspectable
from iml_bench.learners.blocks import title
from iml_bench.learners.cut import causes_of, copied
from iml_bench.modalities.base import Batch, Feed, draw_noise
from iml_bench.modalities.text.renderer import TextRenderer
from iml_bench.probes.gradients import plain
from iml_bench.probes.states import Direction, directions, embedding_of, places_of, shifted, without
from iml_bench.probes.subjects import LOOKS, branch_steps, definitions, new_entities, quiet, streams_of_probe
from iml_bench.probes.tagged import Told, mean_inputs, moved, replaced, told, worn_pair
from iml_bench.protocols import Columns, Measure, score_items
from iml_bench.protocols.base import FACTS, NONE, Ask, Train, asks

if TYPE_CHECKING:
    from iml_bench.run.cell import Setting

INPUT, EMBEDDINGS = "input", "embeddings"
"""Places that are no blocks; their depth is 0."""
UNCHANGED, INPUT_SWAP, INPUT_ABLATE = "none", "input swap", "input ablate"
STATE_SWAP, DIRECTION_SWAP, ABLATE, RANDOM = (
    "state swap",
    "direction swap",
    "direction ablate",
    "random direction ablate",
)
WHICH: Final = {
    "input": (INPUT_SWAP, INPUT_ABLATE),
    "swap": (STATE_SWAP, DIRECTION_SWAP),
    "ablate": (ABLATE, RANDOM),
    "all": (INPUT_SWAP, INPUT_ABLATE, STATE_SWAP, DIRECTION_SWAP, ABLATE, RANDOM),
}
"""What may be asked for, beside ``none``."""
LEAST_IML: Final = 0.05
"""Of a share of IML that is left: where there is less to begin with, it is a ratio of noise."""
LEAST_UPTAKE: Final = 0.1
"""Below it an intervention has destroyed learning itself, and says nothing of the tag."""
TABLE: Final = ("iml", "uptake", "discernment", "trust", "distrust")
"""Scores of the protocol that are columns of the table."""


Change = Callable[[Told], AbstractContextManager[Feed]]


class Intervention(NamedTuple):
    """One way to change the tag while stage 2 trains."""

    name: str
    place: str
    depth: int
    """0: before the first block; else which of the blocks, from 1."""
    change: Change
    """In its block the network sees what is changed; it gives the feed to train on."""


@dataclass(frozen=True)
class Intervene:
    """IML with the tag changed in the training examples of stage 2; see the module."""

    which: str = "all"
    """``input``, ``swap``, ``ablate`` or ``all``; ``none`` is always there."""
    blocks: int = 4
    """Behind how many blocks, evenly from the first to the last; 0: all."""
    branches: int = 0
    """How many of the branches, the first ones; 0: all. With fewer an entity may be no control of its own."""

    @property
    def description(self) -> str:
        """See ``Probe``."""
        return "scores after stage 2 was trained again with the tag in its examples exchanged, ablated or left alone"

    @property
    def scores(self) -> tuple[Measure, ...]:
        """See ``Probe``."""
        return SCORES

    def __call__(self, setting: Setting, learner: Inspectable, moment: str) -> pl.DataFrame:
        """One row per intervention.

        ``intervention, place, depth``; the protocol's ``iml``, ``uptake``, ``discernment``, ``trust`` and
        ``distrust``, in exact match, null where they cannot be measured; ``taken``, the mean uptake under both tags,
        which exchanging them leaves as it is; ``iml_se``, the standard error of ``iml`` over entities; ``left``,
        ``iml`` as a share of that without a change, with ``why`` it is null.

        Raises:
            UsageError: when an option is wrong, the tag is nowhere that it could be changed, or the network cannot be
                trained under a change exactly.
        """
        if self.which not in WHICH or min(self.blocks, self.branches) < 0:
            raise UsageError(f"which is one of {', '.join(WHICH)}; blocks and branches are 0 or more")
        steps = branch_steps(setting)
        if moment in {step.label for step in steps}:
            raise UsageError("interventions begin from the weights that all branches share, and these are a branch's")
        subject = _Subject(setting, learner, steps[: self.branches or None])
        names = WHICH[self.which]
        plan = [one for one in subject.plan(names, self.blocks) if one.name in (UNCHANGED, *names)]
        found = [subject.scores(one) for one in plan]
        rows = [
            {"intervention": one.name, "place": one.place, "depth": one.depth, **scores, **_left(scores, found[0])}
            for one, scores in zip(plan, found, strict=True)
        ]
        return pl.DataFrame(rows, schema=SCHEMA)


SCHEMA: Final = {
    **{"intervention": pl.String, "place": pl.String, "depth": pl.Int64},
    **dict.fromkeys((*TABLE, "taken", "iml_se", "left"), pl.Float64),
    "why": pl.String,
}


def _left(scores: Mapping[str, float | None], unchanged: Mapping[str, float | None]) -> dict[str, Any]:
    """What share of IML is left, and why it is null."""
    iml, before = scores["iml"], unchanged["iml"]
    if iml is None or before is None:
        return {"left": None, "why": "IML is not measured"}
    if before <= LEAST_IML:
        return {"left": None, "why": f"IML without a change is not above {LEAST_IML:g}"}
    return {"left": iml / before, "why": None}


class _Subject:
    """One network at the weights that all branches share, and the definitions of its branches."""

    def __init__(self, setting: Setting, learner: Inspectable, steps: Sequence[Train]) -> None:
        network: Any = learner
        self.setting, self.learner, self.network, self.steps = setting, learner, network, steps
        self.text = isinstance(setting.renderer, TextRenderer)
        self.pair = worn_pair(setting)
        shown = [setting.design.trained(step.phase, step.fold) for step in steps]
        if not all(examples.is_definition.all() for examples in shown):
            raise UsageError("the branches of this task learn questions too (stages=1), before which no tag is known")
        self.branches = [told(setting, examples, self.pair) for examples in shown]
        self.model: nn.Module = network.accelerator.unwrap_model(network.model)
        if network.accelerator.num_processes > 1:
            raise UsageError("interventions are made in one process; give `iml-bench probe` on the record")
        if network.runtime.checkpointing:
            raise UsageError("with --gradient-checkpointing a state is computed twice, and changed once; leave it out")
        if causes := causes_of(copied(self.model), self.branches[0].feed):
            raise UsageError(f"a state cannot be put into another pass of this model: it has {', '.join(causes)}")
        self.shared = learner.snapshot()

    def plan(self, names: Sequence[str], most: int) -> list[Intervention]:
        """All interventions on this network; directions are only measured where they are asked for."""
        found = [
            Intervention(UNCHANGED, INPUT, 0, lambda one: nullcontext(one.feed)),
            Intervention(INPUT_SWAP, INPUT, 0, lambda one: nullcontext(one.swapped)),
        ]
        if self.text:
            embedding = embedding_of(self.model)

            def read(batch: Batch) -> object:
                return embedding(batch.inputs["input_ids"])

            found += [
                Intervention(INPUT_ABLATE, EMBEDDINGS, 0, lambda one: replaced(one, embedding, one.under, read)),
                Intervention(STATE_SWAP, EMBEDDINGS, 0, lambda one: replaced(one, embedding, (one.swapped,), read)),
            ]
        else:
            found.append(Intervention(INPUT_ABLATE, INPUT, 0, lambda one: nullcontext(mean_inputs(one))))
        places = places_of(self.learner, self.model, self.branches[0]) if {*names} - {*WHICH["input"]} else []
        chosen = sorted({round(at) for at in np.linspace(0, len(places) - 1, most or len(places))} if places else ())
        measured = self.directions([places[at] for at in chosen]) if {*names} - {STATE_SWAP, *WHICH["input"]} else {}
        for at in chosen:
            found += self._behind(places[at], at + 1, measured)
        return found

    def _behind(self, name: str, depth: int, measured: dict[str, Direction]) -> Iterator[Intervention]:
        """The interventions behind one block."""
        module = self.model.get_submodule(name)
        place = title(name, module)

        def run(batch: Batch) -> object:
            return self.network.model(**batch.inputs)

        if self.text:
            yield Intervention(STATE_SWAP, place, depth, lambda one: replaced(one, module, (one.swapped,), run))
        if name not in measured:
            return
        line = measured[name]
        if not self.text:
            yield Intervention(DIRECTION_SWAP, place, depth, lambda one: moved(one, module, shifted(one, line)))
        for kind, unit, middle in ((ABLATE, line.unit, line.middle), (RANDOM, line.random, line.random_middle)):
            yield Intervention(kind, place, depth, self._ablation(module, unit, middle))

    def _ablation(self, module: nn.Module, unit: Tensor, middle: Tensor) -> Change:
        return lambda one: moved(one, module, without(one, unit, middle))

    def directions(self, names: Sequence[str]) -> dict[str, Direction]:
        """See ``states.directions``: over all new entities."""
        setting, streams = self.setting, streams_of_probe(self.setting)
        entities = new_entities(setting)
        one = told(setting, definitions(entities, self.pair[0]), self.pair)
        rng, n_looks = streams.generator("probe/pictures"), LOOKS if one.feed.noise else 1
        looks = draw_noise(rng, n_looks, len(entities), one.feed.noise)
        half = streams.generator("probe/permutations").permutation(len(entities)) % 2
        with plain(self.model):
            return directions(self.learner, one, names, torch.from_numpy(looks).to(setting.device), half)

    def scores(self, intervention: Intervention) -> dict[str, float | None]:
        """The protocol's scores after stage 2 of every branch under an intervention; the weights are put back."""
        learner, parts = self.learner, []
        cut = self.network.micro_batch
        try:
            for step, one in zip(self.steps, self.branches, strict=True):
                learner.restore(self.shared)
                with quiet(learner), intervention.change(one) as feed:
                    learner.fit(feed, getattr(self.setting.task.recipe, step.recipe), step.phase)
                last = [ask for ask in asks(self.setting.schedule) if ask.branch == step.fold][-1]
                parts.append(answered(self.setting, learner, last))
        finally:
            self.network.micro_batch = cut  # memory may have been short for two passes, which the cell never makes
            learner.restore(self.shared)
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        found = score_items(self.setting.task, columns)
        both = self.setting.protocol.uptake
        more = {"taken": both(found.values) if both else None, "iml_se": found.get("iml_se_items")}
        return {**{name: found.get(name) for name in TABLE}, **more}


def answered(setting: Setting, learner: Inspectable, step: Ask) -> Columns:
    """Per-item outcomes of the questions about facts at a step, as the cell itself asks them.

    Args:
        setting: says who is in which group, and which tag its definition has by design.
        learner: who is asked.
        step: where.

    Returns:
        Those columns of ``ITEM_TYPES`` that the table's scores are computed from.
    """
    feed = setting.question_feed(step.stage, step.branch, FACTS)
    examples, design, device = feed.examples, setting.design, setting.device
    with seeded(setting.streams.integer("render/evaluation"), device):
        rng = setting.streams.generator("render/evaluation")
        answers = answer_questions(learner, feed, setting.renderer, rng, device)
        if setting.task.exact_match == "normalised" and hasattr(learner, "generate"):
            answers = setting.modality.generated(learner, feed, setting.renderer, answers)
    role = design.shown(step.branch)[0][examples.entity].tolist()
    return {
        "stage": np.full(len(examples), step.stage),
        "fold": np.full(len(examples), step.branch),
        "set": np.full(len(examples), FACTS, dtype=object),
        "entity": examples.entity,
        "group": np.array([design.groups[group] for group in design.group[examples.entity]], dtype=object),
        "tag": np.array([design.tag_names[tag] if tag != NONE else None for tag in role], dtype=object),
        "attribute": np.array([setting.world.label(asked) for asked in examples.asked.tolist()], dtype=object),
        "exact_match": answers.exact_match,
        "log_likelihood": answers.log_likelihood,
    }


def _row(columns: Columns, names: Sequence[str], last: bool) -> int | None:
    """The row of an intervention, of those behind blocks at the first or the last one; None where there is none."""
    rows = np.flatnonzero(np.isin(columns["intervention"], names))
    deep = rows[columns["depth"][rows] > 0] if {*names}.isdisjoint((UNCHANGED, *WHICH["input"])) else rows
    if not len(deep):
        return None
    depth = columns["depth"][deep]
    return int(deep[np.argmax(depth) if last else np.argmin(depth)])


def _iml(*names: str, last: bool = False) -> Callable[[Columns], float | None]:
    def found(columns: Columns) -> float | None:
        row = _row(columns, names, last)
        value = float("nan") if row is None else float(columns["iml"][row])
        return None if np.isnan(value) else value

    return found


def _lost(last: bool) -> Callable[[Columns], float | None]:
    def found(columns: Columns) -> float | None:
        row = _row(columns, (ABLATE,), last)
        left, control = _iml(ABLATE, last=last)(columns), _iml(RANDOM, last=last)(columns)
        if row is None or left is None or control is None:
            return None
        return control - left if columns["taken"][row] > LEAST_UPTAKE else None

    return found


NOT_ASKED: Final = "no such intervention was made, or IML cannot be measured"


def _measure(name: str, description: str, of: Callable[[Columns], float | None], **more: Any) -> Measure:
    heading = name.replace("_", " ").replace("iml", "IML")
    fields = {"label": heading, "heading": heading, "missing": NOT_ASKED, **more}
    return Measure(name=name, description=description, of=of, **fields)


SWAP: Final = "at the tag's tokens, or in pictures along the difference of means"
TWICE: Final = {"low": -2.0, "high": 2.0, "missing": "not both were made, or the ablation leaves no uptake above 0.1"}
SCORES: Final = (
    _measure("iml_none", "IML of stage 2 trained again without a change: the cell's own", _iml(UNCHANGED)),
    _measure(
        "iml_input_swap",
        "IML with both tags exchanged in what is read: the negative, or the machinery is wrong",
        _iml(INPUT_SWAP),
    ),
    _measure(
        "iml_input_ablate",
        "IML with the mean of both tags in every definition: zero but for noise between branches",
        _iml(INPUT_ABLATE),
    ),
    _measure(
        "iml_swap_first",
        f"IML with the tag's state exchanged behind the first block ({SWAP}): the negative where all that is used of "
        "the tag is there",
        _iml(STATE_SWAP, DIRECTION_SWAP),
    ),
    _measure(
        "iml_swap_last",
        f"IML with the tag's state exchanged behind the last block ({SWAP}); in texts nothing reads the tag's tokens "
        "there unless they are scored, and it is IML without a change",
        _iml(STATE_SWAP, DIRECTION_SWAP, last=True),
    ),
    _measure(
        "iml_ablate_first",
        "IML without the direction of the tags' mean states behind the first block; with no control subtracted",
        _iml(ABLATE),
    ),
    _measure(
        "iml_ablate_last",
        "IML without the direction of the tags' mean states behind the last block; with no control subtracted",
        _iml(ABLATE, last=True),
    ),
    _measure(
        "lost_first",
        "IML lost without the tag's direction behind the first block, beyond what is lost without a random one",
        _lost(last=False),
        **TWICE,
    ),
    _measure(
        "lost_last",
        "IML lost without the tag's direction behind the last block, beyond what is lost without a random one",
        _lost(last=True),
        **TWICE,
    ),
)
"""What follows from a table. First and last are fixed beforehand, so that nothing is the best of several; and no score
is a ratio, whose denominator would choose among seeds."""
INTERVENE = Intervene()
