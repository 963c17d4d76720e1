"""Fuzzed submissions: real ones changed at random must be refused by the check that should, harmless ones accepted.

    python benchmarks/faults/submissions.py --seed 0 --count 1000 --harmless 100 --out FILE.json

Exit 1 where anything that should be refused is accepted, is refused by other checks only, or ends in a traceback, and
where a harmless variation is refused. What no check of records can see is made as well and counted by itself.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final
from unittest import mock

import forged_items
import forged_runs  # noqa: F401  (adds its forgeries)
import wrappings  # noqa: F401  (adds its forgeries)
from submitted import FORGERIES, GENERATOR, LEADERBOARD, UNSEEN, Forgery, Submitted, UnfitError
from variations import HARMLESS

from iml_bench.errors import UsageError
from iml_bench.records import Store, Stored
from iml_bench.runtime import Runtime
from iml_bench.submit import check_submission, checking, find_submission

ENTRIES: Final = ("mlp-xs", "convnet-s", "vit-p16-s", "test-mambaout", "neox-xs", "llama-s", "gpt2-m", "t5-m")
"""Submissions that are changed: pictures and texts, of this package and of other libraries."""
ROWS: Final = 2
"""Seeds of each; more take longer and are no other case."""
ATTEMPTS: Final = 40
"""At a mutation that fits what it is given."""
STUMBLED: Final = "it cannot be checked: "
"""How a check begins that met what nobody foresaw."""
COMMAND_EVERY: Final = 50
"""One in so many goes through the command line, too."""


@dataclass
class Tally:
    """What became of the submissions of one kind."""

    kind: str
    made: int = 0
    refused: int = 0
    by_the_check: int = 0
    """Of the refused, those that the named check refused."""
    accepted: int = 0
    tracebacks: int = 0
    problems: list[str] = field(default_factory=list)
    """What was not as it should be."""


@dataclass(frozen=True)
class Verdict:
    """What a check says of one submission."""

    refused_by: tuple[str, ...]
    """Names of the checks; empty where it is accepted."""
    sentences: tuple[str, ...] = ()
    traceback: str = ""


def board_of(names: Sequence[str]) -> list[Stored]:
    """The shipped records of some entries."""
    return [one for name in names for one in Store(LEADERBOARD / "results" / name).scan()[0]]


def judge(root: Path, board: Sequence[Stored]) -> Verdict:
    """What ``iml-bench submit --check`` finds; the data of a task and seed are generated for the first check only."""
    try:
        with mock.patch.object(checking, "Generator", lambda runtime: GENERATOR):
            checks = check_submission(find_submission(root), board, Runtime(device="cpu"))
    except UsageError as error:
        return Verdict((type(error).__name__,), (str(error),))
    except Exception:
        return Verdict((), (), traceback.format_exc())
    found = [failure.problem for check in checks for failure in check.failures]
    stumbled = next((text for text in found if text.startswith(STUMBLED) or not text.isprintable()), "")
    return Verdict(tuple(check.name for check in checks if not check.passed), tuple(found), stumbled)


def command_problem(root: Path, *, accepted: bool) -> str:
    """What is wrong with how the command line ends; empty where nothing is."""
    command = [sys.executable, "-m", "iml_bench", "submit", "--check", str(root)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if "Traceback" in found.stdout + found.stderr or found.returncode not in ((0,) if accepted else (1, 2)):
        return f"the command line ended with {found.returncode}: {(found.stdout + found.stderr)[-300:]}"
    return ""


def made_of(change: Callable[[Submitted], object], folder: Path, rng: random.Random) -> Submitted:
    """A real submission that was changed; another is drawn where the change does not fit.

    Raises:
        UnfitError: when it fits none.
    """
    for attempt in range(ATTEMPTS):
        made = Submitted.taken(folder / str(attempt), rng.choice(ENTRIES), rng, ROWS)
        try:
            change(made)
        except UnfitError:
            continue
        return made
    raise UnfitError


def drawn(forged: Sequence[Forgery], count: int, rng: random.Random) -> Iterator[Forgery]:
    """So many ways, each kind as often as any other, and each way of a kind in turn."""
    kinds = {one.kind: [way for way in forged if way.kind == one.kind] for one in forged}
    for ways in kinds.values():
        rng.shuffle(ways)
    for number in range(count):
        ways = list(kinds.values())[number % len(kinds)]
        yield ways[number // len(kinds) % len(ways)]


def refuse(forged: Sequence[Forgery], rng: random.Random, board: Sequence[Stored], *, command: int = 0) -> list[Tally]:
    """Make forgeries, check them, and count by kind.

    Args:
        forged: ways, each is made once.
        rng: draws everything else.
        board: what else the leaderboard has.
        command: one in so many goes through the command line, too; 0: none.
    """
    tallies: dict[str, Tally] = {}
    for number, way in enumerate(forged):
        tally = tallies.setdefault(way.kind, Tally(way.kind))
        with tempfile.TemporaryDirectory(prefix="iml-bench-forged-") as folder:
            made = made_of(way.apply, Path(folder), rng)
            verdict = judge(made.root, board)
            _count(tally, way, verdict, made.name)
            if command and number % command == 0 and (problem := command_problem(made.root, accepted=False)):
                tally.problems.append(f"{way.what} ({made.name}): {problem}")
        _progress(number + 1, len(forged))
    return list(tallies.values())


def _count(tally: Tally, way: Forgery, verdict: Verdict, name: str) -> None:
    tally.made += 1
    tally.tracebacks += bool(verdict.traceback)
    tally.accepted += not verdict.refused_by and not verdict.traceback
    tally.refused += bool(verdict.refused_by)
    tally.by_the_check += way.expected in verdict.refused_by
    problem = verdict.traceback
    if not problem and way.expected and not verdict.refused_by:
        problem = "it is accepted"
    elif not problem and way.expected and way.expected not in verdict.refused_by:
        problem = f"it is refused by {verdict.refused_by} and not by {way.expected!r}: {verdict.sentences[:2]}"
    if problem:
        tally.problems.append(f"{way.what} ({name}): {problem}")


def accept(count: int, rng: random.Random, board: Sequence[Stored], *, command: int = 0) -> Tally:
    """Make harmless variations and check them; see ``refuse``."""
    tally = Tally("harmless variations")
    for number in range(count):
        what = list(HARMLESS)[number % len(HARMLESS)]
        with tempfile.TemporaryDirectory(prefix="iml-bench-harmless-") as folder:
            made = made_of(HARMLESS[what], Path(folder), rng)
            verdict = judge(made.root, board)
            problem = verdict.traceback or str(verdict.sentences[:2] or "")
            if not problem and command and number % command == 0:
                problem = command_problem(made.root, accepted=True)
        tally.made += 1
        tally.tracebacks += bool(verdict.traceback)
        tally.refused += bool(verdict.refused_by)
        tally.accepted += not verdict.refused_by
        if problem:
            tally.problems.append(f"{what} ({made.name}): {problem}")
        _progress(number + 1, count)
    return tally


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {of}\033[K" + ("\n" if done == of else ""))


def table_of(forged: Sequence[Tally], harmless: Tally, unseen: Sequence[Tally]) -> str:
    """What was counted, as a table in Markdown."""
    total = Tally("together", *(sum(getattr(one, name) for one in forged) for name in COUNTED))
    lines = [
        "| what was changed | made | refused | by the check that should | accepted | tracebacks |",
        "|---|---|---|---|---|---|",
    ]
    for one in (*forged, total):
        lines.append(f"| {one.kind} | " + " | ".join(str(getattr(one, name)) for name in COUNTED) + " |")
    for one in (harmless, *unseen):
        what = one.kind if one is harmless else f"beyond any check of records: {one.kind}"
        lines.append(f"| {what} | {one.made} | {one.refused} | - | {one.accepted} | {one.tracebacks} |")
    return "\n".join(lines)


COUNTED: Final = ("made", "refused", "by_the_check", "accepted", "tracebacks")


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="submissions that must be refused")
    parser.add_argument("--harmless", type=int, default=100, help="submissions that must be accepted")
    parser.add_argument("--out", type=Path, help="where the counts are written, as JSON")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    board = board_of([*forged_items.OTHERS.values()])
    forged = refuse(list(drawn(FORGERIES, given.count, rng)), rng, board, command=COMMAND_EVERY)
    harmless = accept(given.harmless, rng, board, command=COMMAND_EVERY)
    unseen = refuse([way for way in UNSEEN for _ in range(max(1, given.harmless // 20))], rng, board)
    print(table_of(forged, harmless, unseen))
    everything = [*forged, harmless, *unseen]
    for one in everything:
        for problem in one.problems:
            print(f"{one.kind}: {problem}")
    if given.out:
        given.out.write_text(json.dumps([asdict(one) for one in everything], indent=1) + "\n", encoding="utf-8")
    raise SystemExit(any(one.problems for one in everything))


if __name__ == "__main__":
    main()
