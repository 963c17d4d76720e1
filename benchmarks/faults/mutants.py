"""Ways in which a record's JSON and its items' Parquet file can be damaged, by the kind of bytes that are hit."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final, NamedTuple

import polars as pl

Mutate = Callable[[Random, bytes], bytes]
DEEP: Final = 20_000
TRICKY: Final = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e308",
    "-0.0",
    "0",
    "1" + "0" * 400,
    str(2**63),
    "0x1",
    "01",
)
"""Numbers, or what a careless reader takes for one."""
OTHERS: Final = (None, True, False, 0, -1, 1.5, "", "0", "done", [], {}, [None], {"a": {}}, [[1]], "\x00", "é" * 300)
"""Values of other types."""
MAGIC: Final = 4
LENGTH: Final = 4
"""Bytes of the magic of a Parquet file, which begins and ends it, and of the length of its footer."""


class Source(NamedTuple):
    """What can be damaged, with files of the same kind from elsewhere."""

    raw: bytes
    others: tuple[bytes, ...]


def _at(rng: Random, raw: bytes, pattern: bytes) -> re.Match[bytes]:
    return rng.choice([*re.finditer(pattern, raw)])


def _replaced(raw: bytes, match: re.Match[bytes], new: bytes) -> bytes:
    return raw[: match.start()] + new + raw[match.end() :]


def _one_of(pattern: bytes, new: bytes) -> Mutate:
    """Some bytes that a pattern finds become other bytes of a kind."""

    def mutate(rng: Random, raw: bytes) -> bytes:
        for _ in range(rng.choice([1, 1, 2, 5])):
            raw = _replaced(raw, _at(rng, raw, pattern), bytes([rng.choice(new)]))
        return raw

    return mutate


def _block(rng: Random, raw: bytes, largest: int = 400) -> tuple[int, int]:
    begin = rng.randrange(len(raw))
    return begin, min(len(raw), begin + rng.randrange(1, largest))


def truncated(rng: Random, raw: bytes) -> bytes:
    """The end, or the beginning, is missing."""
    cut = rng.choice([0, 1, 3, len(raw) - 1, rng.randrange(len(raw)), rng.randrange(len(raw))])
    return raw[cut or 1 :] if rng.random() < 0.2 else raw[:cut]


def duplicated(rng: Random, raw: bytes) -> bytes:
    """A block is there twice."""
    begin, end = _block(rng, raw)
    return raw[:end] + raw[begin:]


def deleted(rng: Random, raw: bytes) -> bytes:
    """A block is missing."""
    begin, end = _block(rng, raw)
    return raw[:begin] + raw[end:]


def inserted(rng: Random, raw: bytes) -> bytes:
    """A block of anything is inserted."""
    begin = rng.randrange(len(raw) + 1)
    return raw[:begin] + rng.randbytes(rng.randrange(1, 40)) + raw[begin:]


def swapped(rng: Random, raw: bytes) -> bytes:
    """Two blocks have changed places."""
    first, middle, last = sorted(rng.sample(range(len(raw)), 3))
    return raw[:first] + raw[middle:last] + raw[first:middle] + raw[last:]


def nulls(rng: Random, raw: bytes) -> bytes:
    """A block is zero, as after a disk that lost it."""
    begin, end = _block(rng, raw)
    return raw[:begin] + bytes(end - begin) + raw[end:]


def whitespace(rng: Random, raw: bytes) -> bytes:
    """White space between tokens is another; what is said stays the same."""
    return _replaced(raw, _at(rng, raw, rb"\n *"), rng.choice([b"", b" ", b"\n\n\n", b"\t", b"\r\n"]))


def high_bytes(rng: Random, raw: bytes) -> bytes:
    """Bytes that are no UTF-8, or characters of several bytes."""
    begin = rng.randrange(len(raw))
    new = rng.choice(
        [b"\xff\xfe", b"\xc3", b"\x80", b"\xed\xa0\x80", "\u2028".encode(), "\N{BOM}".encode(), "\u0660".encode()]
    )
    return raw[:begin] + new + raw[begin + rng.randrange(2) :]


def tricky_numbers(rng: Random, raw: bytes) -> bytes:
    """A number that is none, or that is too large."""
    return _replaced(raw, _at(rng, raw, rb"(?<=: )-?\d[\d.e+-]*"), rng.choice(TRICKY).encode())


def twice(rng: Random, raw: bytes) -> bytes:
    """A field is there twice, with different values."""
    match = _at(rng, raw, rb'"\w+": ')
    return raw[: match.start()] + match[0] + json.dumps(rng.choice(OTHERS)).encode() + b", " + raw[match.start() :]


def nested(rng: Random, raw: bytes) -> bytes:
    """A value is within lists or objects without end."""
    depth = rng.choice([31, 33, 990, DEEP])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    inner = b"1" if rng.random() < 0.8 else b""
    return _replaced(raw, _at(rng, raw, rb"(?<=: )-?\d[\d.e+-]*"), opening * depth + inner + closing * depth)


def other_types(rng: Random, raw: bytes) -> bytes:
    """A field has a value of another type."""
    data = json.loads(raw)
    holder, name = rng.choice(_places(data))
    holder[name] = rng.choice(OTHERS)
    return _dumped(data)


def other_values(rng: Random, raw: bytes) -> bytes:
    """A field has another value of its own type: what a forger would do who does not know of the seal."""
    data = json.loads(raw)
    places = [(holder, name) for holder, name in _places(data) if not isinstance(holder[name], dict | list)]
    holder, name = rng.choice(places)
    holder[name] = _another(rng, holder[name])
    return _dumped(data)


def outcomes(rng: Random, raw: bytes) -> bytes:
    """A score, the seed, the key, the status or something else of a cell's identity is another."""
    data = json.loads(raw)
    cell = data["cell"]
    holders: list[tuple[Any, str]] = [
        (data["scores"], name) for name in data["scores"] if name not in ("exact_match", "reasons")
    ]
    holders += [(data["scores"]["exact_match"], name) for name in data["scores"]["exact_match"]]
    holders += [
        (cell, "seed"),
        (data, "key"),
        (data, "status"),
        (data, "smoke"),
        (data["items"], "rows"),
        (data["items"], "sha256"),
    ]
    holders += [
        (cell["model"], "name"),
        (cell["model"], "source"),
        (cell["task"], "version"),
        (cell["task"]["recipe"], "lr"),
    ]
    holder, name = rng.choice(holders)
    holder[name] = _another(rng, holder[name])
    return _dumped(data)


def fields(rng: Random, raw: bytes) -> bytes:
    """A field is missing, has another name, or stands elsewhere."""
    data = json.loads(raw)
    places = [(holder, name) for holder, name in _places(data) if isinstance(holder, dict)]
    holder, name = rng.choice(places)
    value = holder.pop(name)
    match rng.randrange(3):
        case 0:
            holder[f"{name}_"] = value
        case 1:
            data[name] = value
    return _dumped(data)


def seals_gone(rng: Random, raw: bytes) -> bytes:
    """The seals are missing or empty, as older records have none; all else is as it was."""
    data = json.loads(raw)
    for holder in rng.choice([[data], [data["timing"]], [data, data["timing"]]]):
        if rng.random() < 0.5:
            del holder["seal"]
        else:
            holder["seal"] = None
    return _dumped(data)


def _places(data: Any) -> list[tuple[Any, Any]]:
    """Every place of a value: what holds it, and its name or number there."""
    found: list[tuple[Any, Any]] = []
    todo = [data]
    while todo:
        holder = todo.pop()
        for name, value in [*holder.items()] if isinstance(holder, dict) else [*enumerate(holder)]:
            found.append((holder, name))
            if isinstance(value, dict | list):
                todo.append(value)
    return found


def _another(rng: Random, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice([value + 1, -value - 1, value * 2 + 1, value + 0.5, 1e308])
    if isinstance(value, str) and value:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice("0123456789abcdefXYZ@/.-") + value[at + 1 :]
    return rng.choice([0.5, "x", 3])


def _dumped(data: Any) -> bytes:
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


BLOCKS: Final[Mapping[str, Mutate]] = {
    "truncation": truncated,
    "block twice": duplicated,
    "block deleted": deleted,
    "block inserted": inserted,
    "blocks swapped": swapped,
    "NULs": nulls,
}
JSON: Final[Mapping[str, Mutate]] = {
    "digits": _one_of(rb"\d", b"0123456789"),
    "letters": _one_of(rb"[a-z]", b"abcdefghijklmnopqrstuvwxyzEN"),
    "quotes and brackets": _one_of(rb'[\[\]{}",:]', b"[]{}\",:'\\"),
    "white space": whitespace,
    "control bytes": _one_of(rb".", bytes(range(1, 32))),
    "high bytes": high_bytes,
    **BLOCKS,
    "numbers that are none": tricky_numbers,
    "fields twice": twice,
    "deep nesting": nested,
    "values of other types": other_types,
    "other values": other_values,
    "outcomes and identity": outcomes,
    "fields gone or elsewhere": fields,
    "seals gone": seals_gone,
}


def _footer(raw: bytes) -> tuple[int, int]:
    """Where the description of a Parquet file begins and ends."""
    end = len(raw) - MAGIC - LENGTH
    return end - int.from_bytes(raw[end : end + LENGTH], "little"), end


def magic(rng: Random, raw: bytes) -> bytes:
    """The first or the last four bytes."""
    at = rng.choice([0, len(raw) - MAGIC]) + rng.randrange(MAGIC)
    return raw[:at] + rng.randbytes(1) + raw[at + 1 :]


def footer_length(rng: Random, raw: bytes) -> bytes:
    """The length of the description."""
    at = len(raw) - MAGIC - LENGTH
    length = rng.choice([0, 1, len(raw), 2**31 - 1, 2**31, 2**32 - 1, rng.randrange(2 * len(raw))])
    return raw[:at] + length.to_bytes(LENGTH, "little") + raw[at + LENGTH :]


def footer(rng: Random, raw: bytes) -> bytes:
    """Bytes of the description: counts of rows, sizes and places of pages, types, statistics."""
    begin, end = _footer(raw)
    changed = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 3, 10])):
        changed[rng.randrange(begin, end)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return bytes(changed)


def pages(rng: Random, raw: bytes) -> bytes:
    """Bytes of the pages and their heads."""
    changed = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 3, 10])):
        changed[rng.randrange(MAGIC, _footer(raw)[0])] = rng.randrange(256)
    return bytes(changed)


def names(rng: Random, raw: bytes) -> bytes:
    """The name of a column in the description."""
    begin, _ = _footer(raw)
    columns = rb"stage|fold|entity|group|tag|attribute|gold|predicted|exact_match|log_likelihood"
    match = rng.choice([found for found in re.finditer(columns, raw) if found.start() >= begin])
    return _replaced(raw, match, match[0][:-1] + b"x" if rng.random() < 0.7 else match[0].upper())


def _rewritten(change: Callable[[Random, pl.DataFrame], pl.DataFrame], **how: Any) -> Mutate:
    def mutate(rng: Random, raw: bytes) -> bytes:
        made = io.BytesIO()
        change(rng, pl.read_parquet(io.BytesIO(raw))).write_parquet(made, **{"statistics": False, **how})
        return made.getvalue()

    return mutate


def _other_rows(rng: Random, table: pl.DataFrame) -> pl.DataFrame:
    return rng.choice([table[: rng.randrange(len(table))], table.reverse(), pl.concat([table, table[:1]]), table[:0]])


def _other_column(rng: Random, table: pl.DataFrame) -> pl.DataFrame:
    name = rng.choice(table.columns)
    match rng.randrange(5):
        case 0:
            return table.drop(name)
        case 1:
            return table.with_columns(pl.lit(None).alias(name))
        case 2:
            return table.with_columns(pl.col(name).cast(pl.String))
        case 3:
            return table.with_columns(pl.lit(1).alias("another"))
    return table.with_columns(exact_match=~pl.col("exact_match"), log_likelihood=pl.lit(float("nan")))


def _other_answers(rng: Random, table: pl.DataFrame) -> pl.DataFrame:
    row = rng.randrange(len(table))
    hit = pl.int_range(pl.len()) == row
    return table.with_columns(pl.when(hit).then(~pl.col("exact_match")).otherwise("exact_match").alias("exact_match"))


PARQUET: Final[Mapping[str, Mutate]] = {
    "magic": magic,
    "footer's length": footer_length,
    "footer": footer,
    "pages": pages,
    "columns' names": names,
    **BLOCKS,
    "statistics": _rewritten(lambda rng, table: table, statistics=True),
    "rows": _rewritten(_other_rows),
    "columns": _rewritten(_other_column),
    "answers": _rewritten(_other_answers),
    "compression": _rewritten(lambda rng, table: table, compression="gzip"),
}
"""Beside these there is the whole file of another seed."""
