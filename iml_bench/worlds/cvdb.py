"""Famous people, from the CSV of the Cross-Verified Database of notable people.

Source: Laouenan, Bhargava, Eyméoud, Gergaud, Plique and Wasmer, "A cross-verified database of notable
people, 3500BC-2018AD", Scientific Data 2022; derived from Wikipedia and Wikidata; CC BY-SA 4.0. The file
``cross-verified-database.csv`` is the user's own copy, unpacked; nothing of it is distributed here.

Columns, filters, classes of years and questions are the paper's. Only the first nationality is trained, as
there, but the others are right answers too.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from iml_bench.errors import UsageError
from iml_bench.spec.world import FileWorld
from iml_bench.streams import Streams
from iml_bench.worlds.base import World, read_once
from iml_bench.worlds.years import convert_year

if TYPE_CHECKING:  # needs a tenth of a second, which every start of the command line would pay
    import polars as pl

TEMPLATES: Final = {
    "birth": "When was {name} born?",
    "death": "When did {name} die?",
    "region": "In which region did {name} live?",
    "occupation": "What did {name} do?",
    "nationality": "What was the nationality of {name}?",
    "gender": "What was the gender of {name}?",
}
"""The attributes in order, each with the question that asks for it."""
COLUMNS: Final = (
    "name",
    "birth",
    "death",
    "gender",
    "level3_main_occ",
    "string_citizenship_raw_d",
    "un_region",
    "wiki_readers_2015_2018",
)
"""The columns of the file that are used."""
MISSING: Final = frozenset(("", "NA", "N/A", "n/a", "#NA", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None"))
"""How a cell says that it has no value: as pandas, with which the paper read the file, understands it."""
VOCABULARY_OF: Final = 4000
"""People, the most read, whose values make the vocabulary even where fewer are used."""
MEN: Final = "Male"
WOMEN: Final = "Female"
YEARS: Final = ["birth", "death"]
UTF16_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LAST_YEAR: Final = 10_000
"""Years from this one on, or as long before the year 0, are not taken for years."""
DAMAGED: Final = re.compile("[\udc80-\udcff]")
"""Bytes that are no UTF-8, as Python reads them with ``surrogateescape``."""
BEYOND: Final = re.compile("[^\x00-\x7f]+")
LATIN: Final = "Latin-1"
"""What the published file is in."""
READERS: Final = "wiki_readers_2015_2018"
NOT_A_WORD: Final = r"[^\p{{L}}\p{{N}}_\s\x1c-\x1f{}]"
r"""``[^\w\s]`` as Python understands it, for which superscripts and quarters are word characters."""
BATCH: Final = 100_000
"""Rows that are held in memory before those that lack a value are left out."""
MARKS: Final = {codecs.BOM_UTF8: ("utf-8-sig", "UTF-8"), **dict.fromkeys(UTF16_MARKS, ("utf-16", "UTF-16"))}
"""How a file may begin that says its encoding: the codec, and what it is called."""
SEPARATORS: Final = (",", ";", "\t")


class People(NamedTuple):
    """The people of a file who can be used."""

    table: pl.DataFrame
    """One row per person, the most read first: name, the attributes in words (of nationality a list,
    the one that is trained first), readers."""
    skipped: int
    """Rows that were left out because a value is missing or of the wrong type."""
    filtered: int
    """Rows that the paper's filters drop: a name, an occupation or a nationality with other signs than letters."""
    repeated: int
    """Rows of a name that another row had before."""
    encoding: str
    """As what the file was read: UTF-8, UTF-16 or Latin-1."""

    @property
    def left_out(self) -> str:
        """What was left out, in words; empty where nothing was."""
        counts = {
            "with a value missing or of the wrong type": self.skipped,
            "whose name, occupation or nationality has signs that are no letters or digits": self.filtered,
            "of a name that was there before": self.repeated,
        }
        said = [f"{count} rows {what}" for what, count in counts.items() if count]
        return f"left out: {', '.join(said)}" if said else ""

    def __str__(self) -> str:
        """One line on how the file was read."""
        why = " (it is no UTF-8)" if self.encoding == LATIN else ""
        rest = f"; {self.left_out}" if self.left_out else ""
        return f"read as {self.encoding}{why}: {len(self.table)} people can be used{rest}"


class CvdbWorld(FileWorld):
    """Entities are famous people, from the CSV of the Cross-Verified Database (``--data FILE``)."""

    named: ClassVar[bool] = True
    own_questions: ClassVar[bool] = True
    kind: Literal["cvdb"] = "cvdb"
    n_attributes: ClassVar[int] = 6

    def build(self, n: int, streams: Streams, data: Path | None) -> World:
        """See ``WorldSpec.build`` and ``cvdb``."""
        return cvdb(self, n, streams, self._given(self.kind, data))

    def account(self, data: Path) -> str:
        """See ``FileWorld.account``."""
        return f"{data} is {read_people(data)}"


def cvdb(spec: CvdbWorld, n: int, streams: Streams, data: Path) -> World:
    """The ``n // 2`` most read women and as many men, one man more where ``n`` is odd; men first.

    Args:
        spec: has no choices to make.
        n: number of people.
        streams: not used; nothing is drawn.
        data: the CSV file.

    Raises:
        UsageError: when the file cannot be read, is not the right one, or holds too few people.
    """
    import polars as pl

    people = read_people(data)
    table = people.table
    wanted = {MEN: n - n // 2, WOMEN: n // 2}
    found = {gender: table.filter(pl.col("gender") == gender) for gender in wanted}
    if any(len(found[gender]) < wanted[gender] for gender in wanted):
        rest = f" (read as {people.encoding}; {people.left_out})" if people.left_out else ""
        raise UsageError(
            f"{data} has {len(found[WOMEN])} women and {len(found[MEN])} men who can be used, "
            f"but {wanted[WOMEN]} and {wanted[MEN]} are needed; use smaller groups or the full file{rest}"
        )
    chosen = pl.concat(found[gender].head(wanted[gender]) for gender in wanted)
    pool = pl.concat(found[gender].head(max(wanted[gender], VOCABULARY_OF // 2)) for gender in wanted)
    nationalities: list[list[str]] = chosen["nationality"].to_list()
    attribute = tuple(TEMPLATES).index("nationality")
    vocabulary = tuple(_words(pool[name]) for name in TEMPLATES)
    first = chosen.with_columns(pl.col("nationality").list.first())
    return World(
        attributes=tuple(TEMPLATES),
        vocabulary=vocabulary,
        values=np.stack([_indices(first[name], words) for name, words in zip(TEMPLATES, vocabulary, strict=True)], 1),
        names=tuple(chosen["name"]),
        templates=tuple(TEMPLATES.values()),
        also={(row, attribute): tuple(all_of[1:]) for row, all_of in enumerate(nationalities) if len(all_of) > 1},
    )


def read_people(path: Path) -> People:
    """All people in a file who pass the paper's filters; read once in a process, unless the file changes.

    Raises:
        UsageError: when the file cannot be read or lacks a needed column.
    """
    return read_once(_read, path)


@lru_cache(maxsize=2)
def _read(path: Path, _mtime: int, _size: int) -> People:
    import polars as pl

    parts: list[pl.DataFrame] = []
    n = 0
    codec, encoding = _encoding(path)
    with path.open(encoding=codec, newline="") as file:
        rows = _rows(path, file)
        while batch := list(islice(rows, BATCH)):
            n += len(batch)
            parts.append(_complete(pl.DataFrame(batch, schema=dict.fromkeys(COLUMNS, pl.String), orient="row")))
    if not parts:
        raise UsageError(f"{path} holds no people, only a header; it should be the CSV of the Cross-Verified Database")
    complete = pl.concat(parts)
    # As in the paper, a repeated name is dropped before the filters, which may then drop the first as well.
    once = complete.unique("name", keep="first", maintain_order=True)
    people = once.filter(
        ~pl.col("name").str.contains(NOT_A_WORD.format(""))
        & ~pl.col("level3_main_occ").str.contains(NOT_A_WORD.format(""))
        & ~pl.col("string_citizenship_raw_d").str.contains(NOT_A_WORD.format("'"))
    )
    table = _in_words(people).unique("name", keep="first", maintain_order=True)
    return People(
        table=table.sort("readers", "name", descending=[True, False]),
        skipped=n - len(complete),
        filtered=len(once) - len(people),
        repeated=len(complete) - len(once) + len(people) - len(table),
        encoding=encoding,
    )


def _encoding(path: Path) -> tuple[str, str]:
    """The codec of a file, and what it is called: as its mark says, else UTF-8 where all of it is, else Latin-1."""
    with path.open("rb") as file:
        start = file.read(4096)
        file.seek(0)
        if start.startswith(b"\x1f\x8b"):
            raise UsageError(f"{path} is compressed; unpack it")
        if start.count(b"\0") > len(start) / 4 and not start.startswith(tuple(MARKS)):
            raise UsageError(f"{path} is no CSV file, or UTF-16 or UTF-32 without a mark; save it as UTF-8")
        marked = next((found for mark, found in MARKS.items() if start.startswith(mark)), None)
        codec, name = marked or ("utf-8", "UTF-8")
        decoder = codecs.getincrementaldecoder(codec)()
        try:
            while chunk := file.read(1 << 20):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeError as error:
            if marked is None:
                if _is_utf8_mostly(path):
                    raise UsageError(f"{path} is UTF-8 with bytes in it that are damaged; get it anew") from error
                return "iso-8859-1", LATIN
            raise UsageError(
                f"{path} begins with the mark of {name} and is damaged: not all of it is {name}"
            ) from error
    return codec, name


def _is_utf8_mostly(path: Path) -> bool:
    """Whether of the signs beyond ASCII far more are UTF-8 than not: in Latin-1 hardly any look like it."""
    right = wrong = 0
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        while (text := file.read(1 << 20)) and wrong < 1000:
            bad = len(DAMAGED.findall(text))
            wrong, right = wrong + bad, right + sum(map(len, BEYOND.findall(text))) - bad
    return right > 10 * wrong


def _complete(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows in which no value is missing or of the wrong type."""
    import polars as pl

    stripped = rows.with_columns(pl.all().str.strip_chars())
    numbers = stripped.with_columns(
        pl.col(YEARS).cast(pl.Float64, strict=False), pl.col(READERS).cast(pl.Float64, strict=False)
    )
    texts = [column for column in COLUMNS if numbers.schema[column] == pl.String]
    return numbers.filter(
        ~pl.any_horizontal(pl.col(texts).is_in(list(MISSING))),
        pl.all_horizontal(_spaced(pl.col(texts).str.replace_all("'", "")) != ""),
        pl.all_horizontal(pl.col(YEARS) == pl.col(YEARS).round()),
        pl.all_horizontal(pl.col(YEARS).abs() < LAST_YEAR),
        pl.col(READERS).is_finite(),
    ).with_columns(pl.col(YEARS).cast(pl.Int64))


def _in_words(people: pl.DataFrame) -> pl.DataFrame:
    """The columns of ``People.table``."""
    import polars as pl

    years = {year: convert_year(year) for column in YEARS for year in people[column].unique()}
    word = _spaced(pl.element().str.strip_chars("'"))
    nationality = pl.col("string_citizenship_raw_d").str.split("'_'").list.eval(word.filter(word != ""))
    return people.select(
        _spaced(pl.col("name")),
        pl.col(YEARS).replace_strict(years, return_dtype=pl.String),
        region=_spaced(pl.col("un_region")),
        occupation=_spaced(pl.col("level3_main_occ")),
        nationality=nationality.list.unique(maintain_order=True),
        gender=pl.col("gender"),
        readers=pl.col(READERS),
    )


def _rows(path: Path, file: TextIO) -> Iterator[tuple[str, ...]]:
    """The cells of ``COLUMNS`` in each row; all of them empty where it has more or fewer cells than the header.

    The standard library reads row by row, however large the file, and a broken quote costs only the
    rows that it runs through, where polars would give up the file.
    """
    headers = {separator: _header(file, separator) for separator in SEPARATORS}
    if not headers[","]:
        raise UsageError(f"{path} is empty; it should be the CSV of the Cross-Verified Database")
    separator = max(SEPARATORS, key=lambda one: len({*headers[one]} & {*COLUMNS}))
    header = headers[separator]
    absent = [column for column in COLUMNS if column not in header]
    if absent:
        raise UsageError(f"{path} is not the CSV of the Cross-Verified Database: no column {', '.join(absent)}")
    file.seek(0)
    rows = csv.reader(file, delimiter=separator)
    next(rows)
    pick = itemgetter(*(header.index(column) for column in COLUMNS))
    unreadable = ("",) * len(COLUMNS)
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield unreadable
            continue
        if cells:  # an empty line is no row
            yield pick(cells) if len(cells) == len(header) else unreadable


def _header(file: TextIO, separator: str) -> list[str]:
    file.seek(0)
    try:
        return [cell.strip(' "') for cell in next(csv.reader(file, delimiter=separator), [])]
    except csv.Error:  # a "line" of more than 128 KiB
        return ["?"]


def _spaced(text: pl.Expr) -> pl.Expr:
    """The text with single spaces where it has underscores or other white space."""
    return text.str.replace_all(r"[_\s]+", " ").str.strip_chars()


def _words(column: pl.Series) -> tuple[str, ...]:
    """All values of an attribute, sorted."""
    flat = column.explode() if column.dtype.is_nested() else column
    return tuple(flat.unique().sort())


def _indices(column: pl.Series, words: tuple[str, ...]) -> NDArray[np.int64]:
    """``[N]``: where among ``words`` each value of an attribute stands."""
    where = {word: index for index, word in enumerate(words)}
    return np.array([where[word] for word in column], dtype=np.int64)
