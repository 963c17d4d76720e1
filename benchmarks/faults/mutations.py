"""Records that are damaged in every way: refused in a sentence, or read as they were written, and never a traceback.

A file is damaged alone, so that its digest or its seal no longer fits, and nothing that differs may be believed. Or
what covers it is made to fit again, as somebody would who wants to be believed: what is read then cannot be told from a
record that was made so (``iml-bench submit`` computes the scores again), and only a traceback is an error.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from campaign import Row, problem_lines
from mutants import JSON, PARQUET, Mutate
from readers import Seen, bad_sentences, see

from iml_bench.paths import data_root
from iml_bench.records import Stored, read_items, read_record
from iml_bench.records.reading import SEAL
from iml_bench.run.job import Job
from iml_bench.spec import digest_of

MODELS: Final = ("convnet-s", "mlp-m")
SEEDS: Final = 2
OUTCOMES: Final = ("refused", "as written", "left out", "read")
"""What a mutation comes to. ``as written``: what was damaged says the same, as white space does; ``left out``: the
record counts, and its items are refused; ``read``: of those whose digests were made to fit."""


class Form(NamedTuple):
    """What is damaged."""

    name: str
    suffix: str
    mutants: Mapping[str, Mutate]
    fits: bool
    """Whether what covers it is made to fit again."""


FORMS: Final = (
    Form("JSON", ".json", JSON, False),
    Form("Parquet", ".parquet", PARQUET, False),
    Form("JSON, sealed again", ".json", JSON, True),
    Form("Parquet, its digest made to fit", ".parquet", PARQUET, True),
)


class Bench:
    """A folder of shipped records, one of which is damaged, and what its readers say while it is whole."""

    def __init__(self, root: Path) -> None:
        """Args: root: an empty folder."""
        self.root = root
        stored = [one for model in MODELS for one in _shipped(model)]
        for one in stored:
            folder = root / one.path.parent.name
            folder.mkdir(exist_ok=True)
            for suffix in (".json", ".parquet"):
                shutil.copyfile(one.path.with_suffix(suffix), folder / one.path.with_suffix(suffix).name)
        self.path = root / MODELS[0] / stored[0].path.name
        self.other = root / MODELS[0] / stored[1].path.with_suffix(".parquet").name
        self.files = {suffix: self.path.with_suffix(suffix).read_bytes() for suffix in (".json", ".parquet")}
        self.record = read_record(self.path)
        self.items = read_items(Stored(self.path, self.record))
        self.job = Job(self.record.cell, {}, False, root)
        self.allowed = self._allowed()

    def _allowed(self) -> dict[str, set[str | None]]:
        """What each reader may show: all as it was, or the others alone, or all but what is computed from the items."""
        seen = [self.see({})]
        for suffix in (".json", ".parquet"):
            self.path.with_suffix(suffix).unlink()
            seen.append(see(self.root, self.path, self.job))
            self.restore()
        return {name: {None, *(one.shown[name] for one in seen)} for name in seen[0].shown}

    def see(self, changed: Mapping[str, bytes]) -> Seen:
        """What readers say with other bytes in some files."""
        for suffix, raw in changed.items():
            self.path.with_suffix(suffix).write_bytes(raw)
        try:
            return see(self.root, self.path, self.job)
        finally:
            self.restore()

    def restore(self) -> None:
        """Make the record whole again."""
        for suffix, raw in self.files.items():
            self.path.with_suffix(suffix).write_bytes(raw)

    def believed(self, seen: Seen) -> list[str]:
        """What is shown or counted though it is not as it was written."""
        found = [f"{name} shows something else" for name, text in seen.shown.items() if text not in self.allowed[name]]
        if seen.record is not None and seen.record != self.record:
            before, now = self.record.model_dump(), seen.record.model_dump()
            found.append(f"fields differ: {sorted(name for name in before if before[name] != now[name])}")
        if seen.items is not None and not seen.items.equals(self.items):
            found.append("other items are read")
        if seen.done and (seen.record is None or seen.items is None):
            found.append("its cell is not run again")
        return found


def _shipped(model: str) -> list[Stored]:
    folder = data_root() / "leaderboard" / "results" / model
    paths = [next(folder.glob(f"vision@*-seed{seed}.json")) for seed in range(SEEDS)]
    return [Stored(path, read_record(path)) for path in paths]


def try_form(form: Form, number: int, seed: int) -> list[Row]:
    """Damage a record so often, and see what readers make of it; a row for each way to damage it."""
    ways: dict[str, Callable[[Random, Bench], bytes]] = {
        name: lambda rng, bench, mutate=mutate: mutate(rng, bench.files[form.suffix])
        for name, mutate in form.mutants.items()
    }
    if form.suffix == ".parquet":
        ways["whole file of another seed"] = lambda _, bench: bench.other.read_bytes()
    rows = [Row(f"{form.name}: {name}", name, 0, dict.fromkeys(OUTCOMES, 0)) for name in ways]
    with tempfile.TemporaryDirectory(prefix="iml-bench-faults-") as folder:
        bench = Bench(Path(folder))
        for turn in range(number):
            row = rows[turn % len(rows)]
            rng = Random(f"{seed} {row.name} {turn}")
            raw = _damaged(rng, bench, form, ways[row.what])
            if raw is not None:
                row.times += 1
                _judge(row, turn, form, bench, raw)
    return rows


def _damaged(rng: Random, bench: Bench, form: Form, way: Callable[[Random, Bench], bytes]) -> dict[str, bytes] | None:
    """Bytes that differ from those that were written; None where a way has no such."""
    for _ in range(20):
        raw = way(rng, bench)
        if raw == bench.files[form.suffix]:
            continue
        return _fitted(bench, form, raw) if form.fits else {form.suffix: raw}
    return None


def _fitted(bench: Bench, form: Form, raw: bytes) -> dict[str, bytes]:
    """Files with digests and seals that fit."""
    if form.suffix == ".json":
        return {".json": _sealed(raw)}
    data = json.loads(bench.files[".json"])
    data["items"]["sha256"] = hashlib.sha256(raw).hexdigest()
    return {".parquet": raw, ".json": _sealed(json.dumps(data).encode())}


def _sealed(raw: bytes) -> bytes:
    """A record with seals that fit; one that is no JSON stays as it is."""
    try:
        data: Any = json.loads(raw)
        if "seal" in data:
            data[SEAL] = digest_of({name: value for name, value in data.items() if name not in ("timing", SEAL)})
        if SEAL in data["timing"]:
            data["timing"][SEAL] = digest_of({name: value for name, value in data["timing"].items() if name != SEAL})
        return json.dumps(data).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return raw


def _judge(row: Row, turn: int, form: Form, bench: Bench, raw: dict[str, bytes]) -> None:
    seen = bench.see(raw)
    row.problems += [f"number {turn}: {raised}" for raised in seen.raised]
    row.problems += [f"number {turn}: no sentence: {one[:200]!r}" for one in bad_sentences(seen.sentences)]
    if not form.fits:
        row.problems += [f"number {turn}: believed: {told}" for told in bench.believed(seen)]
    if seen.record is None or (form.suffix == ".parquet" and seen.items is None):
        row.held["refused" if seen.record is None else "left out"] += 1
        if not any(bench.path.stem in one for one in seen.sentences):
            row.problems.append(f"number {turn}: nothing names the file")
    else:
        row.held["read" if form.fits else "as written"] += 1


def mutation_table(forms: Sequence[Sequence[Row]]) -> str:
    """What mutations came to, as tables of Markdown; below them a line for everything that did not hold."""
    lines = []
    for rows in forms:
        columns = ("damaged", "times", *OUTCOMES, "problems")
        lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        for row in rows:
            numbers = (row.times, *(row.held[name] for name in OUTCOMES), len(row.problems))
            lines.append(f"| {row.name} | {' | '.join(map(str, numbers))} |")
        lines += ["", *problem_lines(rows), ""]
    return "\n".join(lines)
