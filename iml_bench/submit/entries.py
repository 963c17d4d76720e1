"""Model entries of the leaderboard: writing one, and what must hold of one that is handed in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from iml_bench.errors import UsageError, nearest, shown, unknown
from iml_bench.paths import data_root, is_device_name, is_file, is_folder, probe_writable
from iml_bench.registry import MODELS
from iml_bench.sources.find import as_typed
from iml_bench.spec import ModelEntry, asked_for, entry_from_source, parse, same_model
from iml_bench.spec.model import PLACES, WEIGHTS
from iml_bench.spec.task import NAME_PATTERN
from iml_bench.spec.written import dump_yaml
from iml_bench.submit.twins import built_alike

LONGEST_NAME: Final = 60
"""Characters of an entry's name; it is also a folder's."""
LABELS: Final = ("family", "architecture", "size", "licence", "notes")


def is_plain_name(name: str) -> bool:
    """Whether a name can stand in a path, a table and an address as it is."""
    return len(name) <= LONGEST_NAME and re.fullmatch(NAME_PATTERN, name) is not None


def is_plain_text(text: str) -> bool:
    """Whether a text means nothing to a browser or a spreadsheet, should somebody forget to escape it."""
    return text.isprintable() and not set("<>") & set(text) and not text.startswith(("=", "+", "-", "@"))


def other_names(model: ModelEntry) -> list[str]:
    """Registered entries under other names that load the same."""
    listed = (row.spec for row in MODELS.list() if row.spec is not None)
    return [entry.name for entry in listed if entry.name != model.name and _one_is_enough(entry, model)]


def _one_is_enough(entry: ModelEntry, other: ModelEntry) -> bool:
    """Whether one of two entries would load what the other does, whichever of them leaves its files open."""
    return same_model(entry, other) or same_model(other, entry)


def entry_problems(path: Path) -> Iterator[str]:
    """What is wrong with an entry's file."""
    if path.is_symlink():
        yield "it is a link"
        return
    try:
        entry = MODELS.get(str(path))
    except UsageError as error:
        yield str(error)
        return
    yield from _problems(entry)
    taken = MODELS.get(entry.name) if entry.name in MODELS.origins else entry
    if not _one_is_enough(taken, entry):
        yield f"the name {entry.name!r} is taken by a registered model, which loads {shown(taken.source)}"
        return
    yield from _label_problems("its", entry, taken)


def _problems(entry: ModelEntry) -> Iterator[str]:
    if not is_plain_name(entry.name):
        yield (
            f"the name {shown(repr(entry.name))} is not plain: at most {LONGEST_NAME} small letters, digits, "
            "dots, hyphens and underscores, a letter or digit first"
        )
    if is_device_name(entry.name):
        yield f"the name {entry.name!r} is a device's on Windows, where no file can be called so"
    for field in LABELS:
        text = getattr(entry, field)
        if not is_plain_text(text):
            yield f"{field}: {shown(repr(text))} holds < or >, or begins like a formula"
    yield from _bytes_problems(entry)
    for name in other_names(entry):
        yield f"the entry {name!r} loads the same, {shown(entry.source)}; one of them is enough"


def add_entry(name: str, source: str, family: str, folder: Path | None, **labels: str | None) -> tuple[Path, list[str]]:
    """Write the entry of a model.

    Args:
        name: of the entry.
        source: see ``ModelEntry.source``.
        family: see ``ModelEntry.family``.
        folder: where it is written; None: among the shipped ones of this checkout.
        labels: further fields of ``ModelEntry``; None leaves one as it follows from the source.

    Returns:
        The file, and what the user should know.

    Raises:
        UsageError: when the name or the source is taken, or the entry is not valid; nothing is written then.
    """
    if name in MODELS.origins:
        raise UsageError(f"there is a model {name!r} already ({MODELS.origins[name].where}); choose another name")
    bare = entry_from_source(as_typed(source)).model_dump(exclude={"digest", "commit", "trust_remote_code"})
    given = {field: value for field, value in labels.items() if value is not None}
    fields = bare | {"name": name, "family": family} | given
    entry = parse(ModelEntry, fields, f"model {shown(repr(name))}")
    problem = next(_problems(entry), None)
    if problem:
        raise UsageError(f"model {shown(repr(name))}: {problem}")
    folder = folder or own_folder("models")
    path = folder / f"{name}.yaml"
    if path.exists():
        raise UsageError(f"{path} exists already; choose another name")
    probe_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plain = entry.model_dump(mode="json", exclude_defaults=True)
    path.write_bytes(dump_yaml(plain, sort_keys=False, allow_unicode=True, width=1000).encode())
    try:
        MODELS.get(str(path))
    except UsageError:
        path.unlink()
        raise
    return path, list(_remarks(entry))


def _remarks(entry: ModelEntry) -> Iterator[str]:
    twin = built_alike(entry)
    if twin is not None:
        yield f"{entry.source} builds the model of the entry {twin!r}, whose defaults it spells out; one is enough"
    families = sorted({row.spec.family for row in MODELS.list() if row.spec is not None})
    if entry.family not in families:
        near = nearest(entry.family, families)
        yield f"family {entry.family!r} is a new one" + (f"; did you mean {near!r}?" if near else "")
    if entry.parsed.scheme == "python" or is_file(entry.parsed.target) or is_folder(entry.parsed.target):
        yield f"{entry.source} is on this machine; for a leaderboard that others can check, publish it"


def own_folder(name: str) -> Path:
    """``leaderboard/<name>`` of this checkout.

    Raises:
        UsageError: when iml-bench was installed, so that nobody would find what is written there.
    """
    root = data_root()
    if not (root / ".git").exists():
        raise UsageError(f"iml-bench is no checkout here, so say where to write: --to DIR (leaderboard/{name} of one)")
    return root / "leaderboard" / name


def registered(name: str) -> ModelEntry:
    """The registered entry of a plain name, as a run would have it.

    Raises:
        UsageError: when there is none, or it is not fit for the leaderboard.
    """
    if name not in MODELS.origins:
        raise unknown("model", name, MODELS.origins, "iml-bench models")
    entry = MODELS.get(name)
    problem = next(_problems(entry), None)
    if problem:
        raise UsageError(f"model {name!r}: {problem}")
    return entry


def label_problems(model: ModelEntry) -> Iterator[str]:
    """What is wrong with the model of a record: it must be a registered one, under its name and labels."""
    asked = shown(repr(model.name))
    entry = None
    if model.name in MODELS.origins:
        try:
            entry = MODELS.get(model.name)
        except UsageError as error:
            yield str(error)
            return
    if entry is None:
        same = other_names(model)
        near = nearest(model.name, MODELS.origins)
        hint = f"; did you mean {near!r}?" if near else "; iml-bench models add NAME writes an entry"
        if same:
            hint = f"; its entry is {same[0]!r}, and iml-bench submit {same[0]} collects it under that name"
        yield f"no model is registered as {asked}{hint}"
        return
    ours, theirs = asked_for(model), asked_for(entry)
    for field, value in ours.items():
        if value != theirs[field]:
            yield (
                f"its model's {field} is {shown(repr(value))}, and that of the entry {asked} is "
                f"{shown(repr(theirs[field]))}"
            )
            return
    if not same_model(entry, model):
        yield f"its model's files are not those of the entry {asked}: they have another digest"
    yield from _bytes_problems(model)
    yield from _label_problems("its model's", model, entry, "; iml-bench submit takes over the entry's")


def _label_problems(whose: str, model: ModelEntry, entry: ModelEntry, hint: str = "") -> Iterator[str]:
    for field in ("modality", *LABELS):
        value, wanted = getattr(model, field), getattr(entry, field)
        if value != wanted:
            yield (
                f"{whose} {field} is {shown(repr(value))}, and that of the entry {shown(repr(entry.name))} is "
                f"{shown(repr(wanted))}{hint}"
            )
            return


def _bytes_problems(model: ModelEntry) -> Iterator[str]:
    """A model that is built from its options has no files and comes from no hub."""
    source = model.parsed
    loads = source.scheme not in ("reference", "ref", "hf-config")
    if source.scheme == "timm":
        loads = any(source.options.get(name) for name in ("pretrained", *PLACES["timm"], *WEIGHTS))
    for field in ("digest", "commit"):
        if getattr(model, field) is not None and not loads:
            yield f"its model has a {field}, and {shown(model.source)} loads no files"


def with_labels(model: ModelEntry, entry: ModelEntry) -> ModelEntry:
    """A record's model under the labels of its entry; what it loads stays as it was."""
    return entry.model_copy(
        update={"source": model.source, "digest": model.digest, "commit": model.commit, "tuned": {}}
    )
