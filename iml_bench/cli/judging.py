"""What is judged of a suite, and after how many seeds: for ``suite run``, ``verdict``, ``report`` and ``plan``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from rich.console import Console

from iml_bench.board import ClaimVerdict, Verdict, judge, verdicts_of
from iml_bench.cli.tables import print_claims, print_verdicts
from iml_bench.errors import UsageError
from iml_bench.records import Stored
from iml_bench.run.plan import Request
from iml_bench.run.suites import widened
from iml_bench.spec import SuiteSpec
from iml_bench.stats import FIRST_LOOK, looks_until


class Judged(NamedTuple):
    """The verdicts of a suite."""

    controls: Sequence[Verdict]
    claims: Sequence[ClaimVerdict]

    def show(self, console: Console) -> None:
        """Print those that there are."""
        if self.controls:
            print_verdicts(self.controls, console)
        if self.claims:
            print_claims(self.claims, console)


NONE: Final = Judged((), ())


class Rule(NamedTuple):
    """The requests of a suite with the seeds that they may take, and the looks at them; no looks: all at once."""

    requests: Sequence[Request]
    looks: tuple[int, ...] = ()

    def judged(self, suite: SuiteSpec, stored: Sequence[Stored]) -> Judged:
        """The verdicts from some records."""
        controls = verdicts_of(suite, self.requests, stored)
        return Judged(controls, judge(suite, self.requests, stored, self.looks).verdicts)


def rule_of(suite: SuiteSpec, requests: Sequence[Request], most: int | None, seeds: str | None) -> Rule:
    """The rule that ``--max-seeds`` asks for.

    Raises:
        UsageError: when a suite or other options leave no room for one.
    """
    if most is None:
        return Rule(requests)
    if not suite.claims:
        raise UsageError(
            f"--max-seeds: suite {suite.name!r} has no claim that could be decided (iml-bench suite show {suite.name})"
        )
    if seeds is not None:
        raise UsageError("--seeds and --max-seeds both say how many seeds; give one")
    if most < FIRST_LOOK:
        raise UsageError(f"--max-seeds {most}: claims are first judged after {FIRST_LOOK} seeds; give as many or more")
    return Rule(widened(suite, requests, most), looks_until(most))
