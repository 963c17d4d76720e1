"""Which commit of a hub's repository a model is, and where its files lie on this machine; never imports torch."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

from iml_bench.errors import UsageError, shown
from iml_bench.paths import is_folder
from iml_bench.spec import ModelEntry

PLACE: Final = ("revision", "subfolder")
"""Source options that say which files are meant; the tokenizer is of the same place."""
PATIENCE: Final = 5.0
"""Seconds to wait for the hub before it counts as out of reach."""
COMMIT: Final = re.compile("[0-9a-f]{40}")
ADAPTER: Final = "adapter_config.json"
WITH_CODE: Final = ("config.json", "tokenizer_config.json")
"""Files that may name code that comes with the weights."""


class Repository(NamedTuple):
    """What a source asks the hub for."""

    name: str
    revision: str | None


def repository_of(entry: ModelEntry) -> Repository | None:
    """The repository that an ``hf:`` model lies in; None where it is a local folder."""
    source = entry.parsed
    if source.scheme == "hf" and not is_folder(source.target) and is_hub_id(source.target):
        return Repository(source.target, source.options.get("revision"))
    return None


def commit_in(repository: Repository, source: str) -> str | None:
    """The commit that a revision of a repository is now.

    Args:
        repository: what a source asks for.
        source: it, for the sentence when something is wrong.

    Returns:
        None where the hub cannot be reached and nothing was downloaded.

    Raises:
        UsageError: when the hub has no such repository or revision, or it holds what cannot be identified.
    """
    return _asked(source, *repository) if hub_answers() else _downloaded_commit(*repository)


@functools.cache
def _asked(source: str, name: str, revision: str | None) -> str:
    """The commit that the hub says a revision is; asked once, so that all cells of a process are of one."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name, revision=revision, timeout=PATIENCE)
    except Exception as error:  # whatever the client of the day raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{shown(source)}: the hub does not say which commit {revision or 'main'} of {shown(name)} is: "
            f"{shown(reason, 300)}"
        ) from error
    if source.startswith("hf:") and any(file.rfilename == ADAPTER for file in info.siblings or ()):
        raise UsageError(_is_an_adapter(source))
    return str(info.sha)


def _is_an_adapter(source: str) -> str:
    return (
        f"{shown(source)} holds an adapter ({ADAPTER}), whose model lies elsewhere; merge it into that model, save "
        "the whole, and give that"
    )


def _downloaded_commit(name: str, revision: str | None) -> str | None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    if revision is not None and COMMIT.fullmatch(revision):
        return revision if (folder / "snapshots" / revision).is_dir() else None
    try:
        commit = (folder / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def is_hub_id(target: str) -> bool:
    """Whether a name may be one of the hub's."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(target)
    except HFValidationError:
        return False
    return True


def place_of(entry: ModelEntry) -> tuple[str, dict[str, Any]]:
    """Where the files of an ``hf:`` model are, as ``from_pretrained`` takes it: those of the entry's commit.

    Raises:
        UsageError: when they are not there and cannot be downloaded, or more than they would be loaded.
    """
    source = entry.parsed
    place = {key: value for key, value in source.options.items() if key in PLACE}
    if is_folder(source.target):
        root = Path(source.target)
        if not (root / place.get("subfolder", "") / "config.json").is_file():
            raise UsageError(f"model {entry.name!r} ({entry.source}) has no config.json")
        if (root / ADAPTER).is_file() and not (root / "config.json").is_file():
            raise UsageError(f"model {entry.name!r}: {_is_an_adapter(entry.source)}")
        _refuse_code_from_elsewhere(entry, root / place.get("subfolder", ""))
        return source.target, place
    if not is_hub_id(source.target):
        raise UsageError(
            f"model {entry.name!r}: there is no folder {source.target!r}, and it is no id of the hub" + _escapes(entry)
        )
    repository = Repository(source.target, place.get("revision"))
    commit = entry.commit or commit_in(repository, entry.source)
    if commit is not None:
        place["revision"] = commit
    if hub_answers():
        _refuse_code_from_elsewhere(entry, None, commit)
        return source.target, place
    # As a folder, since some of what transformers asks the hub it asks even when it must not.
    folder = _downloaded(source.target, place)
    if folder is None:
        raise out_of_reach(entry, repository)
    _refuse_code_from_elsewhere(entry, folder / place.get("subfolder", ""))
    return str(folder), place


def _escapes(entry: ModelEntry) -> str:
    """How a name with signs of its own is written, where such signs were taken for more than that."""
    if not {"%", "?"} & set(entry.source):
        return ""
    return f" (read from {shown(entry.source)}: in a source, a % of the name is written %25, a ? %3F)"


def _refuse_code_from_elsewhere(entry: ModelEntry, folder: Path | None, commit: str | None = None) -> None:
    """Code of another repository has bytes of its own, which neither the digest nor the commit covers."""
    if not entry.trust_remote_code:
        return
    for name in WITH_CODE:
        named = _read(folder / name) if folder is not None else _read(_fetched(entry, name, commit))
        for reference in _strings(named.get("auto_map")):
            repository, elsewhere, _ = reference.partition("--")
            if elsewhere and repository != entry.parsed.target:
                raise UsageError(
                    f"model {entry.name!r} ({entry.source}): its code lies in another repository, "
                    f"{shown(repository)}; copy it beside the weights, so that it can be identified"
                )


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        return [text for one in (value.values() if isinstance(value, dict) else value) for text in _strings(one)]
    return [value] if isinstance(value, str) else []


def _read(path: Path | None) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes()) if path is not None else {}
    except (OSError, ValueError):
        found = {}  # said when it is loaded
    return found if isinstance(found, dict) else {}


def _fetched(entry: ModelEntry, name: str, commit: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download

    source = entry.parsed
    try:
        return Path(hf_hub_download(source.target, name, subfolder=source.options.get("subfolder"), revision=commit))
    except Exception:
        return None  # said when it is loaded


def _downloaded(target: str, place: dict[str, Any]) -> Path | None:
    """The folder in the hub's cache that holds a model, whole or not; None where nothing was downloaded."""
    inside = Path(place.get("subfolder", ""), "config.json")
    file = downloaded_file(target, inside.as_posix(), place.get("revision"))
    return file.parents[len(inside.parts) - 1] if file is not None else None


def downloaded_file(name: str, file: str, revision: str | None) -> Path | None:
    """A file of a repository in the hub's cache; None where it was not downloaded."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


@functools.cache
def hub_answers() -> bool:
    """Whether the hub may be asked and answers; asked once, since its client tries for most of a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # whatever the client of the day raises
        return False
    return True


def out_of_reach(entry: ModelEntry, repository: Repository) -> UsageError:
    """The sentence for weights that are not on this machine and cannot be downloaded."""
    name, revision = repository
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    return UsageError(
        f"model {entry.name!r} ({entry.parsed.scheme}:{entry.parsed.target}) is not on this machine and the hub "
        f"cannot be reached; download it first (`{command}`), or give a local "
        + ("folder" if entry.parsed.scheme == "hf" else "file, checkpoint_path=FILE")
    )
