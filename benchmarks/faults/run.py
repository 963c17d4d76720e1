"""What happens to runs and records when processes are killed, disks fail, clocks go wrong and files are damaged.

::

    python benchmarks/faults/run.py [--moments N] [--mutations N] [--only TEXT] [--seeds N] [--seed N] [--out FILE.json]

Every fault befalls the real command line: a grid of smoke cells with two workers, in a folder of its own, once for each
of so many random moments. Afterwards it is seen that the same command again ends well with the same table, that all
records are those of a run that nothing befell, that each planned cell has one and none was ever torn, that nothing is
left, and that what was said is sentences. Then records are damaged in every way, and every reader is to refuse them in
a sentence or to read what was written. What cannot be had here, as where there may be no mounts, is skipped aloud.

``--only`` takes a part of the name of a fault, or ``mutations``; it can be repeated. The exit status is 1 when anything
does not hold. All of it makes some 250 runs, of ten seconds each where nothing else runs meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from campaign import Row, chosen, table_of, try_kind, undisturbed
from mutations import FORMS, mutation_table, try_form

SEEDS = 8


def main() -> None:
    """Carry the campaign out and print its tables."""
    parser = argparse.ArgumentParser(description="Faults, and what holds after them.")
    parser.add_argument("--moments", type=int, default=50, help="random moments of kill -9 (default 50)")
    parser.add_argument(
        "--mutations", type=int, default=1000, help="of a record's JSON, and of its items (default 1000)"
    )
    parser.add_argument("--only", action="append", help="only faults with this in their name; repeatable")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"of every run (default {SEEDS})")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the mutations (default 0)")
    parser.add_argument("--out", type=Path, help="also write everything as JSON")
    given = parser.parse_args()
    kinds = chosen(given.only)
    faults: list[Row] = []
    if kinds:
        usual = undisturbed(given.seeds)
        faults = [try_kind(kind, max(1, round(kind.share * given.moments)), usual, given.seed) for kind in kinds]
        sys.stdout.write(table_of(faults) + "\n")
    mutated = not given.only or any("mutations".startswith(text.lower()) for text in given.only)
    forms = [try_form(form, given.mutations, given.seed) for form in (FORMS if mutated else ())]
    if forms:
        sys.stdout.write(mutation_table(forms) + "\n")
    rows = [*faults, *(row for form in forms for row in form)]
    if given.out is not None:
        given.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    sys.exit(int(any(row.problems for row in rows)))


if __name__ == "__main__":
    main()
