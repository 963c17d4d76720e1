"""What a contributor hands in: an entry, and records, which are untrusted input until they are checked."""

from iml_bench.submit.again import CellRerun
from iml_bench.submit.checking import Submission, check_submission, find_submission
from iml_bench.submit.collect import Collected, collect
from iml_bench.submit.difference import Change, board_difference
from iml_bench.submit.entries import add_entry, own_folder, registered
from iml_bench.submit.findings import Check, Finding
from iml_bench.submit.pooled import Inflation
from iml_bench.submit.rerun import RowPlan, RowRerun, plan_rerun, rerun

__all__ = [
    "CellRerun",
    "Change",
    "Check",
    "Collected",
    "Finding",
    "Inflation",
    "RowPlan",
    "RowRerun",
    "Submission",
    "add_entry",
    "board_difference",
    "check_submission",
    "collect",
    "find_submission",
    "own_folder",
    "plan_rerun",
    "registered",
    "rerun",
]
