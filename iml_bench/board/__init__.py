"""What a set of records comes to: rows, ranks, comparisons, and the board that all of it stands on."""

from iml_bench.board.claims import ClaimVerdict, Judgement, Point, judge
from iml_bench.board.compare import Versus, compare_models, versus, with_holm
from iml_bench.board.export import data_files, model_index, to_csv, to_table
from iml_bench.board.mechanisms import Panel, panels
from iml_bench.board.points import PointRow, compare_points, points_of
from iml_bench.board.ranks import ranked
from iml_bench.board.required import LeaderboardTask, fits, leaderboard_tasks
from iml_bench.board.rows import Row, build_rows, first_labels, row_label, task_label
from iml_bench.board.rulesets import view
from iml_bench.board.summary import Absent, Board, Slope, build_board
from iml_bench.board.verdicts import Verdict, verdicts_of

__all__ = [
    "Absent",
    "Board",
    "ClaimVerdict",
    "Judgement",
    "LeaderboardTask",
    "Panel",
    "Point",
    "PointRow",
    "Row",
    "Slope",
    "Verdict",
    "Versus",
    "build_board",
    "build_rows",
    "compare_models",
    "compare_points",
    "data_files",
    "first_labels",
    "fits",
    "judge",
    "leaderboard_tasks",
    "model_index",
    "panels",
    "points_of",
    "ranked",
    "row_label",
    "task_label",
    "to_csv",
    "to_table",
    "verdicts_of",
    "versus",
    "view",
    "with_holm",
]
