"""What a network holds of a question behind each of its blocks, at which token: what linear probes read.

Of a text the vectors of the residual stream at chosen tokens of the prompt, which ends where the answer begins; they
are aligned at the first token of the alias, and the tokens that a tokenizer puts before every text have no position.
Of a picture the output of every block, a mean over all places. All in evaluation mode and float32, before the final
norm, which is no block.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn

from iml_bench.errors import UsageError
from iml_bench.learners.base import Inspectable
from iml_bench.learners.blocks import input_embedding, title
from iml_bench.modalities.base import Feed, Indices, draw_noise
from iml_bench.modalities.text.feed import TextFeed
from iml_bench.probes.gradients import plain
from iml_bench.probes.subjects import (
    branch_steps,
    new_entities,
    questions,
    streams_of_probe,
    trained_branches,
)
from iml_bench.protocols.base import NONE, Examples, Ints

if TYPE_CHECKING:
    from iml_bench.run.cell import Setting

EMBEDDINGS: Final = "embeddings"
"""The layer of depth 0 of texts: what the input embedding gives."""
ANY: Final = -1
"""Questions of all kinds, one about each entity."""
LEAST: Final = 50
"""Examples of each class; fewer are not probed."""
AT_ONCE: Final = 128
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Split = tuple[Ints, Ints]
"""Rows that are trained on, and rows that are asked."""


class Sample(NamedTuple):
    """Examples of two classes, one row each."""

    label: Bools
    """``[n]``"""
    entity: Ints
    """``[n]``: examples of one are never parted; of some sets both of a pair of entities count as one's."""
    stratum: Ints
    """``[n]``: what must not tell the classes apart, such as the branch."""

    def of(self, rows: Ints) -> Sample:
        """Some of them."""
        return Sample(self.label[rows], self.entity[rows], self.stratum[rows])


class Cells(NamedTuple):
    """Where states are read: ``P`` positions, and ``L`` layers in the order in which the network computes them."""

    positions: tuple[int | None, ...]
    """Tokens from the first one of the alias, which is 0; null where there is one position that has no number."""
    tokens: tuple[str | None, ...]
    """What stands there in one of the prompts."""
    layers: tuple[str, ...]
    depths: tuple[int, ...]
    """Of each layer: 0 for the embeddings of texts, blocks from 1."""


class _Places(NamedTuple):
    """Tokens of ``m`` prompts."""

    rows: Ints
    """``[m]``: which questions they are of."""
    at: Ints
    """``[m, P]``: positions in what the model reads."""
    positions: tuple[int | None, ...]
    tokens: tuple[str | None, ...]


class Reader:
    """Some questions, and how a learner is read at them: always the same pictures, whatever it has learned."""

    def __init__(self, setting: Setting, asked: Examples, *, last: bool = False) -> None:
        """Args:
            setting: the data side of a cell.
            asked: questions; of texts those are kept whose alias has the commonest number of tokens among them.
            last: read texts at the last token of each prompt only, and keep all.

        Raises:
            UsageError: when an encoder-decoder model reads the prompts, or no prompt shows its alias.
        """
        self.device = setting.device
        self.feed: Feed = setting.feed(asked, evaluation=True)
        self.places: _Places | None = None
        if isinstance(self.feed, TextFeed):
            renderer: Any = setting.renderer
            self.places = _last(self.feed) if last else _aligned(self.feed, renderer.aliases)
        rng = streams_of_probe(setting).generator("probe/pictures")
        self.noise = torch.from_numpy(draw_noise(rng, len(asked), self.feed.noise)).to(self.device)
        self.rows = np.arange(len(asked)) if self.places is None else self.places.rows
        """``[m]``: the questions that are kept."""
        self.asked = Examples(*(column[self.rows] for column in asked))
        """The same as examples."""
        self.cells = Cells((None,), (None,), (), ())
        """Without layers before anything was read."""

    def read(self, learner: Inspectable, kept: Ints) -> list[Floats]:
        """The states of some questions.

        Args:
            learner: as it is now.
            kept: ``[n]``, indices into ``rows``.

        Returns:
            For each of ``L`` layers ``[n, P, d]``, whose ``d`` may differ; ``cells`` says what they are.

        Raises:
            UsageError: when no block gives a state for each example.
        """
        network: Any = learner
        model: nn.Module = network.accelerator.unwrap_model(network.model)
        pieces = [self._piece(learner, model, piece) for piece in np.split(kept, range(AT_ONCE, len(kept), AT_ONCE))]
        names = [name for name in pieces[0] if all(name in piece for piece in pieces)]
        if not names:
            raise UsageError("no block of this model gives a state for each example and position")
        first = 0 if names[0] == EMBEDDINGS else 1
        positions, tokens = (self.places.positions, self.places.tokens) if self.places else ((None,), (None,))
        titles = tuple(name if name == EMBEDDINGS else title(name, model.get_submodule(name)) for name in names)
        self.cells = Cells(positions, tokens, titles, tuple(range(first, first + len(names))))
        return [np.concatenate([piece[name] for piece in pieces]) for name in names]

    def _piece(self, learner: Inspectable, model: nn.Module, kept: Ints) -> dict[str, Floats]:
        """States of a few questions by layer, ``[n, P, d]`` each."""
        indices = Indices.of(self.rows[kept], self.device)
        noise = self.noise.index_select(0, indices.device)
        with plain(model), _embedded(model, wanted=self.places is not None) as embedded:
            outputs = dict(learner.hidden(self.feed, indices, noise))
        if self.places is None:
            states = {name: _pooled(output, len(kept)) for name, output in outputs.items()}
        else:
            shape = self.feed.batch(indices, noise).inputs["input_ids"].shape
            at = torch.from_numpy(self.places.at[kept]).to(self.device)
            outputs = ({EMBEDDINGS: embedded[0]} if embedded else {}) | outputs
            states = {name: _chosen(output, shape, at) for name, output in outputs.items()}
        return {name: state.float().cpu().numpy() for name, state in states.items() if state is not None}


class Picked(NamedTuple):
    """Examples of two classes, and what is asked in each."""

    reader: Reader
    at: Ints
    """``[n]``: which of the reader's questions."""
    sample: Sample


def one_question_each(asked: Examples, entities: Ints, kind: int = ANY) -> Examples:
    """One question about each entity that has one, in the order of entities.

    Args:
        asked: what can be asked.
        entities: about whom; in random order.
        kind: which attribute; ``ANY``: the first entity's first one, the second's second one and so on, so that all
            kinds are asked equally often and who is asked which is as random as the order.

    Raises:
        UsageError: when there is none at all, or questions show tags.
    """
    if (asked.tag != NONE).any():
        raise UsageError("definitions stand before questions in this task: a probe would read the tag from the text")
    rows = []
    for place, entity in enumerate(entities.tolist()):
        own = np.flatnonzero((asked.entity == entity) & ((asked.asked == kind) | (kind == ANY)))
        rows += [own[place % len(own)]] if len(own) else []
    if not rows:
        raise UsageError("nobody whom a linear probe could be about is asked such a question")
    chosen = np.array(rows, dtype=np.int64)
    return Examples(*(column[chosen] for column in asked))


def tags_of(setting: Setting) -> tuple[int, int]:
    """The reliable and the unreliable tag, as ``Design.shown`` numbers them.

    Raises:
        UsageError: when the task has no such tags.
    """
    names = setting.design.tag_names
    if not {"reliable", "unreliable"} <= {*names}:
        raise UsageError("this task has no reliable and unreliable tag")
    return names.index("reliable"), names.index("unreliable")


def equalised(sample: Sample, rng: np.random.Generator, most: int = 0) -> Ints:
    """Pairs of examples, one of each class and both of one stratum: rows, ``[m, 2]``.

    Args:
        sample: of which.
        rng: draws who stays, and with whom.
        most: how many examples at most; 0: as many as there are.
    """
    found = [np.empty((0, 2), np.int64)]
    for stratum in np.unique(sample.stratum):
        own = sample.stratum == stratum
        both = [rng.permutation(np.flatnonzero(own & (sample.label == label))) for label in (True, False)]
        n = min(map(len, both))
        found.append(np.stack([rows[:n] for rows in both], axis=1))
    pairs = rng.permutation(np.concatenate(found))
    return pairs[: most // 2] if most else pairs


def grouped_folds(sample: Sample, n: int, rng: np.random.Generator) -> list[Split]:
    """``n`` folds that part no entity and have each class in each stratum alike.

    Were they not alike, a state that tells the stratum would mislead: who is rarer in training is commoner in the test.
    """
    both = 2 * np.unique(sample.stratum, return_inverse=True)[1].reshape(-1) + sample.label
    splitter = StratifiedGroupKFold(n, shuffle=True, random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a stratum with fewer examples than folds
        return [(train, test) for train, test in splitter.split(both, both, sample.entity)]


def pick(setting: Setting, all_of: Picked, most: int = 0, *, paired: bool = False) -> Picked:
    """Equally many examples of both classes in every stratum.

    Args:
        setting: the data side of a cell, whose stream ``probe/classes`` says who is left out.
        all_of: the examples there are.
        most: how many examples at most; 0: all.
        paired: of examples of which each is another entity's, whether two of a stratum, one of each class, are never
            parted, so that each fold, too, has equally many in every stratum.

    Raises:
        UsageError: when fewer than ``LEAST`` of each class are left.
    """
    pairs = equalised(all_of.sample, streams_of_probe(setting).generator("probe/classes"), most)
    if len(pairs) < LEAST:
        raise UsageError(f"a linear probe takes {LEAST} examples of each class, and there are {len(pairs)}")
    order = np.argsort(pairs, axis=None)
    rows, sample = pairs.flatten()[order], all_of.sample
    if paired:
        sample = sample._replace(entity=sample.entity.copy())
        sample.entity[pairs[:, 1]] = sample.entity[pairs[:, 0]]
    return Picked(all_of.reader, all_of.at[rows], sample.of(rows))


def new_by_tag(setting: Setting, most: int, kind: int = ANY, *, last: bool = False) -> Picked:
    """Questions about the new entities that some branch defines under the reliable or the unreliable tag.

    Args:
        setting: the data side of a cell.
        most: how many entities at most; 0: all.
        kind: see ``one_question_each``: an entity is asked the same in all branches.
        last: see ``Reader``.

    Returns:
        Whether the tag is the reliable one, the branch being the stratum.

    Raises:
        UsageError: when there are too few.
    """
    both, shown = tags_of(setting), {step.fold: setting.design.shown(step.fold)[0] for step in branch_steps(setting)}
    new = new_entities(setting)
    new = new[np.isin([tag[new] for tag in shown.values()], both).any(axis=0)]
    new = new[:most] if most else new
    reader = Reader(setting, one_question_each(questions(setting, new), new, kind), last=last)
    entity = reader.asked.entity
    at = {branch: np.flatnonzero(np.isin(tag[entity], both)) for branch, tag in shown.items()}
    sample = Sample(
        label=np.concatenate([shown[branch][entity[own]] == both[0] for branch, own in at.items()]),
        entity=np.concatenate([entity[own] for own in at.values()]),
        stratum=np.concatenate([np.full(len(own), branch) for branch, own in at.items()]),
    )
    return pick(setting, Picked(reader, np.concatenate(list(at.values())), sample))


def over_branches(setting: Setting, learner: Inspectable, sets: Mapping[str, Picked]) -> dict[str, list[Floats]]:
    """Train every branch and read each set's examples in theirs, which is their stratum.

    Args:
        setting: the data side of a cell.
        learner: at the weights that all branches share.
        sets: by name, each in the order of branches.

    Returns:
        For each set and layer ``[n, P, d]``, the rows in the order of the set.

    Raises:
        UsageError: when there are no branches, or nothing can be read.
    """
    parts: dict[str, list[list[Floats]]] = {name: [] for name in sets}
    for step in trained_branches(setting, learner):
        for name, (reader, at, sample) in sets.items():
            own = at[sample.stratum == step.fold]
            parts[name] += [reader.read(learner, own)] if len(own) else []
    return {name: [np.concatenate(layer) for layer in zip(*found, strict=True)] for name, found in parts.items()}


def _aligned(feed: TextFeed, aliases: Sequence[str]) -> _Places:
    """The tokens that all prompts have, counted from the first one of the alias."""
    prompts, spans = _prompts(feed)
    found: list[tuple[int, int, int, int]] = []
    for row, (prompt, own) in enumerate(zip(prompts, spans, strict=True)):
        alias = aliases[int(feed.examples.entity[row])]
        start = prompt.rfind(alias)
        inside = [at for at, (low, high) in enumerate(own) if low < start + len(alias) and high > start]
        found += [(row, inside[0], inside[-1] + 1 - inside[0], len(own))] if start >= 0 and inside else []
    if not found:
        raise UsageError("no prompt shows the alias that it asks about")
    counts = Counter(length for _, _, length, _ in found)
    commonest = max(counts, key=lambda length: (counts[length], -length))
    rows, first, _, ends = np.array([one for one in found if one[2] == commonest], dtype=np.int64).T
    positions = np.arange(-int(first.min()), int((ends - first).min()))
    example = [spans[rows[0]][at] for at in (first[0] + positions).tolist()]
    return _Places(
        rows=rows,
        at=len(feed.codec.prefix) + first[:, None] + positions,
        positions=tuple(positions.tolist()),
        tokens=tuple(prompts[rows[0]][low:high] for low, high in example),
    )


def _last(feed: TextFeed) -> _Places:
    """The last token of every prompt."""
    prompts, spans = _prompts(feed)
    ends = np.array([len(own) for own in spans], dtype=np.int64)
    low, high = spans[0][-1]
    at = len(feed.codec.prefix) + ends[:, None] - 1
    return _Places(np.arange(len(prompts)), at, (None,), (prompts[0][low:high],))


def _prompts(feed: TextFeed) -> tuple[list[str], list[list[tuple[int, int]]]]:
    """What is given in each text, and the signs that each of its tokens stands for."""
    if feed.codec.encoder_decoder:
        raise UsageError("the states of encoder-decoder models are not read: their prompts and answers are apart")
    prompts = [given for given, _ in feed.texts]
    return prompts, feed.codec.read(prompts)["offset_mapping"]


def _chosen(output: Tensor, shape: Sequence[int], at: Tensor) -> Tensor | None:
    """``[n, P, d]`` of the output of a layer at all tokens; None of anything else."""
    if output.dim() != 3 or output.shape[:2] != shape or not output.is_floating_point():
        return None
    return output[torch.arange(len(at), device=at.device)[:, None], at]


def _pooled(output: Tensor, n: int) -> Tensor | None:
    """``[n, 1, d]``: means over all but examples and channels; None of what is no output for each example.

    Of four dimensions channels come last where the second and the third are equal and the fourth is another.
    """
    if not output.is_floating_point() or output.dim() < 2 or len(output) != n:
        return None
    if output.dim() == 3:
        output = output.mean(1)
    elif output.dim() > 3:
        channels_last = output.dim() == 4 and output.shape[1] == output.shape[2] != output.shape[3]
        output = (output.movedim(-1, 1) if channels_last else output).flatten(2).mean(2)
    return output[:, None]


@contextmanager
def _embedded(model: nn.Module, *, wanted: bool) -> Iterator[list[Tensor]]:
    """What the input embedding gives in the block, where a model says which that is."""
    found: list[Tensor] = []
    module = input_embedding(model) if wanted else None
    if module is None:
        yield found
        return
    handle = module.register_forward_hook(lambda module, arguments, output: found.append(output.detach().clone()))
    try:
        yield found
    finally:
        handle.remove()
