"""``--track``: one run of an experiment tracker for every cell that is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iml_bench.protocols import score_items
from iml_bench.records import Store, columns_of
from iml_bench.runtime import Runtime, StageProgress, is_first
from iml_bench.spec import CellSpec, cell_key

if TYPE_CHECKING:
    import polars as pl

PROJECT = "iml-bench"
NAMED_BY = {
    "wandb": "name",
    "trackio": "name",
    "swanlab": "experiment_name",
    "mlflow": "run_name",
    "clearml": "task_name",
}
"""Trackers that have projects, and what each calls the name of a run within one; the others have only the name."""


class Tracker:
    """One cell's run of a tracker of Accelerate, begun with the first loss: what is not trained leaves none.

    Steps count over the whole cell and never go back: trackers drop what comes under a step that is past, and every
    stage and every branch counts its own steps from 1.
    """

    def __init__(self, cell: CellSpec, runtime: Runtime) -> None:
        """Args: cell: what is run; runtime: names the tracker, its folder and who else hears of the progress."""
        self.cell, self.runtime = cell, runtime
        self._tracker: Any = None
        self._step = 0
        """Steps of the whole cell so far."""

    @property
    def name(self) -> str:
        """``task@version/model/seedN-KEY``, which no other cell has, and a path where it must be one."""
        model = Store(Path()).path_of(self.cell).parent.name
        return f"{self.cell.task.label}/{model}/seed{self.cell.seed}-{cell_key(self.cell)[:12]}"

    def loss(self, progress: StageProgress) -> None:
        """Log a phase's loss, and hand the progress on to who listened before."""
        self._step = progress.cell_step
        self._log({f"{progress.stage}/loss": progress.loss})
        self.runtime.report(progress)

    def scores(self, items: pl.DataFrame) -> None:
        """Log what the cell's outcomes come to; nothing where nothing was trained."""
        if self._tracker is not None:
            scores = score_items(self.cell.task, columns_of(items))
            found = scores.values | {f"exact_match/{group}": share for group, share in scores.exact_match.items()}
            self._log({name: value for name, value in found.items() if value is not None})

    def end(self) -> None:
        """End the run, however the cell did."""
        if self._tracker is not None:
            self._tracker.finish()

    def _log(self, values: dict[str, float]) -> None:
        if self._tracker is None:
            self._tracker = self._begin()
        self._tracker.log(values, step=self._step)

    def _begin(self) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind = self.runtime.track
        made = LOGGER_TYPE_TO_CLASS[kind]
        folder = [str(self.runtime.track_dir)] if made.requires_logging_directory else []
        named = {NAMED_BY[kind]: self.name} if kind in NAMED_BY else {}
        tracker = made(PROJECT if named else self.name, *folder, **named)
        if hasattr(tracker, "start"):  # older ones start when they are made
            tracker.start()
        cell = self.cell
        config = {"task": cell.task.label, "model": cell.model.name, "seed": cell.seed, "key": cell_key(cell)}
        if kind == "tensorboard":
            tracker.log({"cell": ", ".join(f"{name}={value}" for name, value in config.items())}, step=0)
        else:
            tracker.store_init_configuration(config)  # TensorBoard's would show as a second run
        return tracker


class _Untracked:
    """In place of a ``Tracker`` where nothing is tracked."""

    def __init__(self, runtime: Runtime) -> None:
        self.loss = runtime.report

    def scores(self, items: pl.DataFrame) -> None:
        pass

    def end(self) -> None:
        pass


@contextmanager
def tracked(cell: CellSpec, runtime: Runtime) -> Iterator[Tracker | _Untracked]:
    """The tracker of a cell, which is ended with it; of several processes that share a batch only the first tracks."""
    tracker = Tracker(cell, runtime) if runtime.track and is_first() else _Untracked(runtime)
    try:
        yield tracker
    finally:
        tracker.end()
