"""The pretrained weights of ``timm:`` models: which file or repository they come from.

timm alone knows which repository an architecture's weights lie in, and importing it imports torch. So it is imported
here, inside a function, and only for a model that asks for pretrained weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from iml_bench.errors import UsageError, shown
from iml_bench.paths import is_file, is_folder
from iml_bench.sources import hub
from iml_bench.spec import ModelEntry, Source
from iml_bench.spec.model import WEIGHTS

CACHED = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
"""What weights are called in timm's repositories, in the order in which timm looks for them."""


def pretrained_cfg(source: Source) -> Any:
    """What timm knows of a model's pretrained weights, with what the source's options say; None if it knows none."""
    from timm.models import get_pretrained_cfg, resolve_pretrained_cfg

    given, overlay = (source.options.get(name) for name in WEIGHTS)
    architecture, _, tag = source.target.partition(".")
    try:
        if not given and get_pretrained_cfg(source.target) is None:
            return None
        return resolve_pretrained_cfg(architecture, given or tag or None, overlay)
    except Exception:
        return None  # said when the model is made


def local_weights(source: Source) -> list[str]:
    """The files on this machine that a ``timm:`` model's weights are read from; none where it has none.

    Raises:
        UsageError: when they are not there, or come from an address, which says nothing of their bytes.
    """
    named = [source.options.get("checkpoint_path")]
    for option in WEIGHTS if source.options.get("pretrained") else ():
        given = source.options.get(option)
        if isinstance(given, dict):
            if given.get("url"):
                raise UsageError(
                    f"timm:{source.target}: {shown(str(given['url']))} may be other weights tomorrow; download it and "
                    "give checkpoint_path=FILE"
                )
            named.append(given.get("file"))
    files = [str(name) for name in named if name]
    for file in files:
        if not (is_file(file) or is_folder(file)):
            raise UsageError(f"timm:{source.target}: there is no file {shown(file, 300)}")
    return files


def commit_of(entry: ModelEntry) -> str | None:
    """The commit of the hub that a model's weights are of, when it is loaded now.

    Returns:
        None where they come from no hub, or the hub cannot be reached and nothing was downloaded.

    Raises:
        UsageError: when the hub has no such repository or revision, or it holds what cannot be identified.
    """
    repository = hub.repository_of(entry)
    if repository is None and entry.parsed.scheme == "timm" and entry.parsed.options.get("pretrained"):
        repository = _repository(pretrained_cfg(entry.parsed))
    return hub.commit_in(repository, entry.source) if repository is not None else None


def _repository(cfg: Any) -> hub.Repository | None:
    if cfg is None or cfg.file or not cfg.hf_hub_id:
        return None
    name, _, revision = cfg.hf_hub_id.partition("@")
    return hub.Repository(name, revision or None)


def pinned(entry: ModelEntry) -> dict[str, Any]:
    """Options for ``timm.create_model`` with which the weights are those of the entry's commit.

    Raises:
        UsageError: when they are not on this machine and cannot be downloaded.
    """
    source = entry.parsed
    if not source.options.get("pretrained"):
        return {}
    cfg = pretrained_cfg(source)
    repository = _repository(cfg)
    if cfg is None or cfg.file:
        return {}
    if repository is None:
        if cfg.url and not hub.hub_answers() and not _in_torchs_cache(cfg.url):
            raise UsageError(
                f"model {entry.name!r} ({entry.source}): its weights are not on this machine and the network cannot be "
                f"reached; download {cfg.url} and give checkpoint_path=FILE"
            )
        return {}
    commit = entry.commit or hub.commit_in(repository, entry.source)
    overlay: dict[str, Any]
    if hub.hub_answers():
        overlay = {"hf_hub_id": f"{repository.name}@{commit}", "custom_load": cfg.custom_load}
    else:
        names = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else CACHED
        found = [file for name in names if (file := hub.downloaded_file(repository.name, name, commit)) is not None]
        if not found:
            raise hub.out_of_reach(entry, hub.Repository(repository.name, repository.revision))
        overlay = {"file": str(found[0])}
    given = source.options.get("pretrained_cfg_overlay")
    return {"pretrained_cfg_overlay": {**(given if isinstance(given, dict) else {}), **overlay}}


def _in_torchs_cache(url: str) -> bool:
    from torch.hub import get_dir

    return Path(get_dir(), "checkpoints", Path(url).name).is_file()
