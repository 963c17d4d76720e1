"""What a task with texts asks of a model's shape, and the wrapper that gives every model the same face."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn


class TextShape(NamedTuple):
    """Token ids ``[b, T]`` in, ``T <= max_length``; a distribution over ``classes`` tokens at each out."""

    classes: int
    max_length: int
    """Tokens of the longest text; of an encoder-decoder model's longest input."""
    pad: int
    line_end: int
    max_target: int = 0
    """Encoder-decoder models: tokens of the longest answer; 0 for causal ones."""


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
            output: Any = self.body(**inputs)
        finally:
            self._keep = None
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits if self._chosen else logits.flatten(0, -2).index_select(0, keep)

    def _select(self, head: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._keep is None or not arguments or arguments[0].dim() != 3:
            return None
        self._chosen = True
        return (arguments[0].flatten(0, 1).index_select(0, self._keep), *arguments[1:])
