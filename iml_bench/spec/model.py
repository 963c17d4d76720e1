"""What a model entry is: a named, loadable model with its family and architecture."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self
from urllib.parse import quote, unquote

import yaml
from pydantic import Field, field_validator, model_validator

from iml_bench.errors import UsageError, shown, unknown
from iml_bench.extensions import LEARNERS, MODALITIES
from iml_bench.spec.base import Digest, Line, LongLine, Spec, parse
from iml_bench.spec.written import read_value, show_value

SCHEMES = {
    "reference": "a reference learner that is not trained: oracle, gullible or random",
    "ref": "a small reference network of this package: mlp or convnet",
    "timm": "any classification architecture of timm",
    "hf": "a causal or encoder-decoder language model: a local folder or a hub id",
    "gguf": "a causal language model in a GGUF file: its path, or package/file.gguf of an installed package",
    "hf-config": "a language model with random weights, from a transformers model type",
    "python": "your own: module:callable, or path/to/file.py:callable",
}
"""The schemes of this package and what each loads; other packages add some (``extensions.LEARNERS``)."""


class Source(NamedTuple):
    """A parsed model source, ``scheme:target?option=value&option=value``."""

    scheme: str
    target: str
    options: dict[str, Any]

    def __str__(self) -> str:
        query = "&".join(f"{key}={_show(value)}" for key, value in sorted(self.options.items()))
        return f"{self.scheme}:{quote(self.target, safe=SAFE)}" + (f"?{query}" if query else "")


SAFE = "[]{},.:/'\"+-_@~"
"""Characters that stand as they are in a source; others are percent-encoded."""


def _show(value: Any) -> str:
    return quote(show_value(value), safe=SAFE)


def parse_source(text: str) -> Source:
    """Split a source string; option values are read as YAML scalars or lists.

    Raises:
        UsageError: when there is no known scheme, no target, or an option without a value.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in LEARNERS.origins:
        raise unknown("model source", scheme, LEARNERS.origins, "iml-bench models --help")
    target, _, query = rest.partition("?")
    if not target:
        raise UsageError(f"model source {shown(repr(text))} names nothing after {scheme + ':'!r}")
    options: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        key, equals, value = part.partition("=")
        if not key or not equals or not value:
            raise UsageError(f"model source {shown(repr(text))}: {shown(repr(part))} is not of the form option=value")
        try:
            # A revision is a name even where it looks like a number.
            options[key] = unquote(value) if key == "revision" else read_value(unquote(value))
        except yaml.YAMLError as error:
            raise UsageError(
                f"model source {shown(repr(text))}: {shown(repr(value))} is not a value YAML can read"
            ) from error
    return Source(scheme, unquote(target), options)


class ModelEntry(Spec):
    """One model that can be put through a task; a YAML file in ``leaderboard/models/``."""

    name: Line = Field(min_length=1)
    source: LongLine
    """``scheme:target?option=value``; the schemes are listed by ``iml-bench models --help``."""
    modality: Line
    """What it reads: a name among ``extensions.MODALITIES``, or ``any``."""
    family: Line
    """Models of one family differ in size only, so that size can be studied within it."""
    architecture: Line
    tokenizer: Literal["task", "own"] = "task"
    """Text only: the task's own word-level tokenizer, or the one that comes with the model."""
    trust_remote_code: bool = False
    """Run code that comes with the weights; only when the user says so by name."""
    digest: Digest | None = None
    """SHA-256 of the local files that the source points at; filled in when a run is planned."""
    size: Line = ""
    """What its makers call its size, e.g. ``160M``; the parameter count is measured."""
    licence: Line = ""
    notes: LongLine = ""

    @field_validator("source")
    @classmethod
    def _canonical_source(cls, value: str) -> str:
        try:
            return str(parse_source(value))
        except UsageError as error:
            raise ValueError(str(error)) from error

    @field_validator("modality")
    @classmethod
    def _known_modality(cls, value: str) -> str:
        known = (*MODALITIES.origins, "any")
        if value not in known:
            raise ValueError(f"it is one of {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.tokenizer == "own" and self.parsed.scheme not in ("hf", "gguf"):
            raise ValueError("tokenizer: only an hf: or gguf: model brings a tokenizer of its own")
        return self

    @property
    def parsed(self) -> Source:
        """The source, split into scheme, target and options."""
        return parse_source(self.source)

    @property
    def is_reference(self) -> bool:
        """Whether this is a reference row (oracle, gullible, random) and not a trained model."""
        return self.parsed.scheme == "reference"


def entry_from_source(text: str) -> ModelEntry:
    """A model entry for a bare source string, named after it.

    ``hf:`` models read text with their own tokenizer; ``python:`` models may be of either modality.
    """
    source = parse_source(text)
    modality: dict[str, Any] = {"timm": "vision", "ref": "vision", "hf": "text", "gguf": "text", "hf-config": "text"}
    fields = {
        "name": str(source),
        "source": text,
        "modality": modality.get(source.scheme, "any"),
        "family": source.target.split("/")[-1].split(".")[0],
        "architecture": source.target,
        "tokenizer": "own" if source.scheme in ("hf", "gguf") else "task",
    }
    return parse(ModelEntry, fields, f"model source {shown(repr(text))}")
