"""Everything that reads a folder of records, and what it says of one that was damaged."""

from __future__ import annotations

import io
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final
from unittest import mock

import typer.main

import iml_bench
from iml_bench.cli.app import app
from iml_bench.errors import UsageError
from iml_bench.records import Store, Stored, damage_of, read_items
from iml_bench.registry import Registry
from iml_bench.run.job import Job
from iml_bench.run.session import status_of

VERBS: Final = typer.main.get_command(app)
REGISTERED: Final = cache(Registry._read)
"""The shipped definitions, which are no part of what is damaged, are read once: it would take most of the time."""
LONGEST: Final = 1500
"""Characters of a sentence."""


@dataclass
class Seen:
    """What the readers of a folder said of one of its records."""

    shown: dict[str, str | None] = field(default_factory=dict)
    """By the reader: all that it shows; None where it refuses."""
    sentences: list[str] = field(default_factory=list)
    """What was said of files that are left out."""
    raised: list[str] = field(default_factory=list)
    """Exceptions that are no sentence for a user."""
    record: Any = None
    """What the record says; None where it is refused."""
    items: Any = None
    """Its per-item outcomes; None where they are refused."""
    done: bool = False
    """Whether a run would leave its cell out, since it is done."""


def see(root: Path, path: Path, job: Job) -> Seen:
    """Have every reader read.

    Args:
        root: a folder of records.
        path: the record that was damaged.
        job: its cell, as a run plans it.
    """
    seen = Seen()

    def scan() -> str:
        stored, problems = Store(root).scan()
        seen.sentences += problems
        seen.record = next((one.record for one in stored if one.path == path), None)
        seen.done = status_of([job], stored) != {}
        standing = Store(root).standing(path)
        seen.sentences += [standing] if isinstance(standing, str) else []
        return ""

    def items() -> str:
        if seen.record is not None:
            seen.items = read_items(Stored(path, seen.record))
            damage_of(Stored(path, seen.record))
        return ""

    def library(part: str) -> str:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            frame = getattr(iml_bench.read(root), part)
        seen.sentences += [str(one.message) for one in warned if issubclass(one.category, UserWarning)]
        return str(frame.write_csv())

    readers: dict[str, Callable[[], str]] = {
        "scan": scan,
        "items": items,
        "read().cells": lambda: library("cells"),
        "read().items": lambda: library("items"),
        "leaderboard": lambda: _command(seen, "leaderboard", "--records", str(root), "--json"),
        "compare": lambda: _command(seen, "compare", *_models(root), "--records", str(root), "--json"),
        "show": lambda: _command(seen, "show", str(path)),
    }
    for name, read in readers.items():
        try:
            with mock.patch.object(Registry, "_read", lambda *given: REGISTERED(*given)):
                seen.shown[name] = read()
        except UsageError as error:
            seen.shown[name] = None
            seen.sentences.append(str(error))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            seen.shown[name] = None
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            seen.raised.append(f"{name}: {type(error).__name__}: {str(error)[:200]} ({place})")
    return seen


def _models(root: Path) -> list[str]:
    return sorted(folder.name for folder in root.iterdir() if folder.is_dir())


def _command(seen: Seen, *words: str) -> str:
    """What a command prints, in this process: it would take a second to start another one."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), mock.patch.dict("os.environ", {"COLUMNS": "200"}):
        VERBS.main(list(words), standalone_mode=False)
    seen.sentences += err.getvalue().splitlines()
    return out.getvalue()


def bad_sentences(sentences: list[str]) -> list[str]:
    """Those that are no sentence: of several lines, with what cannot be printed, or without an end."""
    return [
        one
        for one in sentences
        if "\n" in one or not one.isprintable() or len(one) > LONGEST or "Traceback" in one or not one
    ]
