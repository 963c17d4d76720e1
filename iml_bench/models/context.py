"""How long a text a language model can read: asked of its configuration."""

from __future__ import annotations

from typing import Any

from iml_bench.errors import UsageError
from iml_bench.modalities.text.model import TextShape
from iml_bench.spec import ModelEntry


def check_context(entry: ModelEntry, config: Any, shape: TextShape) -> None:
    """Refuse a model that is made for shorter texts than the task's.

    Args:
        entry: the model's.
        config: its configuration, of ``transformers``.
        shape: what the task asks for.

    Raises:
        UsageError: when the longest text or answer is longer than the model reads or writes.
    """
    limit = _context_length(config)
    if limit is None:
        return
    if shape.max_length > limit:
        raise UsageError(
            f"model {entry.name!r} reads at most {limit} tokens and the longest text of this task has "
            f"{shape.max_length}"
        )
    if shape.max_target > limit:
        raise UsageError(
            f"model {entry.name!r} writes at most {limit} tokens and the longest answer of this task has "
            f"{shape.max_target}"
        )


def _context_length(config: Any) -> int | None:
    """The most tokens a model is made for; None where there is no such limit."""
    if hasattr(config, "relative_attention_num_buckets"):
        return None  # T5 and its like: some carry an n_positions that nothing reads
    for part in (config, config.get_text_config()):
        for name in ("max_position_embeddings", "n_positions", "n_ctx"):
            limit = getattr(part, name, None)
            if isinstance(limit, int) and limit > 0:
                return limit
    return None
