"""Language models of ``transformers``: from a folder, the hub or a GGUF file, or with random weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iml_bench.errors import UsageError, unknown
from iml_bench.generators import kept
from iml_bench.modalities.text.model import TextShape
from iml_bench.modalities.trial import first_line
from iml_bench.models.base import count_parameters
from iml_bench.models.context import check_context
from iml_bench.models.memory import check_memory
from iml_bench.paths import is_folder
from iml_bench.sources import hub
from iml_bench.sources.gguf import read_gguf_table, resolve_gguf
from iml_bench.spec import ModelEntry

LANGUAGE_SCHEMES = ("hf", "gguf", "hf-config")
LORA = ("lora", "lora_targets")
DTYPE = frozenset({"dtype", "torch_dtype"})
ELSEWHERE = frozenset({"gguf_file", "tokenizer_file", "code_revision", "cache_dir"})
"""Options that name files or code which neither the digest nor the commit covers."""
ALL_LINEAR = "all-linear"
"""Every linear layer but the output layer."""


def load_language_model(entry: ModelEntry, shape: TextShape, optimizer: str, device: torch.device) -> nn.Module:
    """Load or build a model on the host, in 32 bits; draws from torch's global generator.

    Args:
        entry: an ``hf:``, ``gguf:`` or ``hf-config:`` model.
        shape: what the task asks for.
        optimizer: the recipe's, which decides how much memory is needed.
        device: where the model is trained.

    Raises:
        UsageError: when it cannot be had, its context is too short, or it is too large for the memory.
    """
    config, options = fitting_config(entry, shape)
    check_memory_of(entry, config, optimizer, device)
    published = entry.parsed.scheme != "hf-config"
    return finished(entry, shape, load_weights(entry, config, options) if published else drawn(entry, config))


def draw_language_model(entry: ModelEntry, shape: TextShape) -> nn.Module:
    """As ``load_language_model``, but no file of weights is opened: they are all drawn."""
    config, options = fitting_config(entry, shape)
    return finished(entry, shape, drawn(entry, config, **options))


def fitting_config(entry: ModelEntry, shape: TextShape) -> tuple[Any, dict[str, Any]]:
    """The configuration of a model for a task, and options for loading that are not part of it.

    Raises:
        UsageError: when there is none, an option is wrong, or its context is too short.
    """
    from transformers.utils import logging

    # The library's bars and advice stay off the terminal, where a run shows its own.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    published = entry.parsed.scheme != "hf-config"
    config, options = published_config(entry) if published else (_new_config(entry, shape), {})
    check_context(entry, config, shape)
    return config, options


def published_config(entry: ModelEntry) -> tuple[Any, dict[str, Any]]:
    """The configuration with the source's options, and those options that are not part of one."""
    from transformers import AutoConfig

    where, place = place_in(entry)
    options = {key: value for key, value in entry.parsed.options.items() if key not in (*hub.PLACE, *LORA)}
    if not DTYPE.isdisjoint(options):
        raise UsageError(f"model {entry.name!r}: weights are kept in 32 bits; recipe.precision is how they are used")
    if "use_safetensors" in options:
        raise refused(entry, "cannot be loaded: only safetensors are read; leave use_safetensors out")
    if elsewhere := ELSEWHERE & options.keys():
        raise refused(entry, f"would be read from elsewhere too, by {min(elsewhere)}; name the place in the source")
    with one_sentence(entry, "cannot be loaded"):
        config, unused = AutoConfig.from_pretrained(
            where, return_unused_kwargs=True, trust_remote_code=entry.trust_remote_code, **place, **options
        )
    config.use_cache = False  # before the model is made: encoder and decoder take copies
    return config, {key: value for key, value in unused.items() if key in options}


def _new_config(entry: ModelEntry, shape: TextShape) -> Any:
    """A configuration of some model type that fits the task; the source's options have the last word."""
    from transformers import AutoConfig

    source = entry.parsed
    options = {
        "vocab_size": shape.classes,
        "max_position_embeddings": max(32, shape.max_length, shape.max_target),
        "pad_token_id": shape.pad,
        "bos_token_id": shape.line_end,
        "eos_token_id": shape.line_end,
        "use_cache": False,
        **({"decoder_start_token_id": shape.pad} if is_encoder_decoder(entry) else {}),
        **{key: value for key, value in source.options.items() if key not in LORA},
    }
    with one_sentence(entry, "cannot be made"):
        config, plain = AutoConfig.for_model(source.target, **options), AutoConfig.for_model(source.target)
    for key in source.options.keys() - set(LORA):
        # What it knows, under a new name or an old one, does not end as a field that the plain one lacks.
        if key in config.to_dict() and not hasattr(plain, key):
            raise unknown(f"option of {source.target}", key, plain.to_dict(), "the transformers documentation")
    return config


def is_encoder_decoder(entry: ModelEntry) -> bool:
    from transformers import CONFIG_MAPPING, AutoConfig

    target = entry.parsed.target
    if target not in CONFIG_MAPPING:
        raise unknown("model type of transformers", target, CONFIG_MAPPING.keys(), "transformers.CONFIG_MAPPING")
    with one_sentence(entry, "cannot be made"):
        return bool(AutoConfig.for_model(target).is_encoder_decoder)


def _auto_class(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def load_weights(entry: ModelEntry, config: Any, options: dict[str, Any]) -> Any:
    """A published model with all of its weights; see ``read_weights``."""
    model, report = read_weights(entry, config, options)
    refuse_misfit(entry, {*report["missing_keys"], *report["mismatched_keys"]})
    return model


def read_weights(
    entry: ModelEntry, config: Any, options: dict[str, Any], **where_to: Any
) -> tuple[Any, dict[str, set[Any]]]:
    """A published model, and what in its files does not fit its configuration.

    Args:
        entry: an ``hf:`` or ``gguf:`` model.
        config: its configuration.
        options: more for ``from_pretrained``, from the source.
        where_to: ``device_map="meta"`` where names and shapes are enough.

    Raises:
        UsageError: when the files are not there, are damaged, or an option is unknown.
    """
    where, place = place_in(entry)
    with one_sentence(entry, "cannot be loaded"):
        return _auto_class(config).from_pretrained(  # type: ignore[no-any-return]
            where,
            config=config,
            trust_remote_code=entry.trust_remote_code,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused by name, in words of our own
            **where_to,
            **place,
            **options,
        )


def refuse_misfit(entry: ModelEntry, wrong: set[Any]) -> None:
    """Refuse a model whose files lack some weights or have them in another shape.

    Args:
        entry: the model's.
        wrong: names of weights, or tuples that begin with one.
    """
    names = sorted({key if isinstance(key, str) else key[0] for key in wrong})
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise refused(entry, f"has weights that do not fit its configuration ({names[0]}{more})")


def drawn(entry: ModelEntry, config: Any, **options: Any) -> Any:
    """A model with random weights, or on the meta device with none."""
    with one_sentence(entry, "cannot be made"):
        return _auto_class(config).from_config(
            config, trust_remote_code=entry.trust_remote_code, dtype=torch.float32, **options
        )


def finished(entry: ModelEntry, shape: TextShape, model: Any, **resizing: Any) -> nn.Module:
    """Let a published vocabulary grow to its tokenizer, and add what the source says; in place.

    Args:
        entry: the model's.
        shape: what the task asks for.
        model: with weights or without.
        resizing: more for ``resize_token_embeddings``.
    """
    # Vocabularies are often padded and then larger than their tokenizer.
    published = entry.parsed.scheme != "hf-config"
    if published and model.get_input_embeddings().num_embeddings < shape.classes:
        model.resize_token_embeddings(shape.classes, **resizing)
    _add_lora(entry, model)
    return model  # type: ignore[no-any-return]


def check_memory_of(entry: ModelEntry, config: Any, optimizer: str, device: torch.device) -> int:
    """Count the parameters of a model without weights, and ask whether they can be trained.

    Returns:
        All parameters; 0 where they cannot be counted.

    Raises:
        UsageError: when they need more memory than there is, or there is no place for its adapters.
    """
    with kept():  # the weights must be drawn as if nobody had counted
        try:
            with torch.device("meta"):
                model = _auto_class(config).from_config(config, trust_remote_code=entry.trust_remote_code)
                _add_lora(entry, model)
        except UsageError:
            raise
        except Exception:
            return 0  # what is wrong is said when the model itself is made; some cannot be made without weights
    n_parameters: int = sum(parameter.numel() for parameter in model.parameters())
    check_memory(entry, n_parameters, count_parameters(model), optimizer, device)
    return n_parameters


def _add_lora(entry: ModelEntry, model: Any) -> None:
    """Freeze a model and give it low-rank adapters, in place, when its source says so."""
    options = entry.parsed.options
    if "lora" not in options:
        if "lora_targets" in options:
            raise UsageError(f"model {entry.name!r}: lora_targets needs a rank, such as lora=8")
        return
    rank, targets = options["lora"], options.get("lora_targets", ALL_LINEAR)
    if type(rank) is not int or rank < 1:
        raise UsageError(f"model {entry.name!r}: lora={rank} is not a rank; give a whole number such as lora=8")
    _need("peft", "LoRA", "lora")
    from peft import LoraConfig, inject_adapter_in_model

    if isinstance(targets, str) and targets != ALL_LINEAR:
        targets = [targets]  # peft takes a bare name for a regular expression
    with one_sentence(entry, f"cannot have LoRA on {targets}"):
        # Written out, so that a model is the same under another version's defaults.
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, lora_dropout=0.0, bias="none")
        inject_adapter_in_model(config, model)


def place_in(entry: ModelEntry) -> tuple[str, dict[str, Any]]:
    """Where the files of a published model are, as ``from_pretrained`` takes it.

    Raises:
        UsageError: when they are not there, and cannot be downloaded.
    """
    if entry.parsed.scheme == "gguf":
        _need("gguf", "reading GGUF files", "gguf")
        path = resolve_gguf(entry.parsed.target)
        return str(path.parent), {"gguf_file": path.name}
    return hub.place_of(entry)


def _need(package: str, what: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"{what} needs the package {package}: pip install 'iml-bench[{extra}]'")


@contextmanager
def one_sentence(entry: ModelEntry, what: str) -> Iterator[None]:
    """Whatever a library raises, as the sentence ``model 'x' (source) {what}: {reason}``."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise _explained(entry, what, error) from error


def _explained(entry: ModelEntry, what: str, error: Exception) -> UsageError:
    source, reason = entry.parsed, first_line(error)
    if isinstance(error, OSError) and "safetensors" in reason:
        what, reason = "has no safetensors weights", "pickled ones are not read; convert them first"
    elif type(error).__name__ == "SafetensorError":
        what = "has weights that are damaged or cut short"
    elif source.scheme == "gguf" and _is_damaged(resolve_gguf(source.target)):
        what = "is damaged or cut short"
    return refused(entry, f"{what}: {reason}")


def refused(entry: ModelEntry, what: str) -> UsageError:
    """``model 'x' (source) {what}``, and what may be behind it when an earlier download was cut short."""
    source = entry.parsed
    text = f"model {entry.name!r} ({entry.source}) {what}"
    if source.scheme == "hf" and not is_folder(source.target) and not hub.hub_answers():
        text += "; its copy on this machine may be incomplete, and the hub cannot be reached"
    return UsageError(text)


def _is_damaged(path: Path) -> bool:
    """Whether a GGUF file's table of contents is broken, or says that there should be more of the file."""
    try:
        read_gguf_table(path)
    except ValueError:
        return True
    return False
