"""What is asked for, and what training says it did: typed, frozen and validated, without torch."""

from iml_bench.spec.base import Spec, canonical_json, digest_of, parse
from iml_bench.spec.cell import (
    ADDED,
    OUTSIDE_KEY,
    CellSpec,
    asked_for,
    cell_key,
    identity,
    key_with_place,
    model_key,
    same_model,
    task_key,
)
from iml_bench.spec.claim import NEEDS, PARAMETERS, Claim, Direction
from iml_bench.spec.control import Control
from iml_bench.spec.model import (
    LEARNING_RATE,
    SCHEMES,
    ModelEntry,
    Source,
    entry_from_source,
    parse_source,
    setting_label,
)
from iml_bench.spec.needs import Needs
from iml_bench.spec.overrides import apply_overrides, changes, parse_override
from iml_bench.spec.recipe import Recipe, StageRecipe
from iml_bench.spec.render import RenderSpec
from iml_bench.spec.report import Audit, CurvePoint, StageOutcome
from iml_bench.spec.seeds import parse_seeds, show_seeds
from iml_bench.spec.suite import MODEL, Grid, SuiteSpec, vary_model
from iml_bench.spec.task import TaskSpec
from iml_bench.spec.world import WorldSpec

__all__ = [
    "ADDED",
    "LEARNING_RATE",
    "MODEL",
    "NEEDS",
    "OUTSIDE_KEY",
    "PARAMETERS",
    "SCHEMES",
    "Audit",
    "CellSpec",
    "Claim",
    "Control",
    "CurvePoint",
    "Direction",
    "Grid",
    "ModelEntry",
    "Needs",
    "Recipe",
    "RenderSpec",
    "Source",
    "Spec",
    "StageOutcome",
    "StageRecipe",
    "SuiteSpec",
    "TaskSpec",
    "WorldSpec",
    "apply_overrides",
    "asked_for",
    "canonical_json",
    "cell_key",
    "changes",
    "digest_of",
    "entry_from_source",
    "identity",
    "key_with_place",
    "model_key",
    "parse",
    "parse_override",
    "parse_seeds",
    "parse_source",
    "same_model",
    "setting_label",
    "show_seeds",
    "task_key",
    "vary_model",
]
