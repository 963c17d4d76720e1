"""``iml_bench.tune``: run the sweep of a model's learning rate, say what it chose, and write that into its entry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from yaml import YAMLError

from iml_bench.library.options import DEFAULT_OUT, TuneOptions, check_names, make_request, runtime_of, where_of
from iml_bench.library.running import Work, carry_out, display_of
from iml_bench.paths import data_root
from iml_bench.records import Store, latest_by_key
from iml_bench.records.files import Temporary
from iml_bench.registry import MODELS, TASKS
from iml_bench.run.plan import Request, plan, resized
from iml_bench.run.sweep import SEEDS, Choice, choose, counts, sweep_requests
from iml_bench.sources.find import is_source
from iml_bench.spec import LEARNING_RATE, Spec, cell_key, setting_label
from iml_bench.spec.written import dump_yaml, read_yaml


class Tuning(Spec):
    """What tuning a model came to."""

    model: str
    setting: str
    """Of the task: see ``setting_label``."""
    own: float
    """The task's own learning rate."""
    choice: Choice
    entry: str | None
    """The file that the choice was written into; null where nothing was chosen, or there is no such file."""

    @property
    def tuned(self) -> dict[str, dict[str, float]]:
        """What the model's entry has to say; empty where nothing was chosen."""
        return {} if self.choice.lr is None else {self.setting: {LEARNING_RATE: self.choice.lr}}

    @property
    def lines(self) -> str:
        """The same as lines of the entry's file."""
        return as_lines(self.tuned)


class Sweep(NamedTuple):
    """A sweep that was planned."""

    name: str
    """The model, as the user named it."""
    task: str
    """And the task."""
    model: str
    """As its records call it."""
    setting: str
    own: float
    """The task's own learning rate."""
    stored: bool
    """Whether the choice is for the entry that is named; a model in whom a suite varies something has none."""
    keys: frozenset[str]
    """Of all its cells."""
    work: Work
    """Those of its cells that can be run; where training is known to diverge, it would again."""


def tune(model: str, task: str, **options: Unpack[TuneOptions]) -> Tuning:
    """Choose the learning rate of a model on a task, as the tuned ruleset does: ``iml-bench tune`` as a function.

    Five learning rates around the task's own (x 1/8 to x 2), seeds 100 and 101, stage 1 only. Cells whose records lie
    in the folder ``out`` are not run again. What is chosen is written into the model's entry where that is a file of
    yours, or of this checkout.

    Args:
        model: a model's name, source or file.
        task: a task's name, or the path of a task file.
        options: see ``TuneOptions``; they mean what they mean to ``run``.

    Raises:
        UsageError: see ``run``; also when the task's protocol knows no such sweep.
    """
    check_names(options, "tune", TuneOptions)
    sweep = planned_sweep(model, task, options)
    carry_out(sweep.work, display_of(sweep.work, quiet=not options.get("progress", True)))
    return concluded(sweep)


def planned_sweep(model: str, task: str, options: TuneOptions) -> Sweep:
    """The cells that ``tune`` would run, with everything about them checked that needs no model.

    Raises:
        UsageError: see ``tune``.
    """
    request = make_request(task, model, SEEDS, {"small": options.get("small", False), "data": options.get("data")})
    runtime = runtime_of({name: value for name, value in options.items() if name != "progress"})  # type: ignore[arg-type]
    return sweep_of(request, Work((), runtime, Path(options.get("out", DEFAULT_OUT)), where_of(options)))


def sweep_of(request: Request, where: Work) -> Sweep:
    """The sweep of one model, as a run of it is asked for.

    Args:
        request: the task, its size and the model; what else is changed in the task plays no part.
        where: where and how its cells are to run; jobs of its own are none of the sweep's.

    Raises:
        UsageError: see ``tune``.
    """
    jobs = plan(sweep_requests(request), where.out)
    known = latest_by_key(Store(where.out).scan()[0])
    diverged = {key for key, one in known.items() if one.record.status == "failed" and counts(one.record)}
    base = TASKS.get(request.task)
    (name,) = request.models
    return Sweep(
        name=name,
        task=request.task,
        model=jobs[0].cell.model.name,
        setting=setting_label(base.name, base.version, small=request.small),
        own=resized(base, replace(request, overrides={}, variant=None)).recipe.lr,
        stored=not request.model_fields,
        keys=frozenset(cell_key(job.cell) for job in jobs),
        work=where._replace(jobs=tuple(job for job in jobs if cell_key(job.cell) not in diverged)),
    )


def concluded(sweep: Sweep) -> Tuning:
    """What the records of a sweep choose; written into the model's entry where that is a file to write into."""
    known = latest_by_key(Store(sweep.work.out).scan()[0])
    choice = choose(sweep.own, [known[key].record for key in sweep.keys if key in known])
    written = store_choice(sweep.name, sweep.setting, choice.lr) if choice.lr is not None and sweep.stored else None
    return Tuning(
        model=sweep.model,
        setting=sweep.setting,
        own=sweep.own,
        choice=choice,
        entry=str(written) if written else None,
    )


def entry_file(name: str) -> Path | None:
    """The file of a model's entry where it is the user's, or of this checkout; None for any other model."""
    if is_source(name):
        return None
    if name not in MODELS.origins:
        return Path(name)
    path = data_root() / MODELS.folder / f"{name}.yaml"
    return path if MODELS.origins[name].where == str(path) and (data_root() / ".git").exists() else None


def store_choice(name: str, setting: str, lr: float) -> Path | None:
    """Write what was chosen for a model into its entry; the rest of the file stays as it is.

    Args:
        name: of the model, as the user gave it.
        setting: see ``setting_label``.
        lr: what was chosen.

    Returns:
        The file; None where there is none, or it cannot be written.
    """
    path = entry_file(name)
    if path is None:
        return None
    path = path.resolve()
    raw = path.read_bytes()
    data = read_yaml(raw)
    tuned = {**data.get("tuned", {}), setting: {LEARNING_RATE: lr}}
    if tuned == data.get("tuned"):
        return path
    try:
        with Temporary(path.parent) as new:
            new.write(_with_tuned(raw, data, tuned))
            new.path.replace(path)
    except OSError:
        return None
    return path


def as_lines(tuned: Mapping[str, Mapping[str, float]]) -> str:
    """What an entry's file says of what was tuned."""
    plain = {"tuned": {setting: dict(chosen) for setting, chosen in tuned.items()}}
    return dump_yaml(plain, sort_keys=False, default_flow_style=None, width=1000)


def _with_tuned(raw: bytes, data: dict[str, Any], tuned: dict[str, dict[str, float]]) -> bytes:
    """The bytes of an entry's file with other lines on what was tuned; written anew where lines are not enough."""
    wanted = {**data, "tuned": tuned}
    try:
        lines = raw.decode().splitlines(keepends=True)
        start = next((place for place, line in enumerate(lines) if re.match(r"tuned\s*:", line)), len(lines))
        inside = (place for place in range(start + 1, len(lines)) if not lines[place].startswith((" ", "\t")))
        before, after = "".join(lines[:start]), "".join(lines[next(inside, len(lines)) :])
        found = (before + ("\n" if before[-1:] not in ("\n", "") else "") + as_lines(tuned) + after).encode()
        if read_yaml(found) == wanted:
            return found
    except (UnicodeDecodeError, YAMLError):
        pass
    return dump_yaml(wanted, sort_keys=False, allow_unicode=True, width=1000).encode()
