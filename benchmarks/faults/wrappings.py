"""Forgeries of what is wrapped around records and entries: links, archives, names, sizes, encodings."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import polars as pl
from forgeries import put_in
from submitted import Json, Submitted, UnfitError, edits, forgery, some

from iml_bench.spec.written import dump_yaml
from iml_bench.submit.checking import COPIES, ENTRY, FILES, ITEMS, READ

LINKED: Final = "links"
ARCHIVED: Final = "archives"
NAMED: Final = "names"
SIZED: Final = "sizes"
ENCODED: Final = "encodings"
ENTERED: Final = "entries"


def _linked(made: Submitted, path: Path, *, whole: bool) -> None:
    """A link in place of a file or a folder: to what was there, or to nothing."""
    outside = made.root.parent / f"{made.root.name}-outside"
    outside.mkdir(exist_ok=True)
    target = outside / path.name
    path.rename(target)
    if not whole:
        target = outside / made.rng.choice(["nothing", "../nothing", path.name + "/x"])
    path.symlink_to(target if made.rng.random() < 0.5 else os.path.relpath(target, path.parent))


for said, whole in (("", True), (", to nothing", False)):
    forgery(LINKED, f"a record{said}", READ)(lambda made, whole=whole: _linked(made, made.any, whole=whole))
    forgery(LINKED, f"items{said}", FILES)(
        lambda made, whole=whole: _linked(made, made.any.with_suffix(".parquet"), whole=whole)
    )
    forgery(LINKED, f"the entry{said}", ENTRY)(lambda made, whole=whole: _linked(made, made.entry, whole=whole))
    forgery(LINKED, f"the folder of records{said}", FILES)(
        lambda made, whole=whole: _linked(made, made.folder, whole=whole)
    )


@forgery(LINKED, "a record, to itself", READ)
def _(made: Submitted) -> None:
    path = made.any
    path.unlink()
    path.symlink_to(path.name)


@forgery(LINKED, "a folder beside", FILES)
def _(made: Submitted) -> None:
    place = made.rng.choice([made.folder, made.folder.parent])
    (place / "more").symlink_to(made.rng.choice(["/", "..", ".", "/etc"]))


@forgery(LINKED, "a file beside", FILES)
def _(made: Submitted) -> None:
    (made.folder / made.rng.choice(["x", "x.parquet", ".x"])).symlink_to(
        made.rng.choice(["/etc/passwd", made.any.name])
    )


def _zipped(name: str, raw: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, raw)
    return buffer.getvalue()


def _tarred(name: str, raw: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        info = tarfile.TarInfo(f"../{name}")
        info.size = len(raw)
        file.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


PACKED: dict[str, Callable[[str, bytes], bytes]] = {
    "gz": lambda name, raw: gzip.compress(raw),
    "zip": _zipped,
    "tar.gz": _tarred,
}


def _archive(made: Submitted, path: Path) -> tuple[str, bytes]:
    suffix = made.rng.choice(sorted(PACKED))
    return suffix, PACKED[suffix](path.name, path.read_bytes())


@forgery(ARCHIVED, "in place of a record", READ)
def _(made: Submitted) -> None:
    path = made.any
    path.write_bytes(_archive(made, path)[1])


@forgery(ARCHIVED, "in place of items, with their digest", FILES)
def _(made: Submitted) -> None:
    path = made.any
    made.put_bytes(path, _archive(made, path.with_suffix(".parquet"))[1])


@forgery(ARCHIVED, "in place of a record, named like it", FILES)
def _(made: Submitted) -> None:
    path = made.any
    suffix, raw = _archive(made, path)
    path.with_name(f"{path.name}.{suffix}").write_bytes(raw)
    path.unlink()


@forgery(ARCHIVED, "beside the records", FILES)
def _(made: Submitted) -> None:
    suffix, raw = _archive(made, made.any)
    place = made.rng.choice([made.folder, made.folder.parent, made.folder / "more"])
    place.mkdir(exist_ok=True)
    (place / f"{made.rng.choice(['all', '.all'])}.{suffix}").write_bytes(raw)


@forgery(ARCHIVED, "within the items' file", FILES)
def _(made: Submitted) -> None:
    """A table is found from the end of its file, so that anything may lie before its description."""
    path = made.any
    raw = path.with_suffix(".parquet").read_bytes()
    footer = int.from_bytes(raw[-8:-4], "little") + 8
    payload = made.rng.randbytes(made.rng.randrange(2_000_000, 5_000_000))
    made.put_bytes(path, raw[:-footer] + payload + raw[-footer:])


@forgery(ARCHIVED, "items that unpack to far more", FILES)
def _(made: Submitted) -> None:
    path = made.any
    long = pl.lit("x" * made.rng.randrange(10_001, 3_000_000))
    made.put_table(
        path,
        made.table(path).with_columns(predicted=pl.when(pl.int_range(pl.len()) == 0).then(long).otherwise("predicted")),
        scored=False,
    )


@forgery(NAMED, "a record and its items", ENTRY)
def _(made: Submitted) -> None:
    path = made.any
    name = made.rng.choice([f"x{path.stem}", path.stem.upper(), path.stem.replace("seed", "seed0"), "record"])
    data = made.read(path)
    data["items"]["file"] = f"{name}.parquet"
    path.with_suffix(".parquet").rename(made.folder / f"{name}.parquet")
    path.unlink()
    made.write(made.folder / f"{name}.json", data)


@forgery(NAMED, "of items alone", FILES)
def _(made: Submitted) -> None:
    items = made.any.with_suffix(".parquet")
    items.rename(items.with_name(made.rng.choice([f"{items.stem}.PARQUET", f"x{items.name}", f"{items.name} "])))


@forgery(NAMED, "of a record that is not found so", FILES)
def _(made: Submitted) -> None:
    path = made.any
    path.rename(
        path.with_name(made.rng.choice([f"{path.stem}.JSON", path.stem, f"{path.name}~", f"{path.name}.broken"]))
    )


@forgery(NAMED, "the folder", ENTRY)
def _(made: Submitted) -> None:
    made.folder.rename(made.folder.with_name(made.rng.choice([made.name.upper(), "x", f"{made.name}2"])))


@forgery(NAMED, "a folder within the folder", ENTRY)
def _(made: Submitted) -> None:
    path = made.any
    (made.folder / "more").mkdir()
    for suffix in (".json", ".parquet"):
        path.with_suffix(suffix).rename(made.folder / "more" / path.with_suffix(suffix).name)


@forgery(NAMED, "a record twice, in two folders", COPIES)
def _(made: Submitted) -> None:
    shutil.copytree(made.folder, made.folder.with_name(f"{made.name}-again"))


PATHS: Final = ("../x.parquet", "/etc/passwd", "a/b.parquet", "..\\x.parquet", "x.parquet", "", "x\0.parquet")
edits(
    *(NAMED, READ),
    {
        "items that are a path": lambda made, data: data["items"].update(file=made.rng.choice(PATHS)),
        "a model's with a line end": lambda made, data: data["cell"]["model"].update(name="mlp\nm"),
        "a model's without end": lambda made, data: data["cell"]["model"].update(name="m" * 201),
    },
)
NAMES: Final = ("MLP-M", "mlp-m ", "ml\u0440-m", "no-such", "../mlp-m", "<b>mlp-m</b>", "con", "=mlp-m", ".")


def _label(made: Submitted, data: Json) -> None:
    field = made.rng.choice(["family", "architecture", "size", "licence", "notes", "modality"])
    value = "any" if field == "modality" else made.rng.choice(["the best", "<b>", "=1+1", "x" * 200])
    data["cell"]["model"][field] = value


edits(
    *(NAMED, ENTRY),
    {
        "of no model": lambda made, data: data["cell"]["model"].update(name=made.rng.choice(NAMES)),
        "of another model": lambda made, data: data["cell"]["model"].update(name="convnet-l"),
        "another label": _label,
    },
)


def _raw(change: Callable[[Submitted, bytes], bytes]) -> Callable[[Submitted], None]:
    def apply(made: Submitted) -> None:
        path = made.any
        before = path.read_bytes()
        after = change(made, before)
        if after == before:
            raise UnfitError
        path.write_bytes(after)

    return apply


def _twice_named(made: Submitted, raw: bytes) -> bytes:
    name = made.rng.choice(["key", "scores", "smoke", "status", "seal"])
    return raw.replace(b"{", f'{{"{name}": {json.dumps(json.loads(raw).get(name))},'.encode(), 1)


NUMBERS: Final = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 30, b"0x10", b"1_000", b"01", b"+1")
BYTES: dict[tuple[str, str], Callable[[Submitted, bytes], bytes]] = {
    (SIZED, "a record of nothing"): lambda made, raw: b"",
    (SIZED, "a record cut short"): lambda made, raw: raw[: made.rng.randrange(len(raw) - 2)],
    (SIZED, "a record of millions of spaces"): lambda made, raw: raw + b" " * 5_000_000,
    (SIZED, "nested without end"): lambda made, raw: b"[" * made.rng.randrange(33, 200_000),
    (SIZED, "nested deep"): lambda made, raw: raw.replace(
        b'"changes": {', b'"changes": {"a":' + b"[" * 40 + b"]" * 40 + b",", 1
    ),
    (SIZED, "a text without end"): lambda made, raw: raw.replace(
        b'"description": "', b'"description": "' + b"a" * 100_001
    ),
    (ENCODED, "UTF-16"): lambda made, raw: raw.decode().encode(made.rng.choice(["utf-16", "utf-16-be", "utf-32"])),
    (ENCODED, "a byte order mark"): lambda made, raw: b"\xef\xbb\xbf" + raw,
    (ENCODED, "no UTF-8"): lambda made, raw: raw.replace(
        b"e", made.rng.choice([b"\xe9", b"\xff", b"\xc0\xae", b"\xed\xa0\x80"]), 1
    ),
    (ENCODED, "a byte of 0"): lambda made, raw: raw.replace(b"e", made.rng.choice([b"\0", b"\\u0000", b"\x1b"]), 1),
    (ENCODED, "half a character"): lambda made, raw: raw.replace(b'"description": "', b'"description": "\\ud800'),
    (ENCODED, "a name twice"): _twice_named,
    (ENCODED, "numbers that are none"): lambda made, raw: raw.replace(
        b'"chance": 0', b'"chance": ' + made.rng.choice(NUMBERS) + b', "x": 0', 1
    ),
    (ENCODED, "a comma too many"): lambda made, raw: raw.rstrip()[:-1] + b",}",
    (ENCODED, "single quotes"): lambda made, raw: raw.replace(b'"', b"'"),
    (ENCODED, "two records in a file"): lambda made, raw: raw + raw,
    (ENCODED, "YAML"): lambda made, raw: dump_yaml(json.loads(raw)).encode(),
    (ENCODED, "a list"): lambda made, raw: b"[" + raw + b"]",
}
for (kind, said), change in BYTES.items():
    forgery(kind, said, READ)(_raw(change))
edits(
    *(ENCODED, READ),
    {"a text that runs backwards": put_in(lambda made: "linux" + made.rng.choice("\u202e\u2066\u200b") + "x")},
)


def _table_bytes(change: Callable[[Submitted, bytes], bytes]) -> Callable[[Submitted], None]:
    def apply(made: Submitted) -> None:
        path = made.any
        made.put_bytes(path, change(made, path.with_suffix(".parquet").read_bytes()))

    return apply


forgery(SIZED, "items of nothing", FILES)(_table_bytes(lambda made, raw: b""))
forgery(SIZED, "items cut short", FILES)(_table_bytes(lambda made, raw: raw[: made.rng.randrange(len(raw))]))
forgery(SIZED, "items and more", FILES)(
    _table_bytes(lambda made, raw: raw + made.rng.randbytes(made.rng.randrange(1, 99)))
)
forgery(SIZED, "a byte of the items", FILES)(
    lambda made: (path := made.any.with_suffix(".parquet")).write_bytes(
        path.read_bytes()[:-9] + b"\x07" + path.read_bytes()[-8:]
    )
)
edits(
    *(SIZED, FILES),
    {"another number of rows": lambda made, data: data["items"].update(rows=made.rng.randrange(1, 5_000_000))},
)


def _rows(change: Callable[[Submitted, pl.DataFrame], pl.DataFrame]) -> Callable[[Submitted], None]:
    def apply(made: Submitted) -> None:
        path = made.any
        made.put_table(path, change(made, made.table(path)))

    return apply


@forgery(SIZED, "rows less, all else made right", ITEMS)
def _(made: Submitted) -> None:
    path = made.any
    table = made.table(path)
    gone = {*some(made.rng, range(len(table) // 2))}
    made.put_table(path, table[[row for row in range(len(table)) if row not in gone]])


@forgery(SIZED, "rows twice, all else made right", ITEMS)
def _(made: Submitted) -> None:
    path = made.any
    table = made.table(path)
    made.put_table(path, pl.concat([table, table[some(made.rng, range(len(table)))]]))


def _column(change: Callable[[Submitted, pl.DataFrame], pl.DataFrame]) -> Callable[[Submitted], None]:
    def apply(made: Submitted) -> None:
        path = made.any
        made.put_table(path, change(made, made.table(path)), scored=False)

    return apply


COLUMNS: dict[str, Callable[[Submitted, pl.DataFrame], pl.DataFrame]] = {
    "a column more": lambda made, table: table.with_columns(more=pl.lit("x")),
    "a column less": lambda made, table: table.drop(made.rng.choice(["gold", "exact_match", "fold", "log_likelihood"])),
    "a column of another type": lambda made, table: table.with_columns(pl.col("entity").cast(pl.String)),
    "gaps": lambda made, table: table.with_columns(pl.lit(None, pl.Boolean).alias("exact_match")),
    "log-likelihoods that are none": lambda made, table: table.with_columns(
        log_likelihood=float(made.rng.choice(["nan", "-inf"]))
    ),
    "no rows": lambda made, table: table.head(0),
}
for said, cut in COLUMNS.items():
    forgery(SIZED, said, FILES)(_column(cut))


@forgery(SIZED, "a large file beside the records", FILES)
def _(made: Submitted) -> None:
    name = made.rng.choice(["notes.txt", "weights.safetensors", "core", "x.parquet", ".hidden"])
    (made.folder / name).write_bytes(made.rng.randbytes(made.rng.randrange(2_000_000)))


def _entry(change: Callable[[Submitted, Json], object]) -> Callable[[Submitted], None]:
    def apply(made: Submitted) -> None:
        data = made.plain_entry()
        change(made, data)
        made.entry.write_bytes(dump_yaml(data).encode())

    return apply


ENTRIES: dict[str, Callable[[Submitted, Json], object]] = {
    "another source": lambda made, data: data.update(source="ref:mlp?hidden=9", modality="vision"),
    "a source that there is none": lambda made, data: data.update(source="x:y"),
    "another family": lambda made, data: data.update(family="best"),
    "HTML": lambda made, data: data.update(notes="<b>best</b>"),
    "a formula": lambda made, data: data.update(architecture="=1+1"),
    "another name than its file": lambda made, data: data.update(name="another"),
    "a field more": lambda made, data: data.update(score=1),
    "a field less": lambda made, data: data.pop(made.rng.choice(["source", "family", "architecture", "modality"])),
    "other notes": lambda made, data: data.update(notes="the best of all"),
    "files that there are none": lambda made, data: data.update(digest="a" * 64),
}
for said, other in ENTRIES.items():
    forgery(ENTERED, said, ENTRY)(_entry(other))
RAW: dict[str, Callable[[Submitted, bytes], bytes]] = {
    "no UTF-8": lambda made, raw: raw.replace(b"name", b"n\xe9me", 1),
    "nothing": lambda made, raw: b"",
    "code": lambda made, raw: b"!!python/object/apply:os.system ['true']",
    "a field twice": lambda made, raw: raw + b"\nfamily: best\n",
    "too large": lambda made, raw: raw + b"\n#" + b"x" * 100_000,
    "references to references": lambda made, raw: b"a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]\n" + raw,
    "an archive": lambda made, raw: gzip.compress(raw),
}
for said, bad in RAW.items():
    forgery(ENTERED, said, ENTRY)(lambda made, bad=bad: made.entry.write_bytes(bad(made, made.entry.read_bytes())))


@forgery(ENTERED, "under another name", ENTRY)
def _(made: Submitted) -> None:
    made.entry.rename(made.entry.with_stem(made.rng.choice(["Mine", "a b", "con", f"{made.name}-2"])))
