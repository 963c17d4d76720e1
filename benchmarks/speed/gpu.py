"""How fast iml-bench trains language models on one NVIDIA GPU.

::

    python benchmarks/speed/gpu.py [--sizes 160m,410m] [--steps N] [--model NAME] [--no-cell] [--json] [--smoke]

Stage 1 of text-cities with its own recipe (Adafactor, 256 texts a step) in bf16 mixed precision, by
``NetworkLearner.fit``, for GPT-NeoX models of random weights in the shapes of Pythia. The texts are the
task's; its own tokenizer reads tags and aliases letter by letter (``render.spelling=letters``), which makes
a text about 19 tokens long (a BPE tokenizer of 49,152 tokens, SmolLM2's, makes it 22), and the model has a
vocabulary of 50,304 whatever the tokenizer knows. For each shape, as it is and with all but its output
layer compiled by ``torch.compile``:

- tokens per second, padding not counted;
- model FLOPs utilisation, see ``utilisation.py`` for the formula and the peaks;
- the largest amount of memory that was allocated;
- the micro-batch: halved from 256 when memory ran out;
- how often the host waited for the device in a step, and where.

With gradient checkpointing too where memory did not hold a whole batch without. A shape that cannot be
measured has a row that says why. Every training run is done twice, and the second is timed: in the first,
code is compiled and the micro-batch found. In the end, one whole cell of ``text-cities --small`` is run.

The exit status is 2 where there is no such GPU; ``--smoke`` tries the script out on the CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch
from gpu_training import Measurement, Row, measure_size
from measure import header, make_cell, seconds_of
from rich.console import Console
from rich.table import Table
from utilisation import SHAPES, TINY, peak_of

from iml_bench.errors import CellError, UsageError
from iml_bench.run.cell import run_cell
from iml_bench.runtime import DeviceName, Runtime
from iml_bench.spec import CellSpec

CELL_MODEL = "neox-m"
GIB = 2**30


def main() -> None:
    """Measure and print."""
    given = _arguments()
    if not (given.smoke or torch.cuda.is_available()):
        sys.stderr.write("error: there is no NVIDIA GPU here; --smoke tries the script out on the CPU\n")
        sys.exit(2)
    device: DeviceName = "cpu" if given.smoke else "cuda"
    name = "cpu" if given.smoke else torch.cuda.get_device_name()
    peak = peak_of(name)
    try:
        whole = make_cell("text-cities", given.model, None, "smoke" if given.smoke else "small")
        rows = []
        for size in given.sizes:
            sys.stderr.write(f"timing {size}\n")
            shape = TINY if given.smoke else SHAPES[size]
            rows += measure_size(size, shape, _training_cell(given, shape.source), device, peak)
        cell = None
        if not given.no_cell:
            sys.stderr.write(f"running a cell of {given.model}\n")
            cell = time_cell(whole, device)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    peak_reason = None if peak else f"the peak of {name!r} is not known here, so there is no utilisation"
    machine = {**header(name), "peak_flops": peak, "peak_reason": peak_reason, "smoke": given.smoke}
    if given.json:
        data = {"machine": machine, "rows": [asdict(row) for row in rows], "cell": cell}
        sys.stdout.write(json.dumps(data, indent=1) + "\n")
    else:
        print_tables(machine, rows, cell)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of iml-bench on one NVIDIA GPU.")
    parser.add_argument("--sizes", type=_sizes, default=list(SHAPES), help=f"of {','.join(SHAPES)} (default: all)")
    parser.add_argument("--steps", type=_positive, help="optimiser steps of every timed run (default 20; smoke 2)")
    parser.add_argument("--model", default=CELL_MODEL, help=f"of the cell that is run whole (default {CELL_MODEL})")
    parser.add_argument("--no-cell", action="store_true", help="run no whole cell in the end")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout and nothing else")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes on the CPU, under the same names")
    given = parser.parse_args()
    given.steps = given.steps or (2 if given.smoke else 20)
    return given


def _sizes(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SHAPES:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(SHAPES)}")
    return names


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _training_cell(given: argparse.Namespace, source: str) -> CellSpec:
    overrides = {"render.spelling": "letters", "recipe.precision": "bf16"}
    size = "smoke" if given.smoke else "full"
    return make_cell("text-cities", source, (given.steps, 1), size, overrides)


def time_cell(cell: CellSpec, device: DeviceName) -> dict[str, object]:
    """Wall time of a whole cell, or why it could not be run."""
    row: dict[str, object] = {"task": cell.task.name, "model": cell.model.name}
    outcomes = []

    def run() -> None:
        outcomes.append(run_cell(cell, Runtime(device=device)))

    try:
        seconds = seconds_of(run, torch.device(device))
    except (CellError, UsageError, RuntimeError) as error:
        return row | {"seconds": None, "reason": str(error).splitlines()[0]}
    parts = {name: round(part, 3) for name, part in outcomes[0].seconds.items()}
    steps = {stage.name: stage.steps for stage in outcomes[0].stages}
    return row | {"seconds": seconds, "parts": parts, "steps": steps, "reason": None}


def print_tables(machine: dict[str, object], rows: Sequence[Row], cell: dict[str, object] | None) -> None:
    """The header lines, the table, and what has no place in it."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=180)
    console.print(f"{machine['device']}; {machine['processor']}; Python {machine['python']}, torch {machine['torch']}")
    if machine["peak_reason"]:
        console.print(str(machine["peak_reason"]))
    table = Table(box=None, padding=(0, 1))
    for name in ("model", "parameters", "checkpointing"):
        table.add_column(name)
    parts = {"tokens": "tokens/s", "mfu": "MFU", "memory": "GiB", "micro_batch": "micro-batch", "waits": "waits/step"}
    for name in parts.values():
        table.add_column(name, justify="right", no_wrap=True)
        table.add_column("compiled", justify="right", no_wrap=True)
    notes = []
    for row in rows:
        cells = [_shown(side, part) for part in parts for side in (row.eager, row.compiled)]
        count = "-" if row.parameters is None else f"{row.parameters:,}"
        table.add_row(row.size, count, "yes" if row.checkpointing else "no", *cells)
        notes += list(_notes(row))
    console.print(table)
    for note in notes:
        console.print(note, markup=False)
    if cell is None:
        return
    taken = f"{cell['seconds']:.1f} s" if cell["seconds"] is not None else str(cell["reason"])
    console.print(f"one cell of {cell['task']}, {cell['model']}: {taken}", markup=False)


def _notes(row: Row) -> Iterator[str]:
    what = row.size + (" with checkpointing" if row.checkpointing else "")
    if row.reason:
        yield f"{what}: {row.reason}"
    for kind, side in (("eager", row.eager), ("compiled", row.compiled)):
        if side and side.reason:
            yield f"{what}, {kind}: {side.reason}"
        if side and side.waits and side.waits.where:
            yield f"{what}, {kind}: the host waits at {', '.join(side.waits.where)}"


def _shown(side: Measurement | None, part: str) -> str:
    if side is None or side.reason:
        return "-"
    values = {
        "tokens": f"{side.tokens_per_second:,.0f}",
        "mfu": "-" if side.mfu is None else f"{side.mfu:.1%}",
        "memory": "-" if side.peak_memory is None else f"{side.peak_memory / GIB:.1f}",
        "micro_batch": str(side.micro_batch),
        "waits": "-" if side.waits is None else f"{side.waits.per_step:g}",
    }
    return values[part]


if __name__ == "__main__":
    main()
