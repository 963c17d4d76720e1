"""The user's data files: whatever was done to them, they are read, or one sentence says what is wrong."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_render_vision import contents, mnist_task, write_mnist
from test_worlds_cvdb import PERSON, people_file, person
from test_worlds_trex import triplets_file, work
from typer.testing import CliRunner

from iml_bench.cli.app import app
from iml_bench.errors import UsageError
from iml_bench.modalities.vision.digits import load_banks
from iml_bench.streams import Streams
from iml_bench.worlds.cvdb import COLUMNS, CvdbWorld, cvdb, read_people
from iml_bench.worlds.trex import TrexWorld, read_triplets, trex

NAMES = ("Müller", "Gómez", "Öberg", "Žižek", "Smith", "Łuk", "Ibn Σ", "Zoé")


def people(separator: str = ",", end: str = "\r\n") -> str:
    """The text of a file of sixteen people, most of them with letters beyond ASCII."""
    everyone = [{**PERSON, "name": f"Ann {sex} {name}"} for name in NAMES for sex in "ab"]
    rows = [COLUMNS, *([one[column] for column in COLUMNS] for one in everyone)]
    return "".join(separator.join(row) + end for row in rows)


def written(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("codec", "called"),
    [("utf-8", "UTF-8"), ("utf-8-sig", "UTF-8"), ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("ascii", "UTF-8")],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_people_are_read_in_the_encoding_of_the_file(
    codec: str, called: str, separator: str, end: str, tmp_path: Path
) -> None:
    raw = people(separator, end).encode(codec, "replace")
    path = written(tmp_path / "people.csv", b"\xff\xfe" * (codec == "utf-16-le") + raw)
    found = read_people(path)
    assert found.encoding == called
    wanted = {f"Ann {sex} {name}" for name in NAMES for sex in "ab"}
    if codec == "ascii":
        wanted = {name for name in wanted if name.isascii()}
    assert set(found.table["name"]) == wanted
    assert (found.skipped, found.filtered, found.repeated) == (0, 16 - len(wanted), 0)
    assert CvdbWorld().account(path).startswith(f"{path} is read as {found.encoding}: {len(wanted)} people can be used")


def test_what_is_no_utf_8_is_latin_1_and_the_rows_it_costs_are_said(tmp_path: Path) -> None:
    path = written(tmp_path / "people.csv", people().encode("iso-8859-1", "replace"))
    found = read_people(path)
    assert {"Ann a Müller", "Ann b Zoé"} <= set(found.table["name"])
    assert (found.encoding, len(found.table), found.filtered) == ("Latin-1", 10, 6)
    assert CvdbWorld().account(path) == (
        f"{path} is read as Latin-1 (it is no UTF-8): 10 people can be used; left out: 6 rows whose name, occupation "
        "or nationality has signs that are no letters or digits"
    )
    with pytest.raises(UsageError, match=r"use smaller groups or the full file \(read as Latin-1; left out: 6 rows"):
        cvdb(CvdbWorld(), 16, Streams(0), path)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16"])
def test_a_file_that_is_not_what_its_mark_says_is_refused(codec: str, tmp_path: Path) -> None:
    raw = people().encode(codec)
    path = written(tmp_path / "people.csv", raw + (b"\xff" if codec == "utf-8-sig" else b"\x00\xd8"))
    with pytest.raises(UsageError, match=r"people\.csv is damaged|begins with the mark of UTF-"):
        read_people(path)


def test_everything_that_is_left_out_is_counted(tmp_path: Path) -> None:
    everyone = [person("A"), person("A"), person("B_C"), person("B C"), person("O'Neil"), person("Living", death="")]
    found = read_people(people_file(tmp_path / "people.csv", *everyone))
    assert (found.skipped, found.filtered, found.repeated, len(found.table)) == (1, 1, 2, 2)
    assert found.left_out.startswith("left out: 1 rows with a value missing or of the wrong type, 1 rows whose name")


WORKS = [triplet for index in range(4) for triplet in work(f"Wörk {index}", index)]


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_works_are_read_with_a_mark_and_without(codec: str, tmp_path: Path) -> None:
    text = triplets_file(tmp_path / "works.json", *WORKS).read_text()
    text = json.dumps(json.loads(text), ensure_ascii=False)
    assert set(read_triplets(written(tmp_path / "works.json", text.encode(codec))).facts) == {
        f"Wörk {index}" for index in range(4)
    }


GOOD = '{"subj": "A", "obj": "book", "predicate": "P31"}'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{GOOD}\n{GOOD}\n", "holds one object after another and not one list of them"),
        (f"[{GOOD} {GOOD}]", "is damaged JSON (Expecting ',' delimiter, line 1, column 51)"),
        (f"[{GOOD}", "is damaged JSON (Expecting ',' delimiter, line 1, column 50)"),
        (f"[{GOOD}]".encode().replace(b"book", b"b\xf6k"), "is not UTF-8 (byte 24)"),
        ("NaN", "is not a JSON list"),
        ('{"a": [' + GOOD + "]}", "is not a JSON list"),
        ("[NaN, 1, [], null]", "holds no triplets of subj, obj and predicate"),
        ('[{"subj": 1, "obj": NaN, "predicate": "P31"}]', "holds no triplets of subj, obj and predicate"),
        ('[{"subj": "A", "subj": "", "obj": "x", "predicate": "P31"}]', "holds no triplets of subj, obj and predicate"),
        ('[{"subj": "\\ud800", "obj": "x", "predicate": "P31"}]', "holds no triplets of subj, obj and predicate"),
        ("[" + "9" * 5000 + "]", "is not a JSON file"),
    ],
)  # fmt: skip
def test_a_wrong_file_of_works_is_one_sentence(content: str | bytes, said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "works.json", content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as caught:
        read_triplets(path)
    assert str(caught.value) == f"{path} {said}; it should be the list of T-REx triplets"


def test_triplets_that_are_left_out_are_said(tmp_path: Path) -> None:
    path = triplets_file(tmp_path / "works.json", *WORKS, {"subj": 3})
    assert TrexWorld().account(path) == (
        f"{path} has triplets of 4 subjects, 4 of them usable; left out: 1 in which something is missing, twice, "
        "no text or no year"
    )
    text = path.read_text().replace('{"subj": 3}', '{"subj": "A", "obj": "x", "obj": "y", "predicate": "P31"}')
    assert read_triplets(written(path, text.encode())).skipped == 1


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def change(position: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:position] + value + raw[position + len(value) :]


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        (IMAGES, change(3, b"\x01"), "a file of pictures begins with the number 2051, and it with 2049"),
        (LABELS, change(2, b"\x0d"), "a file of labels begins with the number 2049, and it with 3329"),
        (IMAGES, change(7, b"\x29"), "it says it holds 41 pictures and has fewer"),
        (IMAGES, change(7, b"\x27"), "it says it holds 39 pictures and has more"),
        (IMAGES, change(4, b"\xff"), "it says it holds 4278190120 pictures of 28x28 pixels"),
        (IMAGES, change(11, b"\x1d"), "it says it holds 40 pictures of 29x28 pixels"),
        (IMAGES, lambda raw: raw[:3000], "it says it holds 40 pictures and has fewer"),
        (IMAGES, lambda raw: raw[:9], "it is too short for a file of pictures"),
        (LABELS, lambda raw: b"", "it is too short for a file of labels"),
        (LABELS, change(4, bytes(4)), "it says it holds 0 labels"),
        (LABELS, change(8, b"\x0b"), "it holds the label 11, and digits are 0 to 9"),
        (LABELS, lambda raw: change(7, b"\x27")(raw)[:-1], f"it holds 39 labels for the 40 pictures of {IMAGES}"),
        (LABELS, lambda raw: raw[:8] + raw[8:].replace(b"\x03", b"\x04"), "no picture is of a 3"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_file_of_mnist_is_named(
    name: str, damage: Callable[[bytes], bytes], said: str, packed: bool, tmp_path: Path
) -> None:
    write_mnist(tmp_path)
    if not packed:
        unpack(tmp_path)
    path = tmp_path / "MNIST" / "raw" / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(damage(gzip.decompress(path.read_bytes()))) if packed else damage(path.read_bytes()))
    with pytest.raises(UsageError) as caught:
        banks(tmp_path)
    assert str(caught.value) == f"the MNIST file {path} cannot be used: {said}; get it anew"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw[:-20], "it was cut off"),
        (lambda raw: b"plain" + raw, "Not a gzipped file (b'pl')"),
        (lambda raw: raw[:-6] + b"xx" + raw[-4:], "CRC check failed"),
        (lambda raw: b"", "it is too short for a file of pictures"),
    ],
)
def test_a_damaged_packing_is_named(damage: Callable[[bytes], bytes], said: str, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError) as caught:
        banks(tmp_path)
    assert str(caught.value).startswith(f"the MNIST file {path} cannot be used: {said}")


def unpack(folder: Path) -> None:
    for path in (folder / "MNIST" / "raw").glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()


def banks(folder: Path) -> Any:
    return load_banks(mnist_task().render, Streams(0), folder)  # type: ignore[arg-type]


def test_mnist_is_the_same_packed_and_not(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    packed = banks(tmp_path)
    unpack(tmp_path)
    before = contents(tmp_path)
    for one, other in zip(packed, banks(tmp_path), strict=True):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(one, other, strict=True))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["mnist", "cvdb", "trex"])
def test_a_damaged_file_is_a_sentence_before_the_run(kind: str, tmp_path: Path) -> None:
    words = ["run", "--task", {"mnist": "vision-mnist"}.get(kind, f"text-{kind}"), "--smoke", "--seeds", "1"]
    if kind == "mnist":
        write_mnist(tmp_path)
        path = written(tmp_path / "MNIST" / "raw" / f"{IMAGES}.gz", b"plain")
        words += ["--data-dir", str(tmp_path)]
    else:
        path = written(tmp_path / "data", b"\xef\xbb\xbf[\xff")
        words += ["--data", str(path), "--model", "neox-s", "--set", "recipe.precision=no"]
    done = CliRunner().invoke(app, [*words, "--workers", "1", "--device", "cpu", "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, UsageError) and str(path) in str(done.exception), done.output
    assert not (tmp_path / "out").exists()


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """Some bytes with a few of them changed, left out or put in."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)) | st.integers(0, min(len(raw), 40)))
        piece = draw(st.binary(max_size=4) | st.sampled_from([b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"\x00", b"\\ud800"]))
        gone = draw(st.integers(0, 4) | st.sampled_from([len(raw)]))
        raw = raw[:at] + piece + raw[at + gone :]
    return raw


def reads_or_refuses(read: Callable[[Path], Any], raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            read(written(Path(folder) / "data", raw))
        except UsageError as error:
            assert str(error).isprintable() and len(str(error)) < 700


PEOPLE = [person(f"Ann {'ab'[g]} {'klmnop'[i]}", ("Male", "Female")[g], 9) for i in range(6) for g in (0, 1)]
with tempfile.TemporaryDirectory() as made:
    CSV = people_file(Path(made) / "people.csv", *PEOPLE).read_bytes().replace(b"Ann", "Zoé".encode())
    JSON = triplets_file(Path(made) / "works.json", *WORKS).read_bytes()
    write_mnist(Path(made), 20)
    RAW = {path.name: path.read_bytes() for path in (Path(made) / "MNIST" / "raw").iterdir()}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_to_a_file_of_people(data: st.DataObject) -> None:
    coded = CSV.decode().encode(data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])))
    reads_or_refuses(
        lambda path: (cvdb(CvdbWorld(), 4, Streams(0), path), CvdbWorld().account(path)), data.draw(damaged(coded))
    )


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_damage_to_a_file_of_works(data: st.DataObject) -> None:
    raw = data.draw(damaged(JSON))
    reads_or_refuses(lambda path: json.dumps(trex(TrexWorld(), 2, Streams(0), path).names).encode(), raw)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_to_a_file_of_digits(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(RAW)))
    packed = data.draw(st.booleans())
    raw = data.draw(damaged(RAW[name] if packed else gzip.decompress(RAW[name])))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "MNIST" / "raw"
        place.mkdir(parents=True)
        for other, content in RAW.items():
            written(place / other, content)
        if not packed:
            (place / name).unlink()
        written(place / (name if packed else name.removesuffix(".gz")), raw)
        try:
            for bank in banks(Path(folder)):
                assert int(bank.available.sum()) == len(bank.pictures) and np.all(bank.available.numpy() > 0)
        except UsageError as error:
            assert str(error).isprintable() and name.removesuffix(".gz") in str(error)
        shutil.rmtree(place)
