"""The folder of a submission, taken from the leaderboard, with the tools of somebody who forges one.

Whoever forges can read this package: keys, names, digests, scores and seals are made right again wherever that is asked
for, so that only the check that should see a forgery can.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from iml_bench.extensions import MODALITIES
from iml_bench.paths import data_root
from iml_bench.protocols import score_items, streams_of
from iml_bench.records import Store, columns_of, read_record
from iml_bench.records.reading import SEAL
from iml_bench.registry import changes_of
from iml_bench.run.sweep import is_sweep
from iml_bench.runtime import Runtime
from iml_bench.spec import CellSpec, cell_key, digest_of
from iml_bench.spec.written import read_yaml
from iml_bench.submit.checking import CHECKS
from iml_bench.submit.generated import Generated, Generator
from iml_bench.submit.single import sorted_items

Json = dict[str, Any]
LEADERBOARD = data_root() / "leaderboard"
GENERATOR = Generator(Runtime(device="cpu"))
"""Everybody can generate the questions of any seed; each is generated once."""


class UnfitError(Exception):
    """A mutation that does not fit what it was given."""


class Submitted:
    """A copy of a leaderboard's entry with its records: ``models/NAME.yaml`` and ``results/NAME/``."""

    def __init__(self, root: Path, name: str, rng: random.Random) -> None:
        """Args:
        root: the folder.
        name: of the entry.
        rng: draws what is changed.
        """
        self.root, self.name, self.rng = root, name, rng

    @classmethod
    def taken(cls, root: Path, name: str, rng: random.Random, rows: int) -> Submitted:
        """A shipped entry with its sweep and some seeds of its row, drawn at random."""
        made = cls(root, name, rng)
        source = LEADERBOARD / "results" / name
        made.folder.mkdir(parents=True)
        made.entry.parent.mkdir()
        shutil.copyfile(LEADERBOARD / "models" / f"{name}.yaml", made.entry)
        sheets = [path for path in sorted(source.glob("*.json")) if "-mnist" not in path.name]
        swept = [path for path in sheets if is_sweep(read_record(path).cell.task)]
        for path in swept + rng.sample(sorted({*sheets} - {*swept}), rows):
            made.add(path)
        return made

    def add(self, path: Path) -> None:
        """Another record, with its items."""
        for suffix in (".json", ".parquet"):
            shutil.copyfile(path.with_suffix(suffix), self.folder / path.with_suffix(suffix).name)

    @property
    def folder(self) -> Path:
        """Where the records are."""
        return self.root / "results" / self.name

    @property
    def entry(self) -> Path:
        """The entry's file."""
        return self.root / "models" / f"{self.name}.yaml"

    @property
    def records(self) -> list[Path]:
        """All records."""
        return sorted(self.folder.glob("*.json"))

    @property
    def rows(self) -> list[Path]:
        """Those that count, in a random order."""
        return self._some(sweep=False)

    @property
    def swept(self) -> list[Path]:
        """Those of the sweep, in a random order."""
        return self._some(sweep=True)

    def _some(self, *, sweep: bool) -> list[Path]:
        found = [path for path in self.records if (self.read(path)["cell"]["task"]["until"] == "stage1") == sweep]
        return self.rng.sample(found, len(found))

    @property
    def any(self) -> Path:
        """Some record."""
        return self.rng.choice(self.records)

    def others(self) -> list[Path]:
        """Seeds of the shipped row that are not here, in a random order."""
        shipped = sorted((LEADERBOARD / "results" / self.name).glob("*.json"))
        label = self.rows[0].name.partition("-")[0]
        left = [
            path for path in shipped if path.name.startswith(f"{label}-") and not (self.folder / path.name).exists()
        ]
        return self.rng.sample(left, len(left))

    def read(self, path: Path) -> Json:
        """A record as plain data."""
        found: Json = json.loads(path.read_bytes())
        return found

    def write(self, path: Path, data: Json, *, sealed: bool = True) -> None:
        """A record with its seals made right, or as they stand in it."""
        if sealed:
            for part in (data, data["timing"]):
                part.pop(SEAL, None)
            whole = {name: value for name, value in data.items() if name != "timing"}
            data[SEAL], data["timing"][SEAL] = digest_of(whole), digest_of(data["timing"])
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")

    def cell(self, path: Path) -> CellSpec:
        """The cell of a record, or of its plain data."""
        return CellSpec.model_validate(self.read(path)["cell"])

    def table(self, path: Path) -> pl.DataFrame:
        """A record's items, in the order in which a check looks at them."""
        return sorted_items(pl.read_parquet(path.with_suffix(".parquet")))

    def put_table(self, path: Path, table: pl.DataFrame, *, scored: bool = True, digested: bool = True) -> None:
        """Other items of a record, with their digest and their scores made right."""
        raw = io.BytesIO()
        table.write_parquet(raw, compression="zstd", statistics=False)
        self.put_bytes(path, raw.getvalue(), rows=len(table), digested=digested)
        if scored:
            data = self.read(path)
            data["scores"] = score_items(self.cell(path).task, columns_of(table)).model_dump()
            self.write(path, data)

    def put_bytes(self, path: Path, raw: bytes, rows: int | None = None, *, digested: bool = True) -> None:
        """Other content of a record's items, with its digest made right."""
        path.with_suffix(".parquet").write_bytes(raw)
        if digested:
            data = self.read(path)
            data["items"] |= {"sha256": hashlib.sha256(raw).hexdigest()} | ({"rows": rows} if rows else {})
            self.write(path, data)

    def rekey(self, path: Path, data: Json, *, told: bool = True) -> Path:
        """Write a record of another cell: its key, its name and what it says of changes are made right."""
        cell = CellSpec.model_validate(data["cell"])
        data["key"] = cell_key(cell)
        if told:
            data["changes"] = changes_of(cell.task)
        place = self.folder / Store(self.root).path_of(cell).name
        items = path.with_suffix(".parquet")
        data["items"]["file"] = place.with_suffix(".parquet").name
        path.unlink()
        if place.exists():
            raise UnfitError
        items.rename(place.with_suffix(".parquet"))
        self.write(place, data)
        return place

    def plain_entry(self) -> Json:
        """The entry as plain data."""
        found: Json = read_yaml(self.entry.read_bytes())
        return found

    def free_seed(self) -> int:
        """A seed of the leaderboard that is not here."""
        taken = {self.cell(path).seed for path in self.rows}
        return self.rng.choice([seed for seed in range(8) if seed not in taken])

    def reseed_beside(self) -> Path:
        """A row's record beside itself as that of another seed, with that seed's questions."""
        one = self.rows[0]
        raw = {suffix: one.with_suffix(suffix).read_bytes() for suffix in (".json", ".parquet")}
        path = self.reseed(one, self.free_seed())
        for suffix, content in raw.items():
            one.with_suffix(suffix).write_bytes(content)
        return path

    def reseed(self, path: Path, seed: int, *, streams: bool = True, data: bool = True, questions: bool = True) -> Path:
        """A record as that of another seed.

        Args:
            path: of the record.
            seed: the other.
            streams: make its random streams right.
            data: make its data digest and chance right.
            questions: ask the questions of that seed, and keep the outcomes.
        """
        said = self.read(path)
        said["cell"]["seed"] = seed
        cell = CellSpec.model_validate(said["cell"])
        generated = GENERATOR(cell)
        if streams:
            said["streams"] = streams_of(cell.task, seed).as_dict()
        if data:
            said |= {"data_digest": generated.digest, "chance": generated.chance}
        path = self.rekey(path, said)
        if questions:
            self.put_table(path, asked(generated, self.table(path)))
        return path


def asked(generated: Generated, outcomes: pl.DataFrame) -> pl.DataFrame:
    """The outcomes of some items as those of a cell's own questions."""
    if len(outcomes) != len(generated.items):
        raise UnfitError
    gold = [answers[0] for answers in generated.answers]
    table = generated.items.select(name for name in outcomes.columns if name in generated.items.columns)
    more = outcomes.select(name for name in outcomes.columns if name not in table.columns)
    table = table.hstack(more.with_columns(pl.Series("gold", gold))).select(outcomes.columns)
    return answered(table)


def answered(table: pl.DataFrame) -> pl.DataFrame:
    """Items whose predicted answers are what their exact matches say, where these are not so already."""
    gold = table["gold"].to_list()
    wrong = {text: next((one for one in gold if one != text), f"{text}x") for text in {*gold}}
    rows = zip(table["exact_match"], gold, table["predicted"], strict=True)
    said = [text if match else (wrong[text] if told == text else told) for match, text, told in rows]
    return table.with_columns(pl.Series("predicted", said, pl.String))


def flipped(table: pl.DataFrame, rows: list[int]) -> pl.DataFrame:
    """Items with some exact matches the other way round."""
    match = table["exact_match"].to_numpy().copy()
    match[rows] = ~match[rows]
    return table.with_columns(pl.Series("exact_match", match))


def either_way(cell: CellSpec, table: pl.DataFrame) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which items' log-likelihoods say neither that they were right nor that they were wrong."""
    likely = table["log_likelihood"].to_numpy()
    least = MODALITIES.get(cell.task.modality).least_log_likelihood(cell.task, table["gold"].to_list())
    return np.asarray((likely >= least) & (likely <= -math.log(2)))


def some(rng: random.Random, rows: Any) -> list[int]:
    """Some of the rows, from one to all of them: as often few as many."""
    rows = [int(row) for row in rows]
    if not rows:
        raise UnfitError
    return rng.sample(rows, min(len(rows), round(math.exp(rng.uniform(0, math.log(len(rows)))))))


class Forgery(NamedTuple):
    """One way to change a submission."""

    kind: str
    what: str
    expected: str
    """The check that should refuse it; empty where none can."""
    apply: Callable[[Submitted], object]


FORGERIES: list[Forgery] = []
"""What must be refused."""
UNSEEN: list[Forgery] = []
"""What no look at the records can see, since all that is handed in agrees with itself: only ``--rerun`` can."""
Change = Callable[[Submitted], object]


def forgery(kind: str, what: str, expected: str) -> Callable[[Change], Change]:
    """Adds a function to ``FORGERIES``, or to ``UNSEEN`` where no check is named."""
    if expected not in (*CHECKS, ""):
        raise ValueError(f"there is no check {expected!r}")

    def add(function: Change) -> Change:
        (FORGERIES if expected else UNSEEN).append(Forgery(kind, what, expected, function))
        return function

    return add


def edits(kind: str, expected: str, changes: Mapping[str, Callable[[Submitted, Json], object]]) -> None:
    """Adds changes of the plain data of one record, which is sealed again."""

    def applied(change: Callable[[Submitted, Json], object]) -> Change:
        def apply(made: Submitted) -> None:
            path = made.any
            data = made.read(path)
            change(made, data)
            made.write(path, data)

        return apply

    for what, change in changes.items():
        forgery(kind, what, expected)(applied(change))
