"""Models: loading any of them, and the small reference networks."""

from iml_bench.modalities.text.model import TextModel, TextShape
from iml_bench.modalities.trial import Shape
from iml_bench.modalities.vision.model import VisionModel, VisionShape
from iml_bench.models.base import count_parameters
from iml_bench.models.form import load_form
from iml_bench.models.generation import generate
from iml_bench.models.loading import check_model, draw_model, load_model

__all__ = [
    "Shape",
    "TextModel",
    "TextShape",
    "VisionModel",
    "VisionShape",
    "check_model",
    "count_parameters",
    "draw_model",
    "generate",
    "load_form",
    "load_model",
]
