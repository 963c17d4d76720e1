"""Where the tag is in a definition, and what stands there instead while a network trains on it.

Nothing here changes an example for good: a wrapped feed gives other inputs, or a hook changes what a module gives, and
both end with the block that they are used in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from iml_bench.errors import UsageError
from iml_bench.modalities.base import Batch, Feed, Indices, to_device
from iml_bench.modalities.text.feed import TextFeed
from iml_bench.modalities.text.renderer import TextRenderer
from iml_bench.modalities.vision.renderer import VisionRenderer
from iml_bench.protocols.base import Examples, Ints
from iml_bench.protocols.two_stage.design import RELIABLE, UNRELIABLE, TwoStageDesign

if TYPE_CHECKING:
    from iml_bench.run.cell import Setting

Pair = tuple[int, int]
"""The tags that stand in stage 2 in the places of the reliable and of the unreliable one."""


def worn_pair(setting: Setting) -> Pair:
    """The two tags that stage 2 shows in the places of the reliable and of the unreliable one.

    Raises:
        UsageError: when there are not two, or a tag is no part of its own.
    """
    design, renderer = setting.design, setting.renderer
    if not isinstance(design, TwoStageDesign):
        raise UsageError(f"the protocol {setting.task.protocol!r} has no two tags that change places")
    if not isinstance(renderer, TextRenderer | VisionRenderer):
        raise UsageError(f"it is not known where the tag is in examples of kind {setting.task.render.kind!r}")
    if isinstance(renderer, TextRenderer):
        if renderer.spec.tags != "random":
            raise UsageError("tags that are sentences (render.tags) are no part of a definition that could be changed")
        if renderer.codec.encoder_decoder:
            raise UsageError("an encoder-decoder model has the tag in another sequence than what it learns")
    first, second = design.worn[[RELIABLE, UNRELIABLE]].tolist()
    if first == second:
        raise UsageError("both tags are the same in stage 2 of this task")
    return first, second


def retagged(examples: Examples, tags: Ints) -> Examples:
    """The same examples under other tags, ``[n]``."""
    return Examples(examples.entity, examples.content, tags.astype(np.int64), examples.asked, examples.context)


def exchanged(examples: Examples, pair: Pair) -> Examples:
    """The same examples with both tags of a pair exchanged; any other tag stays."""
    first, second = pair
    tag = examples.tag
    return retagged(examples, np.where(tag == first, second, np.where(tag == second, first, tag)))


class Slots(NamedTuple):
    """Where in the states of some definitions the tag is, and where it may have got to.

    A text has a slot for each of its ``T`` tokens; of a picture the whole state is one slot.
    """

    offset: Tensor
    """``[n, S]`` int64: how many slots behind the tag's first one; -1 before it, and behind the end of a text."""
    width: int
    """Slots of the tag."""
    scored: Tensor | None
    """Texts only, ``[n, T]``: whether what is predicted at a token is a part of the tag."""

    def of(self, rows: Indices, width: int) -> Tensor:
        """``[b, width]``: the offsets of some definitions, as wide as their batch."""
        return self.offset.index_select(0, rows.device)[:, :width]


def slots_of(feed: Feed, renderer: Any) -> Slots:
    """The slots of a feed of definitions.

    Raises:
        UsageError: when the tag is not the same number of tokens everywhere, or what is scored.
    """
    if not isinstance(feed, TextFeed):
        n = len(feed.examples)
        return Slots(torch.zeros(n, 1, dtype=torch.int64, device=feed.mass.device), 1, None)
    if feed.counted == "answer" and renderer.spec.order.endswith("tag"):
        raise UsageError("what is learned of a definition is its tag alone, so nothing is left without it")
    ends = np.array(tag_tokens(feed, renderer), dtype=np.int64).reshape(-1, 2)
    widths = np.unique(ends[:, 1] - ends[:, 0])
    if len(widths) != 1:
        raise UsageError("the tags are not equally many tokens")
    at, tokens = np.arange(feed.tokens.ids.shape[1]), feed.tokens
    behind = at - ends[:, :1]
    offset = np.where((behind >= 0) & (at < tokens.length[:, None]), behind, -1)
    next_is_tag = (at + 1 >= ends[:, :1]) & (at + 1 < ends[:, 1:])
    return Slots(to_device(offset, feed.device), int(widths[0]), torch.from_numpy(next_is_tag).to(feed.device))


def tag_tokens(feed: TextFeed, renderer: TextRenderer) -> list[tuple[int, int]]:
    """Of every definition the first token of its tag, and the one after its last, counted from the text's beginning.

    They are found by the signs of the text that each token stands for, so that the delimiters of a tag that is read
    letter by letter, which all tags share, belong to it too.

    Raises:
        UsageError: when a definition has no token of its own for its tag.
    """
    codec, order = feed.codec, renderer.spec.order
    encoded = codec.encode(feed.texts)
    read = codec.read([given for given, _ in feed.texts])
    found = []
    for row, (given, _) in enumerate(feed.texts):
        tag = renderer.tags[int(feed.examples.tag[row])]
        if order.endswith("tag"):
            spans: Sequence[tuple[int, int]] = encoded[row].spans
            before, start = len(encoded[row].given), 1
        else:
            spans, before = read["offset_mapping"][row], len(codec.prefix)
            start = 0 if order.startswith("tag") else len(given) - len(tag)
        end = start + len(tag)
        own = [before + index for index, (low, high) in enumerate(spans) if low < end and high > start]
        if not own or own != list(range(own[0], own[-1] + 1)):
            raise UsageError("the tokenizer has no tokens for the tag alone")
        found.append((own[0], own[-1] + 1))
    return found


@dataclass(frozen=True)
class Told:
    """The definitions that one branch trains on, and the same ones under other tags."""

    feed: Feed
    swapped: Feed
    """With both tags of the pair exchanged."""
    under: tuple[Feed, Feed]
    """All under the one tag of the pair, all under the other."""
    slots: Slots
    sign: Tensor
    """``[n]`` float32: 1 under the reliable tag, -1 under the unreliable one, 0 under any other."""


def told(setting: Setting, examples: Examples, pair: Pair) -> Told:
    """Find where the tag is in some definitions, and show them under the other tags.

    Raises:
        UsageError: when it cannot be found, or another tag changes how the rest of a text is read.
    """
    first, second = pair
    feed = setting.feed(examples, evaluation=False)
    tag = examples.tag
    under = [setting.feed(retagged(examples, np.full(len(examples), one)), evaluation=False) for one in pair]
    swapped = setting.feed(exchanged(examples, pair), evaluation=False)
    slots = slots_of(feed, setting.renderer)
    if isinstance(feed, TextFeed):
        for other in (swapped, *under):
            assert isinstance(other, TextFeed)
            if not _differ_in_tags_only(feed, other, slots):
                raise UsageError("this model's tokenizer reads the rest of a definition otherwise under another tag")
    sign = torch.from_numpy((tag == first).astype(np.float32) - (tag == second)).to(slots.offset.device)
    return Told(feed, swapped, (under[0], under[1]), slots, sign)


def _differ_in_tags_only(feed: TextFeed, other: TextFeed, slots: Slots) -> bool:
    one, two = feed.tokens, other.tokens
    if one.ids.shape != two.ids.shape or not np.array_equal(one.length, two.length):
        return False
    outside = (slots.offset < 0) | (slots.offset >= slots.width)
    assert slots.scored is not None
    same = ((one.ids == two.ids) | ~outside).all() & ((one.targets == two.targets) | slots.scored).all()
    return bool(same) and np.array_equal(one.scored, two.scored)


class ChangedFeed:
    """Definitions whose batches are made otherwise; all else is as in the feed that it stands for."""

    def __init__(self, feed: Feed, make: Callable[[Indices, Tensor], Batch], mass: Tensor | None = None) -> None:
        """Args:
        feed: what is changed.
        make: gives a batch, as ``Feed.batch``.
        mass: ``[n]``, where examples weigh otherwise than in ``feed``.
        """
        self.feed, self.make = feed, make
        self.examples, self.noise, self.lengths = feed.examples, feed.noise, feed.lengths
        self.mass = feed.mass if mass is None else mass

    def batch(self, rows: Indices, noise: Tensor) -> Batch:
        """See ``Feed.batch``."""
        return self.make(rows, noise)

    def answered(self, rows: Indices) -> tuple[Tensor, Tensor]:
        """See ``Feed.answered``."""
        return self.feed.answered(rows)

    def owners(self, rows: Indices) -> Tensor:
        """See ``Feed.owners``."""
        return self.feed.owners(rows)

    def fingerprint(self, rows: Tensor, noise: Tensor) -> bytes:
        """See ``Feed.fingerprint``: the examples as they were."""
        return self.feed.fingerprint(rows, noise)


def without_tag_scored(feed: Feed, slots: Slots, before: Callable[[Indices, Tensor], None]) -> ChangedFeed:
    """A feed in which a tag's own tokens count nothing in the loss, where ``loss_on`` would have them predicted.

    Args:
        feed: definitions.
        slots: of them.
        before: called with the rows and the noise of each batch.
    """
    scored = slots.scored
    lost = None
    if isinstance(feed, TextFeed) and scored is not None:
        own = torch.from_numpy(feed.tokens.scored).to(scored.device) & scored
        lost = own.sum(dim=1).to(feed.mass.dtype) if bool(own.any()) else None

    def make(rows: Indices, noise: Tensor) -> Batch:
        before(rows, noise)
        batch = feed.batch(rows, noise)
        if lost is None or scored is None:
            return batch
        wide = batch.inputs["input_ids"].shape[1]
        counted = ~scored.index_select(0, rows.device)[:, :wide].flatten().index_select(0, batch.inputs["keep"])
        return batch._replace(weights=batch.weights * counted)

    return ChangedFeed(feed, make, None if lost is None else feed.mass - lost)


def mean_inputs(one: Told) -> ChangedFeed:
    """Pictures whose tag is the mean of the pair's, pixel by pixel, whatever tag they are under."""

    def make(rows: Indices, noise: Tensor) -> Batch:
        first, second = (feed.batch(rows, noise) for feed in one.under)
        inputs = {name: (tensor + second.inputs[name]) / 2 for name, tensor in first.inputs.items()}
        return first._replace(inputs=inputs)

    return ChangedFeed(one.feed, make)


@contextmanager
def hooked(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """In the block, what a module gives is changed: of several tensors the first."""

    # A function and no method: who copies the model must not copy what is behind the hook.
    def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def outputs_of(module: nn.Module, run: Callable[[], object]) -> list[Tensor]:
    """What a module gives (of several tensors the first) each time that it is called while something runs."""
    kept: list[Tensor] = []

    def keep(state: Tensor) -> Tensor:
        kept.append(state)
        return state

    with hooked(module, keep):
        run()
    return kept


def in_slots(state: Tensor, slots: Slots) -> Tensor:
    """A block's output as ``[b, S, d]``: texts have it so, a picture's whole activation is one slot."""
    return state if slots.scored is not None else state.flatten(1).unsqueeze(1)


Move = Callable[[Tensor, Indices], Tensor]
"""A state of some definitions, changed."""


@contextmanager
def moved(one: Told, module: nn.Module, move: Move) -> Iterator[Feed]:
    """Train on definitions whose states behind a module are moved."""
    now: list[Indices] = []

    def before(rows: Indices, noise: Tensor) -> None:
        now[:] = [rows]

    with hooked(module, lambda state: move(state, now[0]) if now else state):
        yield without_tag_scored(one.feed, one.slots, before)


@contextmanager
def replaced(one: Told, module: nn.Module, others: Sequence[Feed], run: Callable[[Batch], object]) -> Iterator[Feed]:
    """Train on texts whose states behind a module, at the tag's tokens, are the mean of those of other texts.

    Args:
        one: the texts.
        module: gives ``[b, T, d]``.
        others: the same texts under other tags.
        run: the module, or all of the network, on a batch.
    """
    instead: list[tuple[Tensor, Tensor]] = []

    def before(rows: Indices, noise: Tensor) -> None:
        instead.clear()
        batches = [feed.batch(rows, noise) for feed in others]
        (states,) = zip(*(outputs_of(module, partial(run, batch)) for batch in batches), strict=True)
        offset = one.slots.of(rows, states[0].shape[1])
        mean = states[0] if len(states) == 1 else torch.stack(states).mean(0)
        instead.append((((offset >= 0) & (offset < one.slots.width)).unsqueeze(-1), mean))

    with hooked(module, lambda state: torch.where(*instead[0], state) if instead else state):
        yield without_tag_scored(one.feed, one.slots, before)
