"""``iml-bench probe``: look into cells that are done, from the weights that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from iml_bench.cli.options import Data, DataDir, Device, Json, print_json
from iml_bench.cli.tables import out_console
from iml_bench.errors import UsageError
from iml_bench.extensions import PROBES
from iml_bench.library.options import make_runtime
from iml_bench.records import Store, Stored, WriteError, latest_by_key, read_record

HELP = f"""Run a probe on cells that are done, from the weights that --keep wrote beside their records.

\b
Probes: {", ".join(PROBES.origins)}

\b
Examples:
  iml-bench run --task vision --keep --out kept
  iml-bench probe losses kept
  iml-bench probe losses@stage2/fold0 kept/mlp-m --json
"""


def probe(
    name: Annotated[str, typer.Argument(metavar="NAME[@MOMENT]", help="Default: after what all branches share.")],
    records: Annotated[list[Path], typer.Argument(metavar="RECORDS...", help="Records, or folders of them.")],
    data: Data = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Look into cells that are done; replaced by ``HELP``."""
    PROBES.get(name.partition("@")[0])
    stored = [one for path in records for one in _records(path) if not one.record.cell.model.is_reference]
    if not stored:
        raise UsageError("there is no record of a trained cell to probe; iml-bench run --keep makes some")
    from iml_bench.run.probing import probe_record

    runtime = make_runtime(device, data_dir=data_dir, data=data.resolve() if data else None)
    rows = []
    for one in stored:
        try:
            made = probe_record(one, name, runtime)
            where, reason = str(one.path.with_name(made.file)) if made.file else None, made.reason
        except WriteError as error:
            where, reason = None, str(error)  # the other records are looked into all the same
        rows.append({"record": str(one.path), "table": where, "reason": reason})
        if not as_json:
            said = where or f"no table: {reason}"
            out_console().print(f"{escape(one.record.cell.model.name)} seed {one.record.cell.seed}: {escape(said)}")
    if as_json:
        print_json(rows)
    raise typer.Exit(0 if all(row["table"] for row in rows) else 1)


def _records(path: Path) -> list[Stored]:
    if path.is_file():
        return [Stored(path, read_record(path))]
    if not path.is_dir():
        raise UsageError(f"{str(path)!r} is no record and no folder")
    done = latest_by_key([one for one in Store(path).scan()[0] if one.record.status == "done"])
    return list(done.values())
