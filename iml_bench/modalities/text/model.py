"""What a task with texts asks of a model's shape, and the wrapper that gives every model the same face."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from iml_bench.errors import UsageError
from iml_bench.generators import CPU
from iml_bench.modalities.text.waits import values_unread
from iml_bench.modalities.trial import forward, wrong_shape
from iml_bench.spec import ModelEntry


class TextShape(NamedTuple):
    """Token ids ``[b, T]`` in, ``T <= max_length``; a distribution over ``classes`` tokens at each out."""

    classes: int
    max_length: int
    """Tokens of the longest text; of an encoder-decoder model's longest input."""
    pad: int
    line_end: int
    max_target: int = 0
    """Encoder-decoder models: tokens of the longest answer; 0 for causal ones."""

    def wrap(self, body: nn.Module) -> TextModel:
        """See ``trial.Shape``."""
        return TextModel(body)

    def check_output(self, entry: ModelEntry, model: nn.Module, device: torch.device = CPU) -> None:
        """See ``trial.Shape``."""
        self._logits(entry, model, self._inputs(device))

    def try_out(self, entry: ModelEntry, model: nn.Module) -> None:
        """See ``trial.Shape``; whether it looks ahead, and whether logits can be had at chosen positions only."""
        assert isinstance(model, TextModel)
        inputs = self._inputs(CPU)
        logits = self._logits(entry, model, inputs)
        everywhere = torch.arange(2 * self._answered)
        written = inputs[self._written]
        half = max(1, self._answered // 2)  # one other token at the end may move the logits by less than rounding
        others = {**inputs, self._written: torch.cat([written[:, :half], written[:, half:].flip(0, 1)], dim=1)}
        before = everywhere.view(2, self._answered)[:, :half].flatten()
        if not _near(forward(entry, model, self._what, {"keep": before, **others}), logits[before]):
            raise UsageError(f"model {entry.name!r} looks ahead: what it predicts depends on the tokens that follow")
        last = everywhere[-2:]
        model.early = True
        try:
            chosen = forward(entry, model, self._what, {"keep": last, **inputs})
            model.early = chosen.shape == logits[last].shape and _near(chosen, logits[last])
        except UsageError:
            model.early = False

    @property
    def _answered(self) -> int:
        """Tokens of the texts that the model continues."""
        return self.max_target or self.max_length

    @property
    def _written(self) -> str:
        return "decoder_input_ids" if self.max_target else "input_ids"

    @property
    def _what(self) -> str:
        return f"texts of {self.max_length} tokens" + (f" and answers of {self.max_target}" if self.max_target else "")

    def _inputs(self, device: torch.device) -> dict[str, Tensor]:
        """Two of the longest texts, ``[2, T]`` each."""
        inputs = {"input_ids": self._tokens(self.max_length)}
        if self.max_target:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            inputs[self._written] = self._tokens(self.max_target)
        return {name: tensor.to(device) for name, tensor in inputs.items()}

    def _tokens(self, length: int) -> Tensor:
        """Two texts ``[2, length]`` of differing tokens: equal ones may give equal logits at all positions."""
        ids = torch.arange(2 * length).view(2, length) % self.classes
        return torch.where(ids == self.pad, self.line_end, ids)

    def _logits(self, entry: ModelEntry, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """The logits of all positions, which must be as many as the task asks for."""
        assert isinstance(model, TextModel)
        model.early = False
        everywhere = torch.arange(2 * self._answered, device=inputs["input_ids"].device)
        logits = forward(entry, model, self._what, {"keep": everywhere, **inputs})
        # Pretrained models have more classes than their tokenizer has tokens.
        if len(logits) != 2 * self._answered or logits.shape[1] < self.classes:
            raise wrong_shape(entry, self._what, logits, (2 * self._answered, self.classes))
        return logits


class TextModel(nn.Module):
    """Any language model, as the logits ``[k, classes]`` of the positions that are asked for.

    The other positions' logits are never computed where the model has an output layer to tell so:
    with the vocabulary of a pretrained model they would cost more than all the rest.
    """

    def __init__(self, body: nn.Module) -> None:
        """Args: body: takes ``input_ids``; returns logits, or an object that has them as ``.logits``."""
        super().__init__()
        self.body = body
        self.early = True
        """Compute logits at the chosen positions only; loading a model turns it off where that fails."""
        self._keep: Tensor | None = None
        self._chosen = False
        find_head = getattr(body, "get_output_embeddings", None)
        head = find_head() if callable(find_head) else None
        if head is not None:
            head.register_forward_pre_hook(self._select)

    def forward(self, keep: Tensor, **inputs: Tensor) -> Tensor:
        """Logits at some positions.

        Args:
            keep: ``[k]`` int64, positions in the flattened ``[b * T]`` output of the model.
            inputs: ``input_ids`` ``[b, T]`` and what else the model takes.
        """
        self._keep, self._chosen = keep if self.early else None, False
        try:
            with values_unread(self.body):
                output: Any = self.body(**inputs)
        finally:
            self._keep = None
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            mode = "in training" if self.training else "when it is asked"
            raise TypeError(f"{mode} it returns {type(output).__name__}, not logits or an object that has them")
        return logits if self._chosen else logits.flatten(0, -2).index_select(0, keep)

    def _select(self, head: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._keep is None or not arguments or arguments[0].dim() != 3:
            return None
        self._chosen = True
        return (arguments[0].flatten(0, 1).index_select(0, self._keep), *arguments[1:])


def _near(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding, which grows with the largest logit."""
    largest = float(other.nan_to_num().abs().max())
    return torch.allclose(one, other, rtol=0, atol=1e-4 * largest, equal_nan=True)
