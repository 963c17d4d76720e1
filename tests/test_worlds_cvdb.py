"""Famous people: files in the database's format, with all that is odd in it."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
from test_worlds_real import check_world, told

from iml_bench.errors import UsageError
from iml_bench.streams import Streams
from iml_bench.worlds.cvdb import COLUMNS, CvdbWorld, cvdb, read_people

HEADER = ["wikidata_code", *COLUMNS[::-1], "list_wikipedia_editions"]
PERSON = {
    "name": "Ada_Lovelace",
    "birth": "1815",
    "death": "1852",
    "gender": "Female",
    "level3_main_occ": "mathematician",
    "string_citizenship_raw_d": "'United_Kingdom'",
    "un_region": "Europe",
    "wiki_readers_2015_2018": "1000.5",
    "list_wikipedia_editions": 'enwiki, "frwiki"\ndewiki',
}


def people_file(path: Path, *people: dict[str, str]) -> Path:
    """The database's CSV with these people, each given by what differs from Ada Lovelace."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({**PERSON, **person} for person in people)
    path.write_bytes(text.getvalue().encode("iso-8859-1"))
    return path


def person(name: str, gender: str = "Female", readers: float = 10, **other: str) -> dict[str, str]:
    return {"name": name, "gender": gender, "wiki_readers_2015_2018": str(readers), **other}


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Three women and five men, the most read last."""
    women = [person(f"Woman_{index}", readers=index) for index in range(3)]
    men = [person(f"Man_{index}", "Male", readers=9.5 + index) for index in range(5)]
    return people_file(tmp_path / "people.csv", *women, *men)


def test_the_most_read_women_and_men_are_taken(people: Path) -> None:
    world = cvdb(CvdbWorld(), 4, Streams(0), people)
    check_world(world, 4)
    assert world.names == ("Man 4", "Man 3", "Woman 2", "Woman 1")
    assert cvdb(CvdbWorld(), 5, Streams(7), people).names == ("Man 4", "Man 3", "Man 2", "Woman 2", "Woman 1")
    assert len(world.attributes) == CvdbWorld.n_attributes
    assert [world.question(0, asked, "X") for asked in range(6)] == [
        "When was X born?",
        "When did X die?",
        "In which region did X live?",
        "What did X do?",
        "What was the nationality of X?",
        "What was the gender of X?",
    ]
    assert told(world, "Woman 2") == {
        "birth": ("19 century",),
        "death": ("19 century",),
        "region": ("Europe",),
        "occupation": ("mathematician",),
        "nationality": ("United Kingdom",),
        "gender": ("Female",),
    }
    assert told(world, "Man 4")["gender"] == ("Male",)
    assert world.vocabulary[5] == ("Female", "Male")


def test_a_small_group_of_people_keeps_the_vocabulary(tmp_path: Path) -> None:
    everyone = [
        person(f"{gender}_{index}", gender, 100 - index, birth=str(1910 + 10 * index))
        for gender in ("Male", "Female")
        for index in range(4)
    ]
    path = people_file(tmp_path / "people.csv", *everyone)
    world = cvdb(CvdbWorld(), 2, Streams(0), path)
    assert world.names == ("Male 0", "Female 0")
    assert world.vocabulary[0] == ("1910s", "1920s", "1930s", "1940s")
    assert world.vocabulary == cvdb(CvdbWorld(), 8, Streams(0), path).vocabulary


def test_equally_read_people_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    path = people_file(tmp_path / "people.csv", *(person(name, "Male") for name in ("C", "A", "B")), person("D"))
    assert cvdb(CvdbWorld(), 2, Streams(0), path).names == ("A", "D")
    assert read_people(path).table["name"].to_list() == ["A", "B", "C", "D"]


def known(path: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in read_people(path).table.to_dicts()}


def test_odd_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    skipped = [
        person("Living", death=""),
        person("Undated", birth="NA"),
        person("Vague", birth="circa 1900"),
        person("Halved", birth="1900.5"),
        person("Grouped", birth="1_900"),
        person("Far", birth="1e30"),
        person("Endless", death="inf"),
        person("Unread", wiki_readers_2015_2018="many"),
        person("Unread too", wiki_readers_2015_2018="nan"),
        person("Nowhere", un_region=" "),
        person("Idle", level3_main_occ="_"),
        person("Stateless", string_citizenship_raw_d="''_''"),
        person("Stateless too", string_citizenship_raw_d="NULL"),
        person("_"),
        person("NaN"),
        person("Genderless", gender="null"),
    ]
    path = people_file(tmp_path / "people.csv", *skipped, person("Kept"), person("Floating", birth=" 1815.0"))
    body = path.read_bytes()
    path.write_bytes(body + b"too,few,cells\r\n" + b"x," * len(HEADER) + b"\r\n\r\n")
    people = read_people(path)
    assert people.skipped == len(skipped) + 2
    assert sorted(people.table["name"]) == ["Floating", "Kept"]


def test_a_broken_quote_costs_only_the_rows_it_runs_through(tmp_path: Path) -> None:
    path = people_file(tmp_path / "people.csv", *(person(f"P{index}") for index in range(2000)))
    body = path.read_bytes()
    path.write_bytes(body.replace(b"Q", b"").replace(b"P3,", b'"P3,', 1))
    people = read_people(path)
    assert people.skipped > 0
    assert {"P0", "P1", "P2", "P1999"} <= set(people.table["name"])
    path.write_bytes(body + b'"' + b"x" * 200_000)
    assert len(read_people(path).table) == 2000
    assert read_people(path).skipped == 1


def test_the_papers_filters_drop_people_without_counting_them(tmp_path: Path) -> None:
    dropped = [
        person("Jean-Paul_Sartre"),
        person("Conan_O'Brien"),
        person("Martin_Luther_King,_Jr."),
        person('The_"Quoted"'),
        person("Slashed", level3_main_occ="actor/singer"),
        person("Dotted", string_citizenship_raw_d="'U.S._Virgin_Islands'"),
        person("Other", gender="Other"),
    ]
    path = people_file(tmp_path / "people.csv", *dropped, person("Kept"), person("Man", "Male"))
    people = read_people(path)
    assert people.skipped == 0
    assert sorted(people.table["name"]) == ["Kept", "Man", "Other"]
    assert set(cvdb(CvdbWorld(), 2, Streams(0), path).names or ()) == {"Kept", "Man"}


def test_of_a_repeated_name_only_the_first_row_counts(tmp_path: Path) -> None:
    path = people_file(
        tmp_path / "people.csv",
        person("Twice", readers=1, un_region="Asia"),
        person("Twice", readers=99, un_region="Africa"),
        person("Filtered", level3_main_occ="a/b"),
        person("Filtered"),
        person("Spaced_Out", un_region="Asia"),
        person("Spaced Out", un_region="Africa"),
        person("Late", death=""),
        person("Late"),
    )
    found = known(path)
    assert set(found) == {"Twice", "Spaced Out", "Late"}
    assert found["Twice"]["region"] == found["Spaced Out"]["region"] == "Asia"


def test_what_is_no_utf_8_is_latin_1_whatever_the_bytes(tmp_path: Path) -> None:
    path = people_file(tmp_path / "people.csv", person("Ren\xe9_Y"), person("Mojibake"), person("Surviving"))
    body = path.read_bytes().replace(b"Mojibake", "José".encode()).replace(b"Surviving", "Günter".encode())
    path.write_bytes(body.replace(b"enwiki", b"\x81\xff\x00"))
    assert set(known(path)) == {"René Y", "G\xc3\xbcnter"}  # as in the paper, a quarter is a word character
    assert read_people(path).skipped == 0


def test_word_characters_are_those_of_the_papers_filters(tmp_path: Path) -> None:
    names = {chr(code): f"N{code}{chr(code)}B" for code in range(256) if chr(code) not in '\r\n,"'}
    found = known(people_file(tmp_path / "people.csv", *map(person, names.values())))
    kept = {name for name in names.values() if not re.search(r"[^\w\s_]", name)}
    assert set(found) == {re.sub(r"[\t\v\f \x85\xa0_]", " ", name) for name in kept}
    assert 120 < len(found) < 160


def test_years_occupations_and_nationalities_are_put_into_words(tmp_path: Path) -> None:
    path = people_file(
        tmp_path / "people.csv",
        person("Plato", "Male", birth="-428", death="-348"),
        person("Turning", "Male", 9, birth="0", death="2003"),
        person("Wife", level3_main_occ="wife_of", birth="1901"),
        person("Many", readers=9, string_citizenship_raw_d="'Russia'_'Soviet_Union'_'Russia'_''_'France'"),
    )
    world = cvdb(CvdbWorld(), 4, Streams(0), path)
    assert told(world, "Plato")["birth"] == ("5 century BC",)
    assert told(world, "Plato")["death"] == ("4 century BC",)
    assert told(world, "Turning")["birth"] == ("0 century",)
    assert told(world, "Turning")["death"] == ("2003",)
    assert told(world, "Wife")["birth"] == ("1900s",)
    assert told(world, "Wife")["occupation"] == ("wife of",)
    assert told(world, "Many")["nationality"] == ("Russia", "Soviet Union", "France")
    assert dict(world.also) == {(3, 4): ("Soviet Union", "France")}
    assert world.vocabulary[4] == ("France", "Russia", "Soviet Union", "United Kingdom")


def test_a_file_of_people_is_read_once(people: Path) -> None:
    first = read_people(people)
    assert read_people(people) is first
    people_file(people, person("New"))
    assert read_people(people).table["name"].to_list() == ["New"]


def test_too_few_people_is_one_clear_sentence(people: Path) -> None:
    with pytest.raises(UsageError) as caught:
        cvdb(CvdbWorld(), 8, Streams(0), people)
    assert str(caught.value) == (
        f"{people} has 3 women and 5 men who can be used, but 4 and 4 are needed; use smaller groups or the full file"
    )
    people_file(people, person("Living", death=""))
    with pytest.raises(UsageError, match="has 0 women and 0 men who can be used, but 0 and 1 are needed"):
        cvdb(CvdbWorld(), 1, Streams(0), people)
    people_file(people)
    with pytest.raises(UsageError) as caught:
        cvdb(CvdbWorld(), 1, Streams(0), people)
    assert str(caught.value) == (
        f"{people} holds no people, only a header; it should be the CSV of the Cross-Verified Database"
    )


@pytest.mark.parametrize(
    ("content", "rest"),
    [
        (b"", "is empty; it should be the CSV of the Cross-Verified Database"),
        (
            b"name,birth,death,un_region,gender\nA,1,2,Asia,Male\n",
            "is not the CSV of the Cross-Verified Database: "
            "no column level3_main_occ, string_citizenship_raw_d, wiki_readers_2015_2018",
        ),
        (
            b'[{"name": "A"}]',
            f"is not the CSV of the Cross-Verified Database: no column {', '.join(COLUMNS)}",
        ),
        (
            b"\x1f\x8b\x00\xff" * 50_000,
            "is compressed; unpack it",
        ),
        ("name,birth".encode("utf-16-le"), "is no CSV file, or UTF-16 or UTF-32 without a mark; save it as UTF-8"),
        (("name\n" + "Müller\n" * 50).encode() + b"\xff\n", "is UTF-8 with bytes in it that are damaged; get it anew"),
    ],
    ids=["empty", "columns", "JSON", "compressed", "wide", "damaged"],
)
def test_a_wrong_file_of_people_is_one_clear_sentence(tmp_path: Path, content: bytes, rest: str) -> None:
    path = tmp_path / "wrong.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        cvdb(CvdbWorld(), 2, Streams(0), path)
    assert str(caught.value) == f"{path} {rest}"


def test_a_file_of_people_that_cannot_be_read_is_one_clear_sentence(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError) as caught:
            cvdb(CvdbWorld(), 2, Streams(0), path)
        assert str(caught.value) == f"{path} cannot be read: {reason}"
