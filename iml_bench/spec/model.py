"""What a model entry is: a named, loadable model with its family and architecture."""

from __future__ import annotations

import hashlib
import os.path
import re
from copy import deepcopy
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NamedTuple, Self
from urllib.parse import quote, unquote

import yaml
from pydantic import AfterValidator, Field, field_validator, model_validator

from iml_bench.errors import UsageError, shown, unknown
from iml_bench.extensions import LEARNERS, MODALITIES
from iml_bench.spec.base import Digest, Line, LongLine, Spec, one_line, parse
from iml_bench.spec.needs import Needs
from iml_bench.spec.written import read_value, show_value

SCHEMES = {
    "reference": "a reference learner that is not trained: oracle, sceptic, gullible or random",
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
        words = _words(self.scheme)
        shown = (
            (key, _quoted(value) if key in words and isinstance(value, str) else _show(value))
            for key, value in sorted(self.options.items())
        )
        query = "&".join(f"{key}={value}" for key, value in shown)
        return f"{self.scheme}:{_quoted(self.target)}" + (f"?{query}" if query else "")


SAFE = "[]{},.:/'\"+-_@~"
"""Characters that stand as they are in a source; others are percent-encoded."""


PLACES: Final = {"hf": ("revision", "subfolder"), "timm": ("checkpoint_path",)}
"""By scheme, the options that say which files are meant: words as they stand, even where they look like a number."""
WEIGHTS: Final = ("pretrained_cfg", "pretrained_cfg_overlay")
"""Options of timm that may say where pretrained weights come from, as a mapping with a ``file`` or a ``hf_hub_id``."""
OF_A_PATH: Final = ("hf", "gguf", "python")
"""Schemes whose target may be a path."""
LEARNING_RATE: Final = "recipe.lr"
"""The field that a sweep chooses, as ``--set`` takes it."""
SETTING_PATTERN: Final = r"[a-z0-9][a-z0-9._-]*@[1-9][0-9]*( small)?"
"""See ``setting_label``."""
LONGEST_LABEL: Final = 200
LONGEST_SOURCE: Final = 1000
KEPT: Final = 4096
"""Sources of which it is kept what follows from them: thousands of records name a few models."""
SourceLine = Annotated[str, Field(max_length=16_000), AfterValidator(one_line)]
"""A source: room for the longest path, whose every byte may be percent-encoded."""
Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}([0-9a-f]{24})?$")]
"""A commit of git in hexadecimal."""


def _quoted(text: str) -> str:
    return quote(text, safe=SAFE, errors="surrogateescape")  # file names may be no UTF-8


def _unquoted(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def _words(scheme: str) -> tuple[str, ...]:
    return ("revision", *PLACES.get(scheme, ()))


def _show(value: Any) -> str:
    return _quoted(show_value(value))


def parse_source(text: str) -> Source:
    """Split a source string; option values are read as YAML scalars or lists.

    Raises:
        UsageError: when there is no known scheme, no target, or an option without a value.
    """
    scheme, colon, _ = text.partition(":")
    if not colon or scheme not in LEARNERS.origins:
        raise unknown("model source", scheme, LEARNERS.origins, "iml-bench models --help")
    found = _parsed(text)
    return found._replace(options=deepcopy(found.options))  # whoever asks may change them


@lru_cache(KEPT)
def _parsed(text: str) -> Source:
    scheme, _, rest = text.partition(":")
    target, _, query = rest.partition("?")
    if not target:
        raise UsageError(f"model source {shown(repr(text))} names nothing after {scheme + ':'!r}")
    options: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        key, equals, value = part.partition("=")
        if not key or not equals or not value:
            raise UsageError(
                f"model source {shown(repr(text))}: {shown(repr(part))} is not of the form option=value; "
                "a ? or & in a name is written %3F or %26"
            )
        if key in options:
            raise UsageError(f"model source {shown(repr(text))}: option {shown(repr(key))} stands twice")
        try:
            options[key] = _unquoted(value) if key in _words(scheme) else read_value(unquote(value))
        except yaml.YAMLError as error:
            raise UsageError(
                f"model source {shown(repr(text))}: {shown(repr(value))} is not a value YAML can read"
            ) from error
    return Source(scheme, _unquoted(target), options)


class ModelEntry(Spec):
    """One model that can be put through a task; a YAML file in ``leaderboard/models/``."""

    name: Line = Field(min_length=1)
    source: SourceLine
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
    commit: Commit | None = None
    """Of the hub's repository that the weights come from; filled in when a run is planned, and it is what is loaded."""
    size: Line = ""
    """What its makers call its size, e.g. ``160M``; the parameter count is measured."""
    licence: Line = ""
    notes: LongLine = ""
    tuned: dict[Line, dict[Line, float]] = {}
    """What ``iml-bench tune`` chose for it, by the setting of a task (``setting_label``): ``{"vision@2": {"recipe.lr":
    0.0005}}``. ``--ruleset tuned`` applies it."""
    needs: Needs | None = Field(default=None, exclude=True)
    """What one of its cells takes of a machine; it says where the model runs, so no record and no key holds it."""

    @field_validator("source")
    @classmethod
    def _canonical_source(cls, value: str) -> str:
        try:
            source = parse_source(value)
        except UsageError as error:
            raise ValueError(str(error)) from error
        if source.scheme not in OF_A_PATH and len(value) > LONGEST_SOURCE:
            raise ValueError(f"it has at most {LONGEST_SOURCE} characters where it is no path")
        return _canonical(value)

    @field_validator("modality")
    @classmethod
    def _known_modality(cls, value: str) -> str:
        known = (*MODALITIES.origins, "any")
        if value not in known:
            raise ValueError(f"it is one of {', '.join(known)}")
        return value

    @field_validator("tuned")
    @classmethod
    def _what_a_sweep_chooses(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for setting, chosen in value.items():
            if re.fullmatch(SETTING_PATTERN, setting) is None:
                raise ValueError(
                    f"{shown(repr(setting))} is no setting of a task, such as 'vision@2' or 'text@2 small'"
                )
            if {*chosen} != {LEARNING_RATE} or chosen[LEARNING_RATE] <= 0:
                raise ValueError(f"{setting}: it says {LEARNING_RATE}, which is above 0, and nothing else")
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
    def place(self) -> str:
        """The source, with a path in its shortest spelling: ``hf:./lm/gpt2/`` is ``hf:lm/gpt2``."""
        return _place(self.source)

    @property
    def loaded(self) -> str:
        """What the source says beside the bytes: without the place that a digest or a commit stands for.

        Local files are known by their digest, and of their source there remain the scheme, the callable of a
        ``python:`` model and the options, but for those that say where files lie. Of a commit of the hub there remain
        the scheme and the options but the revision: a subfolder chooses among its files. timm's target is the name of
        an architecture, and stays.
        """
        return _loaded(self.source, has_digest=self.digest is not None, has_commit=self.commit is not None)

    @property
    def is_reference(self) -> bool:
        """Whether this is a reference row (oracle, sceptic, gullible, random) and not a trained model."""
        return self.source.startswith("reference:")


@lru_cache(KEPT)
def _canonical(text: str) -> str:
    """A source as it is written by whoever writes one."""
    return str(_parsed(text))


@lru_cache(KEPT)
def _place(text: str) -> str:
    """See ``ModelEntry.place``."""
    source = _parsed(text)
    if source.scheme in OF_A_PATH:
        source = source._replace(target=os.path.normpath(source.target))
    return str(source)


@lru_cache(KEPT)
def _loaded(text: str, *, has_digest: bool, has_commit: bool) -> str:
    """See ``ModelEntry.loaded``."""
    source = _parsed(text)
    if not has_digest and not has_commit:
        return str(source)
    target = source.target if source.scheme not in OF_A_PATH else ""
    if source.scheme == "python":
        target = source.target.rpartition(":")[2]
    gone = ("revision",) if not has_digest else PLACES.get(source.scheme, ())
    options = {key: value for key, value in source.options.items() if key not in gone}
    if has_digest and source.scheme == "timm":
        options |= {key: options[key] | {"file": None} for key in WEIGHTS if isinstance(options.get(key), dict)}
    return str(Source(source.scheme, target, options))


def setting_label(task: str, version: int, *, small: bool = False) -> str:
    """``vision@2``, or ``text-sets@2 small`` for a task's small setting: what a learning rate is chosen for."""
    return f"{task}@{version}{' small' if small else ''}"


def label(text: str) -> str:
    """A source or a path as a label: whole where it fits, else readable, and then its two ends with a digest of it."""
    if len(text) <= LONGEST_LABEL and text.isprintable():
        return text
    readable = shown(unquote(text), len(text))
    if len(readable) <= LONGEST_LABEL:
        return readable
    mark = hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
    return f"{readable[:60]}...{readable[-120:]}~{mark}"


def entry_from_source(text: str) -> ModelEntry:
    """A model entry for a bare source string, named after it.

    ``hf:`` models read text with their own tokenizer; ``python:`` models may be of either modality.
    """
    source = parse_source(text)
    last = source.target.rstrip("/").rpartition("/")[2] if source.scheme in OF_A_PATH else source.target.split("/")[-1]
    modality: dict[str, Any] = {"timm": "vision", "ref": "vision", "hf": "text", "gguf": "text", "hf-config": "text"}
    fields = {
        "name": label(str(source)),
        "source": text,
        "modality": modality.get(source.scheme, "any"),
        "family": label(last.split(".")[0] or last or source.target),
        "architecture": label(source.target),
        "tokenizer": "own" if source.scheme in ("hf", "gguf") else "task",
    }
    return parse(ModelEntry, fields, f"model source {shown(repr(text))}")
