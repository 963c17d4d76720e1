"""Two training steps and one evaluation of a model before the first cell: what must fail, fails here, in a sentence.

On the meta device, where a model has no weights, a step costs what its Python code costs. What fails there is tried
with real tensors, and only a failure of those is one.
"""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from iml_bench.errors import UsageError
from iml_bench.generators import seeded
from iml_bench.learners.answers import LARGEST_BATCH
from iml_bench.learners.cut import causes_of, copied, cut_problem, largest_piece, moved, same_twice
from iml_bench.learners.network import training_loss
from iml_bench.learners.order import Part, global_batches, shares, sharing_problem, smallest_batch
from iml_bench.learners.setup import enable_checkpointing, make_accelerator, make_optimizer
from iml_bench.modalities.base import Batch, Feed, Indices
from iml_bench.modalities.trial import device_of, first_line
from iml_bench.models import check_model, draw_model, load_form
from iml_bench.models.meta import META
from iml_bench.protocols.base import Train, asks, trains
from iml_bench.run.cell import Setting
from iml_bench.runtime import Runtime
from iml_bench.spec import SCHEMES, CellSpec

STEPS = 2
"""Of training: what a model keeps of the first may spoil the second."""
ASKED = LARGEST_BATCH
"""Questions of the evaluation, at most."""


def rehearse(cell: CellSpec, runtime: Runtime) -> tuple[str, ...]:
    """Draw the data of a cell, and look at its model; of a published one no weights are read.

    Args:
        cell: one of those that have its task and model.
        runtime: hardware and folders.

    Returns:
        Why the training of the model depends on how a batch is cut, see ``causes_of``; only looked for where one is.

    Raises:
        UsageError: when the model, the data or the device cannot be had, or a training step or an evaluation fails.
    """
    task, entry = cell.task, cell.model
    accelerator = make_accelerator(task.recipe, runtime)
    setting = Setting(task, cell.seed, accelerator.device, runtime, load_form(entry))
    setting.audit()
    if entry.is_reference or entry.parsed.scheme not in SCHEMES:  # learners of other packages load their own
        return ()
    rehearsal = Rehearsal(cell, setting, accelerator, runtime)
    check_model(
        entry, setting.shape(), optimizer=task.recipe.optimizer, device=accelerator.device, also=rehearsal.with_model
    )
    if entry.parsed.scheme == "python" and trains(setting.schedule):
        _require_repeatable(cell, setting)
    return rehearsal.causes


def _require_repeatable(cell: CellSpec, setting: Setting) -> None:
    """Make a user's own model twice: what libraries make draws from generators that a cell seeds."""
    step = trains(setting.schedule)[0]
    one, other = (draw_model(cell.model, setting.shape(), 0).to(setting.device) for _ in range(2))
    try:
        same = one is other or same_twice(one, other, setting.train_feed(step.phase, step.fold))
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        return
    if not same:
        raise UsageError(
            f"model {cell.model.name!r} is another each time it is made, of one seed too: its code draws from a "
            "generator of its own; let it draw from the global one of torch, numpy or Python, which every cell seeds"
        )


class Rehearsal:
    """Two training steps and an evaluation of one cell, with whatever model it is given."""

    def __init__(self, cell: CellSpec, setting: Setting, accelerator: Accelerator, runtime: Runtime) -> None:
        """Args: cell: what is rehearsed; setting: its data; accelerator and runtime: its hardware."""
        self.cell, self.setting, self.accelerator, self.runtime = cell, setting, accelerator, runtime
        self.causes: tuple[str, ...] = ()

    def with_model(self, model: nn.Module) -> None:
        """Try what a cell will do with a wrapped model.

        Args:
            model: on the meta device, or with any weights; they are left as they are.

        Raises:
            UsageError: when it cannot be done, or a batch is cut and that would change the answer.
            Exception: whatever the model's code raises on the meta device, where that proves nothing.
        """
        if self.runtime.checkpointing:
            enable_checkpointing(model)
        on_meta = device_of(model) == META
        if not on_meta:
            # Some models are kept by the code that makes them, and would go into the cells trained.
            tried = copied(model)
            kept = {name: tensor.clone() for name, tensor in model.state_dict().items()} if tried is model else {}
            try:
                self._act(tried.to(self.setting.device), on_meta=False)
            finally:
                if kept:  # it could not be copied
                    model.load_state_dict(kept)
                    model.zero_grad()
            return
        self._act(model, on_meta=True)

    def _act(self, model: nn.Module, *, on_meta: bool) -> None:
        with seeded(0, self.setting.device):
            for what, act in (("trained", self._train), ("asked", self._ask)):
                try:
                    act(model)
                except UsageError:
                    raise
                except (Exception, SystemExit) as error:
                    if on_meta:
                        raise
                    if isinstance(error, RuntimeError) and should_reduce_batch_size(error):
                        continue  # a cell takes smaller pieces then
                    task = self.cell.task.name
                    raise UsageError(
                        f"model {self.cell.model.name!r} cannot be {what} on task {task!r}: {first_line(error)}"
                    ) from error

    def _train(self, model: nn.Module) -> None:
        steps, recipe = trains(self.setting.schedule), self.cell.task.recipe
        if not steps:
            return
        self._check_sharing(steps)
        step, processes = min(steps, key=self._smallest_batch), self.accelerator.num_processes
        feed = self.setting.train_feed(step.phase, step.fold)
        rows, name = self._smallest_piece(feed, step), self.cell.model.name
        model.train()
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UsageError(f"model {name!r} has no weights that are trained")
        optimizer = make_optimizer(model, recipe)
        for number in range(1, STEPS + 1):
            with self.accelerator.autocast():
                loss = training_loss(model, _batch(feed, rows, device_of(model)))
            if not loss.is_meta and not torch.isfinite(loss):
                raise UsageError(f"model {name!r}: its loss is {loss.item()} at step {number}")
            loss.backward()  # type: ignore[no-untyped-call]
            unused = [one for one, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
            if processes > 1 and unused:
                raise UsageError(
                    f"model {name!r}: its weight {unused[0]} has no part in its answers, and several processes would "
                    "wait for it; leave --processes out, or freeze it"
                )
            if recipe.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

        def causes() -> tuple[str, ...]:
            self.causes = causes_of(model, feed)
            return self.causes

        problem = cut_problem(recipe, self.runtime.micro_batch, processes, causes)
        if problem is not None:
            raise UsageError(f"model {self.cell.model.name!r}: {problem}")

    def _smallest_piece(self, feed: Feed, step: Train) -> np.ndarray:
        """Rows of the smallest piece of the first smallest batch: what is too small for a model is so there first."""
        recipe, accelerator = self.cell.task.recipe, self.accelerator
        stage = getattr(recipe, step.recipe)
        smallest = smallest_batch(feed.examples, stage, recipe.batch_size)
        order = global_batches(feed.examples, stage, recipe.batch_size, np.random.default_rng(0))
        batch = next(order)[:smallest]
        largest = largest_piece(recipe, self.runtime.micro_batch, accelerator.num_processes)
        part = Part(accelerator.process_index, accelerator.num_processes, accelerator.device.type)
        places = min(shares(batch, feed.lengths, recipe, largest, part), key=len)
        return batch[places]

    def _smallest_batch(self, step: Train) -> int:
        examples, recipe = self.setting.design.trained(step.phase, step.fold), self.cell.task.recipe
        return smallest_batch(examples, getattr(recipe, step.recipe), recipe.batch_size)

    def _check_sharing(self, steps: list[Train]) -> None:
        recipe, smallest = self.cell.task.recipe, min(map(self._smallest_batch, steps))
        problem = sharing_problem(recipe, smallest, self.accelerator.num_processes)
        if problem is not None:
            raise UsageError(f"task {self.cell.task.name!r}: {problem}")

    def _ask(self, model: nn.Module) -> None:
        steps = asks(self.setting.schedule)
        model.eval()
        for step in steps[:1]:
            feed = self.setting.question_feed(step.stage, step.branch, step.sets[0])
            with torch.no_grad():
                logits = model(**_batch(feed, np.arange(len(feed.examples))[:ASKED], device_of(model)).inputs)
            if not logits.is_meta and bool(logits.isnan().any()):
                raise UsageError(f"model {self.cell.model.name!r} answers with NaN when it is asked")
        if self.cell.task.exact_match == "normalised" and not hasattr(model.body, "generate"):
            raise UsageError(
                f"model {self.cell.model.name!r} has no generate(), which exact_match: normalised needs; "
                "leave --exact-match out"
            )


def _batch(feed: Feed, rows: np.ndarray, device: torch.device) -> Batch:
    noise = torch.full((len(rows), feed.noise), 0.5, device=feed.mass.device)
    return moved(feed.batch(Indices.of(rows, feed.mass.device), noise), device)
