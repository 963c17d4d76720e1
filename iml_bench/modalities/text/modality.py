"""Texts, as the runner sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from iml_bench.modalities.base import Answers, Feed, Modality, Renderer, Scene
from iml_bench.modalities.text.audit import audit_texts
from iml_bench.modalities.text.feed import TextFeed
from iml_bench.modalities.text.generated import generate_answers
from iml_bench.modalities.text.model import TextShape
from iml_bench.modalities.text.picture import text_lines
from iml_bench.modalities.text.renderer import TextRenderer
from iml_bench.modalities.text.spec import TextRender
from iml_bench.modalities.text.tokens import Form
from iml_bench.protocols.base import Examples, Ints
from iml_bench.spec import Audit

LARGEST_VOCABULARY = 10**6


class Text(Modality):
    """Short texts as token ids, read by causal and encoder-decoder language models."""

    name = "text"

    def renderer(self, scene: Scene) -> TextRenderer:
        """See ``Modality.renderer``."""
        task = scene.task
        spec, form = cast(TextRender, task.render), scene.form or Form()
        counted = task.recipe.loss_on or "text"
        return TextRenderer(spec, counted, scene.world, scene.design, scene.streams, scene.device, form)

    def shape(self, renderer: Renderer, feeds: Sequence[Feed]) -> TextShape:
        """See ``Modality.shape``: the longest text and the longest answer."""
        codec = cast(TextRenderer, renderer).codec
        length, target = (max(column) for column in zip(*(cast(TextFeed, feed).longest for feed in feeds), strict=True))
        return TextShape(codec.classes, length, codec.pad, codec.line_end, target)

    def places(self, renderer: Renderer) -> Ints | None:
        """See ``Modality.places``."""
        return cast(TextRenderer, renderer).places

    def audit(self, renderer: Renderer) -> Audit | None:
        """See ``Modality.audit``: whether the tokenizer keeps the texts apart; None for the task's own."""
        return audit_texts(cast(TextRenderer, renderer))

    def generated(self, learner: Any, feed: Feed, renderer: Renderer, answers: Answers) -> Answers:
        """See ``Modality.generated``."""
        return generate_answers(learner, cast(TextFeed, feed), cast(TextRenderer, renderer), answers)

    def least_log_likelihood(self, task: Any, gold: Sequence[str]) -> NDArray[np.float64]:
        """See ``Modality.least_log_likelihood``: a generous bound on both tokens and vocabulary."""
        tokens = np.array([len(text.encode()) + 2 for text in gold], dtype=np.float64)
        return np.asarray(-tokens * np.log(LARGEST_VOCABULARY))

    def drawn(self, setting: Any, panels: list[tuple[str, Examples]]) -> list[str]:
        """See ``Modality.drawn``: lines of text."""
        return text_lines(setting.renderer, panels)


TEXT = Text()
