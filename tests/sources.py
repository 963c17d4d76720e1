"""Files in the exact form of the data sets that are read from one, with made-up contents."""

from __future__ import annotations

import csv
import json
import tempfile
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

PEOPLE, WORKS = 2200, 7500
"""Of each gender; in all."""
SYLLABLES = ("ba", "do", "fe", "ki", "lu", "mo", "na", "pe", "ri", "su", "ta", "ve", "zo")
OCCUPATIONS = ("actor", "politician", "singer", "writer", "film", "king", "militar", "football")
COUNTRIES = ("France", "Italy", "Spain", "Japan", "Kenya", "Peru", "India", "Canada")
REGIONS = ("Europe", "America", "Asia", "Africa", "Oceania")
PREDICATES = ("P50", "P123", "P577", "P136", "P407", "P57", "P86", "P495")


def invented_names(n: int) -> list[str]:
    """``n`` different names of two words."""
    words = ["".join(parts).capitalize() for parts in product(SYLLABLES, repeat=4)]
    return [f"{words[index % 97]} {words[index]}" for index in range(n)]


@cache
def people_file() -> Path:
    """A CSV in the form of the Cross-Verified Database: as many women as men."""
    rng = np.random.default_rng(0)
    path = Path(tempfile.mkdtemp(prefix="iml-bench-test-")) / "cross-verified-database.csv"
    columns = "name birth death gender level3_main_occ string_citizenship_raw_d un_region wiki_readers_2015_2018"
    with path.open("w", encoding="ISO-8859-1", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split())
        for gender, start in (("Female", 0), ("Male", 1)):
            for rank, name in enumerate(invented_names(2 * PEOPLE)[start::2]):
                birth = int(rng.integers(-500, 1950))
                occupation, country, region = (rng.choice(part) for part in (OCCUPATIONS, COUNTRIES, REGIONS))
                cells = [name.replace(" ", "_"), birth, birth + 50, gender, occupation, f"'{country}'", region]
                writer.writerow([*cells, 10_000.0 - rank])
    return path


@cache
def works_file() -> Path:
    """A JSON of triplets in the form of the filtered T-REx: seven questions about every work, and one unused."""
    rng = np.random.default_rng(0)
    path = Path(tempfile.mkdtemp(prefix="iml-bench-test-")) / "triplets.json"
    people = invented_names(60)
    triplets = []
    for name in invented_names(WORKS):
        for predicate in PREDICATES:
            thing = str(rng.integers(1800, 1990)) if predicate == "P577" else str(rng.choice(people))
            triplets.append({"subj": f"The {name}", "obj": thing, "predicate": predicate})
    path.write_text(json.dumps(triplets), encoding="utf-8")
    return path
