"""Variations of a submission that change nothing that it says: all of them must be accepted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Final

import polars as pl
from submitted import Change, Json, Submitted

from iml_bench.records.reading import SEAL
from iml_bench.spec.written import dump_yaml, read_yaml

HARMLESS: dict[str, Change] = {}


def harmless(what: str) -> Callable[[Change], Change]:
    """Adds a function to ``HARMLESS``."""

    def add(function: Change) -> Change:
        HARMLESS[what] = function
        return function

    return add


def _mixed(made: Submitted, value: Any) -> Any:
    """Plain data with the fields of every object in another order."""
    if isinstance(value, list):
        return [_mixed(made, one) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: _mixed(made, value[name]) for name in made.rng.sample(sorted(value), len(value))}


@harmless("fields in another order")
def _(made: Submitted) -> None:
    for path in made.records:
        path.write_text(json.dumps(_mixed(made, made.read(path))), encoding="utf-8")
    made.entry.write_bytes(dump_yaml(_mixed(made, made.plain_entry())).encode())


@harmless("other line ends and spaces")
def _(made: Submitted) -> None:
    end = made.rng.choice([b"\r\n", b"\n\n", b" \n", b"\r"])
    for path in made.records:
        path.write_bytes(end + path.read_bytes().replace(b"\n", end) + end)
    made.entry.write_bytes(made.entry.read_bytes().replace(b"\n", made.rng.choice([b"\r\n", b"\n\n", b" \n"])))


@harmless("another indent, or none, and characters written as numbers")
def _(made: Submitted) -> None:
    for path in made.records:
        indent = made.rng.choice([None, 0, 4, "\t"])
        path.write_text(
            json.dumps(made.read(path), indent=indent, ensure_ascii=made.rng.random() < 0.5), encoding="utf-8"
        )


@harmless("seeds more")
def _(made: Submitted) -> None:
    for path in made.others()[: made.rng.randrange(1, 5)]:
        made.add(path)


@harmless("seeds less")
def _(made: Submitted) -> None:
    path = made.rows[0]
    for suffix in (".json", ".parquet"):
        path.with_suffix(suffix).unlink()


@harmless("items packed otherwise, their columns in another order")
def _(made: Submitted) -> None:
    for path in made.records:
        table = pl.read_parquet(path.with_suffix(".parquet"))
        table = table.select(made.rng.sample(table.columns, len(table.columns)))
        table.write_parquet(
            path.with_suffix(".parquet"),
            compression=made.rng.choice(["zstd", "snappy", "gzip", "lz4", "uncompressed"]),
            statistics=made.rng.random() < 0.5,
            row_group_size=made.rng.choice([None, 100, 1000]),
        )
        made.put_bytes(path, path.with_suffix(".parquet").read_bytes())


@harmless("sets of questions in another order")
def _(made: Submitted) -> None:
    for path in made.records:
        table = pl.read_parquet(path.with_suffix(".parquet"))
        parts = table.partition_by("stage", "fold", "set", maintain_order=True)
        made.put_table(path, pl.concat(made.rng.sample(parts, len(parts))), scored=False)


@harmless("items named by their content")
def _(made: Submitted) -> None:
    for path in made.records:
        data = made.read(path)
        data["items"]["file"] = f"{path.stem}.{data['items']['sha256'][:8]}.parquet"
        path.with_suffix(".parquet").rename(made.folder / data["items"]["file"])
        made.write(path, data)


WORDS: Final = ("Zürich 4", "AMD EPYC", "Linux (elsewhere)", "机器", "cpu: 8 x 2")


@harmless("another machine and another time")
def _(made: Submitted) -> None:
    for path in made.records:
        data = made.read(path)
        data["provenance"] |= {name: made.rng.choice(WORDS) for name in ("platform", "processor", "device")}
        data["provenance"] |= {"cores": made.rng.randrange(1, 999), "threads": made.rng.randrange(1, 99)}
        data["timing"] |= {"started": "2031-02-03T04:05:06+05:30", "ended": "2031-02-03T04:05:07Z"}
        data["timing"]["seconds"] = {"stage1": made.rng.uniform(0, 1e6)}
        made.write(path, data)


@harmless("no seal, as older records have none")
def _(made: Submitted) -> None:
    for path in made.records:
        data = made.read(path)
        for part in (data, data["timing"]):
            part.pop(SEAL, None)
        made.write(path, data, sealed=False)


@harmless("scores of measures that came later left out")
def _(made: Submitted) -> None:
    for path in made.records:
        data = made.read(path)
        for name in ("trust", "distrust"):
            data["scores"].pop(name, None)
            data["scores"]["reasons"].pop(name, None)
        made.write(path, data)


@harmless("a task described in other words")
def _(made: Submitted) -> None:
    def say(data: Json) -> Json:
        data["cell"]["task"]["description"] = "Gegenstände; in other words, 3 > 2 is not said"[
            : made.rng.randrange(1, 28)
        ]
        data["cell"]["task"]["history"] = {}
        return data

    for path in made.records:
        made.write(path, say(made.read(path)))


@harmless("scores written with other digits")
def _(made: Submitted) -> None:
    for path in made.records:
        data = made.read(path)
        data["scores"] |= {
            name: float(f"{value:.15g}") for name, value in data["scores"].items() if isinstance(value, float)
        }
        made.write(path, data)


@harmless("files that only their owner may read, of another day")
def _(made: Submitted) -> None:
    for path in made.root.rglob("*.*"):
        path.chmod(made.rng.choice([0o400, 0o444, 0o600, 0o755]))
        os.utime(path, (0, made.rng.randrange(2**31)))


@harmless("an entry in another way of YAML")
def _(made: Submitted) -> None:
    plain = read_yaml(made.entry.read_bytes())
    text = made.rng.choice(
        [
            json.dumps(plain, ensure_ascii=False),
            f"# an entry\n---\n{dump_yaml(plain, default_flow_style=True)}",
            "".join(f'"{name}": {json.dumps(value)}\n\n' for name, value in plain.items()),
            dump_yaml(plain, indent=8, width=20),
        ]
    )
    made.entry.write_bytes(text.encode())


@harmless("the records without the entry")
def _(made: Submitted) -> None:
    made.entry.unlink()
