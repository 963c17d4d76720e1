"""Cells on a GPU that is not there: ``python fake_gpu.py DEVICE [NAME ...]`` says what each does wrong.

Tensors have a shape, a type and a device, and no content (torch's ``FakeTensorMode``). What needs content on the host,
as ``item()`` and ``if tensor:`` do, cannot be answered and raises, as does mixing the host's tensors with the device's;
``Waits`` refuses copies for which the host would wait. Two devices are pretended, since neither shows everything:

- ``cuda``: what the code does where it is told that this is CUDA. Its backward pass needs a driver; in its place every
  weight is given a gradient.
- ``gpux``: a device of no kind that the code knows, whose backward pass runs.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from accelerate import PartialState
from making import small_task
from small_models import bpe_tokenizer, build
from sources import people_file, works_file
from test_render_vision import write_mnist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from iml_bench.learners import answers
from iml_bench.learners.network import NetworkLearner
from iml_bench.learners.setup import make_accelerator
from iml_bench.modalities.base import Indices
from iml_bench.models import draw_model, load_form
from iml_bench.protocols.base import Ask, Keep, Restore, Train
from iml_bench.run.cell import Setting
from iml_bench.runtime import Runtime
from iml_bench.sources import find_model
from iml_bench.spec import CellSpec

TINY = "hidden_size=16&intermediate_size=32&num_attention_heads=2&num_hidden_layers=2"
T5 = "hf-config:t5?d_ff=32&d_kv=8&d_model=16&num_heads=2&num_layers=2"
CELLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mlp": ("vision", "mlp-xs", {}),
    "convnet": ("vision", "convnet-xs", {}),
    "vit": ("vision", "vit-plain", {}),
    "timm": ("vision", "test-resnet-ln", {}),
    "timm-vit": ("vision", "vit-p16-s", {}),
    "lora": ("text-cities", "hf:{folder}?lora=2", {}),
    "own": ("vision", "python:models_for_tests:linear", {}),
    "pieces": ("vision", "mlp-xs", {"recipe__micro_batch": 5, "recipe__max_grad_norm": 1.0}),
    "mnist": ("vision-mnist", "convnet-xs", {}),
    "neox": ("text", f"hf-config:gpt_neox?{TINY}", {}),
    "llama": ("text", f"hf-config:llama?{TINY}", {}),
    "gpt2": ("text", "hf-config:gpt2?n_embd=16&n_head=2&n_layer=2", {}),
    "t5": ("text", T5, {}),
    "bf16": ("text", f"hf-config:llama?{TINY}", {"recipe__precision": "bf16", "recipe__micro_batch": 5}),
    "sets": ("text-sets", f"hf-config:gpt_neox?{TINY}", {}),
    "cities": ("text-cities", f"hf-config:llama?{TINY}", {}),
    "cities-t5": ("text-cities", T5, {}),
    "cvdb": ("text-cvdb", f"hf-config:gpt_neox?{TINY}", {}),
    "trex": ("text-trex", f"hf-config:gpt_neox?{TINY}", {}),
    "adamw": (
        "text-cities",
        f"hf-config:gpt_neox?{TINY}",
        {"recipe__optimizer": "adamw", "recipe__schedule": "linear"},
    ),
}
"""Every shipped task, every kind of model, every optimiser: the task, the model, what is changed in the task."""
DATA = {"text-cvdb": people_file, "text-trex": works_file}


class Waits(TorchDispatchMode):
    """Refuses copies between host and device for which the host waits: those that are not from or to pinned memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name == "aten::_to_copy" and isinstance(found, Tensor):
            self._check(args[0], found, bool((kwargs or {}).get("non_blocking")))
        elif name == "aten::copy_":
            self._check(args[1], args[0], bool(args[2]) if len(args) > 2 else False)
        return found

    def _check(self, source: Tensor, target: Tensor, non_blocking: bool) -> None:
        kinds = {source.device.type, target.device.type}  # only of CUDA does the code know that it may go on meanwhile
        if kinds == {"cpu", "cuda"} and not non_blocking:
            raise RuntimeError(f"the host waits for a copy from {source.device} to {target.device}")


class PretendedGpu:
    """A GPU that is not there, and all that a cell needs to take it for one."""

    def __init__(self, kind: str, broken: str | None = None) -> None:
        """Args: kind: ``cuda`` or ``gpux``; broken: what every step does wrong, one of ``_SPOILT``."""
        if kind == "gpux":
            from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

            _setup_privateuseone_for_python_backend(kind)
        self.device, self.broken = torch.device(kind, 0), broken

    def run(self, cell: CellSpec, runtime: Runtime) -> int:
        """Carry out the schedule of a cell; how many optimiser steps it took."""
        with ExitStack() as stack:
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            stack.enter_context(self._patched(encoder="t5" in cell.model.source))
            accelerator = make_accelerator(cell.task.recipe, runtime)
            accelerator.state.device = PartialState().device = self.device
            form = load_form(cell.model)
            with mode:
                setting = Setting(cell.task, cell.seed, self.device, runtime, form)
                shape = setting.shape()
            model = draw_model(cell.model, shape, 0)  # of real tensors, as always on the host
            stack.enter_context(mode)
            with mock.patch.object(nn.Module, "to", _moved):
                learner = NetworkLearner(model, cell.task.recipe, setting.streams, accelerator, runtime)
            assert {weight.device for weight in learner.model.parameters()} == {self.device}
            return self._carry_out(setting, learner)

    def _carry_out(self, setting: Setting, learner: NetworkLearner) -> int:
        kept: dict[str, Any] = {}
        steps = 0
        for step in setting.schedule:
            match step:
                case Train():
                    feed = setting.train_feed(step.phase, step.fold)
                    outcome = learner.fit(feed, getattr(setting.task.recipe, step.recipe), step.phase)
                    steps += outcome.steps
                case Ask():
                    for which in step.sets:
                        self._ask(learner, setting.question_feed(step.stage, step.branch, which))
                case Keep(name):
                    kept[name] = learner.snapshot()
                case Restore(name):
                    learner.restore(kept[name])
        return steps

    def _ask(self, learner: NetworkLearner, feed: Any) -> None:
        rows = np.arange(min(len(feed.examples), answers.LARGEST_BATCH))
        if not len(rows):
            return
        noise = torch.zeros(len(rows), feed.noise, device=self.device)
        feed.mass, feed.lengths  # noqa: B018  (made once for a feed, not in every pass)
        with torch.no_grad(), Waits():
            found = answers._ask(learner, feed, Indices.of(rows, self.device), noise)
        assert {column.device for column in found} == {self.device}

    @contextmanager
    def _patched(self, *, encoder: bool) -> Iterator[None]:
        """What cannot be pretended (pinned memory, the generator of the device), and who looks for waits."""
        take_step, gather, loss = NetworkLearner._step, NetworkLearner._accumulate, NetworkLearner._loss
        fork = torch.random.fork_rng

        def step(learner: NetworkLearner, feed: Any, batch: Any, seen: Tensor, optimizer: Any) -> None:
            # transformers' Adafactor makes its state on the host, in the first step of a stage.
            with Waits() if optimizer.state else nullcontext():
                take_step(learner, feed, batch, seen, optimizer)

        def accumulate(learner: NetworkLearner, *given: Any) -> None:
            with Waits():
                gather(learner, *given)

        def spoilt(learner: NetworkLearner, *given: Any) -> Tensor:
            return _SPOILT[str(self.broken)](loss(learner, *given))

        patches = [
            # Else the content of small arrays would be kept, and really copied.
            mock.patch.object(FakeTensorMode, "avoid_device_init", True),
            mock.patch.object(NetworkLearner, "_step", step),
            mock.patch.object(NetworkLearner, "_accumulate", accumulate),
            mock.patch.object(NetworkLearner, "_look", lambda learner, losses, *given: [0.0] * len(losses)),
            mock.patch.object(Tensor, "pin_memory", lambda tensor: tensor),
            mock.patch.object(torch.random, "fork_rng", lambda devices: fork(devices=[])),
        ]
        if not encoder:
            # Else transformers would leave out what it does with real tensors and not where it is compiled. Where there
            # is an encoder it asks whether anything is padded, and waits, once in a forward pass.
            patches.append(mock.patch("transformers.utils.import_utils.is_fake_tensor", lambda tensor: False))
        if self.device.type == "cuda":
            patches.append(mock.patch.object(torch.autograd, "backward", _graded))
        if self.broken:
            patches.append(mock.patch.object(NetworkLearner, "_loss", spoilt))
        with ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch)
            yield


def _moved(model: nn.Module, device: torch.device) -> nn.Module:
    """``Module.to``, which would exchange what is inside of weights; those that are shared stay so."""
    known: dict[int, Tensor] = {}

    def there(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            moved = tensor.detach().to(device)
            is_weight = isinstance(tensor, nn.Parameter)
            known[id(tensor)] = nn.Parameter(moved, tensor.requires_grad) if is_weight else moved
        return known[id(tensor)]

    for module in model.modules():
        for place in (module._parameters, module._buffers):
            place.update({name: there(tensor) for name, tensor in place.items() if tensor is not None})
    return model


def _graded(loss: Tensor, *given: Any, **more: Any) -> None:
    """In place of the backward pass: a gradient for every weight that the loss comes from."""
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        weight = getattr(node, "variable", None)
        if weight is not None:
            weight.grad = torch.zeros_like(weight)
        left += [function for function, _ in node.next_functions]


_SPOILT: dict[str, Callable[[Tensor], Tensor]] = {
    "item": lambda loss: loss * (2.0 if loss.item() < 0 else 1.0),
    "copy": lambda loss: loss * loss.cpu().to(loss.device),
    "mix": lambda loss: loss * torch.ones(1),
}
"""What a step may do wrong, to see that it is found."""


def main(kind: str, names: list[str], broken: str | None) -> None:
    """Run cells; a line of JSON for each: its name, its steps, and what went wrong."""
    torch.set_num_threads(1)
    gpu, folder = PretendedGpu(kind, broken), Path(tempfile.mkdtemp())
    build("llama").save_pretrained(folder)
    bpe_tokenizer().save_pretrained(folder)
    write_mnist(folder)
    for name in names or CELLS:
        task, model, changes = CELLS[name]
        data = DATA[task]() if task in DATA else None
        runtime = Runtime(device="cpu", data=data, data_dir=folder)
        found: dict[str, Any] = {"name": name, "steps": 0, "error": None}
        try:
            cell = CellSpec(task=small_task(task, **changes), model=find_model(model.format(folder=folder)), seed=0)
            found["steps"] = gpu.run(cell, runtime)
        except Exception as error:
            while isinstance(error.__context__, Exception):
                error = error.__context__  # what Accelerate asks about an error fails on those of fake tensors
            frames = traceback.extract_tb(error.__traceback__)
            own = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "iml_bench" in frame.filename]
            found["error"] = f"{type(error).__name__} at {own[-1] if own else '?'}: {error}"[:600]
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    wrong = [argument.removeprefix("--broken=") for argument in sys.argv[1:] if argument.startswith("--broken=")]
    main(sys.argv[1], [name for name in sys.argv[2:] if name in CELLS], wrong[0] if wrong else None)
