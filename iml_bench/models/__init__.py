"""Models: loading any of them, and the small reference networks."""

from iml_bench.models.base import TextModel, TextShape, VisionModel, VisionShape, count_parameters
from iml_bench.models.loading import Shape, load_model, load_tokenizer

__all__ = [
    "Shape",
    "TextModel",
    "TextShape",
    "VisionModel",
    "VisionShape",
    "count_parameters",
    "load_model",
    "load_tokenizer",
]
