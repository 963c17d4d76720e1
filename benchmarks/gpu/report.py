"""What the parts of a GPU day gave, as JSON and as a page of Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from day import Box

GIB = 2**30


def write_report(box: Box, machine: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
    """Write ``report.json`` and ``report.md``.

    Args:
        box: where.
        machine: what it was measured on.
        results: of each part: its name, what became of it, and what it found.
    """
    data = {"machine": machine, "device": box.device, "tiny": box.tiny, "parts": list(results)}
    (box.out / "report.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    gpus = ", ".join(f"{name}, {gib} GiB" for name, gib in zip(machine["gpus"], machine["gib"], strict=True))
    lines = ["# GPU day", "", f"{gpus or 'no GPU'}; torch {machine['torch']}, CUDA {machine['cuda']}", ""]
    if box.tiny:
        lines += ["Tiny sizes, to try it out: no number here means anything.", ""]
    lines += table(("part", "outcome", "seconds", "reason"), map(_outcome, results))
    for title, columns, rows in sections(results):
        listed = list(rows)
        if listed:
            lines += ["", f"## {title}", "", *table(columns, listed)]
    (box.out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


Section = tuple[str, tuple[str, ...], Iterator[tuple[Any, ...]]]


def sections(results: Sequence[dict[str, Any]]) -> Iterator[Section]:
    """A table for each kind of part; rows of parts that found nothing are not there."""
    found = {result["part"]: result["found"] or {} for result in results}
    columns = ("task", "model", "seed", "status", "IML", "seconds", "device", "error")
    yield "Cells", columns, (_cell(cell) for part in found.values() for cell in part.get("cells", []))
    columns = ("model", "way", "checkpointing", "tokens/s", "MFU", "GiB", "micro-batch", "waits/step", "reason")
    names = [name for name in found if name.startswith("training-")]
    yield "Training", columns, (line for name in names for row in found[name].get("rows", []) for line in _trained(row))
    columns = ("cells", "MPS", "done", "steps/s of all", "times one cell", "wall seconds", "reason")
    sharing = [(name, row) for name in ("sharing", "sharing-mps") for row in found.get(name, {}).get("rows", [])]
    yield "Cells on one GPU", columns, (_shared(row, mps=name == "sharing-mps") for name, row in sharing)
    columns = (
        "model",
        "steps",
        "runner, steps/s",
        "eager, steps/s",
        "graph, steps/s",
        "graph / eager",
        "weights apart",
    )
    yield (
        "The vision step as a CUDA graph",
        columns,
        (tuple(row.values()) for row in found.get("graph", {}).get("rows", [])),
    )
    tests = found.get("tests", {}).get("tests", [])
    yield "Tests", ("test", "outcome", "reason"), ((test["name"], test["outcome"], test["reason"]) for test in tests)


def _outcome(result: dict[str, Any]) -> tuple[Any, ...]:
    said = result["reason"] or (result["found"] or {}).get("reason")
    return result["part"], result["outcome"], result["seconds"], said


def _cell(cell: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in ("task", "model", "seed", "status", "iml", "seconds", "device", "error"))


def _trained(row: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    for way in ("eager", "compiled"):
        side = row[way] or {}
        reason = row["reason"] or side.get("reason")
        memory = side.get("peak_memory")
        yield (
            row["size"],
            way,
            "yes" if row["checkpointing"] else "no",
            _rounded(side.get("tokens_per_second"), 0),
            None if side.get("mfu") is None else f"{side['mfu']:.1%}",
            None if memory is None else _rounded(memory / GIB, 1),
            side.get("micro_batch"),
            (side.get("waits") or {}).get("per_step"),
            reason,
        )


def _shared(row: dict[str, Any], *, mps: bool) -> tuple[Any, ...]:
    names = ("done", "steps_per_second", "times", "wall_seconds", "reason")
    return (row["cells"], "yes" if mps else "no", *(row[name] for name in names))


def _rounded(value: float | None, places: int) -> str | None:
    return None if value is None else f"{value:,.{places}f}"


def table(columns: Sequence[str], rows: Any) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return lines + ["| " + " | ".join(map(_shown, row)) + " |" for row in rows]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.3g}" if isinstance(value, float) and abs(value) < 1 else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
