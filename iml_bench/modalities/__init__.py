"""Examples to tensors, one room a modality; specifications stand apart from renderers, so that they need no torch."""
