"""The Accelerate loop of one stage, and the learner that goes through stages with it."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn

from iml_bench.errors import CellError, DivergedError, UsageError
from iml_bench.generators import kept, reseed, seeded
from iml_bench.learners.base import Watch
from iml_bench.learners.blocks import block_outputs
from iml_bench.learners.cut import causes_of, copied, cut_problem, largest_piece
from iml_bench.learners.order import Part, global_batches, shares, sharing_problem, smallest_batch
from iml_bench.learners.rounding import nudge
from iml_bench.learners.setup import enable_checkpointing, make_optimizer
from iml_bench.modalities.base import Batch, Feed, Indices, draw_noise, to_device
from iml_bench.modalities.text.tokens import Codec
from iml_bench.models import count_parameters, generate, load_model
from iml_bench.protocols.base import Ints
from iml_bench.runtime import Runtime, StageProgress
from iml_bench.spec import CellSpec, Recipe, StageOutcome, StageRecipe
from iml_bench.streams import Streams

if TYPE_CHECKING:
    from iml_bench.run.cell import Setting

PLAIN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
REPORTS_PER_STAGE = 40
LARGEST_CHUNK = 64
"""Steps between two looks at the loss; the host waits for the device only there."""


class _GlobalBatch(NamedTuple):
    """What one optimiser step sees."""

    rows: Indices
    noise: Tensor
    """``[b, noise]``"""
    total: Tensor
    """The sum of all loss weights, a scalar."""
    seed: tuple[int, int]
    """Of the noise inside the model: the phase's, and the step."""


class NetworkLearner:
    """A network that learns by gradient descent; every stage has a fresh optimiser."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, streams: Streams, accelerator: Accelerator, runtime: Runtime
    ) -> None:
        """Move the model to the device; ``recipe`` says how it is trained, ``runtime`` in what pieces."""
        self.recipe, self.streams, self.runtime, self.accelerator = recipe, streams, runtime, accelerator
        self.parameters = count_parameters(model)
        if runtime.checkpointing:
            enable_checkpointing(model)
        self.model = accelerator.prepare(model)
        # Accelerate's wrappers around the optimiser and the backward pass cost half a millisecond a step;
        # they do something only for scaled gradients and sharded models.
        self.wrapped = accelerator.scaler is not None or accelerator.distributed_type not in PLAIN
        self.micro_batch = largest_piece(recipe, runtime.micro_batch, accelerator.num_processes)
        self.first_micro_batch = self.micro_batch
        self.causes: tuple[str, ...] | None = None
        """Why the cut of a batch matters; None where nobody has asked yet."""

    def fit(self, feed: Feed, stage: StageRecipe, name: str, watch: Watch | None = None) -> StageOutcome:
        """Train on a feed for one stage.

        Args:
            feed: the stage's examples.
            stage: its length and mixture.
            name: the phase; the streams ``order/``, ``render/`` and ``dropout/`` of that name are used,
                so all branches of stage 2 see the same order and the same pictures.
            watch: looks on, and changes nothing.

        Raises:
            UsageError: when a batch is cut and that would change the answer, or has nothing for some process.
            CellError: when the loss is not finite, or one example does not fit into memory.
        """
        self._check_cut(feed)
        self._check_sharing(feed, stage)
        steps = stage.total_steps(len(feed.examples), self.recipe.batch_size)
        optimizer, schedule = self._fresh_optimizer(stage, steps)
        looks = list(range(1, watch.points + 1)) if watch else []
        stretch = max(1, min(LARGEST_CHUNK, steps // REPORTS_PER_STAGE))
        chunk = max(1, min(stretch, steps // len(looks))) if looks else stretch
        # What the final loss is the mean of, however often somebody looks on.
        last: deque[float] = deque(maxlen=steps % stretch or stretch)
        self.model.train()
        step = 0
        noise_seed = self.streams.integer(f"dropout/{name}")
        with seeded(noise_seed, self.accelerator.device):
            for host, rows, noise in self._chunks(feed, stage, name, chunk):
                losses = torch.zeros(len(rows), device=rows.device)
                batches = zip(host, rows, noise, feed.mass[rows].sum(1), losses, strict=True)
                for place, (host_rows, device_rows, draws, total, loss) in enumerate(batches, step):
                    batch = _GlobalBatch(Indices(host_rows, device_rows), draws, total, (noise_seed, place))
                    self._step(feed, batch, loss, optimizer)
                    if schedule is not None:
                        schedule.step()
                seen = self._look(losses, step, name)
                last.extend(seen)
                mean = math.fsum(seen) / len(seen)
                step += len(rows)
                with kept(self.accelerator.device):  # a tracker may draw names, and a model when it is asked
                    self.runtime.report(StageProgress(name, step, steps, mean))
                    if watch and looks and step >= looks[0] * steps / watch.points:
                        watch.look(step)
                        looks = [point for point in looks if point * steps / watch.points > step]
                        self.model.train()
        if self.wrapped:
            self.accelerator.free_memory()  # lets go of this stage's optimiser and its state
        local = math.ceil(self.recipe.batch_size / self.accelerator.num_processes)
        return StageOutcome(
            name=name,
            steps=steps,
            final_loss=math.fsum(last) / len(last),
            micro_batch=self.micro_batch,
            accumulation=math.ceil(local / self.micro_batch),
            first_micro_batch=self.first_micro_batch,
        )

    def logits(self, feed: Feed, rows: Indices, noise: Tensor) -> Tensor:
        """``[k, C]``; see ``Feed.batch`` for the arguments."""
        self.model.eval()
        logits: Tensor = self.model(**feed.batch(rows, noise).inputs)
        return logits

    def generate(self, prompts: list[list[int]], codec: Codec, longest: int) -> list[list[int]]:
        """Greedy continuations of prompts of one length, up to the end of the line or ``longest`` tokens.

        Raises:
            CellError: when the model cannot generate.
        """
        self.model.eval()
        body = self.accelerator.unwrap_model(self.model).body
        if not hasattr(body, "generate"):
            raise CellError("exact_match 'normalised' needs a model with generate(); this one has none")
        return generate(body, prompts, codec, longest, self.accelerator.device)

    def losses(self, feed: Feed, rows: Indices, noise: Tensor) -> Tensor:
        """See ``Inspectable.losses``."""
        self.model.eval()
        batch = feed.batch(rows, noise)
        logits: Tensor = self.model(**batch.inputs)
        each = nn.functional.cross_entropy(logits.float(), batch.targets, reduction="none") * batch.weights
        mass = feed.mass.index_select(0, rows.device)
        return torch.zeros_like(mass).index_add(0, feed.owners(rows), each) / mass

    def hidden(self, feed: Feed, rows: Indices, noise: Tensor) -> dict[str, Tensor]:
        """See ``Inspectable.hidden``."""
        self.model.eval()
        return block_outputs(self.accelerator.unwrap_model(self.model), feed.batch(rows, noise).inputs)

    def trainable(self) -> dict[str, Tensor]:
        """See ``Inspectable.trainable``."""
        named = self.accelerator.unwrap_model(self.model).named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of all that training changes, on the host: two sets of a large model may not fit the device.

        Of a model that is sharded among processes each keeps its own shards.
        """
        return {name: tensor.to("cpu", copy=True) for name, tensor in self._changing()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put the weights of a snapshot back."""
        for name, tensor in self._changing():
            tensor.copy_(state[name])

    def _changing(self) -> Iterator[tuple[str, Tensor]]:
        """Weights that are trained, and buffers."""
        model = self.accelerator.unwrap_model(self.model)
        trained = ((name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad)
        for name, tensor in itertools.chain(trained, model.named_buffers()):
            local = tensor.detach()
            yield name, local.to_local() if hasattr(local, "to_local") else local

    def _fresh_optimizer(self, stage: StageRecipe, steps: int) -> tuple[Any, Any]:
        optimizer: Any = make_optimizer(self.model, self.recipe)
        if self.wrapped:
            optimizer = self.accelerator.prepare_optimizer(optimizer)
        warmup = self.recipe.warmup_steps if stage.warmup_steps is None else stage.warmup_steps
        if self.recipe.schedule == "constant" and not warmup:
            return optimizer, None
        from transformers import get_scheduler

        name = self.recipe.schedule
        if name == "constant":
            name = "constant_with_warmup"  # type: ignore[assignment]
        return optimizer, get_scheduler(name, getattr(optimizer, "optimizer", optimizer), warmup, steps)

    def _chunks(self, feed: Feed, stage: StageRecipe, name: str, chunk: int) -> Iterator[tuple[Ints, Tensor, Tensor]]:
        """A few steps at a time: rows ``[steps, batch]`` on host and device, noise ``[steps, batch, noise]``.

        Batches of one chunk are equally large: the short one at the end of an epoch is a chunk of its own.
        """
        order = global_batches(feed.examples, stage, self.recipe.batch_size, self.streams.generator(f"order/{name}"))
        render = self.streams.generator(f"render/{name}")
        device = self.accelerator.device
        while batches := list(itertools.islice(order, chunk)):
            for _, alike in itertools.groupby(batches, len):
                host = np.stack(list(alike))
                noise = draw_noise(render, *host.shape, feed.noise)
                yield host, torch.from_numpy(host).to(device), torch.from_numpy(noise).to(device)

    def _step(self, feed: Feed, batch: _GlobalBatch, loss: Tensor, optimizer: Any) -> None:
        """One optimiser step over the global batch; adds up ``loss`` in place."""
        while True:
            try:
                self._accumulate(feed, batch, loss)
                break
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
            # Outside the handler, where the traceback no longer keeps the failed pass's tensors alive.
            self._halve_micro_batch(feed)
            optimizer.zero_grad()
            loss.zero_()
        if self.recipe.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm)
        try:
            optimizer.step()
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            raise CellError("out of memory in the optimiser; recipe.optimizer=adafactor or LoRA needs less") from error
        optimizer.zero_grad()

    def _accumulate(self, feed: Feed, batch: _GlobalBatch, loss: Tensor) -> None:
        pieces = list(self._pieces(feed, batch))
        world = self.accelerator.num_processes
        for index, (rows, noise) in enumerate(pieces):
            last = index == len(pieces) - 1
            if self.recipe.micro_batch is not None:
                # Noise of its own for every piece, so that it does not matter which process has it.
                piece = index * world + self.accelerator.process_index
                reseed(int(np.random.SeedSequence([*batch.seed, piece]).generate_state(1, np.uint64)[0] >> 1))
            with _nothing() if last else self.accelerator.no_sync(self.model):
                part = self._loss(feed, rows, noise) / batch.total
                # Processes average their gradients; times their number, the average is the global sum.
                part_of_all = part * world if world > 1 else part
                if self.wrapped:
                    self.accelerator.backward(part_of_all)
                else:
                    part_of_all.backward()
            loss += part.detach()

    def _pieces(self, feed: Feed, batch: _GlobalBatch) -> Iterator[tuple[Indices, Tensor]]:
        """The share of the batch that falls to this process, a micro-batch at a time."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        rows, noise = batch.rows, batch.noise
        if world == 1 and feed.lengths is None and len(rows.host) <= self.micro_batch:
            yield rows, noise
            return
        kind = self.accelerator.device.type
        for share in shares(rows.host, feed.lengths, self.recipe, self.micro_batch, Part(rank, world, kind)):
            if len(share) == len(rows.host):
                yield rows, noise  # the order within a piece is of no matter
                return
            chosen = to_device(share, rows.device.device)
            yield Indices(rows.host[share], rows.device.index_select(0, chosen)), noise.index_select(0, chosen)

    def _loss(self, feed: Feed, rows: Indices, noise: Tensor) -> Tensor:
        return training_loss(self.model, feed.batch(rows, noise))

    def _check_cut(self, feed: Feed) -> None:
        """Look, where a batch is not taken whole, whether that is the same; a sharded model was looked at before."""
        if self.accelerator.distributed_type not in PLAIN:
            return
        processes = self.accelerator.num_processes
        problem = cut_problem(self.recipe, self.runtime.micro_batch, processes, lambda: self._causes(feed))
        if problem is not None:
            raise UsageError(f"this model: {problem}")

    def _check_sharing(self, feed: Feed, stage: StageRecipe) -> None:
        smallest = smallest_batch(feed.examples, stage, self.recipe.batch_size)
        problem = sharing_problem(self.recipe, smallest, self.accelerator.num_processes)
        if problem is not None:
            raise UsageError(f"this recipe: {problem}")

    def _causes(self, feed: Feed) -> tuple[str, ...]:
        if self.causes is None:
            try:
                # Of a copy: a model may keep something from one forward pass to the next.
                self.causes = causes_of(copied(self.accelerator.unwrap_model(self.model)), feed)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                return ()  # two examples are too many to look; then one is too many to train on
        return self.causes

    def _halve_micro_batch(self, feed: Feed) -> None:
        if self.accelerator.num_processes > 1:
            # The other processes are past this micro-batch already and would wait for ever.
            raise CellError(
                f"out of memory with {self.micro_batch} examples per process; give --micro-batch "
                f"{max(1, self.micro_batch // 2)}"
            )
        if self.micro_batch == 1:
            raise CellError("out of memory with a single example; the model is too large for this device")
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.recipe.micro_batch is not None or self._causes(feed):
            why = f" ({', '.join(self._causes(feed))})" if self._causes(feed) else ""
            raise CellError(
                f"out of memory with {self.micro_batch} examples in a forward pass, and how a batch is cut is part of "
                f"the answer{why}; give --set recipe.micro_batch={self.micro_batch // 2}, which is a cell of its own"
            )
        self.micro_batch //= 2

    def _look(self, losses: Tensor, before: int, name: str) -> list[float]:
        """The last losses over all processes; the one place where the host waits for the device."""
        losses = self.accelerator.reduce(losses, "sum")
        seen = losses.tolist()
        for index, loss in enumerate(seen):
            if not math.isfinite(loss):
                raise DivergedError(f"the loss was {loss} at step {before + index + 1} of {name}")
        return seen


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def training_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The sum of the weighted cross-entropies of a batch's scored positions, a scalar."""
    logits: Tensor = model(**batch.inputs)
    each = nn.functional.cross_entropy(logits.float(), batch.targets, reduction="none")
    return torch.dot(each, batch.weights)


def build_network(cell: CellSpec, setting: Setting, accelerator: Accelerator, runtime: Runtime) -> NetworkLearner:
    """The network that a cell's model names, with its weights, on the accelerator's device.

    Raises:
        UsageError: when there is no such model, it cannot take the task's examples, or it is too large.
    """
    recipe, shape = cell.task.recipe, setting.shape()
    seed = setting.streams.integer("init")
    model = load_model(cell.model, shape, seed, optimizer=recipe.optimizer, device=accelerator.device)
    if runtime.nudge:
        nudge(model, runtime.nudge)
    return NetworkLearner(model, recipe, setting.streams, accelerator, runtime)
